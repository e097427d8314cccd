"""What transformers and TRL keep private and we rely on, in one place; a test checks that it is still there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from utils.out_of_memory import is_out_of_memory
from utils.runtime import free_memory


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


def continue_generations(trainer: Any, step: int) -> None:
    """Let GRPO sample again at the same optimizer steps as without the interruption; other trainers sample nothing.

    TRL counts forward and backward passes from 0 in each trainer, and samples when a whole number of blocks is done:
    resumed within a block, it would mix the prompts of two.
    """
    if hasattr(trainer, "_buffered_inputs"):
        args = trainer.args
        rows = args.per_device_train_batch_size * args.steps_per_generation * args.world_size
        passes = len(trainer._get_train_sampler()) // rows  # of an epoch
        steps = max(1, -(-passes // args.gradient_accumulation_steps))
        epochs, within = divmod(step, steps)
        trainer._step = epochs * passes + within * args.gradient_accumulation_steps


def is_between_generations(trainer: Any) -> bool:
    """Tell whether nothing is lost by stopping here: GRPO has used up what it sampled, which no checkpoint holds."""
    if not hasattr(trainer, "_buffered_inputs"):
        return True
    return bool(trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations) == 0)


def sample_in_parts(trainer: Any, told: Callable[[int, int], None]) -> None:
    """Let GRPO sample in parts of half as many completions where memory runs out; other trainers sample nothing.

    TRL samples all completions of a generation at once, however small the micro-batch. They are drawn from the same
    policy in parts, though not the same ones. `told` gets how many were sampled at once, and how many are now.
    """
    if not hasattr(trainer, "_buffered_inputs"):
        return
    sample, most = trainer._generate_single_turn, 0

    def sampled(prompt_ids: list[Any], images: Any, fields: Any, *rest: Any, **named: Any) -> tuple[Any, Any]:
        nonlocal most
        if images or fields or trainer.use_vllm or trainer.use_transformers_continuous_batching:
            return tuple(sample(prompt_ids, images, fields, *rest, **named))
        checkpoints = trainer.model.is_gradient_checkpointing
        while True:
            rows = min(most or len(prompt_ids), len(prompt_ids))
            try:
                starts = range(0, len(prompt_ids), rows)
                parts = [sample(prompt_ids[at : at + rows], images, fields, *rest, **named) for at in starts]
                return [ids for part, _ in parts for ids in part], None
            except RuntimeError as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            free_memory()
            if checkpoints and not trainer.model.is_gradient_checkpointing:  # TRL's context left it off
                trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
            most = -(-rows // 2)
            told(rows, most)

    trainer._generate_single_turn = sampled


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
