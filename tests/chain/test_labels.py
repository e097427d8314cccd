"""Stages go by their labels: what is refused of them, and of what names them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import run_all
from algorithms import TrainingConfig
from chain.recipe import load
from chain.stages import stages_of
from run_all import main
from tests.algorithms.conftest import data_files, model_dir
from utils.errors import Refused

__all__ = ["data_files", "model_dir"]  # fixtures

RECIPE = '''"""A recipe."""

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig


def stage(output_dir, data="conversations", **fields):
    quick = {{"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}}
    quick |= {{"bf16": False, "gradient_checkpointing": False, "eval_samples": 8, "model_name": {model!r}}}
    return TrainingConfig(output_dir=output_dir, dataset_name={directory!r} + data + ".jsonl", **(quick | fields))


def total(completion_ids, **columns):
    """A reward that differs between any two completions."""
    return [float(sum(ids)) for ids in completion_ids]


grpo_extra = None
'''
TWO = """
configs = {
    "code": stage("my-code", stage="sft"),
    "tools": stage("my-tools", stage="sft", model_name=StageOutput("code"), max_steps=3),
}
"""
PLAY = 'configs = {"play": stage("play", "prompts", stage="grpo"), "code": stage("code", stage="sft")}\n'


@pytest.fixture
def write(
    model_dir: Path, data_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Return a function that writes a recipe of the tiny model and returns its file."""
    monkeypatch.chdir(tmp_path)
    given = RECIPE.format(model=str(model_dir), directory=f"{next(iter(data_files.values())).parent}/")

    def write(configs: str) -> str:
        Path("recipe.py").write_text(given + configs)
        return "recipe.py"

    return write


REFUSED = {
    "a label that is no kind": (
        'configs = {"code": stage("a")}',
        "'code' is no kind of stage. Allowed: pretrain, sft, ",
    ),
    "and the way out": (
        'configs = {"code": stage("a")}',
        'Under another label, stage= says the kind: TrainingConfig(stage="sft", …)',
    ),
    "a kind that does not exist": (
        'configs = {"code": stage("a", stage="stf")}',
        "code: stage = 'stf' is no kind of stage, did you mean 'sft'?",
    ),
    "a kind that is no text": ('configs = {"code": stage("a", stage=3)}', "code: stage = 3 is no kind of stage"),
    "one directory twice": (
        'configs = {"code": stage("same", stage="sft"), "tools": stage("same", stage="sft")}',
        "tools: output_dir = 'same' is in use by code: each stage needs its own",
    ),
    "a reward model as policy": (
        'configs = {"judge": stage("a", "pairs", stage="reward"),\n'
        '    "tools": stage("b", stage="sft", model_name=StageOutput("judge"))}',
        'tools: model_name = StageOutput("judge"): must be a policy, not a reward model',
    ),
    "a policy as reward model": (
        'configs = {"code": stage("a", stage="sft"), "play": stage("b", "prompts", stage="grpo")}\n'
        'grpo_extra = {"play": GRPOExtraConfig(reward_func=StageOutput("code"))}',
        'play: reward_func = StageOutput("code"): must be a reward model',
    ),
    "an unknown label": (
        'configs = {"code": stage("a", stage="sft"), "b": stage("b", stage="sft", model_name=StageOutput("coed"))}',
        "b: model_name = StageOutput(\"coed\"): the recipe has no such stage, did you mean 'code'?",
    ),
    "a dot": (
        'configs = {"co.de": stage("a", stage="sft")}',
        "'co.de' is no label of a stage: letters, digits, _ and -",
    ),
    "a slash": ('configs = {"a/b": stage("a", stage="sft")}', "'a/b' is no label of a stage: letters, digits, _ and -"),
    "a number": ('configs = {1: stage("a", stage="sft")}', "1 is no label of a stage: letters, digits, _ and -"),
    "sampling for a stage that does not sample": (
        f'{PLAY}grpo_extra = {{"code": GRPOExtraConfig()}}',
        "grpo_extra: 'code' is no stage that samples. There are: play",
    ),
    "sampling for a label that is not there": (
        f'{PLAY}grpo_extra = {{"paly": GRPOExtraConfig()}}',
        "grpo_extra: 'paly' is no stage that samples, did you mean 'play'? There are: play",
    ),
    "sampling for one of two": (
        f'{PLAY.replace("}", "")}, "more": stage("more", "prompts", stage="grpo")}}\n'
        'grpo_extra = {"play": GRPOExtraConfig(reward_func=total)}',
        "grpo_extra: more samples too: give every such stage its own, or one for all",
    ),
    "the label of another as a directory": (
        'configs = {"code": stage("a", stage="sft"), "tools": stage("code", stage="sft")}',
        "tools: output_dir = 'code' is the label of another stage: name it otherwise",
    ),
    "sampling of the wrong class": (
        f'{PLAY}grpo_extra = {{"play": 3}}',
        "grpo_extra: must be a GRPOExtraConfig, or one for each label; given: 3",
    ),
    "sampling for nothing": (
        'configs = {"code": stage("a", stage="sft")}\ngrpo_extra = {"code": GRPOExtraConfig()}',
        "grpo_extra: nothing reads it, since the recipe has no stage that samples, such as grpo",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_label_is_refused_in_one_message_and_nothing_is_created(
    case: str, write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    source, message = REFUSED[case]
    before = [write(source), *(path.name for path in Path.cwd().iterdir())]
    assert main(["--recipe", "recipe.py"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n- ") == 1, said
    assert "Traceback" not in said
    assert before == ["recipe.py", *(path.name for path in Path.cwd().iterdir())]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--set", "toosl.max_steps=1"], "the recipe has no stage 'toosl', did you mean 'tools'? It has: code, tools"),
        (["--set", "tools.num_generations=4"], "there is no field 'num_generations'"),
        (["--set", "sft.max_steps=1"], "the recipe has no stage 'sft'. It has: code, tools"),
        (["--stages", "sft"], "--stages sft: the recipe has no such stage. It has: code, tools"),
        (["--stages", "tools"], "has not run: add code to --stages, or name a run that has it with --from"),
    ],
)
def test_the_command_line_names_labels(
    argv: list[str], message: str, write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--recipe", write(TWO), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_seed_is_that_of_every_label(write: Callable[[str], str]) -> None:
    args = run_all.parser().parse_args(["--recipe", write(TWO), "--seed", "7"])
    asked = run_all.request(args, "recipe.py")
    assert [stage.config.seed for stage in stages_of(asked.configs)] == [7, 7]


def test_a_label_may_be_the_name_of_another_kind() -> None:
    config = TrainingConfig(stage="sft", model_name="m", output_dir="o", dataset_name="d")
    (stage,) = stages_of({"dpo": config})
    assert (stage.label, stage.kind.name) == ("dpo", "sft")
    with pytest.raises(Refused, match=r"dpo: beta = 0\.1: sft has no such option"):
        stages_of({"dpo": replace(config, beta=0.1)})


def test_a_recipe_that_is_no_python_is_told_with_its_line_if_it_has_one(tmp_path: Path) -> None:
    for text, said in (("configs = {\n", "line 1: "), ("configs = 1\0", "cannot contain null bytes")):
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(Refused, match=said) as refused:
            load(str(tmp_path / "mine.py"))
        assert "line 0" not in str(refused.value)
        assert "None" not in str(refused.value)
