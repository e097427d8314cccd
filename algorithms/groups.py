"""What groups of completions can teach: the share of them whose rewards differ, predicted from k completions a prompt.

A group is what GRPO compares: `G` completions of one prompt. It is informative if two of its rewards differ; from any
other the advantages are 0. Everything here is a mean over prompts of what holds for each: from a success rate averaged
over prompts first, `1 - p**G - (1 - p)**G` is far too high, since most prompts are easier or harder than the mean.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence

Rewards = Sequence[float]
"""Of the completions of one prompt."""

TARGET = 0.5
"""Share of informative groups from which on a group size is proposed."""


def informative(rewards: Rewards, size: int) -> float:
    """Return the probability that `size` of a prompt's completions, drawn without repetition, differ in reward.

    That is an unbiased estimate for a new group: 1 - sum over the values v of C(n_v, size) / C(n, size), where n_v of
    the n completions have reward v. For right and wrong it is the estimate of 1 - p**size - (1 - p)**size.

    >>> informative([1, 0, 0, 0], 2)  # 3 of the 6 pairs hold the 1
    0.5
    """
    if not 2 <= size <= len(rewards):
        raise ValueError(f"a group of {size} cannot be drawn from {len(rewards)} completions")
    same = sum(math.comb(count, size) for count in Counter(rewards).values())
    return 1 - same / math.comb(len(rewards), size)


def informative_share(prompts: Sequence[Rewards], size: int) -> tuple[float, float]:
    """Return the mean of `informative` over prompts, and half the width of its 95 % interval over them."""
    each = [informative(rewards, size) for rewards in prompts]
    half = 1.96 * statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return statistics.fmean(each), half


def pass_at(k: int, rewards: Rewards, success: float) -> float:
    """Return the probability that one of `k` completions has the reward `success` (Chen et al., 2021, equation 1).

    >>> pass_at(2, [1, 0, 0, 0], 1)
    0.5
    """
    wrong = sum(reward != success for reward in rewards)
    return 1 - math.comb(wrong, k) / math.comb(len(rewards), k)


def smallest_size(prompts: Sequence[Rewards], target: float = TARGET) -> int | None:
    """Return the smallest group of which at least `target` are informative; None if the completions show none."""
    most = min(map(len, prompts))
    return next((size for size in range(2, most + 1) if informative_share(prompts, size)[0] >= target), None)


def difficulty_band(size: int) -> tuple[float, float]:
    """Return the lowest and the highest success rate of which a group of `size` is informative more often than not.

    >>> low, high = difficulty_band(8)
    >>> round(low, 3), round(high, 3)
    (0.083, 0.917)
    """
    low, high = 0.0, 0.5
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if 1 - middle**size - (1 - middle) ** size >= 0.5 else (middle, high)
    return high, 1 - high
