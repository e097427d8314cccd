"""Inputs as people report them: each of `../shared/cases` does what its README says is right."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import chat
import pretrain.__main__
from data.sources import load
from evaluation.__main__ import main as evaluate
from run_all import main
from tests.conftest import SHARED
from utils.errors import Refused

CASES = SHARED / "cases"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}"),
]
ROOT = Path(__file__).resolve().parents[1]
MAKERS = (
    ("make_models.py", SHARED / "fixtures"), ("make_variants.py",), ("make_gpt2.py", SHARED / "fixtures"),
    ("make_stories_chat.py", SHARED / "fixtures"),
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the cases name, by their own scripts."""
    directory = tmp_path_factory.mktemp("cases") / "models"
    directory.mkdir()
    for script, *arguments in MAKERS:
        command = [sys.executable, str(CASES / "common" / script), *map(str, arguments), str(directory)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return directory


def both_sides(case: str, kind: str = "sft") -> list[dict[str, Any]]:
    data = load(str(CASES / case), kind, eval_fraction=0.2)
    return [*data.train, *data.eval]


@pytest.mark.parametrize(
    ("case", "kind", "count", "row"),
    [
        (
            "alpaca-history/rows.jsonl", "sft", 40,
            {
                "prompt": [
                    {"role": "system", "content": "Answer in digits."},
                    {"role": "user", "content": "What is 0 plus 0?"},
                    {"role": "assistant", "content": "0"},
                    {"role": "user", "content": "And 2 times that?"},
                ],
                "completion": [{"role": "assistant", "content": "0"}],
            },
        ),
        ("apple-double/data", "sft", 40, None),
        ("capital-roles/rows.jsonl", "sft", 40, None),
        (
            "developer-role/rows.jsonl", "sft", 40,
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Say 0."},
                    {"role": "assistant", "content": "0"},
                ]
            },
        ),
        (
            "dolly-columns/rows.jsonl", "sft", 40,
            {
                "prompt": [{"role": "user", "content": "Which number is named here? Case 1.\n\nThe text names 1."}],
                "completion": [{"role": "assistant", "content": "1"}],
            },
        ),
        ("dpo-whitespace/rows.jsonl", "dpo", 40, None),
        ("mixed-gz/data", "sft", 40, None),
        ("nested-sft/data", "sft", 40, None),
        ("parallel-calls/rows.jsonl", "sft", 40, None),
        ("parquet-dictionary/rows.parquet", "sft", 40, None),
        ("parquet-null-shard/data", "sft", 40, None),
        ("saved-to-disk/data", "sft", 40, None),
        (
            "system-twice/rows.jsonl", "sft", 40,
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Say 0."},
                    {"role": "assistant", "content": "0"},
                ]
            },
        ),
        ("text-and-label/rows.jsonl", "sft", 40, {"text": "This film, number 0, was long and I liked it."}),
        (
            "text-parts/rows.jsonl", "sft", 40,
            {"messages": [{"role": "user", "content": "Say 0."}, {"role": "assistant", "content": "0"}]},
        ),
        (
            "ultrafeedback-parquet/train_prefs-00000-of-00001.parquet", "dpo", 40,
            {
                "prompt": [{"role": "user", "content": "Say 0."}],
                "chosen": [{"role": "assistant", "content": "0"}],
                "rejected": [{"role": "assistant", "content": "no"}],
            },
        ),
        ("upper-suffix/data", "sft", 40, None),
        ("upper-suffix/data/B.JSONL", "sft", 20, None),
    ],
)  # fmt: skip
def test_rows_are_read(case: str, kind: str, count: int, row: dict[str, Any] | None) -> None:
    rows = both_sides(case, kind)
    assert len(rows) == count
    assert row is None or row in rows
    if case.startswith("parallel"):
        assert all(len(one["messages"][1]["tool_calls"]) == 2 for one in rows)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("assistant-opens/rows.jsonl", "of the assistant, follows no question"),
        ("dict-columns/rows.json", r"to_json\(orient='records'\)"),
        ("json-wrapper/rows.json", "Its list 'data' looks like the rows"),
    ],
)
def test_rows_are_refused_for_what_they_are(case: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        both_sides(case)


@pytest.fixture
def stage(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that trains a few steps of a kind; gives exit code, what is printed, and training.log."""

    def run(model: str, data: str, kind: str, *values: str, recipe: str = "common", **env: str) -> tuple[int, str, str]:
        for name, value in {"CASE_MODEL": str(models / model), "CASE_DATA": str(CASES / data), **env}.items():
            monkeypatch.setenv(name, value)
        words = [word for value in values for word in ("--set", value)]
        argv = ["--recipe", str(CASES / recipe / "recipe.py"), "--stages", kind, "--runs-dir", str(tmp_path / "runs")]
        code = main([*argv, *words])
        said = capsys.readouterr()
        logs = sorted((tmp_path / "runs").glob(f"*/{kind}/training.log")) if (tmp_path / "runs").is_dir() else []
        return code, " ".join((said.out + said.err).split()), logs[-1].read_text() if logs else ""

    return run


Stage = Callable[..., tuple[int, str, str]]


def example(log: str) -> str:
    """Return the example in training.log."""
    return log.partition("between ⟦ and ⟧:\n")[2]


def test_thoughts_are_learnt(stage: Stage) -> None:
    code, _, log = stage("mm", "reasoning-content/rows.jsonl", "sft")
    assert code == 0
    thought = example(log).partition("⟦")[2].partition("⟧")[0]
    assert "Adding: 0 and 1 make 1." in thought
    assert "</think>" in thought


def test_turns_of_weight_0_are_not_learnt(stage: Stage) -> None:
    code, _, log = stage("mm", "turn-weight/rows.jsonl", "sft")
    before, _, learnt = example(log).partition("⟦")
    assert code == 0
    assert "WRONG brick" in before
    assert "apple" in learnt
    assert "WRONG" not in learnt


def test_ids_of_calls_are_shown(stage: Stage) -> None:
    code, _, log = stage("needs-call-id", "call-ids/rows.jsonl", "sft")
    assert code == 0
    assert "call_00000" in example(log)


def test_thoughts_that_a_template_strips_are_learnt_turn_by_turn(stage: Stage) -> None:
    code, _, log = stage("strips-thoughts", "strips-thoughts/rows.jsonl", "sft")
    assert code == 0
    assert "⟦<think>" in example(log)


def test_a_text_with_bos_has_one(stage: Stage) -> None:
    model = str(SHARED / "fixtures/models/stories260K")
    code, _, log = stage("mm", "text-with-bos/rows.jsonl", "sft", CASE_MODEL=model)
    assert code == 0
    assert example(log).count("<s>") == 1


def test_named_templates_are_kept(stage: Stage, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert stage("named-templates", "named-templates/rows.jsonl", "sft")[0] == 0
    (trained,) = (tmp_path / "runs").glob("*/sft")
    assert set(AutoTokenizer.from_pretrained(trained).chat_template) == {"default", "tool_use"}


@pytest.mark.parametrize(
    ("model", "data", "values", "why"),
    [
        ("added-not-resized", "added-tokens-not-resized/rows.jsonl", [], r"none for '<step>' (6400), '</step>' (6401)"),
        ("no-system", "no-system-template/rows.jsonl", [], "System role not supported"),
        (
            "stories-chat",
            "lora-tied/rows.jsonl",
            ["sft.peft=lora", 'sft.peft_args.modules_to_save=["lm_head"]'],
            "lm_head",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_start(
    model: str, data: str, values: list[str], why: str, stage: Stage, tmp_path: Path
) -> None:
    code, said, _ = stage(model, data, "sft", *values)
    assert code == 2
    assert why in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("model", "rows", "kind", "values", "reads"),
    [
        ("gpt2", "rows.jsonl", "sft", [], 128),
        ("gpt2", "pairs.jsonl", "reward", [], 128),
        ("gpt2", "pairs.jsonl", "dpo", [], 128),
        ("stories-chat", "rows.jsonl", "sft", ["sft.max_length=1024"], 512),
    ],
)
def test_rows_beyond_the_models_positions_are_said(
    model: str, rows: str, kind: str, values: list[str], reads: int, stage: Stage
) -> None:
    code, said, _ = stage(model, f"learned-positions/{rows}", kind, *values)
    assert code == 0, said
    assert f"7 of 33 rows are longer than the {reads} tokens that the model reads" in said


def test_prompts_beyond_the_models_positions_are_left_out(stage: Stage) -> None:
    few = ["grpo.max_steps=2", "grpo.preflight_prompts=0"]
    _, said, _ = stage("gpt2", "learned-positions/prompts.jsonl", "grpo", *few)
    assert "7 of 33 rows to train on are left out" in said
    assert "IndexError" not in said


@pytest.mark.parametrize(
    "name",
    "none_for_some two_domains nan_for_some as_array as_tensor tensor_with_gradient as_bools as_numpy_bools "
    "as_scalars_of_tensors as_tuple as_generator awaited instance async_instance method partly anonymous".split(),
)
def test_rewards_of_every_kind_train(name: str, stage: Stage) -> None:
    values = ["grpo.max_steps=1", "grpo.eval_samples=2"]
    code, said, _ = stage("mm", "grpo-rewards/rows.jsonl", "grpo", *values, recipe="grpo-rewards", CASE_REWARD=name)
    assert code == 0, said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raises", "the judge at 10.0.0.1 did not answer"),
        ("one_too_few", "rewards: it must return a list with a number, or None, for each"),
        ("positional", "reward_func positional takes no `**_`"),
        ("one_number", "the reward one_number returned 0.5"),
        ("as_text", "the reward as_text returned '"),
        ("as_column", "the reward as_column returned array("),
        ("infinite_for_some", "the reward infinite_for_some returned inf"),
    ],
)
def test_rewards_that_are_none_are_refused_by_their_name(name: str, why: str, stage: Stage) -> None:
    values = ["grpo.preflight_prompts=0", "grpo.eval_samples=2"]
    code, said, _ = stage("mm", "grpo-rewards/rows.jsonl", "grpo", *values, recipe="grpo-rewards", CASE_REWARD=name)
    assert code == 2, said
    assert why in said


def test_halves_and_whole_numbers_are_rewarded() -> None:
    from algorithms.rewards import exact_match

    rows = load(str(CASES / "grpo-mixed-numbers/rows.jsonl"), "grpo", eval_fraction=0.2).train.select(range(4))
    assert exact_match(["0", "0.5", "1", "1.5"], answer=rows["answer"][:]) == [1.0, 1.0, 1.0, 1.0]


def test_numeric_answers_are_compared_as_written(stage: Stage) -> None:
    _, said, _ = stage(
        "mm", "grpo-numeric-answers/rows.jsonl", "grpo", "grpo.max_steps=1", recipe="grpo-rewards",
        CASE_REWARD="exact_match",
    )  # fmt: skip
    assert "the rewards never varied within a group" in said


@pytest.mark.parametrize("file", sorted(path.name for path in CASES.glob("own-questions/*.jsonl")))
def test_own_questions_are_taken(file: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = str(CASES / "own-questions" / file)
    code = evaluate(["run", str(models / "mm"), "--tasks", task, "--max-new-tokens", "4"])
    said = capsys.readouterr()
    assert code == 0, said.err


@pytest.mark.parametrize(
    ("data", "exit_code", "why"),
    [
        ("pre-endoftext-lines/stories.txt", 0, "lines of <|endoftext|> end its documents"),
        ("pre-special-tokens/rows.jsonl", 0, "hold <|endoftext|> inside, which is read as text"),
        ("pre-scripts/rows.jsonl", 0, ""),
        ("pre-content-column/rows.jsonl", 2, "has no text: its columns are content"),
        ("pre-markdown/data", 2, "has no data files"),
        ("pre-one-document/one.txt", 2, "blank lines part documents"),
    ],
)
def test_documents(
    data: str, exit_code: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    small = {
        "vocab_size": 600 if "scripts" in data else 350,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "max_length": 64,
    }
    values = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    argv = [
        "--data",
        str(CASES / data),
        "--preset",
        "tiny",
        "--max-steps",
        "4",
        *values,
        "--out",
        str(tmp_path / "out"),
    ]
    code = pretrain.__main__.main(argv)
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert code == exit_code, text
    assert why in text
    if "endoftext" in data:
        (info,) = (json.loads(path.read_text()) for path in (tmp_path / "out").rglob("stage_info.json"))
        assert sum(split["documents"] for split in info["data"]["parts"][0]["splits"].values()) == 60


def test_a_huge_line_is_a_document(tmp_path: Path) -> None:
    from data.corpus.corpus import prepare

    texts = ["word " * 260_000, *(f"a few words, {n}" for n in range(60))]
    (tmp_path / "line.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = prepare(str(tmp_path / "line.jsonl"))
    assert sum(corpus.count(split) for split in ("train", "validation", "test")) == 61


@contextlib.contextmanager
def process(*command: str, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, *command], env=os.environ | env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as one:  # fmt: skip
        yield one


def test_a_pipe_that_is_closed_ends_the_chat(models: Path) -> None:
    with process(str(ROOT / "chat.py"), str(models / "mm"), "--max-tokens", "100", "--prompt", "hi") as one:
        assert one.stdout is not None
        assert one.stderr is not None
        one.stdout.read(5)
        one.stdout.close()
        assert b"Traceback" not in one.stderr.read()


NOT_TO_LEARN = (
    *("assistant-opens dict-columns grpo-mixed-numbers grpo-numeric-answers grpo-rewards json-wrapper".split()),
    *("own-questions pre-content-column pre-markdown pre-one-document".split()),
)
"""Cases whose rows are not for SFT, DPO or KTO, or cannot be read."""


@pytest.mark.parametrize(
    "data",
    [
        str(path.relative_to(CASES))
        for path in sorted(CASES.glob("*/*"))
        if path.name not in ("README.md", "recipe.py") and path.parent.name != "common"
    ],
)
def test_a_first_recipe_is_planned_or_refused(
    data: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.py"
    code = main(["--init", str(recipe), "--model", str(models / "mm"), "--data", str(CASES / data)])
    said = capsys.readouterr()
    refused = data.startswith(NOT_TO_LEARN) or data.endswith("prompts.jsonl")
    assert code == (2 if refused and not data.endswith("gsm8k.jsonl") else 0), said.err
    assert ("Plan of " in said.out) == recipe.exists() == (code == 0)
    assert said.err.count("--data: ") <= 1


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_console_that_is_not_utf_8_is_shown_what_it_can(encoding: str, models: Path, tmp_path: Path) -> None:
    data = CASES / "console-encoding/rows.jsonl"
    argv = ["--recipe", str(CASES / "common/recipe.py"), "--stages", "sft", "--runs-dir", str(tmp_path / "runs")]
    env = {"PYTHONIOENCODING": encoding, "CASE_MODEL": str(models / "mm"), "CASE_DATA": str(data)}
    with process(str(ROOT / "run_all.py"), *argv, **env) as one:
        _, said = one.communicate()
    assert one.returncode == 0, said


def test_a_token_without_an_embedding_ends_a_chat_with_a_message(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat.main([str(models / "added-not-resized"), "--prompt", "hi <step>"]) == 2
    assert "none for '<step>'" in capsys.readouterr().err


def test_a_recipe_with_a_bom_runs_from_a_directory_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], models: Path
) -> None:
    import shutil

    there = tmp_path / "a folder é"
    shutil.copytree(CASES / "cli", there)
    monkeypatch.setenv("CASE_MODEL", str(models / "mm"))
    (recipe,) = there.rglob("*.py")
    monkeypatch.chdir(recipe.parent)
    assert main(["--recipe", recipe.name, "--plan"]) == 0, capsys.readouterr().err
