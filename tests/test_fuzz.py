"""Random damage to sound data, values, flags and recipes: a run is planned, or refused in one message.

What has been found here, and mended, is a case of its own in test_malformed.py. The examples are the same each time;
SIXGIG_FUZZ_EXAMPLES=1000 makes as many of each test that nobody has seen.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st

import chat
import evaluation.__main__
import evaluation.evaluate_checkpoint
import pretrain.__main__
import run_all
from algorithms.config import GRPOExtraConfig, TrainingConfig
from tests.test_malformed import COUNT, RECIPE, base, chats, csv, in_tmp, pairs, parquet, prompts  # noqa: F401
from utils import errors
from utils.text import safe

NEW = "SIXGIG_FUZZ_EXAMPLES"
EXAMPLES = int(os.environ.get(NEW, "60"))
LEAST_SHARE = 0.1
"""Of a test's examples that are planned: where nearly all are refused, nothing that comes later is tried."""
ENOUGH = 50  # examples that tell a share
KINDS = ("sft", "reward", "dpo", "grpo")
NUMBERS = count()

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=NEW not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def _nothing_in_the_tree(tmp_path_factory: pytest.TempPathFactory) -> None:
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


Ends = Callable[..., int]


@pytest.fixture(name="ends")
def _ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Ends]:
    """A function that runs a command line, checks that it ends with 0 or with 2 and one message, and returns which.

    In the working directory is a recipe, mine.py, with sound data for each stage. At the end, a share of all that the
    function ran must have ended with 0.
    """
    Path("mine.py").write_text(RECIPE.replace('"rows.jsonl"', 'f"{kind}.jsonl"'))
    for kind, content in SOUND.items():
        Path(f"{kind}.jsonl").write_bytes(content())
    messages: list[str] = []

    def report(error: BaseException) -> int:
        messages.append(safe(str(error)))
        return told(error)

    told = errors.report
    for module in (run_all, pretrain.__main__, evaluation.__main__, chat):
        monkeypatch.setattr(module, "report", report)
    codes: list[int] = []

    def run(*argv: str, of: ModuleType = run_all) -> int:
        messages.clear()
        capsys.readouterr()
        before = there()
        try:
            code: int = of.main(argv)
        except SystemExit as end:  # --help
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert code in (0, 2), argv
        assert bool(messages) == bool(code)
        assert len(messages) < 2
        shown = said.err.strip()
        message = "".join(messages).strip()
        assert message or not code
        assert shown == message if of is run_all else shown.endswith(message)  # others say what they are at
        assert "Traceback" not in said.err + said.out
        assert there() == before
        codes.append(code)
        return code

    yield run
    assert len(codes) < ENOUGH or codes.count(0) >= LEAST_SHARE * len(codes), (codes.count(0), len(codes))


def there() -> list[Path]:
    return [path for path in sorted(Path.cwd().rglob("*")) if "__pycache__" not in path.parts]


NAMES = (
    "messages", "conversations", "prompt", "completion", "chosen", "rejected", "text", "question", "answer", "solution",
    "instruction", "input", "output", "response", "system", "tools", "tool_calls", "function", "name", "arguments",
    "parameters", "margin", "label", "role", "content", "from", "value", "images", "chat_template_kwargs", "id", "",
    "reasoning_content", "thinking", "reasoning", "weight", "train", "history", "function_call", "tool_call_id", "type",
    "system_prompt", "query", "context",
)  # fmt: skip
"""Columns and keys that mean something to some layout."""

TEXTS = st.one_of(
    st.sampled_from(["", " ", "a", "0", "null", "[]", "{}", "[{}]", '{"name": "a"}', "user", "assistant", "\ud83d",
                     "\0", "\u2028", "{{ x }}", "{% x %}", "<|im_end|>", "999999999999999999999", "say 1", "developer",
                     "ipython", "User", "two words", "#### 4"]),
    st.text(max_size=8),
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400, 1e308, 5e-324]),
    st.floats(),
    TEXTS,
)
KEYS = st.sampled_from(NAMES) | st.text(max_size=5)
JUNK: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)

SOUND: dict[str, Callable[[], bytes]] = {"sft": chats, "reward": pairs, "dpo": pairs, "grpo": prompts}


def sound_rows(kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in SOUND[kind]().splitlines()]


def listed(kind: str) -> bytes:
    return json.dumps(sound_rows(kind)).encode()


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value inside a row."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from paths_in(item, (*path, key))


def put(row: Any, path: Sequence[Any], value: Any) -> None:
    for key in path[:-1]:
        row = row[key]
    row[path[-1]] = value


