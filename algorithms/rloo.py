"""REINFORCE leave-one-out: judge each sampled answer against the mean of the others (Ahmadian et al., 2024)."""

from dataclasses import replace
from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.sampling_kind import SamplingKind
from kinds import Stage, Work


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

            def _generate_single_turn(self, prompt_ids: list[Any], images: Any, multimodal_fields: Any) -> Any:
                generate = super()._generate_single_turn
                return self._sampled(
                    prompt_ids,
                    images,
                    multimodal_fields,
                    lambda prompts: (generate(prompts, images, multimodal_fields), None),
                )[0]

            def _generate_and_score_completions(self, inputs: list[Any]) -> Any:
                output = super()._generate_and_score_completions(inputs)
                mode = "train" if self.model.training else "eval"
                # TRL looks for flat groups once beta · KL is taken off the rewards, after which none is
                self._metrics[mode]["frac_reward_zero_std"][-1] = self.flat_share
                return output

        return Trainer(**parts)

    def work(self, config: TrainingConfig, args: Any, extra: GRPOExtraConfig | None = None) -> Work:
        """Return what a step computes; the policy reads what it has sampled once more."""
        work = super().work(config, args, extra)
        return replace(work, reference_passes=work.reference_passes + 1 / args.num_iterations)

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with groups; dynamic sampling is GRPO's."""
        found = super().problems_together(config, extra)
        if extra and extra.dynamic_sampling:
            found.append(f"dynamic_sampling = {extra.dynamic_sampling}: only a stage of kind grpo has it: leave it out")
        return found


RLOO = ReinforceLeaveOneOut()
