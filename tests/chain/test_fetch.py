"""What is refused before a run starts, since a stage would fail of it hours later."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain.fetch import fetch
from chain.stages import stages_of
from kinds import named
from run_all import main
from tests.train_stage import KINDS
from utils.errors import Refused

QUESTION, ANSWER = {"role": "user", "content": "say red"}, {"role": "assistant", "content": "red"}


@pytest.fixture
def in_tmp(tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base model, plain and conversational data."""
    import numpy
    from safetensors.numpy import save_file

    shutil.copytree(tokenizer_dir, tmp_path / "base")
    (tmp_path / "base/config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": numpy.zeros(3, "float32")}, tmp_path / "base/model.safetensors")
    rows: dict[str, list[dict[str, Any]]] = {
        "plain": [{"prompt": f"say {n}", "completion": f" {n}"} for n in range(60)],
        "chat": [{"messages": [{"role": "user", "content": f"say {n}"}, ANSWER]} for n in range(60)],
        "prompts": [{"prompt": f"say {n}", "answer": str(n)} for n in range(60)],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _check(data: str = "chat", reward: Any = "exact_match", outputs: dict[str, Path] | None = None) -> None:
    configs = {
        "sft": TrainingConfig(model_name="base", output_dir="s", dataset_name=f"{data}.jsonl", eval_fraction=0.2),
        "grpo": TrainingConfig(
            model_name=StageOutput("sft"), output_dir="g", dataset_name="prompts.jsonl", eval_fraction=0.2
        ),
    }
    only = ["grpo"] if outputs else None
    fetch(stages_of(configs, GRPOExtraConfig(reward_func=reward), only, outputs), outputs or {})


def _set_tokenizer(**values: Any) -> None:
    file = Path("base/tokenizer_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_conversational_stage_after_plain_sft_of_a_base_model_is_refused(in_tmp: Path) -> None:
    with pytest.raises(Refused, match=r'grpo: StageOutput\("sft"\) will have no chat template'):
        _check("plain")
    _check("chat")
    _set_tokenizer(chat_template="{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    _check("plain")


SIMPLE_TEMPLATE = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
CALL = {"type": "function", "function": {"name": "add", "arguments": {}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_tools_that_a_template_leaves_out_are_refused_in_a_later_stage_too(in_tmp: Path) -> None:
    asked = [{"role": "user", "content": f"say {n}"} for n in range(60)]
    pairs = [{"prompt": [question], "chosen": [CALLING], "rejected": [ANSWER]} for question in asked]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    configs = {
        kind: TrainingConfig(model_name=model, output_dir=kind, dataset_name=f"{data}.jsonl", eval_fraction=0.2)
        for kind, model, data in (("sft", "base", "chat"), ("dpo", StageOutput("sft"), "pairs"))
    }
    fetch(stages_of(configs), {})  # the project's template, which a model without one gets, shows them
    _set_tokenizer(chat_template=SIMPLE_TEMPLATE)
    with pytest.raises(Refused, match="dpo: row 1 has tools, and this model's chat template leaves tool calls out"):
        fetch(stages_of(configs), {})


LONG: dict[str, dict[str, Any]] = {
    "sft": {"prompt": "say", "completion": "word " * 40},
    "reward": {"prompt": "say", "chosen": "word " * 40, "rejected": "no"},
    "dpo": {"prompt": "say", "chosen": "no", "rejected": "word " * 40},
    "kto": {"prompt": "say", "completion": "word " * 40},
    "grpo": {"prompt": "word " * 40},
    "rloo": {"prompt": "word " * 40},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reads", [2048, 100])
def test_rows_that_do_not_fit_are_refused_before_the_run(kind: str, reads: int, in_tmp: Path) -> None:
    """One token a byte: an answer has 200, and of the short ones none has 100."""
    Path("base/config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": reads}))
    _set_tokenizer(chat_template=SIMPLE_TEMPLATE)
    samples = named(kind).samples
    limit = None if samples else 150
    config = TrainingConfig(
        model_name="base", output_dir="s", dataset_name="rows.jsonl", eval_fraction=0.2, max_length=limit
    )
    extra = GRPOExtraConfig(
        reward_func=lambda completions, **_: [0.0 for _ in completions],
        max_completion_length=1900 if reads == 2048 else 30,
    )

    def fetch_with(long: int) -> None:
        rows = [LONG[kind] if n < long else {name: "short" + name for name in LONG[kind]} for n in range(60)]
        labels = [{"label": n % 2 == 0} if kind == "kto" else {} for n in range(60)]
        texts = [json.dumps({**row, **labels[n], "prompt": f"{row['prompt']} {n}"}) for n, row in enumerate(rows)]
        Path("rows.jsonl").write_text("\n".join(texts))
        fetch(stages_of({kind: config}, extra if samples else None), {})

    fetch_with(long=10)
    why = "150 tokens that max_length allows" if limit and reads > 150 else f"{reads} tokens that the model reads"
    with pytest.raises(Refused, match=f"{kind}: .* are longer than the {why}"):
        fetch_with(long=50)


def test_checking_the_data_measures_every_row_and_keeps_to_the_share_that_the_recipe_lets_go(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"say {n}", "completion": "word " * (40 if n >= 600 else 1)} for n in range(700)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = TrainingConfig(model_name="base", output_dir="s", dataset_name="rows.jsonl", max_length=150)
    assert fetch(stages_of({"sft": config}), {}).data["sft"]["faults"] == {}
    fetch(stages_of({"sft": config}), {}, check_data=True)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"warning: sft: \d+ of \d+ rows are longer than the 150 tokens .* the first: 'say 6\d\d'", said)
    config = replace(config, max_dropped_fraction=0.1)
    with pytest.raises(Refused, match=r"rows are longer than .* \(at most 10 % are let go"):
        fetch(stages_of({"sft": config}), {}, check_data=True)


def test_the_plan_with_checked_data_refuses_what_a_run_would(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "from algorithms import StageOutput, TrainingConfig\n"
        "configs = {'sft': TrainingConfig(model_name='base', output_dir='s', dataset_name='plain.jsonl'),"
        " 'grpo': TrainingConfig(model_name=StageOutput('sft'), output_dir='g', dataset_name='prompts.jsonl')}\n"
    )
    assert main(["--recipe", "mine.py", "--plan", "--check-data"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "grpo: the reward accuracy_reward needs solution" in said
    assert not Path("runs").exists()


def test_turns_that_the_template_cannot_show_are_refused_before_the_run(in_tmp: Path) -> None:
    raises = "{% if messages[0].content == 'say 7' %}{{ raise_exception('no sevens') }}{% endif %}"
    _set_tokenizer(chat_template=raises + SIMPLE_TEMPLATE)
    with pytest.raises(Refused, match=r"sft: the model's chat template cannot show .*say 7.*: no sevens"):
        _check()


def test_the_output_of_another_run_is_looked_at(in_tmp: Path) -> None:
    with pytest.raises(Refused, match="has no chat template, which this stage needs"):
        _check(outputs={"sft": in_tmp / "base"})


def test_a_tokenizer_without_a_token_to_spare_is_refused(in_tmp: Path) -> None:
    _set_tokenizer(pad_token="<|im_end|>")
    file = Path("base/tokenizer.json")
    file.write_text(file.read_text().replace("<pad>", "x"))
    with pytest.raises(Refused, match="sft: this tokenizer has no token to pad with"):
        _check()


def test_a_language_model_as_reward_model_is_refused(in_tmp: Path) -> None:
    with pytest.raises(Refused, match="grpo: base cannot be a reward model here: it gives 2 scores instead of 1"):
        _check(reward="base")


@pytest.mark.parametrize("reward", [3, [3], {"a": 1}])
def test_a_reward_of_the_wrong_type_is_a_problem_of_the_recipe(reward: Any, in_tmp: Path) -> None:
    with pytest.raises(Refused, match=r"grpo: reward_func = .*: must be"):
        _check(reward=reward)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{}", "configuration or tokenizer cannot be loaded: Unrecognized model"),
        ("config.json", "{", "configuration or tokenizer cannot be loaded: .*not a valid JSON"),
        ("tokenizer.json", "{", "has no tokenizer that transformers can load"),
        ("tokenizer.json", '{"a": 1}', "has no tokenizer that transformers can load"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer.* git lfs pull"),
        ("model.safetensors", "12", "cannot be read, is it whole?"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused(file: str, text: str, message: str, in_tmp: Path) -> None:
    (in_tmp / "base" / file).write_text(text)
    with pytest.raises(Refused, match=message):
        _check()


def test_checking_says_what_takes_time_and_nothing_that_the_stage_says_again(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _check()
    said = capsys.readouterr().out
    told = "grpo shows the model no answer of prompts.jsonl: reward functions are given them\n"
    assert said == f"sft: preparing chat.jsonl\ngrpo: preparing prompts.jsonl\n{told}"
