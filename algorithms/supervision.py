"""What is learnt of each example: of SFT's the assistant's turns, and of every pair and answer its end."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Any

from algorithms import arguments, loading
from algorithms.config import TrainingConfig
from algorithms.trl_kind import TrlKind
from data import chat
from data.chat import encode
from data.layouts import CHAT_TAGS, may_say
from data.messages import THOUGHTS, is_learnt
from data.sources import StageData
from kinds import Stage
from records.stage_log import StageLog
from utils.console import warn
from utils.errors import Refused, StageFailed
from utils.text import entry

INSPECTED = 2000  # most examples that are looked at
MEASURED = 500  # most rows whose length is looked at before the run starts, unless every one is asked for
NAMED = 5  # rows that are told
MOST = 0.5  # share of examples without their end above which the stage fails
MANY = 0.1  # and above which there is an alarm
TEMPLATE_TOKENS = 1000  # more than any chat template adds to a row
FEW_TOKENS = 0.01  # share of supervised tokens below which there is an alarm: short answers to long prompts have more

Rows = Any  # datasets.Dataset


def choose(tokenizer: Any, rows: Rows, config: TrainingConfig) -> tuple[Callable[[Rows], Rows], dict[str, Any]]:
    """Return how rows go to TRL, and TRL's options for them, so that no turn but the assistant's is learnt.

    Conversations are masked by the template's `{% generation %}` marks. Where it has none, TRL knows marked twins of
    published templates, used for the labels only: the saved template stays as it is. For any other template each
    assistant turn becomes a completion to the turns before it; and so it does where a turn is not to be learnt, or the
    template leaves out what an earlier turn thinks.

    Raises:
        Refused: the recipe's own `assistant_only_loss` would learn a turn that is not to be learnt.
    """
    from trl import is_conversational

    if not is_conversational(rows[0]):
        return lambda some: some, {}
    unlearnt = may_say(rows, '"weight"', *TURNS) and not all(
        is_learnt(turn) for turns in _turns(rows) for turn in turns
    )
    if "assistant_only_loss" in config.trainer_args:
        if unlearnt:
            raise Refused("trainer_args: assistant_only_loss learns turns of weight 0, too: leave it out")
        return lambda some: some, {}
    if unlearnt:
        warn("some turns have weight 0 and are not learnt: each other turn of the assistant becomes an example")
    elif not _can_mark(tokenizer):
        warn("the chat template has no generation marks: each assistant turn becomes an example of its own")
    elif _leaves_out_thoughts(tokenizer, rows):
        warn("the chat template shows no earlier thoughts: each assistant turn becomes an example of its own")
    else:
        return lambda some: some, {"assistant_only_loss": True}
    return _one_row_a_turn, {}


TURNS = ("messages", "prompt", "completion")
THOUGHT = '"reasoning_content"'
"""As it stands in a conversation's JSON."""


def _turns(rows: Rows) -> Iterator[list[Any]]:
    """Yield the turns of each conversation."""
    columns = [name for name in TURNS if name in rows.column_names]
    for row in rows.select_columns(columns):
        yield [turn for name in columns for turn in row[name]]


def _leaves_out_thoughts(tokenizer: Any, rows: Rows) -> bool:
    """Tell whether a template shows the last turn's thoughts alone, and an earlier turn of a row has some."""
    unseen = [
        key
        for key in (*THOUGHTS, None)
        if may_say(rows, f'"{key}"' if key else "</think>", *TURNS)
        and not chat.shows_thoughts(tokenizer, key=key, earlier=True)
    ]
    early = (turn for turns in _turns(rows) for turn in turns[:-1] if turn["role"] == "assistant")
    return bool(unseen) and any(
        key in turn if key else "</think>" in turn["content"] for turn in early for key in unseen
    )


def as_read(tokenizer: Any, data: StageData) -> StageData:
    """Return the stage's data as TRL must be given it, to show the model what evaluation and chat show it.

    A text that begins with the BOS that the tokenizer adds itself is given without, and one that ends with the EOS
    without the line break behind it; thoughts become text of their turns for a template that does not show them.
    """
    _tell_foreign_tags(tokenizer, data)
    return _with_thoughts_shown(tokenizer, _without_bos(tokenizer, data))


