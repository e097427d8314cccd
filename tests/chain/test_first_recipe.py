"""`--init`: what it writes for each kind of data, that this runs and learns, and what it refuses, leaving nothing."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import kinds
from algorithms import StageOutput, rewards
from chain.first_recipe import look, values
from chain.recipe import Recipe, load
from data.sources import load_for
from data.splits import position
from records.stage_log import StageLog
from run_all import main

ROOT = Path(__file__).resolve().parents[2]
ASKED = [f"What is {n} plus {n + 1}?" for n in range(60)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "answers": [{"question": ask, "answer": f"It is {2 * n + 1}."} for n, ask in enumerate(ASKED)],
    "turns": [
        {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": f"It is {2 * n + 1}."}]}
        for n, ask in enumerate(ASKED)
    ],
    "pairs": [{"question": ask, "chosen": f"It is {2 * n + 1}.", "rejected": "No."} for n, ask in enumerate(ASKED)],
    "both": [
        {"instruction": ask, "output": f"It is {2 * n + 1}.", "chosen": f"{2 * n + 1}.", "rejected": "No."}
        for n, ask in enumerate(ASKED)
    ],
    "thumbs": [
        {
            "prompt": [{"role": "user", "content": ask}],
            "completion": [{"role": "assistant", "content": f"{2 * n + 1}"}],
            "label": n % 2 == 0,
        }
        for n, ask in enumerate(ASKED)
    ],
    "text": [{"text": f"{ask} It is {2 * n + 1}."} for n, ask in enumerate(ASKED)],
    "checked": [{"prompt": ask, "answer": 2 * n + 1} for n, ask in enumerate(ASKED)],
    "unchecked": [{"prompt": ask} for ask in ASKED],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with a tokenizer of its own and the project's chat template."""
    from data.chat import CHAT_TEMPLATE
    from pretrain import PretrainConfig
    from pretrain.model import random_model
    from pretrain.tokenizer import train_tokenizer

    directory = tmp_path_factory.mktemp("models") / "small"
    tokenizer = train_tokenizer([row["text"] for row in ROWS["text"]], 300, directory)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = PretrainConfig(output_dir="", dataset_name="", max_position_embeddings=128, **shape)
    random_model(config, tokenizer, "cpu").save_pretrained(directory)
    return directory


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of each kind of rows."""
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def init(work: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Recipe]:
    """Return a function that has a recipe written, which must show its plan, load, and be as ruff would have it."""

    def written(*flags: str, name: str = "mine.py", of: Path = model) -> Recipe:
        code = main(["--init", name, "--model", str(of), *flags])
        said = capsys.readouterr()
        assert code == 0, said.err
        assert "Plan of" in said.out
        for check in (["check"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *check, "--no-cache", "--config", str(ROOT / "pyproject.toml"), name]
            done = subprocess.run(ruff, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
        return load(name)

    return written


Init = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        (["--data", "answers.jsonl"], ["sft"]),
        (["--data", "turns.jsonl"], ["sft"]),
        (["--data", "text.jsonl"], ["sft"]),
        (["--data", "both.jsonl"], ["sft", "dpo"]),
        (["--data", "pairs.jsonl"], ["dpo"]),
        (["--data-preferences", "pairs.jsonl"], ["dpo"]),
        (["--data", "answers.jsonl", "--data-preferences", "pairs.jsonl"], ["sft", "dpo"]),
        (["--data", "answers.jsonl", "--data-preferences", "thumbs.jsonl"], ["sft", "kto"]),
        (["--data", "thumbs.jsonl"], ["kto"]),
        (["--data", "pairs.jsonl", "--stages", "reward,dpo"], ["reward", "dpo"]),
        (["--data", "pairs.jsonl", "--stages", "kto"], ["kto"]),
        (["--data", "checked.jsonl", "--stages", "grpo"], ["grpo"]),
    ],
    ids=" ".join,
)
def test_stages_are_those_that_the_data_can_feed(flags: list[str], stages: list[str], init: Init) -> None:
    recipe = init(*flags)
    assert list(recipe.configs) == stages
    policies = [label for label in stages if label != "reward"]
    for before, label in pairwise(policies):
        assert recipe.configs[label].model_name == StageOutput(before)


def test_rewards_are_the_check_of_the_answers_and_the_reward_model(init: Init) -> None:
    of_both = ["--data", "checked.jsonl", "--data-preferences", "pairs.jsonl", "--stages", "reward,grpo,rloo"]
    extra = init(*of_both).grpo_extra
    assert extra["grpo"].reward_func == extra["rloo"].reward_func == ["answer_match", StageOutput("reward")]


def test_the_reward_finds_the_datas_own_worked_answers_right(init: Init, work: Path) -> None:
    rows = [{"question": f"What is {n} plus 2?", "answer": f"{n} + 2 = {n + 2}\n#### {n + 2}"} for n in range(60)]
    (work / "gsm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = init("--data", "gsm.jsonl", "--stages", "sft,grpo")
    function, _ = rewards.load(recipe.grpo_extra.reward_func)
    prompts = load_for(recipe.configs["grpo"], "grpo").train
    told = {row["question"]: row["answer"] for row in rows}
    completions = [told[row["prompt"][0]["content"]] for row in prompts]
    columns = {name: prompts[name][:] for name in prompts.column_names if name != "prompt"}
    assert set(function(completions=completions, **columns)) == {1.0}


def test_every_value_has_its_reason_above_it(init: Init) -> None:
    init("--data", "answers.jsonl")
    lines = Path("mine.py").read_text().splitlines()
    plain = ("model_name", "output_dir", "dataset_name")
    fields = [n for n, line in enumerate(lines) if re.match(r" {8}\w+=", line) and not line.strip().startswith(plain)]
    assert len(fields) > 10
    assert [lines[n] for n in fields if not lines[n - 1].strip().startswith("# ")] == []


def test_a_recipe_is_found_again_from_any_directory_and_moves_with_its_data(
    init: Init, work: Path, model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    init("--data", "answers.jsonl")
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(work, moved)
    monkeypatch.chdir(moved.parent)
    config = load("moved/mine.py").configs["sft"]
    assert config.dataset_name == str(moved / "answers.jsonl")
    assert config.model_name == str(model)


@pytest.mark.parametrize("name", ['a "b" {c} \\d.jsonl', "é\n# x = 1.jsonl", '""".jsonl', "x" * 200 + ".jsonl"])
def test_data_of_any_name_are_named(name: str, init: Init, work: Path) -> None:
    shutil.copy("answers.jsonl", name)
    assert init("--data", name).configs["sft"].dataset_name == str(work / name)


