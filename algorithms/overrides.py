"""What transformers and TRL keep private and we rely on, in one place; a test checks that it is still there."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any


def load_finished(trainer: Any, checkpoint: Path) -> None:
    """Bring a trainer to the state of its last checkpoint; `train` would take one step too many from there."""
    from transformers import TrainerState
    from transformers.trainer_utils import align_special_tokens

    align_special_tokens(trainer.model, trainer.processing_class)  # as `train` does first
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def continue_token_count(trainer: Any, tokens: int) -> None:
    """Make TRL's `num_tokens` go on from the checkpoint's count. GRPO's is part of the trainer state already."""
    trainer._total_train_tokens = tokens


def without_cpu_packing(model: Any) -> None:
    """Let 4-bit weights on a CPU stay as they are whenever nothing is trained.

    There bitsandbytes packs them anew where the CPU has AVX512-BF16, rounding their scales to bfloat16: the model would
    be another one after its first evaluation or generation, and layers of odd sizes fail.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def without_head_report() -> AbstractContextManager[None]:
    """Keep quiet, while a language model becomes a reward model, that its new head is not in the checkpoint."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    return suppress_seqcls_warning()
