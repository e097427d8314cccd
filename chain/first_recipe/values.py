"""The values of a first recipe, each with its reason: pure functions of what was looked at."""

import math
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
FROM_NOTHING_PARAMETERS, FROM_NOTHING_TOKENS = 1_000_000, 512
"""Of the model that is pretrained here."""
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

    def values(self, memory: str) -> Values:
        """Return its fields; `memory` says what there is of it."""
        fit = {
            None: f"every weight is trained, which fits in {memory}",
            "lora": f"an adapter beside frozen weights: training all of them does not fit in {memory}",
            "qlora": f"an adapter beside frozen weights in 4 bits: in 16 bits they do not fit in {memory}",
        }[self.peft]
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
    half = "bfloat16" if facts.has_gpu or computes_in_bf16("cpu") else "float32"
    ways = [Way(None, "float32", False), Way(None, "float32", True), Way("lora", half, True)]
    if facts.has_gpu:
        ways.append(Way("qlora", half, True))
    if facts.model and facts.model.is_adapter:
        ways = [way for way in ways if way.peft]
    said = ""
    for way in ways:
        common = way.values(f"{facts.memory_bytes / 2**30:.1f} GiB") | _shared()
        drafts = _drafts(facts, way)
        made = [_stage(draft, common) for draft in drafts]
        models, fitted = Models(made, {}), []
        try:
            for draft, stage in zip(drafts, made, strict=True):
                found = forecast.fit(stage, models, facts.memory_bytes)
                if found is None:
                    said = said or forecast.refusal_of(stage, models, facts.memory_bytes)
                    break
                fitted.append(_with_micro_batch(draft, found[0]))
        except ValueError as error:
            raise Refused(f"the memory that training takes cannot be forecast: {error}") from error
        else:
            if len(fitted) == len(drafts):
                return common, fitted
    raise Refused(said)


def _shared() -> Values:
    return {
        "lr_scheduler_type": ("cosine", "from the peak down to nothing, so that the last steps settle"),
        "warmup_steps": (0.1, "the first tenth of the steps: AdamW's statistics are poor at the start"),
        "logging_steps": (0.02, "a share of the steps: curves of 50 points"),
        "save_steps": (0.25, "four checkpoints; a run that is stopped goes on from the newest (--resume latest)"),
        "save_total_limit": (1, "the newest alone, to save disk"),
    }


def _drafts(facts: Facts, way: Way) -> list[Draft]:
    policy: Any = facts.model and facts.model.name
    drafts, judge = [], None
    for label, rows in facts.rows.items():
        if rows.kind.starts_from_nothing:
            drafts.append(Draft(label, rows, _pretraining(rows), {}))
        else:
            start: Values = {"model_name": (policy, ""), "output_dir": (label, ""), "dataset_name": (rows.name, "")}
            held_out = start | _held_out(rows)
            sampled = rows.kind.samples
            own = _sampling(facts, rows, way) if sampled else _learning(facts, rows, way)
            drafts.append(Draft(label, rows, held_out | own, _extra(facts, rows, judge) if sampled else {}))
        if rows.kind.scores:
            judge = StageOutput(label)
        else:
            policy = StageOutput(label)
    return drafts


def _stage(draft: Draft, common: Values) -> Stage:
    kind = draft.rows.kind
    fields = draft.values if kind.starts_from_nothing else draft.values | common
    extra = GRPOExtraConfig(**plain(draft.extra)) if kind.samples else None
    return Stage(draft.label, kind, kind.config_class(**plain(fields)), extra)


def plain(values: Values) -> dict[str, Any]:
    """Return the values without their reasons."""
    return {name: value for name, (value, _) in values.items()}


def _with_micro_batch(draft: Draft, fitted: Stage) -> Draft:
    batch = fitted.kind.micro_batch(fitted.config)
    chosen = {
        "per_device_train_batch_size": batch.per_device_train_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
    }
    reasons = {name: draft.values[name][1] for name in chosen if name in draft.values}
    changed = {name: (chosen[name], why) for name, why in reasons.items()}
    return replace(draft, values=draft.values | changed)


def _share(rows: Rows) -> float:
    """Return the share of rows to hold out: some 200 rows, whose interval is a few per cent, measured in little time.

    It is at most a fifth, but for few rows, of which that may be none.
    """
    enough = min(0.2, max(0.01, round(200 / max(1, rows.count), 2)))
    return enough if rows.held_out and rows.count >= 50 else rows.held_out


def _held_out(rows: Rows) -> Values:
    share = _share(rows)
    held = f"about {share * rows.count:,.0f} of {rows.count:,} rows are never trained on, and measure what was learnt"
    return {"eval_fraction": (share, held)} if share else {}


