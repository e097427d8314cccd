"""What a result means to a reader: its name, which way is better, and whether it belongs in the result table."""

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
        "sampled_skills strict": "exact match, sampled",
        "skills stop_rate": "stop rate",
        "demonstrations loss": "demonstration loss",
        "demonstrations accuracy": "token accuracy",
        "answers stop_rate": "stop rate",
    },
    "reward": {"pairs accuracy": "pairs ranked right", "pairs margin": "margin"},
    "dpo": {
        "preferences accuracy": "pairs ranked right",
        "preferences margin": "margin",
        "preferences chosen_logp": "chosen logp",
        "preferences rejected_logp": "rejected logp",
        "reward_model prefers_after": "reward model prefers",
        "skills strict": "exact match",
        "sampled_skills strict": "exact match, sampled",
        "answers stop_rate": "stop rate",
    },
    "grpo": {
        "skills strict": "exact match",
        "skills strict/*": "  *",
        "sampled_skills strict": "exact match, sampled",
        "skills flexible": "right in any form",
        "skills stop_rate": "stop rate",
        "rewards *": "*",
        "reward_model prefers_after": "reward model prefers",
    },
}
"""For each kind of stage the results that matter, in order: a pattern of "task metric", and the name to show.

A `*` in the name stands for what the pattern's `*` matched. All results are in stage_info.json."""

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "loss": False,
    "perplexity": False,
    "bits_per_byte": False,
    "rejected_logp": False,
    "rejected_reward": False,
    "completion_tokens": None,
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
