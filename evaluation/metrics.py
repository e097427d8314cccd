"""What a result means to a reader: which way is better, and what two models can be compared by."""

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
