"""Group relative policy optimisation: sample answers, reward them, prefer the better of a group (Shao et al., 2024)."""

from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.sampling_kind import SamplingKind
from kinds import Stage
from utils import processes

__all__ = ["GRPO", "GRPOExtraConfig"]


class GroupRelativePolicyOptimisation(SamplingKind):
    """Trains on prompts by rewards, each completion judged against the others of its group."""

    name = "grpo"
    trl_name = "GRPO"

    def trainer(self, stage: Stage, parts: dict[str, Any]) -> Any:
        """Return TRL's trainer, which can sample other prompts in place of flat groups."""
        from algorithms.dynamic_sampling import DynamicSamplingTrainer

        return DynamicSamplingTrainer(**parts, dynamic_sampling=stage.extra.dynamic_sampling)

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with groups and dynamic sampling."""
        found = super().problems_together(config, extra)
        if extra and extra.dynamic_sampling and processes.count() > 1:
            found.append(
                f"dynamic_sampling = {extra.dynamic_sampling}: is for one process, and there are {processes.count()}:"
                " which groups are replaced would have to be agreed on between them. Leave it out"
            )
        return found


GRPO = GroupRelativePolicyOptimisation()
