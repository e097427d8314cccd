"""What a result means to a reader: which way is better, what is too small to matter, what two models compare by."""

from collections.abc import Mapping
from typing import Any

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

LEAST_EFFECT: dict[str, float] = {
    **dict.fromkeys(("strict", "flexible", "accuracy", "accuracy_per_byte", "stop_rate", "prefers_after"), 0.01),
    **dict.fromkeys(("pass@1", "pass@2", "pass@4", "flexible_pass@2", "flexible_pass@4", "auc", "auc_flexible"), 0.01),
    **dict.fromkeys(("brier", "calibration_error", "length_bias", "longer_wins", "longer_is_right"), 0.01),
    **dict.fromkeys(("loss", "bits_per_byte", "nats_saved"), 0.01),
    **dict.fromkeys(("margin", "chosen_logp", "rejected_logp", "up_logp", "down_logp"), 0.1),
    "completion_tokens": 1.0,
}
"""The smallest change of the mean that matters: shares from 0 to 1 (one example in a hundred), nats a token or bits a
byte, nats an answer or points of a reward model, tokens. A smaller one is called tiny, however sure it is."""
LEAST_SHARE = 0.01
"""Of the value before: the smallest change that matters of every other metric, such as a reward function's."""


def least_effect(metric: str, before: float) -> float:
    """Return the smallest change of a metric that matters, in its own unit."""
    name, _, group = metric.partition("/")
    known = LEAST_EFFECT.get(name, LEAST_EFFECT.get(group) if group.startswith("pass@") else None)
    return LEAST_SHARE * abs(before) if known is None else known


def verdict(result: Mapping[str, Any]) -> str:
    """Return what the interval of a result's difference says; "" without an interval.

    That is better, worse, changed, no evidence; of a change that is sure, and smaller than `least_effect`: tiny gain,
    tiny loss, tiny change. `result` is `{metric, before, after, ci95}`.
    """
    if result["ci95"] is None:
        return ""
    metric, before, (low, high) = result["metric"], result["before"], result["ci95"]
    if low <= 0 <= high:
        return "no evidence"
    is_tiny = abs(result["after"] - before) < least_effect(metric, float(before))
    higher_is_better = HIGHER_IS_BETTER.get(metric.partition("/")[0], True)
    if higher_is_better is None:
        return "tiny change" if is_tiny else "changed"
    words = ("tiny gain", "tiny loss") if is_tiny else ("better", "worse")
    return words[(low > 0) != higher_is_better]
