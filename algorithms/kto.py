"""Kahneman-Tversky optimisation: learn from thumbs up and down on single answers (Ethayarajh et al., 2024)."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms import arguments
from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.trl_kind import FORGETTING, SAMPLED, TrlKind
from kinds import Stage, Work

if TYPE_CHECKING:
    from data.sources import StageData


LOSSES = ("kto", "apo_zero_unpaired")
"""Of TRL's KTOTrainer, which tries no other."""


class KahnemanTverskyOptimisation(TrlKind):
    """Trains on `prompt`, `completion` and `label`: True for an answer that is wanted, False for one that is not.

    The reference is the stage's own input, as in DPO. The loss weighs an answer's gain over the reference against a KL
    divergence that is estimated from the other rows of its pass: a pass has two rows at least, and rows go in an order
    that is fixed before training. They are shuffled once by `config.seed`, since a file may list all wanted answers
    first.
    """

    name = "kto"
    trl_name = "KTO"
    layout = "labelled"
    has_reference = True
    bar = {"loss": "loss", "rewards/margins": "margin", "kl": "kl"}
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "thumbs", "answers")
    figures = (
        "thumbs auc",
        "thumbs up_logp",
        "thumbs down_logp",
        "reward_model prefers_after",
        "skills strict",
        *SAMPLED,
        "answers stop_rate",
        *FORGETTING,
    )
    headlines = ("skills strict", "reward_model prefers_after", "thumbs auc")
    curves = ("kl",)

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return TRL's trainer, on shuffled rows; see `TrlKind.build`."""
        shuffled = data.train.shuffle(seed=stage.config.seed)
        return super().build(stage, stage_dir, replace(data, train=shuffled))

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with the loss, the order of the rows, and a pass of one row."""
        options = self.defaults() | arguments.given(config)
        if options["loss_type"] not in LOSSES:
            return [f"trainer_args: loss_type = {options['loss_type']!r}: must be one of {', '.join(LOSSES)}"]
        if options["loss_type"] != "kto":
            return []
        found = []
        if options["train_sampling_strategy"] != "sequential":
            found.append(
                f"trainer_args: train_sampling_strategy = {options['train_sampling_strategy']!r}: must be sequential,"
                " as it is if left out: the loss pairs the rows of a pass before training; they are shuffled by seed"
            )
        if options["per_device_train_batch_size"] < 2:
            found.append(
                "per_device_train_batch_size = 1: must be 2 or more, since the loss estimates a divergence from the"
                " other rows of a pass; gradient_accumulation_steps makes the step larger"
            )
        return found

    def least_rows(self, config: TrainingConfig) -> int:
        """Return 2 for the loss that estimates a divergence from the other rows of a pass."""
        return 2 if (self.defaults() | arguments.given(config))["loss_type"] == "kto" else 1

    def work(self, config: TrainingConfig, args: Any, extra: GRPOExtraConfig | None = None) -> Work:
        """Return what a step computes: beside the reference, the policy and it read the rotated answers of a pass."""
        work = super().work(config, args, extra)
        rotated = 0 if args.loss_type != "kto" else 1 if work.reference_ahead else 2
        return replace(work, reference_passes=work.reference_passes + rotated)


KTO = KahnemanTverskyOptimisation()