@st.composite
def damaged_rows(draw: st.DrawFn, kind: str) -> list[Any]:
    """Sound rows with values, keys, columns or whole rows exchanged for others."""
    rows: list[Any] = sound_rows(kind)
    for _ in range(draw(st.integers(1, 3))):
        every = draw(st.sampled_from((False, False, True)))
        number = draw(st.integers(0, COUNT - 1))
        how = draw(st.sampled_from(("value", "column", "key", "row", "drop")))
        junk, key = draw(JUNK), draw(KEYS)
        where = draw(st.sampled_from(sorted(paths_in(sound_rows(kind)[0]), key=repr)))
        for row in rows if every else rows[number : number + 1]:
            if not isinstance(row, dict):
                continue
            if how == "column":
                row[key] = junk
            elif how in ("key", "drop") and where[0] in row:
                taken = row.pop(where[0])
                row.update({key: taken} if how == "key" else {})
            elif how == "value" and where in paths_in(row):
                put(row, where, junk)
        if how == "row":
            rows[number] = junk
    return rows


PIECES = st.sampled_from(
    [b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b"'", b",", b"\n", b"\r", b"\r\n", b"\n\n", b"{", b"}", b"[", b"]", b"[[[[",
     b"\\", b"\\ud83d", b"\xe2\x80\xa8", b"9" * 30,
     b"[" * 700 + b"]" * 700, b'"a": 1, "a": 2, ',
     b"1e999", b"NaN", b"-Infinity", b"null", b"{}", b'""', b"\t", b";"]
) | st.binary(max_size=4)  # fmt: skip


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Bytes of a sound file, cut off, exchanged, taken out, doubled or put in."""
    content = sound
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(len(content), start + draw(st.integers(1, 40)))
        how = draw(st.sampled_from(("cut", "exchange", "take out", "double", "put in")))
        piece = draw(PIECES)
        if how == "cut":
            content = content[:start]
        elif how == "exchange":
            content = content[:start] + piece + content[end:]
        elif how == "take out":
            content = content[:start] + content[end:]
        elif how == "double":
            content = content[:end] + content[start:end] + content[end:]
        else:
            content = content[:start] + piece + content[start:]
    return content


def check_file(ends: Ends, kind: str, suffix: str, content: bytes, *argv: str) -> int:
    file = Path(f"fuzz-{next(NUMBERS)}{suffix}")  # a name of its own: what was loaded of a name is kept in memory
    file.write_bytes(content)
    try:
        return ends(
            "--recipe", "mine.py", "--stages", kind, "--set", f"{kind}.dataset_name={file}", "--plan", "--check-data",
            *argv,
        )  # fmt: skip
    finally:
        file.unlink()


@bounded
@given(data=st.data(), kind=st.sampled_from(KINDS), suffix=st.sampled_from((".jsonl", ".json")), lenient=st.booleans())
def test_damaged_rows_are_planned_or_refused(
    data: st.DataObject, kind: str, suffix: str, lenient: bool, ends: Ends
) -> None:
    rows = data.draw(damaged_rows(kind))
    lines = [json.dumps(row) for row in rows]
    content = "\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]"
    argv = ["--set", f"{kind}.max_dropped_fraction=1"] if lenient else []
    check_file(ends, kind, suffix, content.encode(), *argv)


FILES: dict[str, dict[str, Callable[[], bytes]]] = {
    ".jsonl": SOUND,
    ".json": {kind: partial(listed, kind) for kind in KINDS},
    ".csv": dict.fromkeys(("sft", "grpo"), lambda: csv("question,answer"))
    | dict.fromkeys(
        ("reward", "dpo"), lambda: csv("prompt,chosen,rejected", *(f'a{n},"b, c",d' for n in range(COUNT)))
    ),
    ".txt": {"sft": lambda: "\n\n".join(f"text {n}\nof two lines" for n in range(COUNT)).encode()},
    ".parquet": {"grpo": lambda: parquet(prompt=[f"say {n}" for n in range(COUNT)], answer=["a"] * COUNT)},
}
CASES = [(kind, suffix) for suffix, kinds in FILES.items() for kind in kinds]


@bounded
@given(data=st.data(), case=st.sampled_from(CASES), lenient=st.booleans())
def test_damaged_bytes_are_planned_or_refused(
    data: st.DataObject, case: tuple[str, str], lenient: bool, ends: Ends
) -> None:
    kind, suffix = case
    content = data.draw(damaged_bytes(FILES[suffix][kind]()))
    argv = ["--set", f"{kind}.max_dropped_fraction=1"] if lenient else []
    check_file(ends, kind, suffix, content, *argv)


def typed_columns() -> dict[str, Any]:
    """Return Parquet columns of types that JSON does not have, by what they are."""
    import pyarrow as pa

    texts = pa.array([f"say {n}" for n in range(COUNT)])
    return {
        "bytes": texts.cast(pa.binary()),
        "bytes that are no text": pa.array([b"\xff"] * COUNT),
        "numbers": pa.array(range(COUNT)),
        "halves": pa.array([0.5] * COUNT, pa.float32()),
        "not a number": pa.array([float("nan")] * COUNT),
        "truths": pa.array([True] * COUNT),
        "times": pa.array(range(COUNT), pa.timestamp("us")),
        "dates": pa.array(range(COUNT), pa.date32()),
        "durations": pa.array(range(COUNT), pa.duration("s")),
        "decimals": pa.array(range(COUNT), pa.decimal128(9, 2)),
        "nulls": pa.nulls(COUNT),
        "null texts": pa.array([None, "a"] * (COUNT // 2)),
        "lists": pa.array([["a", "b"]] * COUNT),
        "fixed lists": pa.array([["a", "b"]] * COUNT, pa.list_(pa.string(), 2)),
        "empty lists": pa.array([[]] * COUNT, pa.list_(pa.string())),
        "turns": pa.array(
            [[{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "a"}] for n in range(COUNT)]
        ),
        "turns without content": pa.array([[{"role": "user"}]] * COUNT),
        "a map": pa.array([[("a", 1)]] * COUNT, pa.map_(pa.string(), pa.int64())),
        "objects": pa.array([{"a": 1}] * COUNT),
    }


LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sft": (
        ("text",), ("messages",), ("prompt", "completion"), ("question", "answer"), ("instruction", "output"),
        ("instruction", "context", "response"), ("query", "response"), ("question", "answer", "reasoning"),
    ),
    "reward": (("chosen", "rejected"), ("prompt", "chosen", "rejected")),
    "dpo": (("chosen", "rejected"), ("prompt", "chosen", "rejected")),
    "grpo": (("prompt",), ("prompt", "answer"), ("question", "answer")),
}  # fmt: skip
"""Columns that a stage's rows are read from."""


