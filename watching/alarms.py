"""What the metrics that a stage logs tell of a training that goes wrong: pure functions, logged rows to a message.

Each takes all rows so far and speaks when the newest one completes the evidence: of windows of rows, never of a single
one, since every metric here is noisy. What it says is what was seen, why it matters, and what to try.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from statistics import fmean, median, variance
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""One mapping a logged step, oldest first, with the names of TRL's metrics; evaluations stand among them."""

WINDOW = 10
"""Logged rows that are looked at together."""
CLEAR, CLEAR_ONCE = 5.0, 3.0
"""Welch's t of two windows whose means differ beyond doubt. A stage looks hundreds of times, and at 3 one of them would
be chance; who looks once may take it."""

DEAD_ROWS, DEAD = 20, 0.9
"""Groups without spread have no advantage, so no gradient (DAPO drops them: Yu et al., 2025, arXiv 2503.14476, 3.2). A
third or a half may be so while a policy learns; a published run that passed had no gradient in 74 % of its steps."""
CUT_OFF, NONE_ENDS = 0.5, 0.99
"""Share of completions that reach the limit. A base model may begin at a third of them."""
COLLAPSED = 0.1
"""Entropy against that of the first rows. It falls early in all runs, and no further gain follows once it is used up
(Cui et al., 2025, arXiv 2505.22617); the embedded recipe, which learns, ends at two thirds."""
FALLEN = 0.5
"""Fall of the reward, in units of its own spread within a step."""
FAR = 1.0
"""KL from the reference in nats a token. A policy that is still about the same task has hundredths; rewards are
over-optimised long before (Gao et al., 2023, arXiv 2210.10760)."""
LOSS_ROWS, LOSS_TIMES, LOSS_ABOVE = 3, 2.0, 1.5
"""A loss is lost that is both so many times and so many nats above the lowest of the first rows: rows of one short
example differ by less. A reward model and DPO begin at ln 2 = 0.69."""
DISPLACED = 0.25
"""Share by which the chosen answers' log-probability has grown more negative than the reference's. A few per cent are
common (Razin et al., 2024, arXiv 2410.08847; Pal et al., 2024, arXiv 2402.13228)."""
PREFERENCE_ROWS, COIN, LEAST_MARGIN = 20, 0.58, 0.02
"""Share of pairs ranked right, and difference of a reward model's scores, below which nothing was learnt of them. Human
preferences, which annotators dispute, give 0.6 to 0.75; shuffled ones 0.5."""
RISES, RISEN = 3, 0.02
"""Evaluations in a row whose loss is above the one before, and by how much, relatively, in all."""


def found(rows: Rows, *, share_done: float = 0.0, beta: float = 0.0) -> Iterator[tuple[str, str]]:
    """Yield name and message of every alarm for which the newest of `rows` completes the evidence.

    `share_done` is the share of the stage's steps that is done, `beta` that of DPO.
    """
    for check in CHECKS:
        if message := check(rows):
            yield check.__name__, message
    if beta > 0 and (message := displaced_chosen(rows, beta)):
        yield "displaced_chosen", message
    if share_done >= 0.5 and (message := coin_flip(rows)):  # before that it may be warming up
        yield "coin_flip", message


def dead_groups(rows: Rows) -> str | None:
    """A kind that samples: nearly all groups get the same reward for all their completions."""
    shares = _last(rows, "frac_reward_zero_std", DEAD_ROWS)
    if not shares or fmean(shares) < DEAD:
        return None
    reward = fmean(_last(rows, "reward", DEAD_ROWS) or [math.nan])
    return (
        f"in the last {DEAD_ROWS} logged steps {fmean(shares):.0%} of the groups had one reward for all completions"
        f" (mean {reward:.3g}): they have no gradient, and most of the time goes into nothing. If the reward is at its"
        " lowest the task is out of reach: easier prompts, more SFT, a reward with steps. At its highest it is solved:"
        " harder prompts, or stop. Otherwise raise num_generations, or temperature in trainer_args"
    )