def _learning(facts: Facts, rows: Rows, way: Way) -> Values:
    """Return the values of a stage that learns rows as they are."""
    length, longest = _length(rows.lengths, facts.model.max_tokens if facts.model else FROM_NOTHING_TOKENS)
    step = next(size for most, size in ((200, 4), (2_000, 8), (20_000, 16), (math.inf, 32)) if rows.count < most)
    in_a_pass = step
    sequences = 1 if rows.kind.layout == "conversations" else 2
    while in_a_pass * sequences * length > PASS_TOKENS and in_a_pass > 2:
        in_a_pass //= 2
    chosen: Values = {
        "max_length": (length, longest),
        "learning_rate": _learning_rate(facts, rows, way),
        "num_train_epochs": _epochs(rows, step),
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
    parameters = facts.model.parameters if facts.model else FROM_NOTHING_PARAMETERS
    rate = min(2e-3, max(1e-5, REFERENCE_LR * (REFERENCE_PARAMETERS / parameters) ** 0.75))
    of = f"{parameters / 1e6:,.1f} M weights"
    why = f"of full fine-tuning of {of}: 2e-5 is usual at 500 M, and smaller models take more"
    if way.peft:
        rate, why = min(2e-3, 10 * rate), f"of an adapter: ten times what training all {of} would take"
    if rows.kind.samples or (rows.kind.layout != "conversations" and not rows.kind.scores):
        rate, why = rate / 20, "a 20th of what SFT would take, as is usual where a model is shifted and not taught"
    return float(f"{rate:.0e}"), why


def _epochs(rows: Rows, step: int) -> tuple[int, str]:
    """Return the passes over the rows: 3 of few, 1 of many; more where they would be fewer than 60 steps."""
    trained_on = max(1, round(rows.count * (1 - _share(rows))))
    usual = next(epochs for most, epochs in ((5_000, 3), (20_000, 2), (math.inf, 1)) if trained_on < most)
    if rows.kind.layout != "conversations":
        usual = 1  # preferences are soon learnt by heart
    epochs = min(10, max(usual, math.ceil(60 * step / trained_on)))
    many = f"more passes over the same {trained_on:,} rows learn them by heart"
    return epochs, f"about {math.ceil(trained_on / step) * epochs:,} steps; {many}"


def _sampling(facts: Facts, rows: Rows, way: Way) -> Values:
    """Return the values of a stage that samples: four groups a step."""
    steps = min(200, max(20, rows.count // 4))
    return {
        "learning_rate": _learning_rate(facts, rows, way),
        "max_steps": (steps, f"four prompts each, of {rows.count:,}: enough to see whether the reward rises"),
        "per_device_train_batch_size": (GROUP, "completions in a pass: a whole group"),
        "gradient_accumulation_steps": (4, "groups in a step"),
        "beta": (0.0, "no reference model is held, as is usual where answers are checked"),
    }


def _extra(facts: Facts, rows: Rows, judge: StageOutput | None) -> Values:
    reads = facts.model.max_tokens if facts.model else FROM_NOTHING_TOKENS
    completion = min(COMPLETION, (reads or 2 * COMPLETION) // 2)
    check: dict[str | None, str] = {
        "accuracy": "1 where the answer is the column `solution` by TRL's maths check",
        "exact_match": "1 where the completion is the column `answer`",
    }
    rewards = [rows.reward, judge] if judge else rows.reward
    judged = ", and the reward model's score" if judge else ""
    chosen: Values = {"reward_func": (rewards, check[rows.reward] + judged)}
    if judge:
        chosen["reward_weights"] = ([1.0, 0.1], "the check decides; the score parts what it finds equal")
    chosen["num_generations"] = (GROUP, "completions of a prompt: a group teaches where their rewards differ")
    chosen["max_completion_length"] = (completion, "tokens; an answer that is cut off gets no reward for its end")
    return chosen


def _pretraining(rows: Rows) -> Values:
    config = rows.kind.config_class(output_dir="pretrain", dataset_name=rows.name)
    return {
        "output_dir": ("pretrain", ""),
        "dataset_name": (rows.name, ""),
        "max_steps": (config.max_steps, "minutes on two cores; the data are repeated when they run out"),
        "max_length": (config.max_length, "tokens of a row, into which whole documents are packed"),
        "per_device_train_batch_size": (config.per_device_train_batch_size, "rows in a step"),
        "vocab_size": (config.vocab_size, "pieces of the tokenizer, which is trained on the documents"),
        "hidden_size": (config.hidden_size, "1 M weights with four layers; larger shapes are in pretrain/presets.py"),
        "num_hidden_layers": (config.num_hidden_layers, ""),
        "save_steps": (100, "a run that is stopped goes on from the newest checkpoint (--resume latest)"),
    }
