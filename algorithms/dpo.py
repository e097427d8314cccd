"""Direct preference optimisation: prefer the chosen answers, near the reference (Rafailov et al., 2023)."""

from algorithms.trl_kind import FORGETTING, SAMPLED, TrlKind


class DirectPreferenceOptimisation(TrlKind):
    """Trains on pairs of a chosen and a rejected answer.

    The reference is the stage's own input, which TRL loads a second time, or with `precompute_ref_log_probs` runs once
    over the data before training. `trainer_args` may name several losses and weights.
    """

    name = "dpo"
    trl_name = "DPO"
    layout = "pairs"
    sequences_per_row = 2
    has_reference = True
    bar = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "preferences", "answers")
    figures = {
        "preferences accuracy": "pairs ranked right",
        "preferences margin": "margin",
        "preferences chosen_logp": "chosen logp",
        "preferences rejected_logp": "rejected logp",
        "reward_model prefers_after": "reward model prefers",
        "skills strict": "exact match",
        **SAMPLED,
        "answers stop_rate": "stop rate",
        **FORGETTING,
    }
    headlines = ("skills strict", "reward_model prefers_after", "preferences accuracy")


DPO = DirectPreferenceOptimisation()
