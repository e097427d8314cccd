"""What a stage that samples can expect: it first samples and rewards some prompts as it will do in training.

Most groups of completions teach nothing where most prompts are too hard or too easy, and the loss does not tell. So
the share of informative groups is predicted, with the group size and the difficulty that would give more, and a stage
in which no group would be informative fails before it has cost anything.
"""

import math
import random
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from algorithms import groups
from algorithms.config import PREFLIGHT_COMPLETIONS
from records.stage_log import StageLog
from utils.console import console, progress
from utils.errors import StageFailed

if TYPE_CHECKING:
    from algorithms.group_sampling import Sampled

BINS, BAR = 8, 30
"""Bars of the histogram of mean rewards, and the characters of the longest."""

NEARLY_ALL = 0.99
"""Share of completions that are cut off beyond which no reward is of an answer."""

NO_REWARD = (
    "no completion got a reward: every reward function returned None. `accuracy` does where the column"
    " `solution` holds no maths: choose a reward that fits the data, such as exact_match"
)


class Preflight(TrainerCallback):
    """Runs the preflight before a trainer's first step; a resumed one has had it, and its record stays."""

    def __init__(self, trainer: Any, prompts: int, log: StageLog) -> None:
        self.trainer, self.prompts, self.log = trainer, prompts, log

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Sample, record, show, and judge.

        Raises:
            StageFailed: no group had any spread.
        """
        if state.global_step:
            return
        found = run(self.trainer, self.prompts)
        self.log.info(preflight=found)
        console().print("\n".join(told(found)), markup=False)
        judge(found, self.log)


def run(trainer: Any, prompts: int) -> dict[str, Any]:
    """Return what samples of that many training prompts tell, as stage_info.json keeps it; the same in every process.

    The trainer, and what it draws afterwards, is as it would be without.
    """
    began, world, rows = time.monotonic(), trainer.accelerator.num_processes, trainer.train_dataset
    at_once = trainer.args.generation_batch_size // world  # as many as the stage samples, and no more memory
    size = max(trainer.num_generations, min(PREFLIGHT_COMPLETIONS, at_once))
    places = random.Random(f"preflight {trainer.args.seed}").sample(
        range(len(rows)), max(1, min(prompts, len(rows)) // world) * world
    )
    own, chunk = places[trainer.accelerator.process_index :: world], max(1, at_once // size)
    done: list[Sampled] = []
    with trainer.apart(size), progress("preflight", len(own)) as bar:
        for at in range(0, len(own), chunk):
            done += trainer.sample([rows[place] for place in own[at : at + chunk] for _ in range(size)])
            bar.update(min(at + chunk, len(own)))
    return summary(trainer, done, size) | {"duration_s": round(time.monotonic() - began, 1)}


def summary(trainer: Any, done: "list[Sampled]", size: int) -> dict[str, Any]:
    """Return what stage_info.json keeps of a preflight's completions, `size` of each prompt."""
    import torch

    cut = [float(one.ids[-1] not in (*trainer.eos_token_ids, trainer.processing_class.pad_token_id)) for one in done]
    own = torch.stack([one.rewards for one in done])
    rows = trainer.accelerator.gather(torch.cat([own, own.new_tensor(cut)[:, None]], dim=1)).cpu()
    rewards = rows[:, :-1]
    judged, in_all = (trainer.judged(rewards, models=models).view(-1, size).tolist() for models in (False, True))
    found: dict[str, Any] = {
        "prompts": len(judged),
        "completions_a_prompt": size,
        "num_generations": trainer.num_generations,
        "rewards": {name: _mean(rewards[:, i].tolist()) for i, name in enumerate(trainer.reward_func_names)},
        "cut_off": round(float(rows[:, -1].mean()), 4),
        "with_spread": sum(_differ(one) for one in judged),
        "with_spread_by_models": sum(_differ(one) for one in in_all),
    }
    return found | expectations([one for one in judged if not any(map(math.isnan, one))], trainer.num_generations)


def expectations(prompts: list[list[float]], planned: int) -> dict[str, Any]:
    """Return what the rewards of some prompts' completions let expect of groups of `planned`; {} of no prompt.

    Of rewards with two values, right and wrong, also pass@k and how many prompts are too hard and too easy.
    """
    if not prompts:
        return {}
    size, values = len(prompts[0]), {value for rewards in prompts for value in rewards}
    shares = {n: groups.informative_share(prompts, n) for n in range(2, size + 1)}
    found: dict[str, Any] = {
        "mean_rewards": [round(statistics.fmean(rewards), 6) for rewards in prompts],
        "histogram": histogram(prompts),
        "informative": {str(n): round(share, 4) for n, (share, _) in shares.items()},
        "predicted": round(shares[planned][0], 4),
        "predicted_within": round(shares[planned][1], 4),
        "proposed_num_generations": groups.smallest_size(prompts),
    }
    if len(values) == 2:
        right = max(values)
        rates = [rewards.count(right) / size for rewards in prompts]
        low, high = groups.difficulty_band(planned)
        of_k = {k: statistics.fmean(groups.pass_at(k, rewards, right) for rewards in prompts) for k in (1, size)}
        found["pass_at"] = {str(k): round(rate, 4) for k, rate in of_k.items()}
        found["difficulty_band"] = [round(low, 4), round(high, 4)]
        found["too_hard"], found["too_easy"] = sum(rate < low for rate in rates), sum(rate > high for rate in rates)
    return found