def _tell_foreign_tags(tokenizer: Any, data: StageData) -> None:
    """Say that texts hold tags of another model's chat template, which are letters to this tokenizer."""
    columns = [name for name in ("text", "prompt") if isinstance(data.train[0].get(name), str)]
    rows = data.train.select(range(min(len(data.train), MEASURED)))
    found = {tag[0] for row in rows for name in columns for tag in CHAT_TAGS.finditer(row[name])}
    foreign = sorted(tag for tag in found - tokenizer.get_vocab().keys() if tag.startswith("<|"))
    if foreign:
        warn(
            f"the texts hold {', '.join(foreign)}, tags of another model's chat template: here they are read as letters"
        )


def _without_bos(tokenizer: Any, data: StageData) -> StageData:
    columns = [name for name in ("text", "prompt", "completion") if isinstance(data.train[0].get(name), str)]
    bos = str(tokenizer.bos_token) if chat.adds_bos(tokenizer) else ""
    eos = str(tokenizer.eos_token)

    def bare_text(name: str, text: str) -> str:
        text = text if name == "completion" else text.removeprefix(bos)
        return text.rstrip() if name != "prompt" and text.rstrip().endswith(eos) else text

    if not any(bare_text(name, row[name]) != row[name] for row in data.train for name in columns):
        return data

    def bare(row: dict[str, Any]) -> dict[str, Any]:
        return {name: bare_text(name, row[name]) for name in columns}

    return replace(data, train=data.train.map(bare), eval=data.eval.map(bare))


def _with_thoughts_shown(tokenizer: Any, data: StageData) -> StageData:
    columns = [name for name in (*TURNS, "chosen", "rejected") if isinstance(data.train[0].get(name), list)]
    if not may_say(data.train, THOUGHT, *columns) or (key := chat.key_of_thoughts(tokenizer)) == THOUGHTS[0]:
        return data
    if key is None:
        warn("the chat template shows no reasoning_content: it is written before the answer, in a <think> block")

    def written(row: dict[str, Any]) -> dict[str, Any]:
        return {name: chat.with_thoughts_as(row[name], key) for name in columns}

    train, held_out = (rows.map(written, features=rows.features) for rows in (data.train, data.eval))
    return replace(data, train=train, eval=held_out)


def _can_mark(tokenizer: Any) -> bool:
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return True
    try:
        return get_training_chat_template(tokenizer) is not None
    except ValueError:
        return False


