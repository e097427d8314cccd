"""What logged rows tell: each alarm by numbers worked by hand, and by histories that look alike and are healthy."""

import math
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import pytest

from watching import alarms

Row = dict[str, Any]


def rows(**columns: Iterable[float | None]) -> list[Row]:
    """Return rows of these metrics; `__` in a name stands for `/`."""
    names = [name.replace("__", "/") for name in columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def grpo(**columns: Iterable[float | None]) -> list[Row]:
    """Return rows as GRPO logs them, with a spread in every group."""
    return [{"frac_reward_zero_std": 0.0} | row for row in rows(**columns)]


def first(check: Callable[[list[Row]], str | None], history: list[Row]) -> int | None:
    """Return the number of the row, from 1, after which a check speaks; None if it never does."""
    return next((count for count in range(1, len(history) + 1) if check(history[:count])), None)


def noise(mean: float, spread: float, count: int) -> list[float]:
    """Return values whose mean and spread are known: three below, three above, in turn."""
    return [mean + spread * (index % 3 - 1) for index in range(count)]


def test_dead_groups_are_told_after_twenty_rows_of_nine_in_ten() -> None:
    dead = rows(frac_reward_zero_std=[1.0, 0.8] * 15, reward=[0.25] * 30)
    assert first(alarms.dead_groups, dead) == 20
    message = str(alarms.dead_groups(dead))
    assert "90% of the groups" in message
    assert "(mean 0.25)" in message
    assert first(alarms.dead_groups, rows(frac_reward_zero_std=[1.0] * 17 + [0.0] * 3 + [0.5] * 20)) is None  # 85 %
    assert first(alarms.dead_groups, rows(frac_reward_zero_std=[1.0, 0.0] * 100)) is None  # one group a step


def test_half_of_the_completions_cut_off_is_told_and_none_that_ends_apart() -> None:
    cut = rows(completions__clipped_ratio=noise(0.5, 0.25, 30))
    assert first(alarms.clipped_completions, cut) == 11  # ten rows from the first, lowest one are just below
    assert "of the completions were cut off" in str(alarms.clipped_completions(cut[:11]))
    endless = str(alarms.clipped_completions(rows(completions__clipped_ratio=[1.0] * 10)))
    assert endless.startswith("no completion ended by itself: the policy does not produce its EOS")
    assert first(alarms.clipped_completions, rows(completions__clipped_ratio=[0.9] * 3 + [0.3] * 30)) is None


def test_entropy_collapses_below_a_tenth_and_in_grpo_alone() -> None:
    falling = [2.0] * 10 + [0.5] * 10 + [0.1] * 10
    # The newest ten: 9 × 0.1 + 0.5 = 1.4, 7 × 0.1 + 3 × 0.5 = 2.2, so below 0.2 in the mean from 2 × 0.5 + 8 × 0.1 on.
    assert first(alarms.entropy_collapse, grpo(entropy=falling)) == 28
    assert "from 2 to 0.18 nats a token" in str(alarms.entropy_collapse(grpo(entropy=falling)[:28]))
    assert first(alarms.entropy_collapse, rows(entropy=falling)) is None  # SFT's and DPO's is meant to fall
    assert first(alarms.entropy_collapse, grpo(entropy=[0.09 * 0.97**step for step in range(60)])) is None


def test_a_reward_that_falls_by_more_than_its_spread_is_told_and_one_that_wanders_is_not() -> None:
    healthy = noise(0.8, 0.1, 20)
    fallen = grpo(reward=[*healthy, *[0.3] * 10], reward_std=[0.4] * 30)
    assert first(alarms.falling_reward, fallen) == 28  # 8 of the newest ten are at 0.3: with 7, t is -4.1
    assert "fell from 0.79 to" in str(alarms.falling_reward(fallen))
    assert first(alarms.falling_reward, grpo(reward=noise(0.8, 0.4, 90), reward_std=[0.4] * 90)) is None
    assert first(alarms.falling_reward, grpo(reward=[*healthy, *[0.65] * 40], reward_std=[0.4] * 60)) is None
    silent = grpo(reward=[None] * 40, reward_std=[None] * 40)  # no completion has a reward
    assert first(alarms.falling_reward, silent) is None


def test_kl_is_judged_by_the_median_as_its_estimate_has_a_heavy_tail() -> None:
    assert first(alarms.exploding_kl, grpo(kl=[0.02] * 10 + [1.5] * 10)) == 16  # six of the newest ten
    assert first(alarms.exploding_kl, grpo(kl=[0.02, 0.05, 0.1, 900.0] * 10)) is None
    assert first(alarms.exploding_kl, grpo(reward=[1.0] * 30)) is None  # beta = 0: none is measured
    assert first(alarms.exploding_kl, rows(kl=[90.0] * 30)) is None  # KTO's is of whole answers, not a token


def test_a_loss_far_above_its_beginning_is_told_but_not_grpos() -> None:
    lost = [0.5, 0.4, 0.6, *[3.0] * 9]
    # The lowest of the first three is 0.4; the newest ten must be above 1.9.
    assert first(alarms.rising_loss, rows(loss=lost)) == 10
    assert "the loss is 2.25, the mean of 10 logged steps, and was 0.4" in str(alarms.rising_loss(rows(loss=lost[:10])))
    assert first(alarms.rising_loss, grpo(loss=lost)) is None
    assert first(alarms.rising_loss, rows(loss=noise(1.2, 0.7, 200))) is None  # rows of one short example
    assert first(alarms.rising_loss, rows(loss=[math.log(2)] * 50)) is None  # a coin is no divergence


def test_chosen_answers_that_become_unlikely_with_the_rejected_are_told() -> None:
    # beta 0.1: a reward of -3 is 30 nats; the reference gave the chosen -100, the policy gives -130.
    ranked = {"rewards__accuracies": [1.0] * 10, "logps__chosen": [-130.0] * 10}
    both = rows(rewards__chosen=[-3.0] * 10, rewards__rejected=[-9.0] * 10, **ranked)
    message = str(alarms.displaced_chosen(both, 0.1))
    assert "from the reference's -100 to -130 nats" in message
    assert alarms.displaced_chosen(both[:9], 0.1) is None
    thumbs = rows(rewards__chosen=[-3.0] * 10, rewards__rejected=[-9.0] * 10, logps__chosen=[-130.0] * 10)
    assert alarms.displaced_chosen(thumbs, 0.1) is None  # single answers: the chosen have no rejected beside them
    healthy = {"rewards__rejected": [-9.0] * 10, **ranked}
    assert alarms.displaced_chosen(rows(rewards__chosen=[-1.0] * 10, **healthy), 0.1) is None  # 10 of 120 nats
    assert alarms.displaced_chosen(rows(rewards__chosen=[3.0] * 10, **healthy), 0.1) is None
    apart = rows(rewards__chosen=[-3.0] * 10, rewards__rejected=[-1.0] * 10, **ranked)
    assert alarms.displaced_chosen(apart, 0.1) is None  # the margin does not grow: it is another ailment


@pytest.mark.parametrize("name", ["accuracy", "rewards__accuracies"])
def test_a_preference_is_a_coin_flip_only_where_that_is_certain(name: str) -> None:
    # noise of 1/8: the second half of 60 rows, 30 of them, has a standard error of 0.104 / sqrt(30) = 0.019.
    assert "50% of the pairs" in str(alarms.coin_flip(rows(**{name: noise(0.5, 0.125, 60)})))
    assert alarms.coin_flip(rows(**{name: noise(0.55, 0.125, 60)})) is None  # 0.55 + 0.038 may be 0.58
    assert alarms.coin_flip(rows(**{name: noise(0.5, 0.125, 38)})) is None  # 19 rows
    alike = rows(accuracy=[0.7] * 60, margin=[0.5] * 30 + [0.01] * 30)  # a model that is lost ranks by rounding
    assert "with 0.01 between the scores of a pair" in str(alarms.coin_flip(alike))
    assert alarms.coin_flip(rows(accuracy=[0.7] * 60, margin=[0.0] * 30 + [0.03] * 30)) is None
    learnt = noise(0.5, 0.125, 60) + noise(0.75, 0.125, 60)
    assert alarms.coin_flip(rows(**{name: learnt})) is None


def test_nobody_is_told_of_a_coin_flip_before_half_of_the_steps() -> None:
    history = rows(accuracy=noise(0.5, 0.125, 60))
    assert [name for name, _ in alarms.found(history, share_done=0.49)] == []
    assert [name for name, _ in alarms.found(history, share_done=0.5)] == ["coin_flip"]


def evaluated(held_out: list[float], train: list[float]) -> list[Row]:
    """Return rows as TRL logs them: two of training, then one of evaluation."""
    return [
        row
        for loss, mean in zip(held_out, train, strict=True)
        for row in ({"loss": mean + 0.1}, {"loss": mean - 0.1}, {"eval_loss": loss})
    ]


def test_overfitting_is_three_rises_in_a_row_while_the_training_loss_falls() -> None:
    held_out, train = [2.0, 1.5, 1.52, 1.54, 1.6], [2.0, 1.4, 1.2, 1.0, 0.9]
    history = evaluated(held_out, train)
    assert first(alarms.overfitting, history) == 15
    assert "from 1.5 to 1.6, while the training loss fell from 1.4 to 0.9" in str(alarms.overfitting(history))
    in_one_row = [{"loss": mean, "eval_loss": loss} for loss, mean in zip(held_out, train, strict=True)]
    assert first(alarms.overfitting, in_one_row) == 5  # as pretraining logs them
    assert (
        first(alarms.overfitting, evaluated([2.0, 1.5, 1.52, 1.51, 1.6, 1.7], [2.0, 1.4, 1.2, 1.0, 0.9, 0.8])) is None
    )
    assert first(alarms.overfitting, evaluated(held_out, [2.0, 1.4, 1.5, 1.6, 1.7])) is None  # both rise: another one
    assert first(alarms.overfitting, evaluated([2.0, 1.5, 1.502, 1.504, 1.506], train)) is None  # by 0.4 %
    of_grpo = [row | ({"eval_reward": 1.0} if "eval_loss" in row else {}) for row in history]
    assert first(alarms.overfitting, of_grpo) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5, 0.6, 0.9, 0.9, 0.9, 1.0], (0.55, 0.95)), ([0.5, 0.6, 0.0, 0.0, 0.6, 0.5], None), ([1.0, 2.0, 3.0], None)],
)
def test_what_has_clearly_risen(values: list[float], expected: tuple[float, float] | None) -> None:
    found = alarms.risen(values)
    assert found == (None if expected is None else pytest.approx(expected))