def told(found: dict[str, Any]) -> list[str]:
    """Return what a preflight found, as lines for the screen."""
    size, planned, prompts = found["completions_a_prompt"], found["num_generations"], found["prompts"]
    lines = [f"preflight: {prompts} prompts, {size} completions each, {found['duration_s']:.1f} s"]
    if "predicted" not in found:
        return lines
    most = max(count for _, count in found["histogram"])
    lines += [f"  {name:>16} {'#' * math.ceil(count / most * BAR)} {count}" for name, count in found["histogram"]]
    if "pass_at" in found:
        lines.append("  " + ", ".join(f"pass@{k} {rate:.2f}" for k, rate in found["pass_at"].items()))
    share, half = found["predicted"], found["predicted_within"]
    lines.append(f"  {share:.0%} ± {half:.0%} of the groups of {planned} are expected to be informative")
    sizes = ", ".join(f"{n}: {found['informative'][str(n)]:.0%}" for n in sorted({2, 4, size} & set(range(size + 1))))
    proposed = found["proposed_num_generations"]
    lines.append(f"  by the size of the group: {sizes}")
    enough = f"{groups.TARGET:.0%} of the groups teach something"
    smallest = f"num_generations={proposed} is the smallest with which {enough}"
    lines.append(f"  {smallest}" if proposed else f"  no size is large enough that {enough}")
    if found["cut_off"]:
        lines.append(f"  {found['cut_off']:.0%} of the completions were cut off at max_completion_length")
    if "difficulty_band" in found:
        low, high = found["difficulty_band"]
        lines.append(
            f"  of use at this size are prompts solved {low:.0%} to {high:.0%} of the time: {found['too_hard']} of"
            f" {prompts} are harder, {found['too_easy']} easier"
        )
    return lines


def histogram(prompts: list[list[float]]) -> list[tuple[str, int]]:
    """Return ranges of the mean reward of a prompt, and how many prompts each holds.

    Of rewards with two values, how many of a prompt's completions have the higher one, and how many prompts.
    """
    values = {value for rewards in prompts for value in rewards}
    if len(values) == 2:
        size = len(prompts[0])
        right = Counter(rewards.count(max(values)) for rewards in prompts)
        return [(f"{n} of {size} right", right[n]) for n in range(size + 1)]
    means = [statistics.fmean(rewards) for rewards in prompts]
    low, width = min(means), (max(means) - min(means)) / BINS
    if width == 0:
        return [(f"{low:.3g}", len(means))]
    places = Counter(min(int((mean - low) / width), BINS - 1) for mean in means)
    return [(f"{low + n * width:.3g} … {low + (n + 1) * width:.3g}", places[n]) for n in range(BINS)]


def judge(found: dict[str, Any], log: StageLog) -> None:
    """Fail a stage that could learn nothing; raise an alarm where only a reward model tells completions apart.

    Raises:
        StageFailed: no group had any spread.
    """
    if found["cut_off"] > NEARLY_ALL:
        log.alarm(
            0,
            "clipped_completions",
            f"{found['cut_off']:.0%} of the preflight's completions were cut off at max_completion_length, so none is a"
            " whole answer: rewards that differ may say how cut text looks, and nothing more. Raise it, or train more"
            " SFT on answers that end",
        )
    if found["with_spread"]:
        return
    prompts, size = found["prompts"], found["completions_a_prompt"]
    tried = f"in {prompts} groups of {size}, which the preflight sampled"
    if found["with_spread_by_models"]:
        log.alarm(
            0,
            "rewards_without_spread",
            f"the rewards that are functions never differed {tried}: only the reward model's scores can be learnt from."
            f" {_advice(found)}",
        )
        return
    if not found.get("mean_rewards"):
        raise StageFailed(NO_REWARD)
    raise StageFailed(f"the rewards never varied within a group {tried}. {_advice(found)}")


def _advice(found: dict[str, Any]) -> str:
    """Return what was seen where no group had any spread, and what to do."""
    low, high = min(found.get("mean_rewards") or [0.0]), max(found.get("mean_rewards") or [0.0])
    if low != high:
        seen = f"Each prompt's reward was always the same, from {low:.3g} to {high:.3g}: all right or all wrong"
        ways = "choose prompts between the two"
    elif low <= 0:
        seen = f"The reward was always {low:.3g}"
        ways = (
            "more SFT, or easier prompts; look whether the reward reads the right columns, and whether completions have"
            " the form that it wants"
        )
    else:
        seen = f"The reward was always {low:.3g}: the prompts are solved, or the reward gives the same for everything"
        ways = "harder prompts, or another reward"
    return (
        f"{seen} ({found['cut_off']:.0%} of the completions were cut off at max_completion_length). What helps: {ways};"
        " num_generations; temperature in trainer_args. preflight_prompts=0 trains all the same."
    )


def _differ(rewards: list[float]) -> bool:
    return len({reward for reward in rewards if not math.isnan(reward)}) > 1


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return round(statistics.fmean(known), 6) if known else None
