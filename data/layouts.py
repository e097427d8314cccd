"""The groups of layouts that data come in, and their conversion to the columns that a stage's TRL trainer takes.

    documents      text
    conversations  messages | conversations -> messages
                   prompt, completion | instruction, output | instruction, response | question, answer
                   | question, response | problem, solution | query, response | prompt, response
                   -> prompt, completion
                   text
    pairs          conversations, chosen, rejected | prompt, chosen, rejected | instruction, chosen, rejected
                   | question, chosen, rejected | chosen, rejected -> prompt, chosen, rejected
    prompts        prompt | question | problem | query | instruction | messages | conversations
                   -> prompt as messages, and every other column for the reward functions
    labelled       prompt, completion, label | messages, label | conversations, label -> prompt, completion, label
                   and all of pairs, of which `unpaired` makes two rows each

`kinds.Kind.layout` names the group of a kind of stage. The first layout whose columns are there is taken. Turns are
`role, content` (OpenAI) or `from, value` (ShareGPT, with `function_call` and `observation`). `instruction` takes an
`input` (or `context`) below it and the rounds of `history` before it, `system` (or `system_prompt`) becomes the system
turn, `reasoning_content` (or `reasoning`, `thinking`) is thought before the answer, `tools` stay beside the
conversation. Plain strings in TRL's own `prompt, completion` and `prompt, chosen, rejected` stay plain text, as in TRL,
and have nothing beside them; a plain prompt of the group `prompts` becomes one user turn. `chosen, rejected` without a
prompt share one: their common turns, or the common text up to its last space. `label` is true or false, for a good and
a bad answer. Other columns are not read, which is said; so are keys of turns, which is refused where most rows have
text there.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, List, Value

import kinds
from data.columns import Names, with_keys
from data.converters import LAYOUTS, THUMBS, UNSEEN, Group, Layout, Row
from data.faults import Faults, tell_unread
from data.messages import Malformed, Message, out_of_order, says_nothing, turns_in, unread_keys, without_padding
from utils.console import warn
from utils.errors import Refused
from utils.text import says

OUT_OF_ORDER = "turns are out of order"
RENDERED = "a turn holds tags of a chat template: it is rendered already"
CHAT_TAGS = re.compile(
    r"<\|im_(start|end|user|assistant|system|middle)\|>|<\|(start|end)_header_id\|>|<\|header_(start|end)\|>|"
    r"<\|(eot_id|eom_id|eot|end)\|>|<(start|end)_of_turn>|<\|(START|END)_OF_TURN_TOKEN\|>|<\|(start|end)_of_role\|>|"
    r"\[/?INST\]|<</?SYS>>|\[\|(system|user|assistant|endofturn)\|\]|<[|\uff5c](User|Assistant)[|\uff5c]>|"
    r"<\|(system|user|assistant|start|channel|message|return|call)\|>|<\|(system|user|assistant)_(start|end)\|>|"
    r"\A\s*(<s>|<bos>|<\|begin_of_text\|>)|(<\|endoftext\|>|<\|end_of_text\|>|<eos>|</s>)\s*\Z"
)
"""Tags with which published templates begin and end turns."""
IN_TAGS = ("<|", "s>", "INST]", "_of_turn>", "<\uff5c", "SYS>>", "[|")
"""Found five times as fast as the tags; each has one of them."""
FORMS: dict[type, str] = {str: "plain text", list: "messages"}
OF_TURNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
"""Columns that may hold conversations as JSON, as a .csv has them."""
FAULT = "what is wrong with the row"
"""A column of the cached conversion that is not part of the layout; null in a row that can be used."""
UNREAD = "keys of turns that are not read"
"""Another; null where all are."""
DOUBTS = "what is odd about a row that can be used"
"""A third; null where nothing is."""
LOOK_ALIKE = "have answers that differ in nothing but space or what cannot be seen"
SAID_AGAIN = "have a completion that begins with the prompt, which the model learns to say again"


def group_of(kind: str) -> Group:
    """Return the layouts that the kind of that name trains on."""
    return LAYOUTS[kinds.named(kind).layout]


def to_layout(
    rows: Dataset, kind: str, *, name: str = "the data", faults: Faults | None = None, keys: Names | None = None
) -> Dataset:
    """Return `rows` with the columns of `kind`; rows that cannot be used are left out, and counted in `faults`.

    Those are the rows that are not what their columns or the first sound row say, and those that can teach nothing: an
    empty text, prompt or completion (null, or without the column), a chosen answer equal to the rejected one, turns out
    of order. Without `faults` they are judged here, with what is allowed by default. `name` is for messages, `keys`
    names keys of turns anew. A row stays one row: pairs for the group `labelled` are still pairs, see `unpaired`.

    Raises:
        Refused: the columns are no layout of the kind, no row can be used, or more cannot than is allowed.
    """
    columns, convert, _ = find_layout(rows.column_names, kind, name, thumbs=_are_thumbs(rows))
    nested = {column for column, feature in rows.features.items() if not isinstance(feature, Value)}
    padded = {column for column in nested if "Json(" not in str(rows.features[column])}
    judged_here, faults = faults is None, faults or Faults(name)
    faults.read_as = f"{', '.join(columns)}, for {kind}"
    forms: dict[str, type] = {}

    def plain(column: str, value: Any) -> Any:
        value = without_padding(value) if column in padded else value
        if column not in columns:
            return value
        return with_keys(turns_in(value) if column in OF_TURNS else value, keys or {})

    def converted(row: Row) -> Row:
        """Return a row in the layout, of the first row's form; raise Malformed for one that cannot be used."""
        result = convert(row)
        if why := flaw(result):
            raise Malformed(_example(result, why), why, readable=True)
        for column, form in forms.items():
            if result[column] is not None and type(result[column]) is not form:
                raise Malformed(
                    f"{column} is {FORMS[type(result[column])]}, while the first rows have {FORMS[form]}: use one form "
                    "in all rows",
                    "another form than the first",
                )
        return result

    def result_or_fault(row: Row) -> Row:
        try:
            row = {column: plain(column, value) for column, value in row.items()}
            unread = {key for column in columns for key in unread_keys(row[column])}
            result = converted(row)
            return {**result, UNREAD: sorted(unread) or None, DOUBTS: _doubts(result)}
        except Malformed as error:
            return {FAULT: {"reason": error.reason, "example": str(error), "readable": error.readable}}

    first = next((result for result in map(result_or_fault, rows) if FAULT not in result), {})
    first = {column: value for column, value in first.items() if column not in (UNREAD, DOUBTS)}
    forms |= {column: type(value) for column, value in first.items() if type(value) in FORMS and column != "tools"}
    kept = set(rows.column_names) - UNSEEN - set(first) if group_of(kind).keeps_columns else set()
    features = {column: _feature(column, value) for column, value in first.items()}
    features |= {column: feature for column, feature in rows.features.items() if column in kept}
    features |= {FAULT: Json(), UNREAD: Json(), DOUBTS: Value("string")}

    def batch(values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        given = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        results = [{**{column: row[column] for column in kept}, **result_or_fault(row)} for row in given]
        return {column: [result.get(column) for result in results] for column in features}

    try:
        results = rows.map(
            batch,
            batched=True,
            remove_columns=rows.column_names,
            features=Features(features),
            new_fingerprint=_cache_key(rows, kind, keys),
        )
    except OverflowError as error:
        large = ", ".join(column for column in kept if "uint64" in str(rows.features[column]))
        raise Refused(f"{name}: {large} holds integers that need 64 bits: leave it out by columns ({error}).") from None
    found = results[FAULT][:]
    for number, fault in enumerate(found, 1):
        if fault is not None:
            faults.add(where=f"row {number}", number=number, **fault)
    tell_unread(Counter(key for unread in results[UNREAD][:] for key in unread or ()), len(rows), name)
    for doubt, count in Counter(filter(None, results[DOUBTS][:])).items():
        warn(f"{name}: {count} of {len(rows)} rows {doubt}")
    useful = results.remove_columns([FAULT, UNREAD, DOUBTS])
    if any(found):
        useful = useful.select([index for index, fault in enumerate(found) if fault is None])
    message = faults.judge(faults.broken + len(rows)) if judged_here or not first else ""
    if message:
        warn(message)
    return useful


def unpaired(rows: Dataset) -> Dataset:
    """Return pairs as two rows each, with a label: the chosen answer's true, the rejected one's false.

    As `trl.data_utils.unpair_preference_dataset` does, but the two stay together, and of an answer of several turns the
    last one alone is the answer. Rows without pairs stay as they are.
    """
    if "chosen" not in rows.column_names:
        return rows
    beside = [column for column in ("prompt", "tools") if column in rows.column_names]
    features = {column: rows.features[column] for column in beside}

    def both(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = list(zip(batch["chosen"], batch["rejected"], strict=True))
        rows = {column: [value for value in batch[column] for _ in range(2)] for column in beside}
        answers = [answer for pair in pairs for answer in pair]
        if isinstance(answers[0], list):
            rows["prompt"] = [prompt + answer[:-1] for prompt, answer in zip(rows["prompt"], answers, strict=True)]
            answers = [answer[-1:] for answer in answers]
        return {**rows, "completion": answers, "label": [True, False] * len(pairs)}

    features |= {"completion": rows.features["chosen"], "label": Value("bool")}
    return rows.map(both, batched=True, remove_columns=rows.column_names, features=Features(features))


def may_say(rows: Dataset, text: str | Iterable[str], *columns: str) -> bool:
    """Tell whether a text, or one of some, may stand in the conversations of some columns, of all rows at a glance.

    It looks through the JSON that they are stored as, a thousand times as fast as through the turns.
    """
    import pyarrow.compute as pc

    texts = [text] if isinstance(text, str) else list(text)
    stored = (one if '"' in one else json.dumps(one)[1:-1] for one in texts)  # with quotes it is of the JSON itself
    pattern = "|".join(re.escape(one.replace("/", r"\/")) for one in stored)
    for column in columns:
        feature = rows.features.get(column)
        if isinstance(feature, List | Json):
            for chunk in rows.data.column(column).chunks:
                turns = pc.list_flatten(chunk) if isinstance(feature, List) else chunk
                if pattern and pc.any(pc.match_substring_regex(getattr(turns, "storage", turns), pattern)).as_py():
                    return True
    return False


def find_layout(columns: list[str], kind: str, name: str = "the data", *, thumbs: bool = True) -> Layout:
    """Return the first layout of `kind` whose columns are there.

    `thumbs`: a column `label` says of each answer whether it is good.

    Raises:
        Refused: none is, with what was found and what is accepted; or the kind would learn bad answers, too.
    """
    group = group_of(kind)
    there = set(columns)
    # A conversation beside its two next answers ends with the question: it holds no answer to train on.
    answered = not group.keeps_columns and {"chosen", "rejected"} <= there
    usable = [
        layout
        for layout in group.layouts
        if set(layout.columns) <= there
        and not (answered and "conversations" in layout.columns and "chosen" not in layout.columns)
    ]
    if usable and usable[0].columns == ("text",) and {"role", "parent_id"} <= there:
        raise Refused(
            f"{name} has single messages of trees of conversations (columns {', '.join(columns)}): join each path to "
            "one row of `messages` first. Of the texts alone the users' would be learnt, too."
        )
    labelled = thumbs and "label" in there and group.labels == "refused" and not {"chosen", "rejected"} <= there
    if labelled and not (usable and usable[0].columns == ("text",)):
        raise Refused(
            f"{name} has a label for each completion (unpaired preferences, columns {', '.join(columns)}), which "
            f"{kind} cannot use: kto can. reward and dpo need chosen and rejected answers to one prompt; for sft keep "
            "the good rows and leave the column out: columns={'label': None}."
        )
    if usable:
        return usable[0]
    names = {column for layout in group.layouts for column in layout.columns} - there
    near = {column: get_close_matches(column, names, n=1, cutoff=0.8) for column in columns}
    meant = "".join(f" ({column!r} may be meant as {match[0]!r})" for column, match in near.items() if match)
    raise Refused(
        f"{name} has columns {', '.join(columns) or '–'}{meant}. For {kind} it needs one of: "
        f"{' | '.join(', '.join(layout.columns) for layout in group.layouts)}. Say which are which, such as "
        f"columns={{{group.layouts[-1].columns[0]!r}: 'NAME'}}, or choose another data set."
    )


def unread_columns(rows: Dataset, kind: str, name: str) -> tuple[list[str], list[str]]:
    """Return the columns that a stage of `kind` does not read, and those that only its reward functions are given.

    Raises:
        Refused: the columns are no layout of the kind.
    """
    layout = find_layout(rows.column_names, kind, name, thumbs=_are_thumbs(rows))
    others = {*rows.column_names} - {*layout.columns, *layout.beside}
    given = others - UNSEEN if group_of(kind).keeps_columns else set()
    return sorted(others - given), sorted(given)


def _are_thumbs(rows: Dataset) -> bool:
    """Tell whether the column `label` says of each row whether it is good, as true and false, or 1 and 0."""
    if "label" not in rows.column_names:
        return False
    labels = {str(label).strip().lower() for label in rows["label"][:] if label is not None}
    return bool(labels) and labels <= set(THUMBS)


def flaw(row: Mapping[str, Any]) -> str | None:
    """Return why a converted row can teach nothing: an empty part, equal sides, turns out of order; None if it can."""
    to_be_answered = row.get("prompt") if not row.keys() & {"completion", "chosen"} else None
    if isinstance(to_be_answered, list) and to_be_answered and to_be_answered[-1]["role"] == "assistant":
        return "the prompt ends with a turn of the assistant"
    for column in ("text", "prompt", "completion", "chosen", "rejected"):
        value = row.get(column, "not of this layout")
        if isinstance(value, str):
            empty = not says(value)
        elif column == "prompt":
            empty = not any(says(turn["content"]) or turn.get("tool_calls") for turn in value)
        else:
            empty = says_nothing(value)
        if empty:
            return f"the {column} is empty"
        if isinstance(value, list) and column != "prompt" and value[-1]["role"] != "assistant":
            return f"the {column} does not end with a turn of the assistant"
    if "messages" in row and says_nothing(row["messages"]):
        return "the assistant says nothing"
    if "chosen" in row and row["chosen"] == row["rejected"]:
        return "chosen and rejected are equal"
    if rendered_turn(row):
        return RENDERED
    return OUT_OF_ORDER if _disorder(row) else None


def _doubts(row: Mapping[str, Any]) -> str | None:
    """Return what is odd about a converted row."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return SAID_AGAIN if len(prompt.split()) > 2 and completion.startswith(prompt) else None
    if "chosen" in row and _seen(row["chosen"]) == _seen(row["rejected"]):
        return LOOK_ALIKE
    return None


def _seen(side: Any) -> Any:
    """Return what can be seen of an answer."""
    return says(side) if isinstance(side, str) else [{**turn, "content": says(turn["content"])} for turn in side]


def rendered_turn(row: Mapping[str, Any]) -> str | None:
    """Return the text of a turn that holds the tags of a chat template, and would be rendered twice."""
    conversations = [value for value in row.values() if isinstance(value, list) and value and "role" in value[0]]
    contents = (text for turns in conversations for turn in turns for text in _texts_of(turn))
    return next((text for text in contents if any(map(text.__contains__, IN_TAGS)) and CHAT_TAGS.search(text)), None)


def _texts_of(turn: Message) -> Iterator[str]:
    """Yield what a turn says, thinks, and calls."""
    yield turn["content"]
    yield turn.get("reasoning_content") or ""
    yield from (str(call["function"]["arguments"]) for call in turn.get("tool_calls") or ())


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
    if why == RENDERED:
        return f"{rendered_turn(row)!r:.80}: give its turns as messages, or the whole as `text`"
    return f"{str(next(row[column] for column in ('messages', 'prompt', 'text') if column in row))!r:.80}"


def _feature(column: str, value: object) -> Any:
    if isinstance(value, bool | float):
        return Value("bool" if column == "label" else "float32")
    # Json keeps each message and schema as it is: a struct would give every message the keys of all others.
    return Value("string") if isinstance(value, str) or column == "solution" else List(Json())


def _cache_key(rows: Dataset, kind: str, keys: Names | None) -> str:
    """Return the key under which datasets caches the converted rows, and what trainers make of them.

    Its own takes longer to compute than most conversions do, and would not change with the functions called here.
    """
    here = Path(__file__).parent
    names = (
        "layouts.py",
        "converters.py",
        "messages.py",
        "columns.py",
        "../utils/matching.py",
        "../utils/strict_json.py",
    )
    code = b"".join((here / name).read_bytes() for name in names)
    return sha256(f"{rows._fingerprint} {kinds.named(kind).layout} {keys} ".encode() + code).hexdigest()[:32]
