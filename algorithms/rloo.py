"""REINFORCE leave-one-out: judge each sampled answer against the mean of the others (Ahmadian et al., 2024)."""

from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.sampling_kind import SamplingKind
from kinds import Stage


class ReinforceLeaveOneOut(SamplingKind):
    """Trains on prompts by rewards; the baseline of a completion is the mean reward of the rest of its group."""

    name = "rloo"
    trl_name = "RLOO"

    def trainer(self, stage: Stage, parts: dict[str, Any]) -> Any:
        """Return TRL's trainer, which logs the share of informative groups."""
        from trl import RLOOTrainer

        from algorithms.group_sampling import GroupSampling

        class Trainer(GroupSampling, RLOOTrainer):
            def _completions(self, prompts: list[Any]) -> tuple[list[list[int]], Any, None]:
                _, ids, completions = self._generate(prompts)
                return ids, completions, None

        return Trainer(**parts)

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with groups; dynamic sampling is GRPO's."""
        found = super().problems_together(config, extra)
        if extra and extra.dynamic_sampling:
            found.append(f"dynamic_sampling = {extra.dynamic_sampling}: only a stage of kind grpo has it: leave it out")
        return found


RLOO = ReinforceLeaveOneOut()
