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


def without_head_report() -> AbstractContextManager[None]:
    """Keep quiet, while a language model becomes a reward model, that its new head is not in the checkpoint."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    return suppress_seqcls_warning()
