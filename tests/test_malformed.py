"""Malformed data, recipes and command lines: each ends with one message that names it. Unusual, valid ones do not."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import run_all
from data.sources import load
from run_all import main

Row = dict[str, Any]

RECIPE = '''"""One stage of each kind that is trained on rows."""

from algorithms import GRPOExtraConfig, TrainingConfig

configs = {
    kind: TrainingConfig(model_name="base", output_dir=kind, dataset_name="rows.jsonl", eval_fraction=0.2)
    for kind in ("sft", "reward", "dpo", "grpo")
}
grpo_extra = GRPOExtraConfig(reward_func="exact_match")
'''
TEMPLATE = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
COUNT = 60


def chat(n: int, *turns: tuple[str, Any]) -> Row:
    turns = turns or (("user", f"say {n}"), ("assistant", str(n)))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def pair(n: int, **columns: Any) -> Row:
    return {"prompt": f"say {n}", "chosen": f" {n}", "rejected": " no", **columns}


def lines(make: Callable[[int], Row], *bad: Any, times: int = 1) -> bytes:
    """Return JSON lines of good rows, with bad ones (rows, or text) from the fourth on."""
    rows: list[Any] = [make(n) for n in range(COUNT)]
    rows[3:3] = [*bad] * times
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def chats(*bad: Any, times: int = 1) -> bytes:
    return lines(chat, *bad, times=times)


def pairs(*bad: Any, times: int = 1) -> bytes:
    return lines(pair, *bad, times=times)


def prompts(*bad: Any, times: int = 1) -> bytes:
    return lines(lambda n: {"prompt": f"say {n}", "answer": str(n)}, *bad, times=times)


def calling(call: Any) -> Row:
    row = chat(0)
    row["messages"][1]["tool_calls"] = [call]
    return row


def with_tools(tools: Any) -> Row:
    return chat(0) | {"tools": tools}


def csv(header: str, *rows: str, end: str = "\n") -> bytes:
    return end.join([header, *(rows or [f"say {n},{n}" for n in range(COUNT)])]).encode()


def parquet(**columns: list[Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = io.BytesIO()
    pa.parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


GOOD = [chat(n) for n in range(COUNT)]
QA = [{"question": f"say {n}", "answer": str(n)} for n in range(COUNT)]

FILES: dict[str, tuple[str, str, Callable[[], bytes], str]] = {
    # JSON lines
    "a broken line": ("sft", "a.jsonl", lambda: chats('{"messages": ['), "1 × not valid JSON, line 4"),
    "two broken lines": ("sft", "a.jsonl", lambda: chats("{", "}"), "2 × not valid JSON (also line 5), line 4"),
    "a cut last line": ("sft", "a.jsonl", lambda: chats()[:-5], "not valid JSON, line 60"),
    "a line that is a list": ("sft", "a.jsonl", lambda: chats("[1]"), "1 × no JSON object, line 4"),
    "a line that is a number": ("sft", "a.jsonl", lambda: chats("3"), "1 × no JSON object, line 4"),
    "single quotes": ("sft", "a.jsonl", lambda: chats("{'messages': []}"), "1 × not valid JSON, line 4"),
    "brackets in brackets": ("sft", "a.jsonl", lambda: chats(100_000 * "["), "not valid JSON (maximum recursion"),
    "a number of 5,000 digits": ("sft", "a.jsonl", lambda: chats('{"n": ' + 5000 * "9" + "}"), "Exceeds the limit"),
    "an integer of 65 bits": ("sft", "a.jsonl", lambda: chats('{"n": 9223372036854775808}'), "more than 64 bits"),
    "a column whose name holds a null": (
        "sft",
        "a.jsonl",
        lambda: chats('{"a\\u0000": 1}'),
        "1 × a value that cannot be stored, line 4: the name 'a\\x00' of a column",
    ),
    "a key twice": (
        "dpo",
        "a.jsonl",
        lambda: pairs('{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}', times=2),
        "2 × a key that stands twice (also line 5), line 4: the key 'chosen' stands twice in one object",
    ),
    "a key twice in a turn": (
        "sft",
        "a.json",
        lambda: json.dumps([*GOOD, "X"]).replace('"X"', '{"messages": [{"role": "user", "role": "user"}]}').encode(),
        "1 × a key that stands twice, item 61 of the list: the key 'role'",
    ),
    "a number too large beside brackets too deep for Python": (
        "sft",
        "a.jsonl",
        lambda: chats('{"m": ' + 700 * "[" + 700 * "]" + ', "n": 99999999999999999999}'),
        "1 × a value that cannot be stored, line 4: column 'n' holds the integer 99999999999999999999, which",
    ),
    "half a surrogate pair": ("sft", "a.jsonl", lambda: chats('{"n": "\\ud83d"}'), "half a surrogate pair"),
    "a list by the name of lines": ("sft", "a.jsonl", lambda: json.dumps(GOOD).encode(), "is named .json"),
    "an indented list by the name of lines": (
        "sft",
        "a.jsonl",
        lambda: json.dumps(GOOD, indent=1).encode(),
        "is named .json",
    ),
    "an empty file": ("sft", "a.jsonl", lambda: b"", "has no rows"),
    "blank lines alone": ("sft", "a.jsonl", lambda: b"\n\n  \n", "has no rows"),
    # JSON
    "an object": ("sft", "a.json", lambda: json.dumps(GOOD[0]).encode(), "it should be a list of objects"),
    "lines by the name of a list": ("sft", "a.json", chats, "is named .jsonl"),
    "an item that is no object": ("sft", "a.json", lambda: json.dumps([*GOOD, 3]).encode(), "item 61 of the list"),
    "a list without its end": ("sft", "a.json", lambda: json.dumps(GOOD).encode()[:-1], "not valid JSON"),
    "an empty list": ("sft", "a.json", lambda: b"[]", "has no rows"),
    "a text": ("sft", "a.json", lambda: b'"a"', "holds one JSON str"),
    # CSV
    "a column named twice": ("sft", "a.csv", lambda: csv("prompt,prompt"), "names 'prompt' twice"),
    "a column without a name": ("sft", "a.csv", lambda: csv("prompt,"), "names '' twice or not at all"),
    "a row with too few fields": ("sft", "a.csv", lambda: csv("question,answer", "a,b", "c"), "line 3: not the 2"),
    "a row with too many fields": ("sft", "a.csv", lambda: csv("question,answer", "a,b", "a,b,c"), "line 3: not the 2"),
    "semicolons": ("sft", "a.csv", lambda: csv("question;answer", "a;b"), "not by ';'"),
    "tabs": ("sft", "a.csv", lambda: csv("question\tanswer", "a\tb"), "not by '\\t'"),
    "a quote without its end": ("sft", "a.csv", lambda: csv("question,answer", '"a,b'), "not valid CSV"),
    "a header alone": ("sft", "a.csv", lambda: b"question,answer\n", "has no rows"),
    "JSON by the name of CSV": ("sft", "a.csv", chats, "it looks like JSON, which is named .jsonl"),
    "a JSON list by the name of CSV": (
        "sft",
        "a.csv",
        lambda: json.dumps(GOOD).encode(),
        "it looks like JSON, which is named .json",
    ),
    # text and other formats behind a name
    "JSON lines by the name of text": ("sft", "a.txt", chats, "it looks like JSON, which is named .jsonl"),
    "blank text": ("sft", "a.txt", lambda: b"\n \n", "has no rows"),
    "one paragraph": ("sft", "a.txt", lambda: b"one row\nof two lines\n", "has one row"),
    "Parquet by the name of lines": ("sft", "a.jsonl", lambda: parquet(text=["a"]), "it looks like Parquet"),
    "Parquet by the name of CSV": ("sft", "a.csv", lambda: parquet(text=["a"]), "it looks like Parquet"),
    "Parquet by the name of text": ("sft", "a.txt", lambda: parquet(text=["a"]), "it looks like Parquet"),
    "gzip by the name of lines": (
        "sft",
        "a.jsonl",
        lambda: gzip.compress(chats()),
        "it looks like gzip, which is named .gz",
    ),
    "an Excel sheet by the name of CSV": (
        "sft",
        "a.csv",
        lambda: b"PK\x03\x04\0\0",
        "it looks like a binary file, a ZIP archive",
    ),
    "a PDF by the name of text": ("sft", "a.txt", lambda: b"%PDF-1.7\n", "a PDF"),
    "a web page by the name of JSON": ("sft", "a.json", lambda: b"<!DOCTYPE html><html>", "a web page"),
    "a Git LFS pointer": (
        "sft",
        "a.jsonl",
        lambda: b"version https://git-lfs.github.com/spec/v1\n",
        "run git lfs pull",
    ),
    "a binary file": ("sft", "a.txt", lambda: b"one\n\0\0\0", "a binary file"),
    "lines by the name of Parquet": ("sft", "a.parquet", chats, "cannot be read as Parquet"),
    "gzip by the name of Parquet": ("sft", "a.parquet", lambda: gzip.compress(b"a"), "it looks like gzip"),
    "Parquet that is cut off": ("sft", "a.parquet", lambda: parquet(text=["a"] * 99)[:-9], "cannot be read as Parquet"),
    "Parquet without rows": ("sft", "a.parquet", lambda: parquet(text=[]), "has no rows"),
    "Parquet of text that is not UTF-8": (
        "grpo",
        "a.parquet",
        lambda: parquet(prompt=[f"say {n}" for n in range(COUNT)]).replace(b"say 0", b"say \x80"),
        "cannot be read as Parquet (",
    ),
    "an unknown suffix": ("sft", "a.xlsx", chats, "has suffix '.xlsx'"),
    "no suffix": ("sft", "a", chats, "has suffix ''"),
    # encodings
    "Latin-1": ("sft", "a.jsonl", lambda: chats().replace(b"say 5", b"caf\xe9"), "line 6"),
    "UTF-16": ("sft", "a.csv", lambda: csv("question,answer").decode().encode("utf-16"), "UTF-16: save it as UTF-8"),
    "UTF-16 without its mark": ("sft", "a.txt", lambda: "one\n\ntwo".encode("utf-16-le"), "a binary file"),
    # columns
    "a column misspelt": ("sft", "a.jsonl", lambda: lines(lambda n: {"mesages": []}), "may be meant as 'messages'"),
    "columns of another stage": ("dpo", "a.jsonl", chats, "For dpo it needs one of"),
    "unpaired preferences": (
        "dpo",
        "a.jsonl",
        lambda: lines(lambda n: {"prompt": "a", "completion": "b", "label": True}),
        "unpaired",
    ),
    "no columns": ("sft", "a.jsonl", lambda: b"{}\n{}", "has columns –"),
    # values
    "messages as text": (
        "sft",
        "a.jsonl",
        lambda: chats({"messages": "say 1"}),
        "another kind than most of its column",
    ),
    "messages all text": ("sft", "a.jsonl", lambda: lines(lambda n: {"messages": f"say {n}"}), "a list of messages"),
    "a turn that is text": ("sft", "a.jsonl", lambda: chats({"messages": ["say"]}), "an object with role and content"),
    "an unknown role": ("sft", "a.jsonl", lambda: chats(chat(0, ("robot", "a"))), "1 × an unknown role, row 4"),
    "a turn without a role": ("sft", "a.jsonl", lambda: chats({"messages": [{"content": "a"}]}), "the role None"),
    "content that is a number": ("sft", "a.jsonl", lambda: chats(chat(0, ("user", 3))), "must be text, not 3"),
    "content that is null": ("sft", "a.jsonl", lambda: chats(chat(0, ("user", None))), "must be text, not None"),
    "content of parts": ("sft", "a.jsonl", lambda: chats(chat(0, ("user", [{"type": "image"}]))), "is no text"),
    "a number for a question": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: {"question": n, "answer": "a"}),
        "question must be text",
    ),
    "one number among texts": (
        "sft",
        "a.json",
        lambda: json.dumps([*QA, {"question": 3, "answer": "a"}]).encode(),
        "another kind than most of its column, row 61",
    ),
    "a margin that is no number": ("reward", "a.jsonl", lambda: lines(lambda n: pair(n, margin="wide")), "margin must"),
    "a margin that is infinite": (
        "reward",
        "a.jsonl",
        lambda: lines(lambda n: pair(n, margin="inf")),
        "margin must be",
    ),
    "a system turn of plain text": ("dpo", "a.jsonl", lambda: lines(lambda n: pair(n, system="a")), "no place for"),
    # tools
    "tools that are no JSON": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: chat(n) | {"tools": "add"}),
        "tools should be",
    ),
    "tools too deep": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: chat(n) | {"tools": "[]"}, with_tools(90_000 * "[")),
        "maximum recursion",
    ),
    "tools with a number of 5,000 digits": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: chat(n) | {"tools": "[]"}, with_tools(5000 * "9")),
        "Exceeds the limit",
    ),
    "a key twice in tools that are text": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: chat(n) | {"tools": "[]"}, with_tools('[{"name": "a", "name": "b"}]')),
        "1 × tools that do not parse, row 4: in tools, the key 'name' stands twice",
    ),
    "a key twice in a call's arguments": (
        "sft",
        "a.jsonl",
        lambda: chats(calling({"name": "add", "arguments": '{"a": 1, "a": 2}'})),
        "1 × function calls that do not parse, row 4: in a function call's arguments, the key 'a' stands twice",
    ),
    "a tool without a name": (
        "sft",
        "a.jsonl",
        lambda: chats(with_tools([{"parameters": {}}])),
        "a function with a name",
    ),
    "a tool whose name is a number": (
        "sft",
        "a.jsonl",
        lambda: chats(with_tools([{"name": 3}])),
        "a function with a name",
    ),
    "a tool that is a number": ("sft", "a.jsonl", lambda: chats(with_tools([3])), "a list of function schemas"),
    "parameters that are text": (
        "sft",
        "a.jsonl",
        lambda: chats(with_tools([{"name": "add", "parameters": "a"}])),
        "parameters are an object",
    ),
    "a call without a name": ("sft", "a.jsonl", lambda: chats(calling({"arguments": {}})), "has a name and arguments"),
    "arguments that are no JSON": (
        "sft",
        "a.jsonl",
        lambda: chats(calling({"name": "add", "arguments": "1, 2"})),
        "arguments should be JSON",
    ),
    "arguments that are a list": (
        "sft",
        "a.jsonl",
        lambda: chats(calling({"name": "add", "arguments": [1]})),
        "arguments are an object",
    ),
    "tools for GRPO": (
        "grpo",
        "a.jsonl",
        lambda: prompts({"prompt": "a", "tools": [{"name": "a"}]}),
        "GRPO shows no tools",
    ),
    # rows that teach nothing
    "empty completions": (
        "sft",
        "a.jsonl",
        lambda: chats(*(chat(n, ("user", f"a{n}"), ("assistant", "")) for n in range(9))),
        "9 × the assistant says nothing (also row 5, row 6, row 7, row 8, …), row 4",
    ),
    "empty completions in all": (
        "sft",
        "a.csv",
        lambda: csv("question,answer", *(f"say {n}," for n in range(9))),
        "9 × the completion is empty",
    ),
    "chosen like rejected": (
        "dpo",
        "a.jsonl",
        lambda: pairs(*(pair(n, chosen=" no") for n in range(9))),
        "9 × chosen and rejected are equal",
    ),
    "an empty rejected": (
        "reward",
        "a.jsonl",
        lambda: pairs(*(pair(n, rejected="") for n in range(9))),
        "9 × the rejected is empty",
    ),
    "an empty prompt": ("grpo", "a.jsonl", lambda: prompts({"prompt": " "}, times=9), "9 × the prompt is empty"),
    "rows given twice": ("sft", "a.jsonl", lambda: chats() + b"\n" + chats(), "60 × a repeated row"),
    "pairs given twice": ("dpo", "a.jsonl", lambda: pairs() + b"\n" + pairs(), "row 61: row 1 again"),
    "the system last": (
        "sft",
        "a.jsonl",
        lambda: chats(chat(0, ("user", "a"), ("assistant", "b"), ("system", "c")), times=9),
        "not the first",
    ),
    "two questions": (
        "sft",
        "a.jsonl",
        lambda: chats(chat(0, ("user", "a"), ("user", "b"), ("assistant", "c")), times=9),
        "turns are out of order",
    ),
    "an answer first": (
        "sft",
        "a.jsonl",
        lambda: chats(chat(0, ("assistant", "a"), ("user", "b"), ("assistant", "c")), times=9),
        "follows no question",
    ),
    "a tool's result without a call": (
        "sft",
        "a.jsonl",
        lambda: chats(chat(0, ("user", "a"), ("tool", "b"), ("assistant", "c")), times=9),
        "follows no call",
    ),
    "faults of several sorts": (
        "dpo",
        "a.jsonl",
        lambda: pairs("{", pair(0, chosen=3), *(pair(n, rejected="") for n in range(9))),
        "11 of 71 rows cannot be used",
    ),
    "rows longer than the model reads": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: chat(n, ("user", "a" * 3000 + str(n)), ("assistant", "b"))),
        "are longer than",
    ),
    "one question in all rows": (
        "sft",
        "a.jsonl",
        lambda: lines(lambda n: {"question": "a", "answer": str(n)}),
        "one problem in all its rows",
    ),
}

SETTINGS: dict[str, tuple[list[str], str]] = {
    "a kind misspelt": (["--set", "stf.learning_rate=1"], "stf"),
    "a field misspelt": (["--set", "sft.learning_rat=1"], "did you mean 'learning_rate'"),
    "a value of the wrong type": (["--set", "sft.max_steps=many"], "max_steps"),
    "a value out of range": (["--set", "sft.learning_rate=-1"], "learning_rate"),
    "a share above 1": (["--set", "sft.max_dropped_fraction=1.5"], "max_dropped_fraction = 1.5: must be 0 to 1"),
    "a share below 0": (["--set", "sft.max_dropped_fraction=-0.1"], "max_dropped_fraction"),
    "nothing held out": (["--set", "sft.eval_fraction=0"], "eval_fraction"),
    "no value": (["--set", "sft.max_steps"], "sft.max_steps"),
    "a trainer's option misspelt": (["--set", "sft.trainer_args.neftune_noise=5"], "neftune_noise"),
    "an option set twice": (["--set", "sft.trainer_args.learning_rate=1"], "learning_rate"),
    "an option that is ours": (["--set", "sft.trainer_args.output_dir=x"], "output_dir"),
    "an unknown scheduler": (["--set", "sft.lr_scheduler_type=cosin"], "did you mean 'cosine'"),
    "an unknown optimizer": (["--set", "sft.optim=adamm"], "adamm"),
    "an unknown type": (["--set", "sft.dtype=int3"], "dtype"),
    "a path out of the run": (["--set", "sft.output_dir=../x"], "output_dir"),
    "an absolute path": (["--set", "sft.output_dir=/tmp/x"], "output_dir"),
    "packing for pairs": (["--set", "dpo.packing=true", "--stages", "dpo"], "packing"),
    "groups that do not fill": (
        [
            "--set",
            "grpo.per_device_train_batch_size=3",
            "--set",
            "grpo.gradient_accumulation_steps=1",
            "--stages",
            "grpo",
        ],
        "multiple of num_generations",
    ),
    "a stage that is not there": (["--stages", "stf"], "did you mean 'sft'"),
    "a stage twice": (["--stages", "sft,sft"], "names sft 2 times"),
    "a run that is not there": (["--stages", "sft", "--from", "20200101_000000_aaaa"], "20200101_000000_aaaa"),
    "a flag misspelt": (["--plann"], "--plan"),
    "a flag that needs another": (["--check-data"], "add --plan"),
    "a seed that is none": (["--seed", "x"], "--seed"),
    "hours that are none": (["--max-hours", "soon"], "soon"),
    "a size that is none": (["--memory-budget", "6 apples"], "6 apples"),
    "no directory for runs": (["--runs-dir", ""], "--runs-dir is empty"),
    "brackets in brackets": (["--set", "sft.trainer_args=" + 100_000 * "["], "sft.trainer_args"),
    "brackets in an option": (
        ["--set", "sft.trainer_args.adam_beta1=" + 100_000 * "["],
        "trainer_args: adam_beta1",
    ),
    "a key twice in options": (
        ["--set", 'sft.trainer_args={"adam_beta1":0.5,"adam_beta1":0.9}'],
        "the key 'adam_beta1' stands twice in one object",
    ),
    "a key twice in an option": (
        ["--set", 'sft.trainer_args.lr_scheduler_kwargs={"min_lr":0.5,"min_lr":0.9}'],
        "the key 'min_lr' stands twice in one object",
    ),
    "epochs without end": (["--set", "sft.num_train_epochs=1e308"], "above 0 and less than 2**31"),
    "an integer of 65 bits": (
        ["--set", "sft.eval_samples=9223372036854775808"],
        "must be int, not '9223372036854775808'",
    ),
    "a null in a directory's name": (["--plan", "--runs-dir", "a\0b"], "it holds a null character"),
    "a user that is none": (
        ["--set", "sft.dataset_name=~nobody-here/a.jsonl"],
        "~nobody-here/a.jsonl can be no path: Could not",
    ),
    "a name that is too long": (["--set", "sft.dataset_name=" + 5000 * "a"], "can be no path: File name too long"),
    "data that are not there": (["--set", "sft.dataset_name=rows.json"], "did you mean '"),
    "made data misspelt": (["--set", "sft.dataset_name=made:conversation"], "made:conversations"),
    "a split that is not there": (["--set", "sft.dataset_split=tran"], "only the split 'train'"),
    "a revision of a file": (["--set", "sft.dataset_revision=main"], "has no revisions"),
    "a model that is not there": (["--set", "sft.model_name=./nowhere"], "./nowhere"),
    "a model that is a file": (["--set", "sft.model_name=rows.jsonl"], "is a file"),
    "a model of a user that is none": (["--set", "sft.model_name=~nobody-here/m"], "can be no path"),
}

RECIPES: dict[str, tuple[str, str]] = {
    "no Python": ("configs = {", "mine.py"),
    "no configs": ("x = 1", "configs"),
    "configs that are no dict": ("configs = 3", "mine.py has no stages"),
    "no stages": ("configs = {}", "mine.py has no stages"),
    "a stage that is no config": ("configs = {'sft': 3}", "must be a TrainingConfig"),
    "a name that is unknown": ("configs = {'sft': Training()}", "Training"),
    "an unknown field": (
        "from algorithms import TrainingConfig\nconfigs = {'sft': TrainingConfig(model='a')}", "model",
    ),
    "a kind that is none": (RECIPE.replace('"sft"', '"sfft"'), "'sfft' is no kind of stage, did you mean 'sft'"),
    "an output of a later stage": (
        "from algorithms import StageOutput, TrainingConfig\nconfigs = {'sft': TrainingConfig("
        "model_name=StageOutput('dpo'), output_dir='a', dataset_name='rows.jsonl')}", 'StageOutput("dpo")',
    ),
    "one directory for two": (RECIPE.replace("output_dir=kind", "output_dir='a'"), "is in use by sft"),
    "an integer of 1,300 bits": (
        RECIPE.replace("eval_fraction=0.2", "learning_rate=10**400"),
        "must be float or None, not an integer of more than 64 bits",
    ),
    "an integer of 5,000 digits": (
        RECIPE.replace('"exact_match"', '"exact_match", num_generations=10**5000'),
        "num_generations = <int that cannot be written>: must be int, not",
    ),
    "a directory of 5,000 digits": (
        RECIPE.replace("output_dir=kind", "output_dir=10**5000"),
        "output_dir = <int that cannot be written>: must be",
    ),
    "an ending of 5,000 digits": (
        RECIPE.replace("eval_fraction=0.2", "on_fail=10**5000"),
        "on_fail = <int that cannot be written>: must be",
    ),
    "an adapter's option of 5,000 digits": (
        RECIPE.replace("eval_fraction=0.2", "peft='lora', peft_args={'init_lora_weights': 10**5000}"),
        "init_lora_weights = <int that cannot be written>: must be one of",
    ),
    "options of 5,000 digits that nothing reads": (
        RECIPE.replace("eval_fraction=0.2", "peft_args={'r': 10**5000}"),
        "peft_args = <dict that cannot be written>: nothing reads it",
    ),
    "a stage of 5,000 digits": ("configs = {'sft': 10**5000}", "given: <int that cannot be written>"),
    "a weight of 5,000 digits": (
        RECIPE.replace('"exact_match"', '"exact_match", reward_weights=[10**5000]'),
        "reward_weights = <list that cannot be written>: must be list of float",
    ),
    "a reward of a name that is too long": (RECIPE.replace('"exact_match"', '"a" * 5000'), "is no built-in reward"),
    "a weight that is text": (
        RECIPE.replace('"exact_match"', '"exact_match", reward_weights=["a"]'), "reward_weights = ['a']: must be list",
    ),
    "weights that are no list": (
        RECIPE.replace('"exact_match"', '"exact_match", reward_weights=3'), "reward_weights = 3: must be list",
    ),
    "a reward that is a number": (RECIPE.replace('"exact_match"', "3"), "reward_func"),
}  # fmt: skip


def special(name: str) -> str:
    """Make what is no data file under the name of one, and return what to name it by."""
    if name == "a FIFO":
        os.mkfifo("a.jsonl")
    elif name == "a folder of a dangling link":
        Path("folder").mkdir()
        Path("folder/a.jsonl").symlink_to("nowhere.jsonl")
        return "folder"
    elif name == "a folder of a FIFO":
        Path("folder").mkdir()
        os.mkfifo("folder/a.jsonl")
        return "folder"
    elif name == "an empty folder":
        Path("folder").mkdir()
        return "folder"
    elif name == "a device":
        return os.devnull
    elif name == "a dangling link":
        Path("a.jsonl").symlink_to("nowhere.jsonl")
    elif name == "a link to itself":
        Path("a.jsonl").symlink_to("a.jsonl")
    elif name == "a file as a folder":
        return "rows.jsonl/a.jsonl"
    return "a.jsonl"


SPECIAL = {
    "a FIFO": "a.jsonl is neither a file nor a folder", "a device": "/dev/null is neither a file nor a folder",
    "a dangling link": "a.jsonl", "a link to itself": "a.jsonl", "a file as a folder": "rows.jsonl/a.jsonl",
    "a folder of a dangling link": "folder/a.jsonl is a link to nothing", "a folder of a FIFO": "a.jsonl is no file",
    "an empty folder": "folder has no data files",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's shell: a tokenizer of bytes with a template, a configuration, a weight."""
    import numpy
    from safetensors.numpy import save_file

    directory = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(tokenizer_dir, directory)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 2048}))
    save_file({"weight": numpy.zeros(3, "float32")}, directory / "model.safetensors")
    return directory


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe, its model and sound data."""
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "mine.py").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_bytes(chats())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], told: str, *argv: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    assert main(["--recipe", "mine.py", *argv]) == 2
    said = capsys.readouterr()
    message = " ".join(said.err.split())
    assert told in message
    assert "Traceback" not in said.err + said.out
    assert [path for path in sorted(Path.cwd().rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, name, content, told = FILES[case]
    Path(name).write_bytes(content())
    refused(capsys, told, "--stages", kind, "--set", f"{kind}.dataset_name=./{name}")


@pytest.mark.parametrize("case", SPECIAL)
def test_what_is_no_file_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, SPECIAL[case], "--stages", "sft", "--set", f"sft.dataset_name={special(case)}")


@pytest.mark.parametrize("case", SETTINGS)
def test_a_malformed_command_line_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, told = SETTINGS[case]
    refused(capsys, told, *([] if "--stages" in argv else ["--stages", "sft"]), *argv)


@pytest.mark.parametrize("case", RECIPES)
def test_a_malformed_recipe_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, told = RECIPES[case]
    Path("mine.py").write_text(text)
    refused(capsys, told)


OTHERS: dict[str, tuple[str, list[str], str]] = {
    "an output whose name is too long": (
        "pretrain.__main__", ["--data", "rows.jsonl", "--out", 5000 * "a"], "can be no path: File name too long",
    ),
    "a run whose name holds a null": ("pretrain.__main__", ["--resume", "a\0b"], "it holds a null character"),
    "a checkpoint of a user that is none": (
        "evaluation.__main__", ["run", "~nobody-here/a", "--tasks", "skills"], "~nobody-here/a can be no path",
    ),
    "results whose name holds a null": (
        "evaluation.__main__", ["run", "base", "--tasks", "skills", "--out", "a\0b"], "it holds a null character",
    ),
    "a checkpoint whose name is too long": ("chat", [5000 * "a"], "can be no path: File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_a_malformed_word_to_another_command_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, argv, told = OTHERS[case]
    before = sorted(Path.cwd().rglob("*"))
    assert import_module(module).main(argv) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_folder_that_may_not_be_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()

    def denied(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert main(["--recipe", "mine.py", "--stages", "sft", "--set", "sft.dataset_name=folder"]) == 2
    assert "folder cannot be read: Permission denied" in " ".join(capsys.readouterr().err.split())


COMMANDS = [
    *(case for case in FILES if case in ("a broken line", "tools too deep")),
    *(case for case in SETTINGS if case == "a field misspelt"),
    *(case for case in RECIPES if case == "no Python"),
]
"""Each is tried above in this process, too."""


@pytest.mark.slow
@pytest.mark.parametrize("case", COMMANDS)
def test_the_whole_command_ends_with_2_and_one_message(case: str) -> None:
    argv: list[str] = []
    if case in FILES:
        kind, name, content, told = FILES[case]
        Path(name).write_bytes(content())
        argv = ["--stages", kind, "--set", f"{kind}.dataset_name=./{name}", "--plan", "--check-data"]
    elif case in SETTINGS:
        argv, told = SETTINGS[case]
    else:
        text, told = RECIPES[case]
        Path("mine.py").write_text(text)
    command = [sys.executable, run_all.__file__, "--recipe", "mine.py", *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr + done.stdout
    assert not Path("runs").exists()


def jsonl(rows: list[Row], end: str = "\n", **options: Any) -> bytes:
    return end.join(json.dumps(row, **options) for row in rows).encode()


UNUSUAL: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "Windows line ends": ("sft", "a.jsonl", lambda: jsonl(GOOD, "\r\n")),
    "a byte order mark": ("sft", "a.jsonl", lambda: b"\xef\xbb\xbf" + jsonl(GOOD)),
    "a byte order mark in CSV": ("sft", "a.csv", lambda: b"\xef\xbb\xbf" + csv("question,answer")),
    "a byte order mark in JSON": ("sft", "a.json", lambda: b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "blank lines at the end": ("sft", "a.jsonl", lambda: jsonl(GOOD) + b"\n\n\n"),
    "blank lines between": ("sft", "a.jsonl", lambda: jsonl(GOOD, "\n\n")),
    "spaces around lines": ("sft", "a.jsonl", lambda: jsonl(GOOD, " \n  ")),
    "no escapes": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, ("user", f"ж{n}"), ("assistant", "é")) for n in range(COUNT)], ensure_ascii=False),
    ),
    "unicode columns": (
        "sft",
        "a.jsonl",
        lambda: jsonl([row | {"вопрос": "?", "列": n} for n, row in enumerate(GOOD)]),
    ),
    "unicode columns in CSV": ("sft", "a.csv", lambda: csv("question,answer,列", *(f"a{n},b,c" for n in range(COUNT)))),
    "extra columns": (
        "sft",
        "a.jsonl",
        lambda: jsonl([row | {"id": n, "meta": {"a": [n]}} for n, row in enumerate(GOOD)]),
    ),
    "brackets too deep for Python in a column of their own": (
        "sft",
        "a.jsonl",
        lambda: "\n".join(json.dumps(row)[:-1] + ', "n": ' + 700 * "[" + 700 * "]" + "}" for row in GOOD).encode(),
    ),
    "extra columns in some": ("sft", "a.jsonl", lambda: jsonl([*GOOD[:30], *(row | {"id": 1} for row in GOOD[30:])])),
    "emoji": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, ("user", f"{n} 👩‍👩‍👧"), ("assistant", "😀")) for n in range(COUNT)]),
    ),
    "right to left": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, ("user", f"{n} שלום"), ("assistant", "مرحبا")) for n in range(COUNT)]),
    ),
    "control characters": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, ("user", f"{n}\x1b[31m"), ("assistant", "ok\u0000\x07")) for n in range(COUNT)]),
    ),
    "line separators in text": (
        "sft",
        "a.jsonl",
        lambda: jsonl(
            [chat(n, ("user", f"{n}\u2028\x85"), ("assistant", "b")) for n in range(COUNT)], ensure_ascii=False
        ),
    ),
    "very long rows": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, ("user", f"{n}" + 300_000 * "a"), ("assistant", "b")) for n in range(COUNT)]),
    ),
    "many turns": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, *[("user", f"{n}"), ("assistant", "b")] * 50) for n in range(COUNT)]),
    ),
    "a question last": (
        "sft",
        "a.jsonl",
        lambda: jsonl([chat(n, ("user", f"{n}"), ("assistant", "b"), ("user", "c")) for n in range(COUNT)]),
    ),
    "an empty system column": ("sft", "a.jsonl", lambda: jsonl([row | {"system": ""} for row in GOOD])),
    "null columns": ("sft", "a.jsonl", lambda: jsonl([row | {"tools": None, "system": None} for row in GOOD])),
    "tools as text": ("sft", "a.jsonl", lambda: jsonl([row | {"tools": '[{"name": "add"}]'} for row in GOOD])),
    "a call without arguments": (
        "sft",
        "a.jsonl",
        lambda: jsonl(
            [
                {"messages": [*row["messages"][:1], {"role": "assistant", "tool_calls": [{"function": {"name": "a"}}]}]}
                for row in GOOD
            ]
        ),
    ),
    "ShareGPT's names": (
        "sft",
        "a.jsonl",
        lambda: jsonl(
            [
                {"conversations": [{"from": "human", "value": f"{n}"}, {"from": "gpt", "value": "b"}]}
                for n in range(COUNT)
            ]
        ),
    ),
    "indented JSON": ("sft", "a.json", lambda: json.dumps(GOOD, indent=2).encode()),
    "CSV with Windows line ends": ("sft", "a.csv", lambda: csv("question,answer", end="\r\n")),
    "quoted line ends in CSV": (
        "sft",
        "a.csv",
        lambda: csv("question,answer", *(f'"a{n}\nb, ""c""",d' for n in range(COUNT))),
    ),
    "blank lines in CSV": ("sft", "a.csv", lambda: csv("question,answer", end="\n\n")),
    "CSV of one column": ("sft", "a.csv", lambda: csv("text", *(f"text {n}" for n in range(COUNT)))),
    "texts like numbers": ("sft", "a.csv", lambda: csv("question,answer", *(f"{n},00{n}" for n in range(COUNT)))),
    "texts like nulls": ("sft", "a.csv", lambda: csv("question,answer", *(f"null{n},NaN" for n in range(COUNT)))),
    "braces in CSV": ("sft", "a.csv", lambda: csv("question,answer", *(f'"{{{n}}}",[]' for n in range(COUNT)))),
    "text with Windows line ends": (
        "sft",
        "a.txt",
        lambda: "\r\n\r\n".join(f"text {n}" for n in range(COUNT)).encode(),
    ),
    "text that begins with a bracket": (
        "sft",
        "a.txt",
        lambda: "\n\n".join(f"[{n}] said" for n in range(COUNT)).encode(),
    ),
    "text about HTML": ("sft", "a.txt", lambda: "\n\n".join(f"<html>{n}" for n in range(COUNT)).encode()),
    "Parquet of lists": (
        "grpo",
        "a.parquet",
        lambda: parquet(prompt=[f"a{n}" for n in range(COUNT)], answer=["b"] * COUNT, nums=[[1, [2][0]]] * COUNT),
    ),
    "Parquet of structs": ("sft", "a.parquet", lambda: parquet(messages=[row["messages"] for row in GOOD])),
    "Parquet of nulls": (
        "sft",
        "a.parquet",
        lambda: parquet(question=[f"a{n}" for n in range(COUNT)], answer=["b"] * COUNT, x=[None] * COUNT),
    ),
    "one question, two answers": ("sft", "a.jsonl", lambda: jsonl([*QA, *(row | {"answer": "b"} for row in QA)])),
    "whole numbers and fractions": (
        "grpo",
        "a.jsonl",
        lambda: jsonl([{"prompt": f"a{n}", "answer": "b", "n": n if n % 2 else n / 3} for n in range(COUNT)]),
    ),
    "a margin as text": ("reward", "a.jsonl", lambda: jsonl([pair(n, margin="1.5") for n in range(COUNT)])),
    "pairs without a prompt": (
        "dpo",
        "a.jsonl",
        lambda: jsonl([{"chosen": f"say {n} yes", "rejected": f"say {n} no"} for n in range(COUNT)]),
    ),
    "a few faults": (
        "dpo",
        "a.jsonl",
        lambda: jsonl([*(pair(n) for n in range(COUNT)), pair(99, rejected=""), pair(0)]),
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_but_valid_data_are_accepted(case: str) -> None:
    kind, name, content = UNUSUAL[case]
    folder = Path("deep/er folder, with spaces/ж")
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content())
    info = load(str(folder / name), kind, eval_fraction=0.2).info
    assert info["train_rows"] + info["eval_rows"] >= COUNT


def test_one_row_to_train_on_is_enough_beside_a_held_out_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    for n, name in enumerate(("train", "test")):
        Path(f"folder/{name}.jsonl").write_bytes(jsonl([chat(n)]))
    argv = ["--stages", "sft", "--set", "sft.dataset_name=folder", "--plan", "--check-data"]
    assert main(["--recipe", "mine.py", *argv]) == 0
    assert "Plan of" in capsys.readouterr().out
