"""What `--init` looks at: the model, the rows that each stage would have, their lengths, and this machine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import kinds
from chain.first_recipe.named import Named, refuse_all, tried
from chain.fitting import available_bytes
from chain.forecast import Models
from kinds import Kind
from utils.errors import Refused
from utils.files import base_of, user_path
from utils.runtime import available_cores

if TYPE_CHECKING:
    from data.sources import StageData

HELD_OUT = (0.2, 0.5, 0.9)
"""Shares of the rows to hold out: of few rows a fifth may be none, since a hash decides."""
LOOKED_AT = 2000
"""Rows whose length is measured, from all over the data."""
OF_MEMORY = 0.8
"""Share of a machine's free memory that training may take where there is no GPU."""


@dataclass(frozen=True)
class Model:
    """The model that is trained."""

    name: str
    """As the recipe names it: a directory's whole path or a Hub id."""
    parameters: int
    max_tokens: int | None
    """The most that it reads at once."""
    has_template: bool
    is_adapter: bool


@dataclass(frozen=True)
class Rows:
    """What a stage would train on."""

    kind: Kind
    name: str
    """As the recipe names the data: a whole path or a Hub id."""
    columns: tuple[str, ...]
    """Those of its layout, as the stage's trainer has them."""
    positions: Sequence[float]
    """Where the problem of each row lies, in rising order: a fraction holds out those that lie below it."""
    has_split: bool
    """The data have a split of their own to hold out, which is not among the rows."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Columns of the data by the names that they get, where somebody says so."""
    lengths: Sequence[int] = ()
    """Tokens of rows, of pairs the longer side, in rising order; none of prompts."""
    reward: str | None = None
    """The built-in reward that checks its answers; of kinds that sample."""


@dataclass(frozen=True)
class Facts:
    """All that the recipe depends on."""

    model: Model
    rows: dict[str, Rows]
    """By label, in the order of the run."""
    memory_bytes: int
    """What training may take: of the GPU, or of the machine's memory where there is none."""
    machine: str
    """In words."""
    on_gpu: bool


def facts(given: Named) -> Facts:
    """Look at everything that a command line names.

    Raises:
        Refused: with everything that cannot be read or used.
    """
    problems: list[str] = []
    model = tried(problems, "--model", _model, *given.model)
    loaded = (_asked if given.stages else _fed)(given, problems)
    rows = {} if problems else tried(problems, "--data", _measured, loaded, given.model[1])
    refuse_all(problems)
    of_gpu = available_bytes(given.memory_budget)  # of one that is here, or of another, if a budget is given
    if of_gpu is not None:
        return Facts(model, rows, of_gpu, f"{of_gpu / 2**30:.1f} GiB of a GPU's memory to train in", True)
    free = int(OF_MEMORY * psutil.virtual_memory().available)
    machine = f"{available_cores()} CPU cores and {free / 2**30:.1f} GiB of memory to train in, without a GPU"
    return Facts(model, rows, free, machine, False)


