"""The values of a first recipe, each with its reason: pure functions of what was looked at."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from algorithms.config import GRPOExtraConfig
from chain import forecast
from chain.first_recipe.look import Facts, Rows
from chain.forecast import Models
from kinds import Stage, StageOutput
from utils.errors import Refused
from utils.runtime import computes_in_bf16

Values = dict[str, tuple[Any, str]]
"""Fields in the order of the recipe, each with its value and why it is that; "" where the name says enough."""

PASS_TOKENS = 8192
"""Tokens of a forward and backward pass, padding included, beyond which more rows at once are hardly faster."""
GROUP, COMPLETION = 8, 256
"""Completions of a prompt, and the longest one, of a kind that samples."""
SFT_TERM = 0.2
"""Its weight beside DPO's loss, as Llama 3 was trained (Dubey et al., 2024, section 4.1.4)."""
HELD_OUT = 200
"""Rows whose intervals are a few per cent wide, and which are measured in little time; of few rows it is a fifth."""
REFERENCE_LR, REFERENCE_PARAMETERS = 2e-5, 5e8
"""The usual rate of full fine-tuning, and the size that it is usual for."""


@dataclass(frozen=True)
class Draft:
    """One stage of the recipe."""

    label: str
    rows: Rows
    values: Values
    extra: Values
    """Rewards and sampling; empty for a kind that samples none."""


@dataclass(frozen=True)
class Way:
    """What is trained, and what is given up for memory."""

    peft: str | None
    dtype: str
    gradient_checkpointing: bool
    goes_on: bool = False
    """The model is an adapter."""

    def values(self, memory: str) -> Values:
        """Return its fields; `memory` says what there is of it."""
        fit = {
            None: f"every weight is trained, which fits in {memory}",
            "lora": f"an adapter beside frozen weights: training all of them does not fit in {memory}",
            "qlora": f"an adapter beside frozen weights in 4 bits: in 16 bits they do not fit in {memory}",
        }[self.peft]
        fit = "the model is an adapter, which is trained on" if self.goes_on else fit
        activations = "keeping them saves a quarter of the time, and they fit"
        if self.gradient_checkpointing:
            activations = "computing them anew saves memory, and costs a quarter of the time"
        chosen: Values = {} if self.peft is None else {"peft": (self.peft, fit)}
        chosen["dtype"] = (self.dtype, fit if self.peft is None else "of the frozen weights; the adapter is in float32")
        return chosen | {"gradient_checkpointing": (self.gradient_checkpointing, f"of activations: {activations}")}


def stages(facts: Facts) -> tuple[Values, list[Draft]]:
    """Return what all stages share, and each stage: with the most exact way to train that fits in memory.

    Raises:
        Refused: none fits.
    """
    half = "bfloat16" if facts.on_gpu or computes_in_bf16("cpu") else "float32"
    ways = [Way(None, "float32", False), Way(None, "float32", True), Way("lora", half, True)]
    if facts.on_gpu:
        ways.append(Way("qlora", half, True))
    if facts.model.is_adapter:
        ways = [replace(way, goes_on=True) for way in ways if way.peft]
    fraction, held_out = _fraction(facts)
    refusals: list[str] = []
    for way in ways:
        common = held_out | way.values(f"{facts.memory_bytes / 2**30:.1f} GiB") | _shared()
        drafts = _drafts(facts, way, fraction)
        made = [_stage(draft, common) for draft in drafts]
        models = Models(made, {})
        try:
            lacking = next((one for one in made if forecast.fit(one, models, facts.memory_bytes) is None), None)
            if lacking is None:
                return common, drafts
            refusals.append(forecast.refusal_of(lacking, models, facts.memory_bytes))
        except ValueError as error:
            raise Refused(f"the memory that training takes cannot be forecast: {error}") from error
    raise Refused(refusals[0])