def test_data_that_hold_out_a_split_keep_it(init: Init, work: Path) -> None:
    (work / "folder").mkdir()
    lines = Path("answers.jsonl").read_text().splitlines(keepends=True)
    Path("folder/train.jsonl").write_text("".join(lines[:50]))
    Path("folder/test.jsonl").write_text("".join(lines[50:]))
    init("--data", "folder")
    assert "eval_fraction" not in Path("mine.py").read_text()


def test_an_adapter_is_trained_on_as_one(init: Init, work: Path, model: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = AutoModelForCausalLM.from_pretrained(model)
    whole.name_or_path = str(model)
    adapted = get_peft_model(whole, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained("adapter")
    AutoTokenizer.from_pretrained(model).save_pretrained("adapter")
    assert init("--data", "answers.jsonl", of=work / "adapter").configs["sft"].peft == "lora"


def test_memory_decides_what_is_trained(init: Init, work: Path, shared: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    large = work / "large"  # the shape of Qwen2.5-0.5B, whose weights nobody loads here
    shutil.copytree(shared / "fixtures/tokenizers/qwen2.5", large)
    shape: dict[str, Any] = {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
    shape |= {"num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True}
    (large / "config.json").write_text(json.dumps({"model_type": "qwen2", **shape}))
    save_file({"a": numpy.zeros(3, "float32")}, large / "model.safetensors")
    found = {
        budget: init("--data", "answers.jsonl", "--memory-budget", budget, name=f"{budget}.py", of=large).configs["sft"]
        for budget in ("10GiB", "4GiB")
    }
    assert found["10GiB"].peft is None
    assert found["4GiB"].peft == "lora"
    assert found["10GiB"].learning_rate == 2e-5
    assert found["4GiB"].learning_rate == 2e-4


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--data", "nosuch.jsonl"], "--data: there is no data set 'nosuch.jsonl'"),
        (["--data", "unchecked.jsonl"], "For sft it needs one of"),
        (["--data", "checked.jsonl"], "add --stages grpo"),
        (["--data", "unchecked.jsonl", "--stages", "grpo"], "no answers that can be checked"),
        (["--data", "pairs.jsonl", "--stages", "sft"], "--data, for sft: "),
        (["--data", "answers.jsonl", "--stages", "dpo"], "--data, for dpo: "),
        (["--data", "made:conversations"], "belong to the recipe that registers them"),
        (["--data", "answers.jsonl", "--stages", "sfd"], "did you mean 'sft'"),
        (["--data", "answers.jsonl", "--stages", "sft,sft"], "a stage is named twice"),
        (["--data", "answers.jsonl", "--stages", ""], "--stages names no stage"),
        (["--data", "text.jsonl", "--stages", "pretrain,sft"], "pretrain begins with random weights"),
        (["--data", "answers.jsonl", "--data-preferences", "pairs.jsonl", "--stages", "sft"], "reads it"),
        (["--data-preferences", "pairs.jsonl", "--stages", "sft"], "add --data FILE"),
        ([], "add --data FILE"),
        (["--data", "answers.jsonl", "--memory-budget", "1MiB"], "does not fit in 0.00 GiB"),
        (["--data", "answers.jsonl", "--runs-dir", "pairs.jsonl"], "pairs.jsonl is a file"),  # which the plan finds
        (["--data", "answers.jsonl", "--plan"], "leave out --plan"),
        (["--data", "answers.jsonl", "--set", "sft.seed=1", "--from", "x"], "leave out --from, --set"),
        (["--data", "answers.jsonl", "--test"], "not allowed with"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    flags: list[str], why: str, work: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(work.rglob("*"))
    assert main(["--init", "mine.py", "--model", str(model), *flags]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "Traceback" not in said
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--init", "mine.py", "--data", "answers.jsonl"], "add --model MODEL"),
        (["--init", "mine.py", "--data", "no.jsonl", "--model", "no/model"], "--model: 'no/model' is no run"),
        (["--init", "mine.py", "--data", "no.jsonl", "--model", "no/model"], "--data: there is no data set 'no.jsonl'"),
        (["--init", "answers.jsonl", "--data", "answers.jsonl", "--model", "m"], "is there already"),
        (["--init", "mine", "--data", "answers.jsonl", "--model", "m"], "let its name end in .py"),
        (["--init", "no/mine.py", "--data", "answers.jsonl", "--model", "m"], "is no directory that can be written"),
        (["--data", "answers.jsonl", "--model", "m"], "--model, --data: read by --init alone"),
        (["--test", "--data-preferences", "answers.jsonl"], "--data-preferences: read by --init alone"),
    ],
)
def test_flags_of_init_that_do_not_go_together_are_refused(
    argv: list[str], why: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in work.rglob("*")}
    assert main(argv) == 2
    assert why in capsys.readouterr().err
    assert {path: path.read_bytes() for path in work.rglob("*")} == before


def test_a_reward_model_is_no_model_to_train(work: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(model, "scores")
    config = json.loads(Path("scores/config.json").read_text())
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    Path("scores/config.json").write_text(json.dumps(config))
    assert main(["--init", "mine.py", "--model", "scores", "--data", "answers.jsonl"]) == 2
    assert "is a reward model" in capsys.readouterr().err


def test_max_length_is_the_99th_percentile_in_steps_of_32() -> None:
    lengths = [*range(1, 100), 5000]  # the 99th of 100 in rising order is 99
    assert values._length(lengths, None)[0] == 128
    assert values._length(lengths, 100)[0] == 100
    assert values._length([3] * 10, None)[0] == 64


def test_the_learning_rate_is_the_usual_one_at_the_usual_size_and_rises_as_models_shrink() -> None:
    def rate(parameters: int, kind: str = "sft", peft: str | None = None) -> float:
        model = look.Model("m", parameters, 512, True, False)
        rows = look.Rows(kinds.named(kind), "d", (), [0.5], False)
        facts = look.Facts(model, {}, 2**30, "", False)
        return values._learning_rate(facts, rows, values.Way(peft, "float32", False))[0]

    assert rate(500_000_000) == 2e-5
    assert rate(31_250_000) == 2e-4  # a 16th of the size, 8 times the rate: 1.6e-4
    assert rate(1_041_792) == 2e-3  # as the embedded recipe, where this was tuned
    assert rate(1_000) == 2e-3
    assert rate(70_000_000_000) == 1e-5
    assert rate(500_000_000, peft="lora") == 2e-4
    assert rate(500_000_000, kind="dpo") == 1e-6
    assert rate(500_000_000, kind="reward") == 2e-5


@pytest.mark.parametrize(
    ("rows", "problems", "held"), [(60, 60, 12), (4_000, 4_000, 200), (200, 3, 66), (2_000, 8, 250)]
)
def test_some_200_rows_are_held_out_or_a_fifth_of_few_and_whole_problems(rows: int, problems: int, held: int) -> None:
    places = sorted(position(f"question {n % problems}") for n in range(rows))
    one = look.Rows(kinds.named("sft"), "d", (), places, False)
    fraction, said = values._fraction(look.Facts(ANY_MODEL, {"sft": one}, 2**30, "", False))
    found = sum(place < fraction for place in places)
    assert held <= found <= 1.4 * held + 1
    assert f"{found:,} of {rows:,} for sft" in said["eval_fraction"][1]


ANY_MODEL = look.Model("m", 10**6, 512, True, False)


def test_columns_are_called_what_somebody_says(init: Init, work: Path) -> None:
    rows = [{"In": ask, "Out": "It is."} for ask in ASKED]
    (work / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", "odd.jsonl", "--columns", "question=In,answer=Out", "--data-preferences", "pairs.jsonl"]
    config = init(*flags).configs["sft"]
    assert config.columns == {"question": "In", "answer": "Out"}
    assert load_for(config, "sft").train[0]["completion"][0]["content"] == "It is."


def test_every_stage_holds_out_the_same_problems(init: Init, work: Path) -> None:
    asked = [f"What is {n} times {n}?" for n in range(1500)]
    for name, rows in {
        "many": [{"question": ask, "answer": "Much."} for ask in asked],
        "few": [{"question": ask, "chosen": "Much.", "rejected": "Nothing."} for ask in asked[:200]],
    }.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs = init("--data", "many.jsonl", "--data-preferences", "few.jsonl").configs
    sft, dpo = (load_for(configs[label], label) for label in ("sft", "dpo"))
    trained_on = {row["prompt"][0]["content"] for row in sft.train}
    held_out = {row["prompt"][0]["content"] for row in dpo.eval}
    assert len(held_out) > 20
    assert not held_out & trained_on


def test_questions_that_repeat_are_held_out_whole(init: Init, work: Path) -> None:
    rows = [{"question": f"Say {n % 8}.", "answer": f"It is {n}."} for n in range(2000)]
    (work / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = init("--data", "same.jsonl").configs["sft"]
    assert len(load_for(config, "sft").eval) > 100


def test_few_rows_are_seen_often_and_many_once() -> None:
    def epochs(count: int, step: int, kind: str = "sft") -> int:
        return values._epochs(look.Rows(kinds.named(kind), "d", (), [], False), count, step)[0]

    assert epochs(1_000, 8) == 3
    assert epochs(10_000, 16) == 2
    assert epochs(10**6, 32) == 1
    assert epochs(40, 4) == math.ceil(60 * 4 / 40)
    assert epochs(25, 4, "dpo") == 3


@pytest.mark.slow
def test_a_recipe_as_written_makes_both_stages_better(
    init: Init, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init("--data", "answers.jsonl", "--data-preferences", "pairs.jsonl")
    assert main(["--recipe", "mine.py"]) == 0, capsys.readouterr().err
    (run_dir,) = (work / "runs").iterdir()
    loss = next(
        one
        for one in StageLog(run_dir / "sft").read_info()["evaluation"]
        if (one["task"], one["metric"]) == ("demonstrations", "loss")
    )
    low, high = loss["ci95"]
    assert low < high < 0, "the loss of held-out demonstrations fell, beyond noise"
    assert StageLog(run_dir / "dpo").read_info()["status"] == "passed"
