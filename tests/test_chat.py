"""Talking to a model: what it is shown, what it is stopped by, what is printed, and what is refused."""

import argparse
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import chat
from chat import fitting, main
from data.chat import CHAT_TEMPLATE, encode
from data.layouts import to_layout
from data.local_files import from_rows
from records.catalogue import find_checkpoint
from records.run_directory import RunInfo
from utils.files import write_json
from utils.text import plain

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "How many apples are there now?"
SENTENCE = "Dan hid the red apples."
"""Which the parrot says. None of its tokens occurs twice."""


@pytest.fixture(scope="session")
def world_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The made world's tokenizer, with the project's chat template."""
    from data.made import rows
    from pretrain.tokenizer import train_tokenizer

    documents = [row["text"] for row in rows("documents", "train", 300)]
    tokenizer = train_tokenizer(documents, 512, tmp_path_factory.mktemp("tokenizer"))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save(directory: Path, tokenizer: Any, **shape: Any) -> Any:
    """Save a random model as pretraining makes it, and return it."""
    from pretrain.model import random_model
    from pretrain.pretrain_config import PretrainConfig

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1} | shape
    config = PretrainConfig(output_dir="", dataset_name="", **sizes)
    model = random_model(config, tokenizer, "cpu")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model


def save_random(directory: Path, tokenizer: Any) -> None:
    """Save a random model whose likeliest token is never one of the bytes, which make no characters at random."""
    import torch

    model = save(directory, tokenizer)
    with torch.no_grad():
        model.lm_head.weight[[id_ for piece, id_ in tokenizer.get_vocab().items() if piece.startswith("<0x")]] = 0.0
    model.save_pretrained(directory)


def teach(directory: Path, tokenizer: Any, ids: list[int], **shape: Any) -> None:
    """Save a model that always says `ids`: each token is followed by the next of them, any other by the first."""
    import torch

    model = save(directory, tokenizer, hidden_size=len(tokenizer), **shape)  # whose layers add nothing
    assert len(set(ids)) == len(ids), "a token that occurs twice cannot tell what follows it"
    following = torch.full((len(tokenizer),), ids[0])
    following[ids[:-1]] = torch.tensor(ids[1:])
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer)))
        model.lm_head.weight.zero_()[following, torch.arange(len(tokenizer))] = 10.0
    model.save_pretrained(directory)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, world_tokenizer: Any) -> Path:
    """A directory of models: `random`; `parrot` and `other`, which say a sentence each; `endless`; `judge`; `base`."""
    from transformers import AutoModelForSequenceClassification

    directory = tmp_path_factory.mktemp("models")
    save_random(directory / "random", world_tokenizer)
    end = world_tokenizer.eos_token_id
    for name, text in (("parrot", SENTENCE), ("other", "Ada sold nuts.")):
        teach(directory / name, world_tokenizer, [*world_tokenizer(text)["input_ids"], end])
    teach(
        directory / "endless",
        world_tokenizer,
        world_tokenizer("0123456789")["input_ids"],
        max_position_embeddings=1_000_000,
    )
    AutoModelForSequenceClassification.from_pretrained(directory / "random", num_labels=1).save_pretrained(
        directory / "judge"
    )
    save(directory / "base", world_tokenizer)
    write_json(directory / "base/stage_info.json", {"name": "pretrain", "status": "passed"})
    return directory


@pytest.fixture(autouse=True)
def in_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test stands in the directory of models."""
    monkeypatch.chdir(models)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that serves a command line with these lines of stdin, and returns stdout."""

    def serve(*argv: str, lines: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code = main(argv)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        assert "\x1b" not in printed.out + printed.err
        return printed.out

    return serve


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What models are asked, instead of asking them; each answers "yes <number>"."""
    from batching import stream
    from batching.complete import Completion

    asked: list[dict[str, Any]] = []

    def answer(model: Any, tokenizer: Any, prompt: list[int], write: Any, **options: Any) -> Completion:
        asked.append({"model": model, "text": tokenizer.decode(prompt), "ids": prompt} | options)
        text = f"yes {len(asked)}"
        write(text)
        return Completion(text, [0], True)

    monkeypatch.setattr(stream, "stream", answer)
    return asked


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one message of a command line that is refused."""
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out == ""
    return printed.err


def test_greedy_is_the_likeliest_text_of_the_model(said: Callable[..., str], world_tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = encode(world_tokenizer, [{"role": "user", "content": QUESTION}])
    model = AutoModelForCausalLM.from_pretrained("random")
    output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=30)
    expected = world_tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
    argv = ("random", "--prompt", QUESTION, "--temperature", "0", "--max-tokens", "30")
    assert said(*argv) == said(*argv) == plain(expected) + "\n"


def test_an_answer_stops_where_the_model_ends_its_turn(said: Callable[..., str]) -> None:
    assert said("parrot", "--prompt", QUESTION) == SENTENCE + "\n"


def test_an_answer_stops_at_any_eos_of_the_generation_config(
    said: Callable[..., str], world_tokenizer: Any, tmp_path: Path
) -> None:
    words = world_tokenizer(SENTENCE)["input_ids"]
    teach(tmp_path / "model", world_tokenizer, words)
    write_json(tmp_path / "model/generation_config.json", {"eos_token_id": [0, words[3]]})
    assert said(str(tmp_path / "model"), "--prompt", QUESTION) == world_tokenizer.decode(words[:4]) + "\n"


def test_one_seed_samples_one_answer_and_no_seed_others(said: Callable[..., str]) -> None:
    argv = ("random", "--prompt", QUESTION, "--max-tokens", "20", "--temperature", "2", "--top-p", "1")
    assert said(*argv, "--seed", "3") == said(*argv, "--seed", "3") != said(*argv, "--seed", "4")
    assert said(*argv) != said(*argv)


def test_flags_reach_the_sampling(said: Callable[..., str], shown: list[dict[str, Any]]) -> None:
    said("random", "--prompt", "x", "--temperature", "0.5", "--top-p", "0.7", "--max-tokens", "9", "--seed", "4")
    said("random", "--prompt", "x")
    options = [{name: one[name] for name in ("temperature", "top_p", "max_new_tokens")} for one in shown]
    assert options == [
        {"temperature": 0.5, "top_p": 0.7, "max_new_tokens": 9},
        {"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 200},
    ]
    assert shown[0]["seed"] == 4


def test_the_conversation_reaches_the_model_through_its_template_until_it_is_cleared(
    said: Callable[..., str], shown: list[dict[str, Any]], world_tokenizer: Any
) -> None:
    lines = f"{QUESTION}\r\n\n  And pears? \n/clear\nquit it\n/exit\nno\n"
    printed = said("random", "--conversation", "--system", "Be kind.", lines=lines)
    assert printed == "yes 1\nyes 2\nyes 3\n"
    system, first = {"role": "system", "content": "Be kind."}, {"role": "user", "content": QUESTION}
    answer, second = {"role": "assistant", "content": "yes 1"}, {"role": "user", "content": "And pears?"}
    assert [one["ids"] for one in shown] == [
        encode(world_tokenizer, [system, first]),
        encode(world_tokenizer, [system, first, answer, second]),
        encode(world_tokenizer, [system, {"role": "user", "content": "quit it"}]),
    ]
    assert shown[0]["seed"] != shown[1]["seed"]


def test_a_prompt_that_is_a_command_is_answered(said: Callable[..., str], shown: list[dict[str, Any]]) -> None:
    assert said("random", "--prompt", "/clear") == "yes 1\n"
    assert said("random", lines="help\nclear\n/etc/hosts is what?\n/exit\n") == "yes 2\nyes 3\nyes 4\n"


ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASKED: dict[str, Any] = {
    "turns": 1,
    "ways": [
        {"system": "Be brief.", "tools": None, "share": 0.7, "questions": ["How many?"]},
        {"system": None, "tools": [ADD], "share": 0.3, "questions": ["Add 3 and 4."]},
    ],
}


@pytest.fixture
def trained(models: Path, tmp_path: Path) -> str:
    """A model whose stage records how it was asked."""
    shutil.copytree(models / "parrot", tmp_path / "trained")
    write_json(tmp_path / "trained/stage_info.json", {"name": "sft", "status": "passed", "chat": ASKED})
    return str(tmp_path / "trained")


def test_a_model_is_asked_as_it_was_while_it_was_trained(
    trained: str, said: Callable[..., str], shown: list[dict[str, Any]]
) -> None:
    said(trained, lines="One?\nTwo?\n/system 2\nThree?\n/system Be kind.\nFour?\n")
    said(trained, "--system", "", "--conversation", lines="One?\nTwo?\n")
    texts = [one["text"] for one in shown]
    assert ["Be brief." in text for text in texts] == [True, True, False, False, False, False]
    assert ['"name": "add"' in text for text in texts] == [False, False, True, False, False, False]
    assert ["Be kind." in text for text in texts] == [False, False, False, True, False, False]
    assert ["One?" in text for text in texts] == [True, False, False, False, True, True]


def test_a_system_turn_of_few_rows_is_no_default(
    trained: str, said: Callable[..., str], shown: list[dict[str, Any]]
) -> None:
    few = {"turns": 3, "ways": [{**ASKED["ways"][0], "share": 0.001}]}
    write_json(Path(trained) / "stage_info.json", {"name": "sft", "status": "passed", "chat": few})
    said(trained, lines="One?\n")
    assert "Be brief." not in shown[0]["text"]


def test_at_a_terminal_a_model_is_introduced(
    trained: str, said: Callable[..., str], shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    speaker = chat.load(find_checkpoint(trained, Path("runs")), None, None)
    speaker.forgets = True
    chat.introduce([speaker])
    printed = capsys.readouterr().out
    assert "is asked after the system turn 'Be brief.'" in printed
    assert "  How many?\n  Add 3 and 4.   (after /system 2)\n" in printed
    speaker.ask_under("2")
    chat.introduce([speaker])
    assert "  How many?   (after /system 1)\n  Add 3 and 4.\n" in capsys.readouterr().out
    assert "trained on single questions" in printed


def test_what_was_said_is_kept_as_data(
    trained: str, said: Callable[..., str], shown: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said(trained, "--conversation", lines="One?\nTwo?\n/thumb up\n/clear\nThree?\n/thumb down\n/save said.jsonl\n")
    rows = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [[turn["content"] for turn in row["messages"]] for row in rows] == [
        ["Be brief.", "One?", "yes 1", "Two?", "yes 2"], ["Be brief.", "Three?", "yes 3"],
    ]  # fmt: skip
    thumbs = [json.loads(line) for line in (tmp_path / "thumbs.jsonl").read_text().splitlines()]
    assert [(row["label"], row["completion"][0]["content"]) for row in thumbs] == [(True, "yes 2"), (False, "yes 3")]
    assert to_layout(from_rows(thumbs, "thumbs"), "kto").num_rows == 2
    said(trained, lines="Four?\n/save said.jsonl\n")
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 3, "a file that is there grows"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/save", "needs the name of a file"),
        ("/save a.txt", "is no .jsonl file"),
        ("/save none/a.jsonl", "cannot be written: No such file or directory"),
        ("/thumb sideways", "/thumb up, or /thumb down"),
        ("/hlep", "there is no command /hlep, did you mean '/help'? Nothing was asked."),
        ("/system Be a pirate.", "is asked after the system turn 'Be a pirate.'"),
    ],
)
def test_a_command_that_cannot_be_done_is_told(
    line: str, told: str, said: Callable[..., str], shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO(f"One?\n{line}\nTwo?\n"))
    assert main(["random"]) == 0
    printed = capsys.readouterr()
    assert told in " ".join(printed.err.split())
    assert printed.out == "yes 1\nyes 2\n"


def test_a_base_continues_each_text_for_itself_unless_a_chat_is_asked_for(
    said: Callable[..., str], shown: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    said("base", lines="One rainy \nmorning\n")
    said("base", "--mode", "chat", "--prompt", "hello")
    said("random", "--mode", "text", "--prompt", "hello")
    assert [one["text"] for one in shown] == [
        "One rainy ",
        "morning",
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        "hello",
    ]


def test_two_checkpoints_answer_one_prompt_under_their_names(said: Callable[..., str]) -> None:
    lines = f"{QUESTION}\nAnd now?\n"
    expected = f"parrot\n{SENTENCE}\nother\nAda sold nuts.\n"
    assert said("parrot", "other", lines=lines) == 2 * expected
    assert said("parrot", "--prompt", QUESTION, "other") == expected


def test_two_checkpoints_answer_with_one_seed_and_each_from_its_own_history(
    said: Callable[..., str], shown: list[dict[str, Any]]
) -> None:
    said("random", "parrot", "--conversation", lines="hello\nand?\n")
    seeds = [one["seed"] for one in shown]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert shown[0]["model"] is shown[2]["model"] is not shown[1]["model"]
    assert ["yes 1" in one["text"] for one in shown] == [False, False, True, False]
    assert ["yes 2" in one["text"] for one in shown] == [False, False, False, True]


def test_stdout_holds_the_answers_and_stderr_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parrot", "--prompt", QUESTION, "--max-tokens", "3"]) == 0
    printed = capsys.readouterr()
    assert SENTENCE.startswith(printed.out.strip())
    said = printed.err.splitlines()
    assert said[0] == "loading parrot"
    assert re.match(r"parrot: \d,\d{3},\d{3} parameters, float32 on cpu, [\d.]+ s", said[1])
    assert said[1].endswith("; chat")
    assert said[2:] == ["(cut off by --max-tokens 3)"]


def test_in_a_pipe_stdout_is_the_answer_and_the_libraries_are_told_of_on_stderr() -> None:
    argv = [sys.executable, str(ROOT / "chat.py"), "parrot", "--prompt", QUESTION]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == SENTENCE + "\n"
    assert done.stderr.startswith("loading parrot\nloading libraries\n")


def test_warnings_of_the_libraries_leave_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from utils.console import console, warn

    def serve(_: argparse.Namespace) -> int:
        chat.write("answer")
        warn("disk is full")
        return 0

    monkeypatch.setattr(chat, "serve", serve)
    assert main(["random"]) == 0
    assert capsys.readouterr() == ("answer", "warning: disk is full\n")
    console().print("afterwards")
    assert capsys.readouterr() == ("afterwards\n", "")


def test_a_call_of_a_tool_is_shown_as_it_is_written(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batching import stream
    from batching.complete import Completion
    from recipes.arithmetic.tools import call

    def answer(*arguments: Any, **_: Any) -> Completion:
        arguments[3](call("348*27"))
        return Completion(call("348*27"), [0], True)

    monkeypatch.setattr(stream, "stream", answer)
    assert main(["random", "--prompt", "What is 348 times 27?"]) == 0
    printed = capsys.readouterr()
    assert printed.out == call("348*27") + "\n"
    assert "9396" not in printed.err


def test_control_characters_are_not_printed_and_tabs_and_markup_are(capsys: pytest.CaptureFixture[str]) -> None:
    chat.write("a\tb [bold]\x1b[2J:smile: \r\x07")
    chat.write("\n\n  " + "long " * 40)
    assert capsys.readouterr().out == "a\tb [bold]\ufffd[2J:smile: \ufffd\ufffd\n\n  " + "long " * 40


@pytest.mark.parametrize(
    ("limit", "room", "kept"),
    [
        (100, 10, 5),  # 50 + 10 fit
        (59, 10, 3),  # 50 + 10 do not; 30 + 10 do
        (39, 10, 1),
        (12, 10, 1),  # the last question is kept, though only 2 tokens are left for the answer
        (100, 1000, 5),  # at most half of the context is kept open: 50 + 50
        (99, 1000, 5),  # 50 + 49
        (98, 1000, 3),
        (60, 1000, 3),  # 30 + 30
        (59, 1000, 3),  # 30 + 29
        (58, 1000, 1),
    ],
)
def test_the_oldest_turns_are_dropped_until_the_answer_has_room(limit: int, room: int, kept: int) -> None:
    turns: list[Any] = [
        {"role": "user" if number % 2 == 0 else "assistant", "content": "x" * 10} for number in range(5)
    ]
    found = fitting(turns, lambda some: sum(len(turn["content"]) for turn in some), limit, room)
    assert found == turns[5 - kept :]


def test_a_full_context_drops_the_oldest_turns_and_says_so(
    world_tokenizer: Any, tmp_path: Path, shown: list[dict[str, Any]], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    length = len(encode(world_tokenizer, [{"role": "user", "content": QUESTION}]))
    save(tmp_path / "short", world_tokenizer, max_position_embeddings=2 * length)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n" * 3))
    assert main([str(tmp_path / "short"), "--conversation", "--max-tokens", "4"]) == 0
    assert [one["text"].count(QUESTION) for one in shown] == [1, 1, 1]
    dropped = f"(the context of {2 * length} tokens is full: the oldest 2 turns are dropped)"
    assert capsys.readouterr().err.count(dropped) == 2


def test_an_answer_ends_where_the_context_does(
    world_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    length = len(encode(world_tokenizer, QUESTION))
    teach(tmp_path / "short", world_tokenizer, [9, 10, 11], max_position_embeddings=length + 2)
    assert main([str(tmp_path / "short"), "--mode", "text", "--prompt", QUESTION]) == 0
    printed = capsys.readouterr()
    assert printed.out == world_tokenizer.decode([9, 10]) + "\n"
    assert f"(cut off by its context of {length + 2} tokens)" in printed.err


def test_from_python_an_answer_that_is_cut_off_says_by_what(
    world_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    length = len(encode(world_tokenizer, [{"role": "user", "content": QUESTION}]))
    teach(tmp_path / "short", world_tokenizer, [9, 10, 11], max_position_embeddings=length + 2)
    assert chat.open_model("parrot").ask(QUESTION) == SENTENCE
    assert "cut off" not in capsys.readouterr().out
    assert chat.open_model("parrot").ask(QUESTION, max_tokens=3) in SENTENCE
    said = capsys.readouterr().out
    assert "warning: the answer was cut off by max_tokens=3\n" in said
    assert said.count("cut off") == 1
    chat.open_model(str(tmp_path / "short")).ask(QUESTION)
    assert f"warning: the answer was cut off by its context of {length + 2} tokens\n" in capsys.readouterr().out


def test_from_python_a_model_answers_in_any_thread() -> None:
    speaker = chat.open_model("parrot")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(speaker.ask, QUESTION).result() == SENTENCE


def test_a_prompt_longer_than_the_context_is_refused_with_its_length(
    capsys: pytest.CaptureFixture[str], world_tokenizer: Any
) -> None:
    prompt = "apples " * 600
    length = len(world_tokenizer(prompt)["input_ids"])
    message = refused(capsys, "base", "--prompt", prompt)
    assert message.endswith(f"this prompt takes {length} tokens and the model's context is 512: shorten it\n")


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        (["a", "b", "c"], ["one or two checkpoints can answer; given: 3"]),
        (["random", "--temperature", "-1", "--max-tokens", "0", "--top-p", "0"], ["-1.0", "1; given: 0", "given: 0.0"]),
        (["random", "--temperature", "nan"], ["--temperature must be 0, or at least 0.001; given: nan"]),
        (["random", "--temperature", "1e-30"], ["--temperature must be 0, or at least 0.001; given: 1e-30"]),
        (["random", "--top-p", "1.5"], ["--top-p must be above 0 and at most 1; given: 1.5"]),
        (["random", "--max-tokens", "many"], ["invalid int value: 'many'"]),
        (["random", "--seed", "-1"], ["--seed must be 0 or more"]),
        (["random", "--mode", "talk"], ["invalid choice: 'talk'"]),
        (["random", "--promt", "x"], ["unrecognized arguments: --promt x, did you mean '--prompt'? All flags: "]),
        (["random", "--prompt", " "], ["--prompt is empty"]),
        (["random", "--prompt", "\udcff"], ["--prompt and --system must be UTF-8"]),
        (["--prompt", "x"], ["--prompt needs a checkpoint"]),
        ([""], ["a checkpoint's name is empty"]),
        (["base", "--system", "x"], ["base continues text: leave it out, or add --mode chat"]),
        (["judge"], ["judge is a reward model: it scores answers and writes none"]),
        (["nowhere"], ["'nowhere' is no run in runs and no directory"]),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_message(
    argv: list[str], messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *argv)
    assert not [message for message in messages if message not in said], said


@pytest.fixture
def changed(models: Path, tmp_path: Path) -> Path:
    """A copy of a model that a test may break."""
    import shutil

    return Path(shutil.copytree(models / "random", tmp_path / "changed"))


def test_a_model_without_a_template_continues_text_and_does_not_chat(
    changed: Path, capsys: pytest.CaptureFixture[str], said: Callable[..., str], shown: list[dict[str, Any]]
) -> None:
    (changed / "chat_template.jinja").unlink()
    said(str(changed), "--prompt", "hello")
    assert shown[0]["text"] == "hello"
    assert main([str(changed), "--mode", "chat", "--prompt", "hello"]) == 2
    assert "has no chat template: without --mode chat it continues text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1].content }}", "leaves a system turn out"),
        ("{{ raise_exception('no system') if messages[0].role == 'system' }}", "does not take this chat: no system"),
    ],
)
def test_a_template_without_a_place_for_a_system_turn_is_refused_one(
    template: str, message: str, changed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (changed / "chat_template.jinja").write_text(template)
    assert main([str(changed), "--system", "Be kind.", "--prompt", "hello"]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_whole_is_refused(changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    weights = changed / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}, weights, {"format": "pt"})
    assert main([str(changed), "--prompt", "hello"]) == 2
    assert "lacks lm_head.weight" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes()[:-10])
    assert main([str(changed), "--prompt", "hello"]) == 2
    assert "is it whole?" in capsys.readouterr().err
    (changed / "config.json").write_text('{"model_type": "unheard of"}')
    save_file(tensors, weights, {"format": "pt"})
    assert main([str(changed), "--prompt", "hello"]) == 2
    assert "cannot be loaded by transformers" in capsys.readouterr().err


def test_a_checkpoint_of_pretraining_answers_with_its_own_weights(
    changed: Path, world_tokenizer: Any, said: Callable[..., str]
) -> None:
    for directory, text in ((changed, "Ada sold nuts."), (changed / "checkpoint-2", SENTENCE)):
        teach(directory, world_tokenizer, [*world_tokenizer(text)["input_ids"], world_tokenizer.eos_token_id])
    assert said(str(changed / "checkpoint-2"), "--prompt", "x") == SENTENCE + "\n"


def test_input_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    assert main(["parrot"]) == 2
    assert "the prompts are not UTF-8" in capsys.readouterr().err


def test_without_a_checkpoint_what_there_is_is_listed(
    said: Callable[..., str], tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "runs/20260101_000000_aaaa"
    run_dir.mkdir(parents=True)
    (run_dir / "sft").symlink_to(models / "parrot")
    RunInfo(run_dir).set(status="passed", stages=[{"name": "sft", "output_dir": "sft", "status": "passed"}])
    listed = said("--runs-dir", str(tmp_path / "runs"))
    assert "20260101_000000_aaaa\n    sft       sft               chat\n" in listed
    assert listed in refused(capsys, "latst", "--runs-dir", str(tmp_path / "runs"))
    assert said("latest", "--prompt", "x", "--runs-dir", str(tmp_path / "runs")) == SENTENCE + "\n"


@pytest.mark.parametrize(("recorded", "told"), [("failed", "failed"), ("running", "interrupted")])
def test_a_stage_that_has_not_passed_says_so(
    recorded: str, told: str, changed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is recorded as running, and that no process runs, was killed."""
    write_json(changed / "stage_info.json", {"name": "sft", "status": recorded})
    assert main([str(changed), "--prompt", "x", "--max-tokens", "1"]) == 0
    assert f"its stage has not passed: {told}\n" in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_refused(changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in changed.glob("tokenizer*"):
        file.unlink()
    message = refused(capsys, str(changed), "--prompt", "hello")
    assert f"{changed} has no tokenizer: it needs tokenizer.json beside its weights\n" in message


def test_weights_behind_a_link_to_nothing_are_refused(changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = changed / "model.safetensors"
    weights.unlink()
    weights.symlink_to("gone.safetensors")
    assert f"{weights} cannot be read: No such file" in refused(capsys, str(changed), "--prompt", "hello")


FULL = "the GPU is full: is a run training on it? On the CPU: CUDA_VISIBLE_DEVICES= "


@pytest.mark.parametrize("of", ["to", "forward"])
def test_a_full_gpu_is_one_message_that_names_the_way_around_it(
    of: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Qwen3ForCausalLM, of, full)
    message = refused(capsys, "random", "--prompt", "hello").splitlines()[-1]
    assert message.startswith(FULL)
    assert message.endswith(" …")


def test_another_error_than_a_full_gpu_is_not_called_one() -> None:
    with pytest.raises(RuntimeError, match="device-side assert"), chat.refused_by_a_full_gpu():
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_ctrl_c_means_what_it_did_after_an_answer() -> None:
    before = signal.getsignal(signal.SIGINT)
    with chat.interruptible() as event:
        assert not event.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert event.wait(5)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_question_stopped_before_any_answer_is_taken_back(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from batching import stream
    from batching.complete import Completion

    texts = iter(["", "begun"])

    def answer(*_: Any, interrupted: Any, **__: Any) -> Completion:
        interrupted.set()
        return Completion(next(texts), [5], False)

    monkeypatch.setattr(stream, "stream", answer)
    speaker = chat.load(find_checkpoint("random", Path("runs")), None, None)
    args = argparse.Namespace(max_tokens=5, temperature=1.0, top_p=1.0)
    assert chat.take_turn(speaker, "one", args, 0, named=False) == chat.STOPPED
    assert speaker.turns == []
    assert chat.take_turn(speaker, "two", args, 0, named=False) == chat.STOPPED
    assert [turn["content"] for turn in speaker.turns] == ["two", "begun"]
    assert speaker.said == [], "half an answer is nothing to train on"


def test_ctrl_c_at_the_answer_to_a_prompt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from batching import stream
    from batching.complete import Completion

    def answer(*_: Any, interrupted: Any, **__: Any) -> Completion:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(5)
        return Completion("begun", [5], False)

    monkeypatch.setattr(stream, "stream", answer)
    assert main(["random", "--prompt", "hello"]) == 130


class Session:
    """chat.py in a process of its own."""

    def __init__(self, *argv: str, terminal: bool) -> None:
        ours, theirs = pty.openpty() if terminal else (None, subprocess.PIPE)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "chat.py"), *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if terminal else subprocess.DEVNULL,
            env=os.environ | {"TERM": "dumb", "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run under nohup
        )
        if ours is None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.reads, self.writes = self.process.stdout.fileno(), self.process.stdin.fileno()
        else:
            os.close(theirs)
            self.reads = self.writes = ours
        self.seen = ""

    def type(self, text: str) -> None:
        """Write to its stdin."""
        os.write(self.writes, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def interrupt_until(self, happens: Callable[[float], object]) -> None:
        """Press Ctrl-C, and once more if nothing happens: one just before readline waits is seen with the next."""
        self.interrupt()
        try:
            happens(20.0)
        except (AssertionError, subprocess.TimeoutExpired):
            self.interrupt()
            happens(120.0)

    def until(self, text: str, limit_s: float = 120.0) -> str:
        """Return what is printed up to `text`, from where the last call ended."""
        deadline = time.monotonic() + limit_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.reads], [], [], 0.2)[0]:
                read = os.read(self.reads, 4096)
                assert read, self.seen
                self.seen += read.decode()
        found, _, self.seen = self.seen.partition(text)
        return found


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    """Return a function that starts a session, which is ended with the test."""
    begun: list[Session] = []

    def start(*argv: str, terminal: bool) -> Session:
        begun.append(Session(*argv, terminal=terminal))
        return begun[-1]

    yield start
    for one in begun:
        one.process.kill()
        one.process.wait()


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_stops_an_answer_drops_a_line_and_ends_at_an_empty_prompt(
    session: Callable[..., Session],
) -> None:
    talk = session("endless", "--max-tokens", "900000", terminal=True)
    talk.until("> ")
    for _ in range(2):
        talk.type("hello\n")
        talk.until("01234567890123")
        talk.interrupt()
        talk.until("(stopped)")
        talk.until("> ")
    talk.type("begun")
    talk.until("begun")
    talk.interrupt_until(partial(talk.until, "> "))
    talk.type("/clear\n")
    talk.until("> ")
    talk.interrupt_until(talk.process.wait)
    assert talk.process.returncode == 0


@pytest.mark.slow
def test_in_a_pipe_ctrl_c_stops_an_answer_and_the_next_line_is_answered(session: Callable[..., Session]) -> None:
    talk = session("endless", "--max-tokens", "900000", terminal=False)
    for _ in range(2):
        talk.type("hello\n")
        talk.until("01234567890123")
        talk.interrupt()
        talk.until("\n")
    talk.type("/exit\n")
    assert talk.process.wait(20) == 0


@pytest.mark.shared
@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "minimind"])
def test_models_with_published_tokenizers_chat_in_their_own_template(
    name: str, shared: Path, tmp_path: Path, said: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The model says a sentence and ends its turn, with the token that the template ends one with."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(shared / "fixtures/tokenizers" / name)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    words = [*tokenizer("Name \U0001f389 two", add_special_tokens=False)["input_ids"], end]
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=4096, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():  # the i-th word is told by the i-th dimension, any other token by the last
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()[:, -1] = 1.0
        model.lm_head.weight.zero_()[words[0], -1] = 10.0
        for place, (word, following) in enumerate(pairwise(words)):
            model.model.embed_tokens.weight[word] = torch.eye(16)[place]
            model.lm_head.weight[following, place] = 10.0
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    printed = said(str(tmp_path / "model"), "--temperature", "0", lines="hello\nagain\n")
    assert printed == "Name \U0001f389 two\n" * 2


@pytest.mark.shared
def test_a_published_model_without_a_template_continues_a_story(shared: Path, said: Callable[..., str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = shared / "fixtures/models/stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        output = model.generate(ids, do_sample=False, max_new_tokens=60)
    story = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    argv = ("--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "60")
    assert said(str(directory), *argv) == story + "\n"
    assert len(story.split()) > 20


def test_a_reader_that_has_enough_ends_the_answer() -> None:
    command = [sys.executable, str(ROOT / "chat.py"), "random", "--prompt", QUESTION, "--max-tokens", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(3)
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_bytes_that_are_no_text_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("caf\udce9\n"))  # as some locales decode them
    assert "this prompt is not UTF-8" in refused(capsys, "random")


def test_a_token_that_the_model_has_no_embedding_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("random")
    tokenizer.add_tokens(["<step>"])
    shutil.copytree("random", "unresized")
    tokenizer.save_pretrained("unresized")
    assert "none for '<step>'" in refused(capsys, "unresized", "--prompt", "go <step>")
