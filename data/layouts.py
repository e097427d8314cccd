"""The groups of layouts that data come in, and their conversion to the columns that a stage's TRL trainer takes.

    documents      text
    conversations  messages | conversations -> messages
                   prompt, completion | instruction, output | question, answer | problem, solution
                   -> prompt, completion
                   text
    pairs          conversations, chosen, rejected | prompt, chosen, rejected | instruction, chosen, rejected
                   | question, chosen, rejected | chosen, rejected -> prompt, chosen, rejected
    prompts        prompt | question | problem | instruction | messages | conversations
                   -> prompt as messages, and every other column for the reward functions
    labelled       prompt, completion, label | messages, label | conversations, label -> prompt, completion, label
                   and all of pairs, of which `unpaired` makes two rows each

`kinds.Kind.layout` names the group of a kind of stage. The first layout whose columns are there is taken. Turns are
`role, content` (OpenAI) or `from, value` (ShareGPT, with `function_call` and `observation`). `instruction` takes an
`input` below it, `system` becomes the system turn, `tools` stay beside the conversation. Plain strings in TRL's own
`prompt, completion` and `prompt, chosen, rejected` stay plain text, as in TRL, and have no system turn; a plain prompt
of the group `prompts` becomes one user turn. `chosen, rejected` without a prompt share one: their common turns, or the
common text up to its last space. `label` is true or false, for a good and a bad answer.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, List, Value

import kinds
from data.converters import LAYOUTS, UNSEEN, Group, Layout, Row
from data.faults import Faults
from data.messages import Malformed, out_of_order, says_nothing, without_padding
from utils.console import warn
from utils.errors import Refused

OUT_OF_ORDER = "turns are out of order"
FORMS: dict[type, str] = {str: "plain text", list: "messages"}
FAULT = "what is wrong with the row"
"""The column of the cached conversion that is not part of the layout; null in a row that can be used."""


def group_of(kind: str) -> Group:
    """Return the layouts that the kind of that name trains on."""
    return LAYOUTS[kinds.named(kind).layout]


def to_layout(rows: Dataset, kind: str, *, name: str = "the data", faults: Faults | None = None) -> Dataset:
    """Return `rows` with the columns of `kind`; rows that cannot be used are left out, and counted in `faults`.

    Those are the rows that are not what their columns or the first sound row say, and those that can teach nothing: an
    empty text, prompt or completion (null, or without the column), a chosen answer equal to the rejected one, turns out
    of order. Without `faults` they are judged here, with what is allowed by default. `name` is for messages. A row
    stays one row: pairs for the group `labelled` are still pairs, see `unpaired`.

    Raises:
        Refused: the columns are no layout of the kind, no row can be used, or more cannot than is allowed.
    """
    columns, convert = find_layout(rows.column_names, kind, name)
    nested = {column for column, feature in rows.features.items() if not isinstance(feature, Value)}
    padded = {column for column in nested if "Json(" not in str(rows.features[column])}
    judged_here, faults = faults is None, faults or Faults(name)
    faults.read_as = f"{', '.join(columns)}, for {kind}"
    forms: dict[str, type] = {}

    def converted(row: Row) -> Row:
        """Return a row in the layout, of the first row's form; raise Malformed for one that cannot be used."""
        result = convert({key: without_padding(value) if key in padded else value for key, value in row.items()})
        if why := flaw(result):
            raise Malformed(_example(result, why), why, readable=True)
        for column, form in forms.items():
            if type(result[column]) is not form:
                raise Malformed(
                    f"{column} is {FORMS[type(result[column])]}, while the first rows have {FORMS[form]}: use one form "
                    "in all rows",
                    "another form than the first",
                )
        return result

    def result_or_fault(row: Row) -> Row:
        try:
            return converted(row)
        except Malformed as error:
            return {FAULT: {"reason": error.reason, "example": str(error), "readable": error.readable}}

    first = next((result for result in map(result_or_fault, rows) if FAULT not in result), {})
    forms |= {column: type(value) for column, value in first.items() if type(value) in FORMS and column != "tools"}
    kept = set(rows.column_names) - UNSEEN - set(first) if group_of(kind).keeps_columns else set()
    features = {column: _feature(column, value) for column, value in first.items()}
    features |= {column: feature for column, feature in rows.features.items() if column in kept} | {FAULT: Json()}

    def batch(values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        given = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        results = [{**{column: row[column] for column in kept}, **result_or_fault(row)} for row in given]
        return {column: [result.get(column) for result in results] for column in features}

    results = rows.map(
        batch,
        batched=True,
        remove_columns=rows.column_names,
        features=Features(features),
        new_fingerprint=_cache_key(rows, kind),
    )
    found = results[FAULT][:]
    for number, fault in enumerate(found, 1):
        if fault is not None:
            faults.add(where=f"row {number}", number=number, **fault)
    useful = results.remove_columns(FAULT)
    if any(found):
        useful = useful.select([index for index, fault in enumerate(found) if fault is None])
    message = faults.judge(faults.broken + len(rows)) if judged_here or not first else ""
    if message:
        warn(message)
    return useful


def unpaired(rows: Dataset) -> Dataset:
    """Return pairs as two rows each, with a label: the chosen answer's true, the rejected one's false.

    As `trl.data_utils.unpair_preference_dataset` does, but the two stay together. Rows without pairs stay as they are.
    """
    if "chosen" not in rows.column_names:
        return rows
    beside = [column for column in ("prompt", "tools") if column in rows.column_names]
    features = {column: rows.features[column] for column in beside}

    def both(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = list(zip(batch["chosen"], batch["rejected"], strict=True))
        return {
            **{column: [value for value in batch[column] for _ in range(2)] for column in beside},
            "completion": [answer for pair in pairs for answer in pair],
            "label": [True, False] * len(pairs),
        }

    features |= {"completion": rows.features["chosen"], "label": Value("bool")}
    return rows.map(both, batched=True, remove_columns=rows.column_names, features=Features(features))


def find_layout(columns: list[str], kind: str, name: str = "the data") -> Layout:
    """Return the first layout of `kind` whose columns are there.

    Raises:
        Refused: none is; says what was found and what is accepted.
    """
    group = group_of(kind)
    there = set(columns)
    if "label" in there and group.labels == "refused" and not {"chosen", "rejected"} <= there:
        raise Refused(
            f"{name} has a label for each completion (unpaired preferences, columns {', '.join(columns)}), which "
            f"{kind} cannot use: kto can. reward and dpo need chosen and rejected answers to one prompt; for sft keep "
            "the good rows and remove `label`."
        )
    # A conversation beside its two next answers ends with the question: it holds no answer to train on.
    unanswered = {"conversations"} if {"chosen", "rejected"} <= there else set()
    for needed, convert in group.layouts:
        if there - (set() if "chosen" in needed or group.keeps_columns else unanswered) >= set(needed):
            return needed, convert
    names = {column for needed, _ in group.layouts for column in needed} - there
    near = {column: get_close_matches(column, names, n=1, cutoff=0.8) for column in columns}
    meant = "".join(f" ({column!r} may be meant as {match[0]!r})" for column, match in near.items() if match)
    raise Refused(
        f"{name} has columns {', '.join(columns) or '–'}{meant}. For {kind} it needs one of: "
        f"{' | '.join(', '.join(needed) for needed, _ in group.layouts)}. Rename its columns, or choose another data "
        "set."
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


def _feature(column: str, value: object) -> Any:
    if isinstance(value, bool | float):
        return Value("bool" if column == "label" else "float32")
    # Json keeps each message and schema as it is: a struct would give every message the keys of all others.
    return Value("string") if isinstance(value, str) else List(Json())


def _cache_key(rows: Dataset, kind: str) -> str:
    """Return the key under which datasets caches the converted rows, and what trainers make of them.

    Its own takes longer to compute than most conversions do, and would not change with the functions called here.
    """
    sources = (Path(__file__).with_name(name) for name in ("layouts.py", "converters.py", "messages.py"))
    code = b"".join(source.read_bytes() for source in sources)
    return sha256(f"{rows._fingerprint} {kinds.named(kind).layout} ".encode() + code).hexdigest()[:32]