def _model(name: str, directory: Path) -> Model:
    from transformers import AutoConfig, AutoTokenizer

    from algorithms.loading import context_of

    try:
        shapes = Models([], {}).described(name, None, scores=False).shapes
        config = AutoConfig.from_pretrained(base_of(directory) or directory, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, LookupError) as error:
        raise Refused(f"{name} cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from error
    has_template = tokenizer.chat_template is not None
    return Model(name, shapes.parameters, context_of(config), has_template, base_of(directory) is not None)


Loaded = tuple[Rows, Any]
"""What a stage would train on, and its `StageData`."""


def _asked(given: Named, problems: list[str]) -> dict[str, Loaded]:
    """Return the rows of each stage that `--stages` names."""
    found = {}
    unread = {flag for flag, name in given.data.items() if name is not None}
    for label, kind in given.stages.items():
        prefers = kind.layout in ("pairs", "labelled") and given.data["--data-preferences"] is not None
        flag = "--data-preferences" if prefers else "--data"
        unread -= {flag}
        found[label] = tried(
            problems, f"{flag}, for {label}", _loaded, kind, given.data[flag], given.columns.get(flag, {})
        )
    for flag in sorted(unread):
        named = ", ".join(given.stages)
        problems.append(f"{flag}: none of the stages {named} reads it: leave it out, or name one that does")
    return found


def _fed(given: Named, problems: list[str]) -> dict[str, Loaded]:
    """Return the rows of each stage that the data can feed: demonstrations SFT, pairs DPO, or else thumbs KTO."""
    found: dict[str, Loaded] = {}
    labels: dict[str, Sequence[str]] = {"--data": ("sft", "dpo", "kto"), "--data-preferences": ("dpo", "kto")}
    if given.data["--data-preferences"] is not None:
        labels["--data"] = ("sft",)
    for flag, name in given.data.items():
        refused: list[str] = []
        fed = len(found)
        for label in labels[flag] if name is not None else ():
            if label == labels[flag][-1] and len(found) > fed:  # KTO could make thumbs of the pairs that DPO learns
                break
            if loaded := tried(refused, flag, _loaded, kinds.named(label), name, given.columns.get(flag, {})):
                found[label] = loaded
        if refused and len(found) == fed:
            problems.append(f"{refused[0]}{_checkable(str(name), given.columns.get(flag, {}))}{SAY_SO}")
    return found


SAY_SO = " Here columns are named by --columns NAME=COLUMN,…; max_dropped_fraction is for a recipe of your own."


def _checkable(name: str, columns: Mapping[str, str]) -> str:
    """Return what to do with data of which only answers that can be checked are of use; "" of any other."""
    try:
        _loaded(kinds.named("grpo"), name, columns)
    except Refused:
        return ""
    return " Its answers can be checked, so that grpo can learn from them: add --stages grpo."


def _loaded(kind: Kind, name: str | None, columns: Mapping[str, str]) -> Loaded:
    """Return what a stage would train on, read as it would read it."""
    if name is None:
        raise Refused("it is missing: add --data FILE")
    from data.local_files import held_out_split
    from data.sources import load_once, positions

    has_split = held_out_split(user_path(name), "train", None) is not None
    refusals = []
    for fraction in HELD_OUT:
        try:
            data = load_once(
                name, kind.name, eval_fraction=fraction, eval_samples=2**31 - 1, columns=tuple(columns.items())
            )
        except Refused as error:
            refusals.append(error)
            continue
        places = sorted([*positions(data.train), *([] if has_split else positions(data.eval))])
        reward = _reward(data, name) if kind.samples else None
        layout = tuple(column for column in data.train.column_names if kind.samples or column != "margin")
        return Rows(kind, name, layout, places, has_split, renamed=columns, reward=reward), data
    raise refusals[0]


def _reward(data: "StageData", name: str) -> str:
    """Return the built-in reward that can check the answers of some prompts.

    Raises:
        Refused: none can.
    """
    from utils.matching import right_answers

    rows = data.train.select(range(min(len(data.train), LOOKED_AT)))
    for column, reward in (("answer", "answer_match"), ("solution", "accuracy")):
        if column not in rows.column_names:
            continue
        answers = [right_answers(value) for value in rows[column]]
        short = [all(len(one.split()) <= SHORT for one in some) and bool(some) for some in answers]
        numbers = [any(character.isdigit() for one in some for character in one) for some in answers]
        if sum(short) > len(rows) / 2 and (reward != "accuracy" or sum(numbers) > len(rows) / 2):
            return reward
    raise Refused(
        f"{name} has no answers that can be checked: a column `answer` or `solution` of at most {SHORT} words. For "
        "other rewards write the recipe yourself, see Rewards in docs/recipes.md"
    )


SHORT = 5
"""Words of an answer that a completion can be expected to give to the letter."""


def _measured(loaded: dict[str, Loaded], directory: Path) -> dict[str, Rows]:
    """Return the rows of each stage with their lengths, as the model's tokenizer will show them."""
    from jinja2 import TemplateError

    from algorithms import loading
    from algorithms.config import TrainingConfig
    from algorithms.supervision import shown

    tokenizer, found = None, {}
    for label, (rows, data) in loaded.items():
        if tokenizer is None:
            config = TrainingConfig(model_name=str(directory), output_dir=label, dataset_name=rows.name)
            tokenizer = loading.tokenizer(config, data.train, gives_template=rows.kind.gives_template)
        else:
            loading.fit_to(data.train, tokenizer, gives_template=rows.kind.gives_template)
        if not rows.kind.samples:
            some = data.train.select(range(0, len(data.train), math.ceil(len(data.train) / LOOKED_AT)))
            try:
                lengths = sorted(max(map(len, shown(tokenizer, row))) for row in some)
            except TemplateError as error:
                raise Refused(f"the model's chat template cannot show {rows.name}: {error}") from error
            rows = replace(rows, lengths=lengths)
        found[label] = rows
    return found
