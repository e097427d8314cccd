"""The layouts that data come in, and their conversion to the columns that a stage's TRL trainer takes.

    pretrain      text
    sft           messages | conversations -> messages
                  prompt, completion | instruction, output | question, answer | problem, solution -> prompt, completion
                  text
    reward, dpo   conversations, chosen, rejected | prompt, chosen, rejected | instruction, chosen, rejected
                  | question, chosen, rejected | chosen, rejected -> prompt, chosen, rejected
    grpo          prompt | question | problem | instruction | messages | conversations
                  -> prompt as messages, and every other column for the reward functions

The first whose columns are there is taken. Turns are `role, content` (OpenAI) or `from, value` (ShareGPT, with
`function_call` and `observation`). `instruction` takes an `input` below it, `system` becomes the system turn, `tools`
stay beside the conversation. Plain strings in TRL's own `prompt, completion` and `prompt, chosen, rejected` stay plain
text, as in TRL, and have no system turn; a plain GRPO prompt becomes one user turn. `chosen, rejected` without a prompt
share one: their common turns, or the common text up to its last space.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, List, Value

from data.converters import LAYOUTS, Layout, Row
from data.faults import Faults
from data.messages import Malformed, out_of_order, says_nothing, without_padding
from utils.errors import Refused

OUT_OF_ORDER = "turns are out of order"
SHAPES: dict[type, str] = {str: "plain text", list: "messages"}
UNSEEN = {
    "chosen", "rejected", "completion", "completions", "completion_ids", "prompts", "messages", "conversations",
    "tools", "image", "images", "trainer_state", "log_extra", "log_metric",
}  # fmt: skip
"""Columns that GRPO's reward functions are not given: the trainer uses the names itself, or they hold answers."""


