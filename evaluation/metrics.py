"""What a result means to a reader: its name, which way is better, and whether it belongs in the result table."""

FORGETTING = {"documents loss": "forgetting: loss", "documents bits_per_byte": "forgetting: bits/byte"}
"""What a policy stage has left of what pretraining learnt."""

SHOWN: dict[str, dict[str, str]] = {
    "pretrain": {
        "documents loss": "document loss",
        "documents accuracy": "next-token accuracy",
        "documents bits_per_byte": "bits per byte",
        "skills strict": "exact match",
    },
    "sft": {
        "skills strict": "exact match",
        "skills strict/*": "  *",
        "sampled_skills strict": "pass@1",
        "sampled_skills pass@4": "pass@4",
        "skills stop_rate": "stop rate",
        "demonstrations loss": "demonstration loss",
        "demonstrations accuracy": "token accuracy",
        "answers stop_rate": "stop rate",
        **FORGETTING,
    },
    "reward": {
        "pairs accuracy": "pairs ranked right",
        "pairs margin": "margin",
        "pairs brier": "Brier score",
        "pairs calibration_error": "calibration error",
        "pairs length_bias": "length bias",
        "verified_answers auc": "AUC against verifier",
    },
    "dpo": {
        "preferences accuracy": "pairs ranked right",
        "preferences margin": "margin",
        "preferences chosen_logp": "chosen logp",
        "preferences rejected_logp": "rejected logp",
        "reward_model prefers_after": "reward model prefers",
        "skills strict": "exact match",
        "sampled_skills strict": "pass@1",
        "sampled_skills pass@4": "pass@4",
        "answers stop_rate": "stop rate",
        **FORGETTING,
    },
    "grpo": {
        "skills strict": "exact match",
        "skills strict/*": "  *",
        "sampled_skills strict": "pass@1",
        "sampled_skills pass@4": "pass@4",
        "skills flexible": "right in any form",
        "skills stop_rate": "stop rate",
        "rewards *": "*",
        "sampled_rewards *": "*",
        "reward_model prefers_after": "reward model prefers",
        **FORGETTING,
    },
}
"""For each kind of stage the results that matter, in order: a pattern of "task metric", and the name to show.

A `*` in the name stands for what the pattern's `*` matched. All results are in stage_info.json."""

HEADLINES: dict[str, tuple[str, ...]] = {
    "pretrain": ("documents bits_per_byte", "documents loss"),
    "sft": ("skills strict", "demonstrations loss"),
    "reward": ("pairs accuracy",),
    "dpo": ("skills strict", "reward_model prefers_after", "preferences accuracy"),
    "grpo": ("sampled_skills strict", "rewards *", "reward_model prefers_after"),
}
"""For each kind of stage what it is trained to change, as a pattern of "task metric": the first that was measured is
its verdict. Of GRPO that is the sampled answers, which its rewards are of."""

TOKEN_METRICS = {"documents": {"loss", "accuracy"}, "demonstrations": {"loss", "accuracy"}}
"""Means over tokens, by task: two tokenizers cut a text into other tokens, so that these are not of one thing."""

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "loss": False,
    "perplexity": False,
    "bits_per_byte": False,
    "rejected_logp": False,
    "rejected_reward": False,
    "completion_tokens": None,
    "brier": False,
    "calibration_error": False,
    "longer_wins": None,
    "longer_is_right": None,
    "length_bias": None,
}
"""Of the other metrics, and so of every reward function, higher is better. None: neither way is better by itself."""


def verdict(metric: str, ci95: list[float] | None) -> str:
    """Return what the interval of a difference says: better, worse, changed, no evidence; "" without an interval."""
    if ci95 is None:
        return ""
    low, high = ci95
    if low <= 0 <= high:
        return "no evidence"
    higher_is_better = HIGHER_IS_BETTER.get(metric.partition("/")[0], True)
    if higher_is_better is None:
        return "changed"
    return "better" if (low > 0) == higher_is_better else "worse"