def _one_row_a_turn(rows: Rows) -> Rows:
    """Return `prompt`, `completion` rows, one for each assistant turn that is to be learnt."""
    from datasets import Features

    kept = [name for name in ("tools", "chat_template_kwargs") if name in rows.column_names]

    def split(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {name: [] for name in ("prompt", "completion", *kept)}
        for index in range(len(next(iter(batch.values())))):
            given = batch["prompt"][index] if "prompt" in batch else []
            turns = given + (batch["completion"] if "prompt" in batch else batch["messages"])[index]
            for position in range(len(given), len(turns)):
                if turns[position]["role"] == "assistant" and is_learnt(turns[position]):
                    out["prompt"].append(turns[:position])
                    out["completion"].append([turns[position]])
                    for name in kept:
                        out[name].append(batch[name][index])
        return out

    turns = rows.features["prompt" if "prompt" in rows.column_names else "messages"]
    features = Features({"prompt": turns, "completion": turns} | {name: rows.features[name] for name in kept})
    return rows.map(split, batched=True, remove_columns=rows.column_names, features=features)


SPLITS_LONG = ("wrapped", "bfd_split")
"""Packing strategies that go on with a long text in the next row, where others drop what is beyond the row."""


def refuse_long(
    stage: Stage, rows: Rows, tokenizer: Any, max_tokens: int | None, n_embeddings: int | None, *, every: bool = False
) -> None:
    """Look at the first rows, or at `every` one, as the tokenizer will show them.

    The model reads `max_tokens` at once and knows `n_embeddings` tokens: where it is the model that cannot take a row,
    every row is looked at.

    Raises:
        Refused: more are longer than the stage's `max_length`, or than the model can read, than `max_dropped_fraction`
            allows, or else most, so that the stage would fail or learn what it cannot be measured on; the model has no
            embedding for a token of one; or the chat template cannot show one.
    """
    kind: TrlKind = stage.kind  # type: ignore[assignment]
    options = kind.defaults() | arguments.given(stage.config, stage.extra)
    answered = not kind.samples
    if n_embeddings is not None and len(tokenizer) > n_embeddings:
        chat.refuse_unknown(tokenizer, n_embeddings, (ids for row in rows for ids in shown(tokenizer, row)))
    if options.get("packing") and options["packing_strategy"] in SPLITS_LONG:
        return
    set_by_recipe = options.get("max_length") or math.inf
    limit = min(set_by_recipe, max_tokens or math.inf)
    of_model = limit < set_by_recipe
    room = int(options["max_completion_length"]) if kind.samples else 0
    looked_at = rows if every or of_model else rows.select(range(min(len(rows), MEASURED)))
    long = [n for n, row in enumerate(looked_at, 1) if _is_long(tokenizer, row, limit - room, answered)]
    if not long:
        return
    completed = f" with a completion of {room} tokens" if room else ""
    named = ", ".join(map(str, long[:NAMED])) + (", …" if len(long) > NAMED else "")
    why = "the model reads: choose another model" if of_model else "max_length allows: raise it"
    said = (
        f"{len(long)} of {len(looked_at)} rows{completed} are longer than the {limit} tokens that {why}"
        + (", lower max_completion_length" if room else "")
        + f", or shorten them. Of the rows to train on they are {named}, the first: "
        + _beginning(looked_at[long[0] - 1])
    )
    asked = stage.config.max_dropped_fraction
    allowed = MOST if asked is None else asked
    if len(long) > allowed * len(looked_at):
        raise Refused(f"{said} (at most {100 * allowed:g} % are let go, see max_dropped_fraction)")
    if every or of_model:
        warn(f"{stage.label}: {said}. They are {'left out' if kind.leaves_out_long else 'cut'}")


def within_context(settings: Any, config: TrainingConfig) -> None:
    """Lower a trainer's `max_length` to what its model reads at once, beyond which positions mean nothing or fail."""
    limit, given = loading.max_tokens(config), getattr(settings, "max_length", 0)
    if limit is not None and given != 0 and (given is None or given > limit):
        if given is not None:
            warn(f"max_length becomes {limit}, which is all that the model reads (it was {given})")
        settings.max_length = limit


def prompts_within_context(stage: Stage, data: StageData, tokenizer: Any) -> StageData:
    """Return the data of a stage that samples without the prompts that leave no room for a completion.

    Raises:
        StageFailed: none is left.
    """
    limit = loading.max_tokens(stage.config)
    if limit is None:
        return data
    kind: TrlKind = stage.kind  # type: ignore[assignment]
    room = (kind.defaults() | arguments.given(stage.config, stage.extra))["max_completion_length"]

    def fitting(rows: Rows) -> Rows:
        fits = [n for n, row in enumerate(rows) if not _is_long(tokenizer, row, limit - room, answered=False)]
        return rows.select(fits) if len(fits) < len(rows) else rows

    train, held_out = fitting(data.train), fitting(data.eval)
    reason = f"the prompt and a completion of {room} tokens are longer than the {limit} that the model reads"
    if not len(train) or not len(held_out):
        raise StageFailed(f"all rows{' that are held out' if len(train) else ''} are left out: {reason}")
    lost = len(data.train) - len(train)
    if lost:
        warn(f"{lost} of {len(data.train)} rows to train on are left out: {reason}")
    info = data.info | ({"lost_to_max_length": {reason: lost}} if lost else {})
    return replace(data, train=train, eval=held_out, info=info)


def _beginning(row: dict[str, Any]) -> str:
    start = next(row[column] for column in ("messages", "prompt", "text") if column in row)
    text = start if isinstance(start, str) else " ".join(str(turn.get("content") or "") for turn in start)
    return repr(shorten(text, 80, placeholder=" …"))


def _is_long(tokenizer: Any, row: dict[str, Any], limit: float, answered: bool) -> bool:
    """Tell whether a row, or the longer side of a pair, has more than `limit` tokens as the tokenizer shows it.

    Raises:
        Refused: the chat template cannot show it.
    """
    from jinja2 import TemplateError

    if len(str(row).encode()) + TEMPLATE_TOKENS < limit:  # a token is a byte at least
        return False
    try:
        return max(map(len, shown(tokenizer, row, answered=answered))) > limit
    except TemplateError as error:
        raise Refused(f"the model's chat template cannot show {_beginning(row)}: {error}") from error


def shown(tokenizer: Any, row: dict[str, Any], *, answered: bool = True) -> list[list[int]]:
    """Return the token ids of a row as the tokenizer shows it, of a pair both sides; not `answered`: to be answered."""
    start = next(row[column] for column in ("messages", "prompt", "text") if column in row)
    ends = [row[column] for column in ("completion", "chosen", "rejected") if column in row]
    texts = [start + end for end in ends] or [start]
    return [encode(tokenizer, text, row.get("tools"), not answered) for text in texts]


def inspect(trainer: Any, rows: Rows, data: StageData, stage_dir: Path) -> StageData:
    """Check that examples supervise the EOS that ends an answer, and write one to training.log, marked.

    `rows` are those that TRL was given: it drops the ones of which `max_length` leaves nothing to learn, or packs them
    with the others. Returns the stage's data with their number on its record.

    Raises:
        StageFailed: most do not, so the model would not learn to stop; or nothing but the EOS is learnt.
    """
    if len(trainer.train_dataset) == 0 or (trainer.args.packing and trainer.args.packing_strategy in SPLITS_LONG):
        return data  # `fit` reports the one; the other ends texts anywhere, by design
    tokenizer = trainer.processing_class
    _show(tokenizer, trainer.train_dataset[0], stage_dir)
    examples = list(_labels(trainer.train_dataset))
    dropped = 0 if trainer.args.packing else len(rows) - len(trainer.train_dataset)
    kept = len(examples) if trainer.args.packing else len(trainer.train_dataset)
    cut = sum(_is_cut_off(labels, tokenizer.eos_token_id) for labels in examples)
    open_ended, number = dropped + _of_all(cut, len(examples), kept), dropped + kept
    limit = trainer.args.max_length
    is_cut = dropped or (limit is not None and max(map(len, examples)) >= limit)
    eos = repr(tokenizer.eos_token)
    template = "the chat template ends an answer with another token, or outside of its generation marks"
    _judge(
        open_ended / number,
        f"{open_ended} of {number} examples do not supervise the EOS {eos} of their last answer: "
        + (f"they are cut off at max_length = {limit}" if is_cut else template),
        stage_dir,
        "raise max_length" if is_cut else f"let the template end the assistant's turns with {eos}, or set eos_token",
    )
    _judge_supervised(examples, stage_dir)
    empty = _unsupervised(trainer.train_dataset) if trainer.args.packing else dropped
    return _recorded(data, empty, f"max_length = {trainer.args.max_length} leaves nothing of an example to learn")


def _unsupervised(packed: Rows) -> int:
    """Return how many examples in packed rows have no token that is learnt."""
    import numpy
    import pyarrow.compute as pc

    found = 0
    for table in packed.with_format("arrow").iter(1000):
        learnt = pc.list_flatten(table["labels"]).to_numpy() != -100
        lengths = pc.list_flatten(table["seq_lengths"]).to_numpy()
        found += int((~numpy.logical_or.reduceat(learnt, numpy.cumsum(lengths) - lengths)).sum())
    return found


def _recorded(data: StageData, lost: int, reason: str) -> StageData:
    """Return the stage's data with the number of examples that `max_length` takes away on its record; say it."""
    if not lost:
        return data
    warn(f"{lost} of the examples to train on teach nothing: {reason}. Raise it, or shorten them")
    return replace(data, info=data.info | {"lost_to_max_length": {reason: lost}})


def _judge_supervised(examples: list[list[int]], stage_dir: Path) -> None:
    """Raise StageFailed where an example supervises no more than its EOS, and an alarm where few tokens are."""
    learnt = sum(label != -100 for labels in examples for label in labels)
    share = learnt / sum(map(len, examples))
    said = f"{learnt} of {sum(map(len, examples))} tokens are learnt ({share:.2%}), in {len(examples)} examples"
    answered = sum(any(label != -100 for label in labels) for labels in examples)  # the others are counted by `inspect`
    if learnt < 2 * max(answered, 1):
        raise StageFailed(
            f"{said}: no answer is, beyond its end. training.log shows an example, the learnt part marked: do the"
            " generation marks of the chat template stand around the answers, and are they the assistant's turns?"
        )
    if share < FEW_TOKENS:
        StageLog(stage_dir).alarm(
            0,
            "few_supervised_tokens",
            f"{said}: nearly all the time goes into prompts. training.log shows an example, the learnt part marked: if"
            " it is not the whole answer, look at the roles and the chat template; otherwise shorten the prompts",
        )


def inspect_pairs(trainer: Any, data: StageData, stage_dir: Path) -> StageData:
    """Check that answers fit into `max_length`, beyond which TRL cuts them off (DPO, KTO) or drops the pair (reward).

    It drops a row of DPO's and KTO's, too, whose prompt alone fills `max_length`. Returns the stage's data with the
    number of those dropped on its record.

    Raises:
        StageFailed: most do not.
    """
    rows, kept, limit = data.train, trainer.train_dataset, trainer.args.max_length
    if limit is None or len(kept) == 0:  # `fit` reports the latter
        return data
    dropped, looked_at, cut = len(rows) - len(kept), _looked_at(kept), 0
    for row in looked_at:
        answer = max(len(row[ids]) for ids in ("chosen_ids", "rejected_ids", "completion_ids") if row.get(ids))
        cut += len(row.get("prompt_ids") or []) + answer > limit
    long = dropped + _of_all(cut, len(looked_at), len(kept))
    named = "pairs" if "chosen" in rows.column_names else "answers"
    _judge(long / len(rows), f"{long} of {len(rows)} {named} are longer than max_length = {limit}", stage_dir)
    is_cut = "prompt_ids" in kept.column_names
    reason = "the prompt alone fills" if is_cut else "an answer with its prompt is longer than"
    return _recorded(data, dropped, f"{reason} max_length = {limit}")


def _looked_at(dataset: Rows) -> Rows:
    """Return at most `INSPECTED` rows from all over a data set: packed ones are in the order of their length."""
    return dataset.select(range(0, len(dataset), math.ceil(len(dataset) / INSPECTED)))


def _of_all(found: int, looked_at: int, number: int) -> int:
    """Return how many of `number` examples are so, of which `looked_at` were looked at and `found` were."""
    return round(found * number / looked_at)


def _judge(share: float, message: str, stage_dir: Path, way: str = "raise max_length") -> None:
    if share > MOST:
        raise StageFailed(f"{message}. Too little would be learnt of how answers end: {way}.")
    if share > MANY:
        StageLog(stage_dir).alarm(0, "cut_off_examples", message)


def _is_cut_off(labels: list[int], eos_token_id: int) -> bool:
    """Return whether no answer ends, or the last token is learnt and no EOS: one may come before a last line break."""
    return eos_token_id not in labels or (labels[-1] != -100 and eos_token_id not in labels[-2:])


def _labels(dataset: Rows) -> Iterator[list[int]]:
    """Yield the labels of single examples, taken out of packed rows."""
    for row in _looked_at(dataset):
        start = 0
        for length in row.get("seq_lengths") or [len(row["labels"])]:
            yield row["labels"][start : start + length]
            start += length


def _show(tokenizer: Any, row: dict[str, Any], stage_dir: Path) -> None:
    """Write an example to training.log as the model sees it; what it learns stands between ⟦ and ⟧."""
    text = marked(tokenizer, row["input_ids"], row["labels"])
    with (stage_dir / "training.log").open("a", encoding="utf-8") as file:
        file.write(entry(f"A training example, what is learnt between ⟦ and ⟧:\n{text}"))


def marked(tokenizer: Any, ids: list[int], labels: list[int]) -> str:
    """Return the text of tokens, what is learnt of it between ⟦ and ⟧.

    Token by token, many tokenizers would lose the spaces: a part is what its tokens add to the text before it.
    """
    parts, end, before = [], 0, ""
    for learnt, some in groupby(labels, lambda label: label != -100):
        end += len(list(some))
        whole = str(tokenizer.decode(ids[:end]))
        part, before = whole[len(before) :], whole
        parts.append(f"⟦{part}⟧" if learnt else part)
    return "".join(parts)