def clipped_completions(rows: Rows) -> str | None:
    """A kind that samples: many completions reach max_completion_length, or none ends."""
    cut = _last(rows, "completions/clipped_ratio")
    if not cut or fmean(cut) < CUT_OFF:
        return None
    if fmean(cut) >= NONE_ENDS:
        seen = "no completion ended by itself: the policy does not produce its EOS"
        attempt = "Train longer with SFT on answers that end, check the EOS token, or lower learning_rate if it used to"
    else:
        seen = f"{fmean(cut):.0%} of the completions were cut off at max_completion_length"
        attempt = "Raise it, ask for shorter answers, or give a reward for ending"
    return f"{seen} in the last {WINDOW} logged steps: a reward cannot see the answer that is missing. {attempt}"


def entropy_collapse(rows: Rows) -> str | None:
    """A kind that samples: the policy has stopped to explore."""
    ends = _ends(rows, "entropy") if _samples(rows) else None
    if not ends or fmean(ends[1]) >= COLLAPSED * fmean(ends[0]):
        return None
    return (
        f"the policy's entropy fell from {fmean(ends[0]):.3g} to {fmean(ends[1]):.3g} nats a token: its completions are"
        " nearly the same, and what it does not sample it cannot learn. If the task is solved, stop here. Otherwise"
        " lower learning_rate, raise temperature, or set beta or epsilon_high in trainer_args"
    )


def falling_reward(rows: Rows) -> str | None:
    """A kind that samples: the reward it trains for goes down."""
    ends, spread = _ends(rows, "reward"), _last(rows, "reward_std")
    if not ends or not _samples(rows):
        return None
    spread = spread + list(islice(_values(rows, "reward_std"), WINDOW))
    fall = fmean(ends[0]) - fmean(ends[1])
    if fall <= FALLEN * fmean(spread) or _t(*ends) > -CLEAR:
        return None
    return (
        f"the mean reward fell from {fmean(ends[0]):.3g} to {fmean(ends[1]):.3g}: the steps destroy what the policy"
        " could do. Lower learning_rate, take more completions a step (gradient_accumulation_steps), or set beta"
    )


def exploding_kl(rows: Rows) -> str | None:
    """A kind that samples, with a reference: the policy is far from its reference."""
    distances = _last(rows, "kl") if _samples(rows) else []  # KTO's is of whole answers
    if not distances or median(distances) <= FAR:  # the estimator has a heavy tail
        return None
    return (
        f"the KL divergence from the reference is {median(distances):.3g} nats a token: the policy has become another"
        " model, and what it gains in reward it is likely to lose elsewhere. Lower learning_rate, or raise beta"
    )


def rising_loss(rows: Rows) -> str | None:
    """A kind that does not sample, whose loss says something: it is far above where it began."""
    losses = [] if _samples(rows) else _last(rows, "loss")
    if not losses:
        return None
    first, now = min(islice(_values(rows, "loss"), LOSS_ROWS)), fmean(losses)
    if now <= max(LOSS_TIMES * first, first + LOSS_ABOVE):
        return None
    return (
        f"the loss is {now:.3g}, the mean of {WINDOW} logged steps, and was {first:.3g}: the training destroys what the"
        " model knew. Lower learning_rate, or raise warmup_steps"
    )


def displaced_chosen(rows: Rows, beta: float) -> str | None:
    """DPO: the chosen answers become less likely, and the rejected ones even less, so the margin grows.

    `rewards/chosen` is beta times the difference of the policy's log-probability and the reference's, both of the same
    answers, so no row stands against another.
    """
    names = ("rewards/chosen", "rewards/rejected", "logps/chosen")
    chosen, rejected, logps = (_last(rows, name) for name in names)
    if not chosen or not rejected or not logps or "rewards/accuracies" not in rows[-1]:  # KTO has no pairs
        return None
    now, change = fmean(logps), fmean(chosen) / beta
    if not (fmean(rejected) < fmean(chosen) < 0 and now < 0 and change < DISPLACED * (now - change)):
        return None
    return (
        f"the chosen answers' log-probability fell from the reference's {now - change:.3g} to {now:.3g} nats, together"
        " with the rejected ones': the margin grows by making both unlikely, and what becomes likely instead nobody"
        " chose. Look at what the model says. Lower learning_rate, raise beta, or hold it with an SFT term:"
        " trainer_args={'loss_type': ['sigmoid', 'sft'], 'loss_weights': [1.0, 1.0]}"
    )


