"""A stage's output against its input: the same examples before and after, with the interval of the difference."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.examples import prompt_of
from evaluation.judged import answer_rewards
from evaluation.paired import paired_difference, standard_error
from evaluation.pass_at_k import means
from evaluation.placement import Placement, placed_alike, placed_kind
from evaluation.samples import write_samples
from evaluation.scored_model import (
    Impossible,
    ScoreCache,
    ScoredModel,
    load_policy,
    load_reward_model,
    load_tokenizer,
    open_model,
    ready,
)
from evaluation.task import PromptTask, Scores, Task
from kinds import Kind
from utils.console import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

JUDGED_ANSWERS = 300
"""Answers of one policy that a reward model is asked about."""

Result = dict[str, Any]
"""`{task, metric, n, before, after, ci95}`; also `reason` where there is one for a null.

The first of a task's may have an `alarm`, its name and message. Of a metric that a gate asks for, `scores` are those of
each example, `(before, after)`, and `noise`, where answers are sampled, the standard error of what sampling them anew
from the same weights changes."""


def evaluate_stage(
    kind: Kind,
    input_dir: Path | str | None,
    output_dir: Path,
    tasks: Sequence[Task],
    reward_model: Path | str | None = None,
    seed: int = 42,
    gated: Collection[str] = (),
    random_weights: "Callable[[], PreTrainedModel] | None" = None,
    label: str | None = None,
) -> list[Result]:
    """Score a stage's input and output on the stage's tasks, and return what changed.

    `input_dir` is what it started from, None for random weights, which `random_weights` makes as the stage did; they
    are asked for no answers, which would take long and say nothing. A reward model is compared with its input under an
    untrained head drawn with `seed`. With a `reward_model`, a policy's answers before and after are judged by it too.
    Scores are kept in `output_dir`, with samples of the answers; scores that the input's own evaluation left in
    `input_dir` are taken over. Where the GPU has no room for the weights, input and output are both loaded in 4 bits or
    on the CPU. `gated` are the metrics that gates ask for, as "task metric"; `label` is what the stage is called.
    """
    cache = ScoreCache(output_dir, [Path(input_dir)] if input_dir is not None else [])
    before, after = _sides(kind, input_dir, output_dir, cache, seed, random_weights)
    sides = [after] if before is None else [after, before]
    scores: list[list[Scores | str | None]] = []
    with progress(f"evaluating {label or kind.name}", len(tasks) * len(sides)) as bar:
        for number, side in enumerate(sides):
            scores.append([])
            is_random = side is before and input_dir is None
            for task in tasks:
                scores[-1].append(None if is_random and task.asks else task.attempt(side))
                bar.update(number * len(tasks) + len(scores[-1]))
            side.release()  # two models at once may be more than the memory holds
        named = zip(("after", "before"), zip(sides, scores, strict=True), strict=False)
        write_samples(output_dir, tasks, dict(named))
        results = []
        for index, task in enumerate(tasks):
            compared = compare(task, None if before is None else scores[1][index], found := scores[0][index])
            if isinstance(found, dict) and (alarm := task.alarm(found)):
                compared[0]["alarm"] = alarm
            results += compared
        judged = None if input_dir is None else answered_by(tasks)
        if reward_model is not None and before is not None and judged is not None:
            results += judged_by_reward_model(judged, before, after, Path(reward_model), cache)
        asked = {name.partition(" ")[0] for name in gated}
        again = [task for task in tasks if task.name in asked and isinstance(task, PromptTask) and task.sampled]
        judged = judged if "reward_model" in asked else None
        noise = _noise(again, judged, after, reward_model) if again or judged else {}
    return [_for_a_gate(result, gated, noise) for result in results]


def answered_by(tasks: Sequence[Task]) -> PromptTask | None:
    """Return the task whose prompts are answered for a reward model to judge; None if no task has prompts.

    One that samples, if there is one: then its answers are those that are judged.
    """
    prompted = [task for task in tasks if isinstance(task, PromptTask)]
    return next((task for task in prompted if task.sampled), next(iter(prompted), None))


def _noise(
    tasks: Sequence[Task], judged: PromptTask | None, checkpoint: ScoredModel, reward_model: Path | str | None
) -> dict[str, float]:
    """Return for each metric the standard error of what sampling anew from the same weights changes."""
    again = checkpoint.sampled_anew()
    found: list[Result] = []
    for task in tasks:
        found += compare(task, task.attempt(checkpoint), task.attempt(again))
    again.release()
    if judged is not None and reward_model is not None:
        found += judged_by_reward_model(judged, checkpoint, again, Path(reward_model), checkpoint.cache)
    noise = {}
    for result in found:
        first, second = result.get("scores", ([], []))
        changes = [b - a for a, b in zip(first, second, strict=True)]
        noise[f"{result['task']} {result['metric']}"] = standard_error(changes)
    return noise


def _for_a_gate(result: Result, gated: Collection[str], noise: Mapping[str, float]) -> Result:
    name = f"{result['task']} {result['metric']}"
    if name in gated:
        return result | ({"noise": noise[name]} if name in noise else {})
    return {key: value for key, value in result.items() if key != "scores"}


def _sides(
    kind: Kind,
    input_dir: Path | str | None,
    output_dir: Path,
    cache: ScoreCache,
    seed: int,
    random_weights: "Callable[[], PreTrainedModel] | None",
) -> tuple[ScoredModel | None, ScoredModel]:
    tokenizer = load_tokenizer(output_dir)
    placed = placed_alike([output_dir] if input_dir is None else [input_dir, output_dir])
    if input_dir is None and placed is Placement.IN_4_BITS:
        placed = Placement.ON_CPU  # random weights are nowhere to be loaded from

    def opened(path: Path | str, kind: str, load: "Callable[[Path | str], PreTrainedModel]") -> ScoredModel:
        return ScoredModel(path, tokenizer, cache, load, placed_kind(kind, placed))

    policy = partial(load_policy, placed=placed)
    if kind.scores:
        assert input_dir is not None, "a reward model starts from a language model"
        scorer = partial(load_reward_model, pad_token_id=tokenizer.pad_token_id, placed=placed)
        untrained = opened(input_dir, f"head of seed {seed}", partial(scorer, head_seed=seed))
        trained = opened(output_dir, "reward model", scorer)
        untrained.policy = trained.policy = opened(input_dir, "policy", policy)
        return untrained, trained
    before = None if input_dir is None else opened(input_dir, "policy", policy)
    if random_weights is not None:
        before = opened(output_dir, f"random weights of seed {seed}", lambda _: ready(random_weights(), placed))
    return before, opened(output_dir, "policy", policy)


def compare(task: Task, before: Scores | str | None, after: Scores | str | None) -> list[Result]:
    """Return one result a metric. A string in place of scores is the reason why there are none."""
    assert after is not None, "only of what came before there may be nothing"
    if isinstance(after, str):
        return [_result(task.name, metric, [], None, None, after) for metric in task.headline]
    results = []
    for metric, values in after.items():
        if isinstance(before, dict) and metric in before:
            results.append(difference_of(task.name, metric, before[metric], values))
        else:
            counted = [value for value in values if value is not None]
            reason = f"before: {before}" if isinstance(before, str) else None
            alone = _result(task.name, metric, counted, None, _mean(counted), reason)
            results.append(alone | {"scores": ([], counted)})
    for loss in [result for result in results if (task.name, result["metric"]) == ("documents", "loss")]:
        sides = {side: _perplexity(loss[side]) for side in ("before", "after")}
        results.append({**loss, "metric": "perplexity", **sides, "ci95": None, "scores": ([], [])})
    return results


def judged_by_reward_model(
    task: PromptTask, before: ScoredModel, after: ScoredModel, reward_model: Path, cache: ScoreCache
) -> list[Result]:
    """Return how a reward model scores both policies' answers, and on which share of prompts it prefers `after`'s.

    The answers are sampled: two policies of like skill mostly agree in their likeliest answer, and differ in how often
    they say something else. `prefers_after` counts a tie as ½, and is compared with ½, chance. Of several answers to a
    prompt, the first of one policy meets the first of the other and so on; the prompt counts once.
    """
    judge = open_model(reward_model, cache, placed_alike([reward_model]), scores=True)
    prompts = [asked for row in task.asked if (asked := prompt_of(row)) is not None]
    prompts = prompts[: JUDGED_ANSWERS // task.samples * task.samples]
    said = []
    try:
        for policy in (before, after):
            said.append(policy.complete(prompts, task.max_new_tokens, sampled=True))
            policy.release()  # one model at a time
        earlier, later = (answer_rewards(judge, prompts, answers) for answers in said)
    except Impossible as impossible:
        return [_result("reward_model", "prefers_after", [], None, None, str(impossible))]
    finally:
        judge.release()
    preferred = [
        None if one is None or other is None else 0.5 + 0.5 * ((other > one) - (other < one))
        for one, other in zip(earlier, later, strict=True)
    ]
    by_prompt = [means(values, task.samples) for values in (earlier, later, preferred)]
    return [
        difference_of("reward_model", "reward", by_prompt[0], by_prompt[1]),
        difference_of("reward_model", "prefers_after", [0.5] * len(by_prompt[2]), by_prompt[2]),
    ]


def difference_of(task: str, metric: str, before: Sequence[float | None], after: Sequence[float | None]) -> Result:
    """Return the result of one metric, of the examples that have a score on both sides."""
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    if not pairs:
        return _result(task, metric, [], None, None, "no example could be scored on both sides")
    earlier, later = [b for b, _ in pairs], [a for _, a in pairs]
    _, low, high = paired_difference(earlier, later)
    result = _result(task, metric, later, _mean(earlier), _mean(later)) | {"scores": (earlier, later)}
    return result | {"ci95": [low, high] if math.isfinite(low) and math.isfinite(high) else None}


def _result(
    task: str,
    metric: str,
    values: Sequence[float],
    before: float | None,
    after: float | None,
    reason: str | None = None,
) -> Result:
    result = {"task": task, "metric": metric, "n": len(values), "before": before, "after": after, "ci95": None}
    return result | ({"reason": reason} if reason else {})


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _perplexity(loss: float | None) -> float | None:
    return math.exp(loss) if loss is not None and loss < 700 else None