@st.composite
def tables(draw: st.DrawFn, kind: str) -> Any:
    """The columns of a layout, as text of some kind or as turns, with others beside them and some in their place."""
    import pyarrow as pa

    kinds = typed_columns()
    layout = draw(st.sampled_from(LAYOUTS[kind]))
    columns = {}
    for name in layout:
        texts = pa.array([f"{name} {n}" for n in range(COUNT)])
        sound = [texts, texts.cast(pa.large_string()), texts.dictionary_encode()]
        columns[name] = kinds["turns"] if name == "messages" else draw(st.sampled_from(sound))
    beside = draw(st.lists(st.sampled_from(NAMES), max_size=2))
    in_place = draw(st.lists(st.sampled_from(layout), max_size=1))
    for name in (*beside, *in_place):
        columns[name] = kinds[draw(st.sampled_from(sorted(kinds)))]
    return pa.table(columns)


@bounded
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_parquet_of_any_types_is_planned_or_refused(data: st.DataObject, kind: str, ends: Ends) -> None:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(data.draw(tables(kind)), sink)
    check_file(ends, kind, ".parquet", sink.getvalue())


FIELDS = [field.name for field in fields(TrainingConfig)]
OPTIONS = (
    "trainer_args.max_grad_norm", "trainer_args.temperature", "trainer_args.neftune_noise_alpha", "trainer_args.x",
    "trainer_args.eval_steps", "trainer_args.loss_type", "trainer_args.adam_beta1", "trainer_args.torch_dtype",
    "trainer_args.generation_batch_size", "trainer_args.", "peft_args.r", "peft_args.target_modules",
)  # fmt: skip
OF_GRPO = [field.name for field in fields(GRPOExtraConfig)]
VALUES = st.one_of(
    st.sampled_from([
        "", "none", "true", "nan", "inf", "-inf", "1e400", "-1", "0", "0.5", "1e-320", "9" * 30, "9" * 5000, "[" * 5000,
        "[]", "{}", "[1]", '{"a": 1}', '{"metric": 3}', '[{"metric": "x"}]', "StageOutput('sft')", "StageOutput(3)",
        "made:sums", "made:", "~", "/", ".", "..", "a/b", "a/b/c", "lora", "qlora", "auto", "\ud83d", "a\nb",
        "\x1b[31m", "base", "rows.jsonl", "linear", "cosine_with_min_lr", "adafactor",
    ]),
    JUNK.map(lambda junk: json.dumps(junk)),
    st.integers(-3, 100).map(str),
    st.floats().map(str),
    st.text(max_size=6),
)  # fmt: skip
FITTING: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(0, 70) | st.integers(1, 2**70) | st.just(10**400),
    float: st.floats(0, 2) | st.floats(0) | st.integers(1, 2**70),
    bool: st.booleans(),
    str: st.sampled_from([
        "linear", "cosine", "adamw_torch", "adafactor", "auto", "bfloat16", "float16", "lora", "qlora", "eager", "sdpa",
        "base", "train", "test", "input", "stop", "exact_match", "a",
    ]),
}  # fmt: skip
HINTS = get_type_hints(TrainingConfig) | get_type_hints(GRPOExtraConfig)