def to_layout(rows: Dataset, stage: str, *, name: str = "the data", faults: Faults | None = None) -> Dataset:
    """Return `rows` with the columns of `stage`; rows that cannot be used are left out, and counted in `faults`.

    Those are the rows that are not what their columns or the first sound row say, and those that can teach nothing: an
    empty text, prompt or completion (null, or without the column), a chosen answer equal to the rejected one, turns out
    of order. Without `faults` they are judged here, with what is allowed by default. `name` is for messages.

    Raises:
        Refused: the columns are no layout of the stage, no row can be used, or more cannot than is allowed.
    """
    assert stage in LAYOUTS, stage
    columns, convert = find_layout(rows.column_names, stage, name)
    nested = {column for column, feature in rows.features.items() if not isinstance(feature, Value)}
    padded = {column for column in nested if "Json(" not in str(rows.features[column])}
    mine = faults is None
    faults = Faults(name) if faults is None else faults
    faults.read_as = f"{', '.join(columns)}, for {stage}"

    def converted(row: Row) -> Row:
        """Return a row in the layout; raise Malformed for one that cannot be used."""
        made = convert({column: without_padding(value) if column in padded else value for column, value in row.items()})
        if why := flaw(made):
            raise Malformed(_example(made, why), why, readable=True)
        return made

    def as_the_first(row: Row) -> Row:
        made = converted(row)
        for column, kind in kinds.items():
            if type(made[column]) is not kind:
                raise Malformed(
                    f"{column} is {SHAPES[type(made[column])]}, while the first rows have {SHAPES[kind]}: use one form "
                    "in all rows",
                    "another form than the first",
                )
        return made

    def count_faults(look: Callable[[Row], Row]) -> None:
        for number, row in enumerate(rows, 1):
            try:
                look(row)
            except Malformed as error:
                faults.add(error.reason, f"row {number}", str(error), readable=error.readable, number=number)

    first = next(_usable(rows, converted), None)
    if first is None:
        count_faults(converted)
        faults.judge(faults.broken + len(rows))
        raise AssertionError(f"{name}: no usable row, and no fault among {len(rows)}")
    kinds = {column: type(value) for column, value in first.items() if column not in ("tools", "margin")}
    kept = {column: rows.features[column] for column in _kept(rows.column_names, stage) if column not in first}
    features = Features({**{column: _feature(column, value) for column, value in first.items()}, **kept})

    def batch(values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {column: [] for column in features}
        for place in range(len(values[columns[0]])):
            try:
                row = as_the_first({column: column_values[place] for column, column_values in values.items()})
            except Malformed:
                continue
            for column in out:
                out[column].append(row[column] if column in first else values[column][place])
        return out

    useful = rows.map(
        batch,
        batched=True,
        remove_columns=rows.column_names,
        features=features,
        new_fingerprint=_cache_key(rows, stage),
    )
    if len(useful) < len(rows):  # a second look, since the first may have been an earlier run's, whose rows are cached
        count_faults(as_the_first)
    if mine:
        faults.judge(len(rows))
    return useful


def _usable(rows: Dataset, converted: Callable[[Row], Row]) -> Iterator[Row]:
    for row in rows:
        try:
            yield converted(row)
        except Malformed:
            continue


def find_layout(columns: list[str], stage: str, name: str = "the data") -> Layout:
    """Return the first layout of `stage` whose columns are there.

    Raises:
        Refused: none is; says what was found and what is accepted.
    """
    accepted = LAYOUTS[stage]
    found = set(columns)
    if "label" in found and stage in ("sft", "reward", "dpo") and not {"chosen", "rejected"} <= found:
        raise Refused(
            f"{name} has a label for each completion (unpaired preferences, columns {', '.join(columns)}), which "
            f"{stage} cannot use: reward and dpo need chosen and rejected answers to one prompt; for sft keep the good "
            "rows and remove `label`."
        )
    # A conversation beside its two next answers ends with the question: not what sft trains on.
    unanswered = {"conversations"} if stage == "sft" and {"chosen", "rejected"} <= found else set()
    for needed, convert in accepted:
        if found - unanswered >= set(needed):
            return needed, convert
    names = {column for needed, _ in accepted for column in needed} - found
    near = {column: get_close_matches(column, names, n=1, cutoff=0.8) for column in columns}
    meant = "".join(f" ({column!r} may be meant as {match[0]!r})" for column, match in near.items() if match)
    raise Refused(
        f"{name} has columns {', '.join(columns) or '–'}{meant}. For {stage} it needs one of: "
        f"{' | '.join(', '.join(needed) for needed, _ in accepted)}. Rename its columns, or choose another data set."
    )


def flaw(row: Mapping[str, Any]) -> str | None:
    """Return why a converted row can teach nothing: an empty part, equal sides, turns out of order; None if it can."""
    for column in ("text", "prompt", "completion", "chosen", "rejected"):
        value = row.get(column, "not of this layout")
        empty = (
            not value.strip() if isinstance(value, str) else not value if column == "prompt" else says_nothing(value)
        )
        if empty:
            return f"the {column} is empty"
    if "messages" in row and says_nothing(row["messages"]):
        return "the assistant says nothing"
    if "chosen" in row and row["chosen"] == row["rejected"]:
        return "chosen and rejected are equal"
    return OUT_OF_ORDER if _disorder(row) else None


def _disorder(row: Mapping[str, Any]) -> str | None:
    """Return which turn of a converted row stands where it cannot."""
    asked = row.get("messages") or row.get("prompt")
    if not isinstance(asked, list):
        return None
    answers = [row[column] for column in ("completion", "chosen", "rejected") if column in row] or [[]]
    return next((disorder for answer in answers if (disorder := out_of_order(asked + answer))), None)


def _example(row: Mapping[str, Any], why: str) -> str:
    """Return what shows a flaw: the turn that is out of order, or how the row begins."""
    if why == OUT_OF_ORDER:
        return str(_disorder(row))
    return f"{str(next(row[column] for column in ('messages', 'prompt', 'text') if column in row))!r:.80}"


def _kept(columns: list[str], stage: str) -> list[str]:
    return [column for column in columns if column not in UNSEEN] if stage == "grpo" else []


def _feature(column: str, value: object) -> Any:
    if column == "margin":
        return Value("float32")
    # Json keeps each message and schema as it is: a struct would give every message the keys of all others.
    return Value("string") if isinstance(value, str) else List(Json())


def _cache_key(rows: Dataset, stage: str) -> str:
    """Return the key under which datasets caches the converted rows, and what trainers make of them.

    Its own takes longer to compute than most conversions do, and would not change with the functions called here.
    """
    sources = (Path(__file__).with_name(name) for name in ("layouts.py", "converters.py", "messages.py"))
    code = b"".join(source.read_bytes() for source in sources)
    return sha256(f"{rows._fingerprint} {stage} ".encode() + code).hexdigest()[:32]
