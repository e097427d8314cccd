"""What checkpoints and hashes cost is timed in a real run, and is a part of it."""

import pytest

from benchmarks import checkpoints

SHORT = (
    "pretrain.max_steps=4 pretrain.max_samples=600 pretrain.save_steps=2 sft.max_steps=2 sft.eval_samples=20"
    " reward.max_steps=2 reward.eval_samples=20 dpo.max_steps=2 dpo.eval_samples=20 grpo.max_steps=2"
    " grpo.eval_samples=20 grpo.per_device_train_batch_size=16 grpo.max_completion_length=8"
).split()


@pytest.mark.slow
def test_each_part_is_timed_and_less_than_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    import pretrain.checkpoint
    from algorithms import overrides
    from chain import run_stage as run

    for owner, name in (
        (Trainer, "_save_checkpoint"),
        (pretrain.checkpoint, "save_checkpoint"),
        (overrides, "seal"),
        (run, "weights_sha256"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # to be put back
    taken, clock = checkpoints.measure(SHORT)
    assert len(clock.seconds) == 4
    assert all(seconds > 0 for seconds in clock.seconds.values())
    assert sum(clock.seconds.values()) < taken