def fitting(name: str) -> st.SearchStrategy[Any]:
    """Values of the type that a field of a recipe has, where it is one of Python's simple ones."""
    kinds = (HINTS[name], *get_args(HINTS[name]))
    return st.one_of([strategy for kind, strategy in FITTING.items() if kind in kinds] or [st.none()])


SOUND_VALUES = (
    "learning_rate=1e-5", "max_steps=3", "num_train_epochs=0.5", "seed=7", "eval_fraction=0.3", "eval_samples=4",
    "max_samples=40", "max_dropped_fraction=0.5", "warmup_steps=2", "weight_decay=0.1", "max_grad_norm=0",
    "max_length=64",
    "lr_scheduler_type=cosine", "optim=adamw_torch", "logging_steps=5", "save_steps=9", "dtype=float32", "output_dir=x",
    "per_device_train_batch_size=8", "gradient_checkpointing=true", "trainer_args.adam_beta1=0.5",
    "save_total_limit=none",
    'trainer_args={"adam_beta1": 0.5}',
)  # fmt: skip


@st.composite
def settings_of(draw: st.DrawFn, kind: str) -> str:
    of_stage = [*FIELDS, *(OF_GRPO if kind == "grpo" else [])]
    if draw(st.booleans()):
        return f"{kind}.{draw(st.sampled_from(SOUND_VALUES))}"
    if draw(st.booleans()):
        name = draw(st.sampled_from(of_stage))
        return f"{kind}.{name}={draw(fitting(name))}"
    stage = draw(st.sampled_from((kind, kind, kind, kind, kind, kind, "", "x", "sft.sft")))
    return f"{stage}.{draw(st.sampled_from([*of_stage, *OPTIONS]) | st.text(max_size=4))}={draw(VALUES)}"


@bounded
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_values_on_the_command_line_are_planned_or_refused(data: st.DataObject, kind: str, ends: Ends) -> None:
    given_values = data.draw(st.lists(settings_of(kind), min_size=1, max_size=2))
    values = [word for value in given_values for word in ("--set", value)]
    ends("--recipe", "mine.py", "--stages", kind, *values, "--plan", "--check-data")


class Written:
    """A value of a recipe, as it is written there, that Python cannot write."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __repr__(self) -> str:
        return self.source


UNWRITABLE = st.sampled_from([Written("10**5000"), [Written("-10**5000")], {"a": Written("10**5000")}, Written("deep")])


@st.composite
def values_of(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    return {name: draw(fitting(name) | fitting(name) | JUNK | UNWRITABLE) for name in chosen}


@bounded
@given(kind=st.sampled_from(KINDS), values=values_of(FIELDS), of_grpo=values_of(OF_GRPO))
def test_recipes_of_any_values_are_planned_or_refused(
    kind: str, values: dict[str, Any], of_grpo: dict[str, Any], ends: Ends
) -> None:
    sound = {"model_name": "base", "output_dir": kind, "dataset_name": f"{kind}.jsonl", "eval_fraction": 0.2}
    extra = {"reward_func": "exact_match"} | of_grpo
    recipe = Path(f"fuzz_{next(NUMBERS)}.py")
    stage, of_stage = ascii(sound | values), ascii(extra)
    recipe.write_text(
        "from math import inf, nan\n\nfrom algorithms import GRPOExtraConfig, TrainingConfig\n\n"
        "deep = []\nfor _ in range(5000):\n    deep = [deep]\n"
        f"configs = {{{kind!r}: TrainingConfig(**{stage})}}\n"
        + (f"grpo_extra = GRPOExtraConfig(**{of_stage})\n" if kind == "grpo" else "")
    )
    try:
        ends("--recipe", str(recipe), "--plan", "--check-data")
    finally:
        recipe.unlink()


def test_what_is_not_damaged_is_planned(ends: Ends) -> None:
    for kind, suffix in CASES:
        assert check_file(ends, kind, suffix, FILES[suffix][kind]()) == 0
    assert ends("--recipe", "mine.py", "--plan", "--check-data") == 0
