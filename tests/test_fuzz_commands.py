"""Random words to the command lines, and damaged documents for pretraining: served, or refused in one message."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat
import evaluation.__main__
import evaluation.evaluate_checkpoint
import pretrain
import pretrain.__main__
from tests.test_fuzz import NUMBERS, Ends, _ends, _nothing_in_the_tree, bounded, damaged_bytes  # noqa: F401
from tests.test_malformed import COUNT, base, csv, in_tmp, parquet  # noqa: F401


def words(*known: str) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(known), st.sampled_from(EDGES), st.text(max_size=4))


EDGES = (
    "-", "--", "", ",", ".", "..", "~nobody-here/a", "latest", "1", "0", "-1", "nan", "inf", "1e400", "9" * 5000,
    "\ud83d", "\0", "a\nb", "=", "--help", "--x", "base", "base/x", "rows.jsonl", "mine.py", "a" * 5000,
)  # fmt: skip
"""Words that mean something to some flag."""


@st.composite
def command_lines(
    draw: st.DrawFn, sound: Sequence[str], options: Sequence[str], known: st.SearchStrategy[str]
) -> list[str]:
    """The words of a sound command line with options, where # is a number; up to two are exchanged."""
    chosen = draw(st.lists(st.sampled_from(options), max_size=3, unique=True))
    line = " ".join([draw(st.sampled_from(sound)), *chosen])
    argv = [word.replace("#", str(draw(st.integers(1, 999)))) if "#" in word else word for word in line.split()]
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        start = draw(st.integers(0, len(argv)))
        how = draw(st.sampled_from(("put in", "exchange", "take out")))
        argv[start : start + (how != "put in")] = [] if how == "take out" else [draw(known)]
    return argv


LINES = ("--recipe mine.py", "--recipe mine.py --stages sft", "--recipe mine.py --stages sft,dpo")
OPTIONS = (
    "--seed #", "--check-data", "--memory-budget #GiB", "--max-hours #", "--runs-dir made#", "--set sft.seed=#",
    "--set sft.max_steps=#",
)  # fmt: skip
WORDS = words(
    "--stages", "--from", "--set", "--seed", "--check-data", "--download", "--force", "--list", "--memory-budget",
    "--max-hours", "--runs-dir", "--resume", "--recipe", "sft", "sft,dpo", "6GiB", "1e400GiB", "--plan=1", "--seed=",
    "--stages=", "--runs-dir=", "--runs-dir=rows.jsonl", "--recipe=", "--recipe=base", "--recipe=rows.jsonl",
    "--resume=..", "--from=.", "--runs-dir=\0", "--recipe=\0", "--resume=\0", "--set=", "--set=.", "--set==",
    "sft.seed=1",
)  # fmt: skip


@bounded
@given(words=command_lines(LINES, OPTIONS, WORDS))
def test_words_on_the_command_line_are_planned_or_refused(words: list[str], ends: Ends) -> None:
    ends(*words, "--plan")


@pytest.fixture
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining ends where its data are read, evaluation and chat where a model would be loaded."""
    Path("text.txt").write_bytes(documents())
    monkeypatch.setattr(pretrain.__main__, "train", lambda config, out: pretrain.prepare(config))
    monkeypatch.setattr(evaluation.evaluate_checkpoint, "results_of", lambda found, tasks: [])
    monkeypatch.setattr(chat, "load", lambda checkpoint, mode, system: None)
    monkeypatch.setattr(chat, "converse", lambda speakers, args: None)


def documents(end: str = "\n\n") -> bytes:
    """Return enough documents for some to be held out by their hash."""
    return end.join(f"text {n}\nof two lines" for n in range(3 * COUNT)).encode()


COMMANDS: dict[ModuleType, tuple[Sequence[str], Sequence[str], st.SearchStrategy[str]]] = {
    pretrain.__main__: (
        ("--data text.txt", "--data text.txt:0.#,sft.jsonl:0.#"),
        ("--preset tiny", "--max-steps #", "--data-fraction 0.9#", "--out made#",
         "--set seed=#", "--set weight_decay=0.#"),
        words(
            "--preset", "--data", "--out", "--max-steps", "--data-fraction", "--set", "--resume", "text.txt",
            "sft.jsonl",
            "text.txt:0.5", "text.txt:nan,sft.jsonl:1", ":", ":1", "made:conversations", "made:x", "text.txt:1e400",
            "seed=1", "gates=[1]", "max_samples=0", "document_separator=", "tokenizer_name=base", "tokenizer_name=\0",
            "dataset_revision=x", "mixed_precision=fp16", "eval_samples=9", "num_hidden_layers=0", "--out=\0",
            "--out=base",
        ),
    ),
    evaluation.__main__: (
        ("run base --tasks skills", "report latest", "compare a b", "contamination latest"),
        ("--limit #", "--max-new-tokens #", "--against base", "--runs-dir made#"),
        words(
            "run", "compare", "contamination", "report", "--tasks", "--against", "--limit", "--max-new-tokens",
            "--include-path", "--mode", "chat", "text", "--runs-dir", "--ngram", "--html", "skills", "skills,skills",
            "skills@x", "pairs", "lm-eval:", "lm-eval:x", "sft.jsonl", "dpo.jsonl", "text.txt", "--runs-dir=\0",
            "--include-path=\0", "--out=\0", "--out=", "--out=base", "--out=base/x/y", "--html=", "--html=\0",
        ),
    ),
    chat: (
        ("", "base", "base --prompt a#", "base base --prompt a", "base --mode text"),
        ("--system a#", "--max-tokens #", "--temperature 0.#", "--top-p 0.#", "--seed #", "--runs-dir made#"),
        words(
            "--prompt", "--system", "--mode", "chat", "text", "--max-tokens", "--temperature", "--top-p", "--seed",
            "--runs-dir", "--prompt=", "--system=", "--runs-dir=\0", "--runs-dir=rows.jsonl", "--temperature=1e-9",
        ),
    ),
}  # fmt: skip


@bounded
@given(data=st.data())
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.partition(".")[0])
@pytest.mark.usefixtures("nothing_is_trained")
def test_words_to_another_command_are_served_or_refused(command: ModuleType, data: st.DataObject, ends: Ends) -> None:
    ends(*data.draw(command_lines(*COMMANDS[command])), of=command)


TEXTS_OF_DOCUMENTS: dict[str, Callable[[], bytes]] = {
    ".txt": documents,
    ".jsonl": lambda: b"\n".join(json.dumps({"text": f"text {n}"}).encode() for n in range(3 * COUNT)),
    ".csv": lambda: csv("text", *(f"text {n}" for n in range(3 * COUNT))),
    ".parquet": lambda: parquet(text=[f"text {n}" for n in range(3 * COUNT)]),
}


@bounded
@given(data=st.data(), suffix=st.sampled_from(sorted(TEXTS_OF_DOCUMENTS)), separator=st.sampled_from(("", "xt", "\n")))
@pytest.mark.usefixtures("nothing_is_trained")
def test_damaged_documents_are_read_or_refused(data: st.DataObject, suffix: str, separator: str, ends: Ends) -> None:
    file = Path(f"fuzz-{next(NUMBERS)}{suffix}")
    file.write_bytes(data.draw(damaged_bytes(TEXTS_OF_DOCUMENTS[suffix]())))
    try:
        argv = ["--set", f"document_separator={separator}"] if separator else []
        ends("--data", str(file), *argv, of=pretrain.__main__)
    finally:
        file.unlink()