def _fraction(facts: Facts) -> tuple[float, Values]:
    """Return the share of problems to hold out, and how the recipe says it: nothing where all data have a split.

    It is one for all stages, or a later one would be measured on what an earlier one was trained on. It is the largest
    that any of them needs.
    """
    split = {label: rows for label, rows in facts.rows.items() if not rows.has_split}
    if not split:
        return 0.0, {}
    places = [one.positions[min(HELD_OUT, max(1, len(one.positions) // 5)) - 1] for one in split.values()]
    fraction = math.ceil(1e4 * max(places) + 1) / 1e4
    each = ", ".join(
        f"{_held(rows, fraction):,} of {len(rows.positions):,} for {label}" for label, rows in split.items()
    )
    why = f"of the problems, by their hash, so that all stages hold out the same: {each}; they are never trained on"
    return fraction, {"eval_fraction": (fraction, f"{why}, and at most 256 of them are measured")}


def _held(rows: Rows, fraction: float) -> int:
    return 0 if rows.has_split else bisect_left(rows.positions, fraction)


def _shared() -> Values:
    return {
        "lr_scheduler_type": ("cosine", "from the peak down to nothing, so that the last steps settle"),
        "warmup_steps": (0.1, "the first tenth of the steps: AdamW's statistics are poor at the start"),
        "logging_steps": (0.02, "a share of the steps: curves of 50 points"),
        "save_steps": (0.25, "four checkpoints; a run that is stopped goes on from the newest (--resume latest)"),
        "save_total_limit": (1, "the newest alone, to save disk"),
    }


def _drafts(facts: Facts, way: Way, fraction: float) -> list[Draft]:
    policy: Any = facts.model.name
    drafts, judge = [], None
    for label, rows in facts.rows.items():
        start: Values = {"model_name": (policy, ""), "output_dir": (label, ""), "dataset_name": (rows.name, "")}
        start |= {"columns": (dict(rows.renamed), "of the data, by the names that they get")} if rows.renamed else {}
        trained_on = max(1, len(rows.positions) - _held(rows, fraction))
        own = (_sampling if rows.kind.samples else _learning)(facts, rows, way, trained_on)
        drafts.append(Draft(label, rows, start | own, _extra(facts, rows, judge) if rows.kind.samples else {}))
        if rows.kind.scores:
            judge = StageOutput(label)
        else:
            policy = StageOutput(label)
    return drafts


def _stage(draft: Draft, common: Values) -> Stage:
    kind = draft.rows.kind
    extra = GRPOExtraConfig(**plain(draft.extra)) if kind.samples else None
    return Stage(draft.label, kind, kind.config_class(**plain(draft.values | common)), extra)


def plain(values: Values) -> dict[str, Any]:
    """Return the values without their reasons."""
    return {name: value for name, (value, _) in values.items()}


def _learning(facts: Facts, rows: Rows, way: Way, trained_on: int) -> Values:
    """Return the values of a stage that learns rows as they are."""
    length, longest = _length(rows.lengths, facts.model.max_tokens)
    step = next(size for most, size in ((200, 4), (2_000, 8), (20_000, 16), (math.inf, 32)) if trained_on < most)
    in_a_pass = step
    sequences = 1 if rows.kind.layout == "conversations" else 2
    while in_a_pass * sequences * length > PASS_TOKENS and in_a_pass > 2:
        in_a_pass //= 2
    chosen: Values = {
        "max_length": (length, longest),
        "learning_rate": _learning_rate(facts, rows, way),
        "num_train_epochs": _epochs(rows, trained_on, step),
        "per_device_train_batch_size": (in_a_pass, "rows in a pass: as many as are fast, and fit"),
        "gradient_accumulation_steps": (step // in_a_pass, f"passes in a step, which has {step} rows so"),
    }
    if rows.kind.layout in ("pairs", "labelled") and not rows.kind.scores:
        chosen["beta"] = (0.1, "how strongly it is held to the model that the stage starts from: the usual value")
    if rows.kind.layout == "pairs" and not rows.kind.scores:
        held = "an SFT term on the chosen answers, which DPO alone makes less likely with the rejected ones"
        chosen["trainer_args"] = ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, SFT_TERM]}, held)
    return chosen


def _length(lengths: Sequence[int], most: int | None) -> tuple[int, str]:
    """Return the `max_length` that 99 % of the rows keep to, in steps of 32 tokens, and why."""
    whole = lengths[min(len(lengths) - 1, math.ceil(0.99 * len(lengths)) - 1)]
    length = max(64, 32 * math.ceil(whole / 32))
    said = f"99 % of the rows have at most {whole} tokens, the longest has {lengths[-1]}"
    if most is not None and length > most:
        return most, f"all that the model reads; {said}"
    return length, f"{said}; padding beyond that would cost time"


def _learning_rate(facts: Facts, rows: Rows, way: Way) -> tuple[float, str]:
    """Return the usual rate of full fine-tuning, by the model's size; ten times as much for an adapter.

    A stage that moves a model which can answer already, by preferences or rewards, takes a 20th. The exponent joins
    the rates of recipes/: 2e-5 at 0.5 B, 2e-3 at 1 M (docs/decisions.md).
    """
    parameters = facts.model.parameters
    rate = min(2e-3, max(1e-5, REFERENCE_LR * (REFERENCE_PARAMETERS / parameters) ** 0.75))
    of = f"{parameters / 1e6:,.1f} M weights"
    why = f"of full fine-tuning of {of}: 2e-5 is usual at 500 M, smaller models take more, from 1e-5 to 2e-3"
    if way.peft:
        rate, why = min(2e-3, 10 * rate), f"of an adapter: ten times what training all {of} takes, at most 2e-3"
    if rows.kind.samples or (rows.kind.layout != "conversations" and not rows.kind.scores):
        rate, why = rate / 20, "a 20th of what SFT would take, as is usual where a model is shifted and not taught"
    return float(f"{rate:.0e}"), why


def _epochs(rows: Rows, trained_on: int, step: int) -> tuple[int, str]:
    """Return the passes over the rows: 3 of few, 1 of many; more where they would be fewer than 60 steps."""
    most_passes, usual = (
        10,
        next(epochs for most, epochs in ((5_000, 3), (20_000, 2), (math.inf, 1)) if trained_on < most),
    )
    if rows.kind.layout != "conversations":
        most_passes, usual = 3, 1  # preferences are soon learnt by heart
    epochs = min(most_passes, max(usual, math.ceil(60 * step / trained_on)))
    many = f"more passes over the same {trained_on:,} rows learn them by heart"
    return epochs, f"about {math.ceil(trained_on / step) * epochs:,} steps; {many}"


def _sampling(facts: Facts, rows: Rows, way: Way, trained_on: int) -> Values:
    """Return the values of a stage that samples: four groups a step."""
    steps = min(200, max(20, trained_on // 4))
    return {
        "learning_rate": _learning_rate(facts, rows, way),
        "max_steps": (steps, f"four prompts each, of {trained_on:,}: enough to see whether the reward rises"),
        "per_device_train_batch_size": (GROUP, "completions in a pass: a whole group"),
        "gradient_accumulation_steps": (4, "groups in a step"),
        "beta": (0.0, "no reference model is held, as is usual where answers are checked"),
    }


def _extra(facts: Facts, rows: Rows, judge: StageOutput | None) -> Values:
    completion = min(COMPLETION, (facts.model.max_tokens or 2 * COMPLETION) // 2)
    check: dict[str | None, str] = {
        "accuracy": "1 where the answer is right by TRL's maths check",
        "answer_match": "1 where the completion has the answer, of a number as its last one",
    }
    rewards = [rows.reward, judge] if judge else rows.reward
    judged = ", and the reward model's score" if judge else ""
    chosen: Values = {"reward_func": (rewards, check[rows.reward] + judged)}
    if judge:
        chosen["reward_weights"] = ([1.0, 0.1], "the check decides; the score parts what it finds equal")
    chosen["num_generations"] = (GROUP, "completions of a prompt: a group teaches where their rewards differ")
    chosen["max_completion_length"] = (completion, "tokens; an answer that is cut off gets no reward for its end")
    return chosen