def test_healthy_histories_raise_nothing() -> None:
    """As the embedded recipe logs them, and larger models: falling losses, rising rewards, noise."""
    wobble = [0.03 * math.sin(1.7 * step) for step in range(200)]
    fall = [0.4 + 2.5 * math.exp(-step / 15) + w for step, w in enumerate(wobble)]
    rise = [0.93 - 0.15 * math.exp(-step / 20) + w for step, w in enumerate(wobble)]
    down = list(accumulate(range(199), lambda value, _: value * 0.997, initial=0.09))
    stages = {
        "sft": rows(loss=fall, entropy=[value / 2 for value in fall]),
        "reward": rows(loss=[0.25 + w for w in wobble], accuracy=[value - 0.1 for value in rise]),
        "dpo": rows(
            loss=[0.6 + w for w in wobble],
            rewards__accuracies=[0.7 + w for w in wobble],
            rewards__chosen=[-0.0005 * step for step in range(200)],
            rewards__rejected=[-0.002 * step for step in range(200)],
            logps__chosen=[-150 + 100 * w for w in wobble],
        ),
        "grpo": grpo(
            loss=wobble,
            reward=rise,
            reward_std=[0.38 + w for w in wobble],
            entropy=down,
            kl=[0.0005 * step for step in range(200)],
            completions__clipped_ratio=[abs(w) for w in wobble],
        ),
    }
    for kind, history in stages.items():
        told = [alarms.found(history[:count], share_done=count / 200, beta=0.1) for count in range(1, 201)]
        assert [name for one in told for name, _ in one] == [], kind