def coin_flip(rows: Rows) -> str | None:
    """Reward model, DPO: in the second half of the rows pairs are ranked as a coin would.

    Two standard errors above the mean must still be below `COIN`: few and small rows say nothing. Or a reward model
    scores all answers alike, of which rounding then makes a ranking.
    """
    ranked = _second_half(rows, "rewards/accuracies") or _second_half(rows, "accuracy")
    if len(ranked) < PREFERENCE_ROWS:
        return None
    margins = _second_half(rows, "margin")
    chance = fmean(ranked) + 2 * math.sqrt(variance(ranked) / len(ranked)) < COIN
    if not chance and (not margins or fmean(margins) >= LEAST_MARGIN):
        return None
    apart = f", with {fmean(margins):.2g} between the scores of a pair" if margins else ""
    return (
        f"in the last {len(ranked)} logged steps {fmean(ranked):.0%} of the pairs were ranked right{apart}, no better"
        " than by a coin: no preference is being learnt. Are chosen and rejected mixed up in the data, do they differ"
        " where max_length has not cut them off, and is learning_rate neither too small nor so large that it destroys?"
    )


def overfitting(rows: Rows) -> str | None:
    """The held-out loss rises while that on the training rows falls; GRPO's losses say nothing."""
    if not rows or rows[-1].get("eval_loss") is None or "eval_reward" in rows[-1]:
        return None
    parts: list[tuple[float, list[float]]] = []  # of an evaluation, the newest first: its loss, and those before it
    for row in reversed(rows):
        if "eval_loss" in row:
            if len(parts) > RISES:
                break
            parts.append((row["eval_loss"], []))
        parts[-1][1].extend(_values([row], "loss"))
    held_out, train = [loss for loss, _ in reversed(parts)], [fmean(some) for _, some in reversed(parts) if some]
    rises = len(train) > RISES and all(earlier < later for earlier, later in pairwise(held_out))
    if not rises or held_out[-1] < held_out[0] * (1 + RISEN) or train[-1] >= train[0]:
        return None
    return (
        f"the held-out loss rose in {RISES} evaluations in a row, from {held_out[0]:.4g} to {held_out[-1]:.4g}, while"
        f" the training loss fell from {train[0]:.4g} to {train[-1]:.4g}: rows are being learnt by heart. Fewer steps"
        " or epochs, more rows, or weight_decay; an earlier checkpoint may be the better model"
    )


CHECKS: tuple[Callable[[Rows], str | None], ...] = (
    dead_groups, clipped_completions, entropy_collapse, falling_reward, exploding_kl, rising_loss, overfitting,
)  # fmt: skip
"""Those that look at the rows alone."""


def risen(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the means of the first and the last third of a metric where it has clearly risen, else None."""
    third = len(values) // 3
    if third < 2:
        return None
    first, last = values[:third], values[-third:]
    return (fmean(first), fmean(last)) if _t(first, last) > CLEAR_ONCE else None


def _samples(rows: Rows) -> bool:
    return bool(rows) and "frac_reward_zero_std" in rows[-1]


def _values(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[float]:
    """Yield a metric of each row that has it, as a number."""
    for row in rows:
        value = row.get(name)
        if value is not None and math.isfinite(value):
            yield value


def _last(rows: Rows, name: str, number: int = WINDOW) -> list[float]:
    """Return the newest values of a metric; none where they are fewer, or the newest row has none."""
    if not rows or name not in rows[-1]:
        return []
    values = list(islice(_values(reversed(rows), name), number))
    return values if len(values) == number else []


def _second_half(rows: Rows, name: str) -> list[float]:
    """Return the newer half of a metric's values; none where the newest row has none."""
    values = list(_values(rows, name)) if rows and name in rows[-1] else []
    return values[len(values) // 2 :]


def _ends(rows: Rows, name: str) -> tuple[list[float], list[float]] | None:
    """Return the first and the newest `WINDOW` values of a metric; None where they would overlap."""
    if not _last(rows, name, 2 * WINDOW):
        return None
    return list(islice(_values(rows, name), WINDOW)), _last(rows, name)


def _t(before: Sequence[float], after: Sequence[float]) -> float:
    """Return Welch's t: the rise of the mean in units of its standard error; infinite where neither varies.

    >>> round(_t([1.0, 2.0, 3.0], [5.0, 6.0, 7.0]), 2)  # 4 / sqrt(1/3 + 1/3)
    4.9
    """
    rise = fmean(after) - fmean(before)
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    return rise / error if error else math.copysign(math.inf, rise) if rise else 0.0
