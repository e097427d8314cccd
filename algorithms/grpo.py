"""Group relative policy optimisation: sample answers, reward them, prefer the better of a group (Shao et al., 2024)."""

from importlib.util import find_spec
from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.sampling_kind import SamplingKind
from kinds import Stage
from utils import processes

__all__ = ["GRPO", "GRPOExtraConfig"]


class GroupRelativePolicyOptimisation(SamplingKind):
    """Trains on prompts by rewards, each completion judged against the others of its group."""

    name = "grpo"
    trl_config = "GRPOConfig"

    def trainer(self, stage: Stage, parts: dict[str, Any]) -> Any:
        """Return TRL's trainer, which can sample other prompts in place of flat groups."""
        from algorithms.dynamic_sampling import DynamicSamplingTrainer

        return DynamicSamplingTrainer(**parts, dynamic_sampling=stage.extra.dynamic_sampling)

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with groups, dynamic sampling and vLLM."""
        found = super().problems_together(config, extra)
        if extra and extra.dynamic_sampling and processes.count() > 1:
            found.append(
                f"dynamic_sampling = {extra.dynamic_sampling}: is for one process, and there are {processes.count()}:"
                " which groups are replaced would have to be agreed on between them. Leave it out"
            )
        if config.trainer_args.get("use_vllm") and find_spec("vllm") is None:
            found.append(
                "trainer_args: use_vllm = True needs vLLM, which is not installed: pip install 'trl[vllm]' (Linux, an"
                " NVIDIA GPU), or leave use_vllm out, and transformers generates"
            )
        return found


GRPO = GroupRelativePolicyOptimisation()
