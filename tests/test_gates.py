"""Gates in a run: what is refused, a stage that is really broken and stopped, and what later stages then start from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain.recovery import train_within_memory
from pipeline import Refused, StageFailed, run_pipeline
from pretrain import PretrainConfig
from records.catalogue import catalogue, find_checkpoint
from tests.algorithms.conftest import data_files, model_dir
from utils.files import weights_sha256

__all__ = ["data_files", "model_dir"]  # fixtures

Configs = dict[str, Any]
LEARNS = {"metric": "demonstrations loss", "better_than_input": True}
SOUND, BROKEN = 5e-2, 5.0
"""Learning rates of SFT, one a hundred times the other."""


@pytest.fixture
def configs(model_dir: Path, data_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    """SFT with a gate, and DPO from its output, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    quick: dict[str, Any] = {
        "max_steps": 6, "per_device_train_batch_size": 8, "logging_steps": 3, "bf16": False, "eval_samples": 24,
        "gradient_checkpointing": False, "eval_fraction": 0.2, "warmup_steps": 0,
    }  # fmt: skip
    sft: dict[str, Any] = {"model_name": str(model_dir), "dataset_name": str(data_files["conversations"])}
    dpo: dict[str, Any] = {"model_name": StageOutput("sft"), "dataset_name": str(data_files["pairs"])}
    return {
        "sft": TrainingConfig(**sft, output_dir="my-sft", **quick, learning_rate=SOUND, gates=[LEARNS]),
        "dpo": TrainingConfig(**dpo, output_dir="my-dpo", **quick, learning_rate=1e-3),
    }


def with_sft(configs: Configs, **changes: Any) -> Configs:
    return {**configs, "sft": replace(configs["sft"], **changes)}


def info(run: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run / name / "stage_info.json").read_text()))


def run_info(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run_info.json").read_text()))


def only_run() -> Path:
    (run,) = Path("runs").resolve().iterdir()
    return run


def test_a_sound_stage_passes_its_gate_and_the_decision_is_on_record(configs: Configs) -> None:
    run = run_pipeline(configs)
    sft = info(run, "my-sft")
    (gate,) = sft["gates"]
    assert set(gate) == set("metric rule value n before after ci95 bounds95 noise decision failed".split())
    assert (gate["metric"], gate["rule"], gate["decision"], gate["failed"]) == (
        "demonstrations loss", "better_than_input", "better", False
    )  # fmt: skip
    (measured,) = [one for one in sft["evaluation"] if (one["task"], one["metric"]) == ("demonstrations", "loss")]
    assert {name: gate[name] for name in ("n", "before", "after", "ci95")} == {
        name: measured[name] for name in ("n", "before", "after", "ci95")
    }
    assert set(measured) == set("task metric n before after ci95".split())
    assert sft["gate_failed"] is None
    assert (
        "| GATE | demonstrations loss, better_than_input: better, passed"
        in (run / "my-sft/training_events.log").read_text()
    )
    console = (run / "console_output.log").read_text()
    assert "gates        demonstrations loss better_than_input True; else stop" in console
    assert "sft gate: demonstrations loss, better_than_input: better, passed" in console.partition("Held-out")[2]
    assert info(run, "my-dpo")["input"]["sha256"] == sft["output"]["sha256"]
    assert info(run, "my-dpo")["gates"] == []


def test_a_stage_with_a_hundredfold_learning_rate_is_stopped_and_kept(configs: Configs) -> None:
    broken = with_sft(configs, learning_rate=BROKEN)
    with pytest.raises(
        StageFailed, match="stage sft failed: gate: demonstrations loss, better_than_input: worse, FAILED"
    ):
        run_pipeline(broken)
    run = only_run()
    sft = info(run, "my-sft")
    assert (sft["status"], sft["gates"][0]["decision"]) == ("failed", "worse")
    assert sft["output"]["sha256"] == weights_sha256(run / "my-sft")
    assert sft["steps"] == 6
    assert [entry["status"] for entry in run_info(run)["stages"]] == ["failed", "pending"]
    assert not (run / "my-dpo").exists()
    with pytest.raises(StageFailed, match="gate: demonstrations loss"):  # it is decided again, not trained again
        run_pipeline(broken, resume=run.name)
    assert (run / "my-sft/training_events.log").read_text().count("TRAIN_START") == 1

    asks_less = with_sft(broken, gates=[LEARNS | {"metric": "demonstrations accuracy", "at_least": 0.0}])
    asks_less["sft"].gates[0].pop("better_than_input")
    assert run_pipeline(asks_less, resume=run.name) == run
    assert info(run, "my-sft")["output"] == sft["output"]
    assert info(run, "my-dpo")["input"]["sha256"] == sft["output"]["sha256"]
    assert (run / "my-sft/training_events.log").read_text().count("TRAIN_START") == 1
    assert run_info(run).get("forced") is None


def test_on_fail_input_lets_later_stages_start_from_the_stages_input(configs: Configs, model_dir: Path) -> None:
    broken = with_sft(configs, learning_rate=BROKEN, on_fail="input")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("chain.run_stage.train_within_memory", stopping_at("dpo"))
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(broken)
    run = run_pipeline(broken, resume="latest")
    before = weights_sha256(model_dir)
    sft, dpo = info(run, "my-sft"), info(run, "my-dpo")
    assert sft["status"] == "passed"
    assert "worse, FAILED" in sft["gate_failed"]
    assert sft["output"]["sha256"] == weights_sha256(run / "my-sft") != before
    assert dpo["input"] == {"ref": 'StageOutput("sft")', "path": str(model_dir), "sha256": before}
    assert "sft: a gate failed, so later stages start from its input" in (run / "console_output.log").read_text()

    later = run_pipeline(broken, stages=["dpo"], from_run=run.name)
    assert info(later, "my-dpo")["input"]["sha256"] == before
    assert find_checkpoint(f"{run.name}/sft", Path("runs")).path == run / "my-sft"  # asked for by name, it is shown
    assert f"passes on {model_dir}" in catalogue(Path("runs"))


def test_the_models_line_and_chat_name_what_the_last_stage_passes_on(configs: Configs) -> None:
    impossible = {"metric": "preferences accuracy", "at_least": 1.0}
    last = {**configs, "dpo": replace(configs["dpo"], gates=[impossible], on_fail="input")}
    run = run_pipeline(last)
    assert info(run, "my-dpo")["gate_failed"]
    entry = run_info(run)["stages"][1]
    assert (entry["name"], entry["passes_on"]) == ("dpo", "my-sft")  # relative: the run may be moved
    where, talk = (run / "console_output.log").read_text().splitlines()[-2:]
    assert where.endswith(f"its input, since a gate failed: runs/{run.name}/my-sft")
    assert talk.endswith(f"chat.py runs/{run.name}/my-sft")
    moved = run.rename(run.parent.parent / "elsewhere")
    assert find_checkpoint(str(moved), Path("runs")).path == moved / "my-sft"


def test_weights_that_changed_since_a_gate_handed_them_on_are_refused(configs: Configs, model_dir: Path) -> None:
    import shutil

    mine = Path("mine")
    shutil.copytree(model_dir, mine)
    broken = with_sft(configs, learning_rate=BROKEN, on_fail="input", model_name="mine")
    run = run_pipeline(broken, stages=["sft"])
    shutil.copy(run / "my-sft/model.safetensors", mine)
    with pytest.raises(Refused, match="mine holds other weights than the stage began with"):
        run_pipeline(broken, stages=["dpo"], from_run=run.name)


def stopping_at(label: str) -> Any:
    """Return a `train_within_memory` that is stopped when it comes to a stage."""

    def train(stage: Any, *given: Any) -> Path:
        if stage.label == label:
            raise KeyboardInterrupt
        return train_within_memory(stage, *given)

    return train


def test_everything_wrong_with_gates_is_told_at_once_and_nothing_is_created(configs: Configs) -> None:
    wrong = with_sft(configs, gates=[{"metric": "demonstration loss", "at_most": 1.0}, {"metric": "pairs accuracy"}])
    wrong["dpo"] = replace(wrong["dpo"], on_fail="inptu", packing=True)
    with pytest.raises(Refused) as refused:
        run_pipeline(wrong)
    for said in (
        "sft: gate 1: the stage has no result 'demonstration loss', did you mean 'demonstrations loss'? It has: ",
        "sft: gate 2: the stage has no result 'pairs accuracy'",
        "sft: gate 2: must have one of",
        "dpo: on_fail = 'inptu': must be stop or input, did you mean 'input'?",
        "dpo: packing = True: dpo has no such option",
    ):
        assert said in str(refused.value)
    assert not Path("runs").exists()


def test_pretraining_may_be_asked_to_be_better_than_random_weights_where_they_are_measured() -> None:
    from chain.recipe import load
    from chain.stages import stages_of

    recipe = load("scratch_tiny")
    better = [{"metric": name, "better_than_input": True} for name in ("documents loss", "skills strict")]
    configs = {**recipe.configs, "pretrain": replace(recipe.configs["pretrain"], gates=better)}
    with pytest.raises(Refused, match="pretrain: gate 2: better_than_input: the stage starts from random") as refused:
        stages_of(configs, recipe.grpo_extra)
    assert "gate 1" not in str(refused.value)


def test_types_of_gates_are_checked(configs: Configs) -> None:
    for gates in ("skills strict", {"metric": "skills strict"}, ["skills strict"], 3):
        with pytest.raises(Refused, match=r"gates = .*: must be list of mapping"):
            run_pipeline(with_sft(configs, gates=gates))


def test_what_has_no_input_or_scores_only_cannot_go_on_with_its_input(configs: Configs) -> None:
    better = {"metric": "documents loss", "better_than_input": True}
    asked = {"metric": "skills strict", "better_than_input": True}
    base = PretrainConfig(output_dir="base", dataset_name="made:documents", gates=[better, asked], on_fail="input")
    reward = replace(configs["dpo"], output_dir="my-reward", gates=[{"metric": "pairs accuracy", "at_least": 0.6}])
    with pytest.raises(Refused) as refused:
        run_pipeline({"pretrain": base, **configs, "reward": replace(reward, on_fail="input")})
    for said in (
        "pretrain: on_fail = 'input'",
        "pretrain: gate 2: the stage has no result",
        "reward: on_fail = 'input'",
    ):
        assert said in str(refused.value)
    assert "gate 1" not in str(refused.value)  # of random weights the loss is measured


def test_a_reward_models_judgement_can_be_asked_for_where_there_is_one(configs: Configs) -> None:
    from chain.stages import stages_of

    preferred = {"metric": "reward_model prefers_after", "better_than_input": True}
    reward = replace(configs["dpo"], output_dir="my-reward")
    dpo = replace(configs["dpo"], gates=[preferred])
    assert stages_of({"sft": configs["sft"], "reward": reward, "dpo": dpo})
    assert stages_of({"sft": configs["sft"], "dpo": dpo}, judged=True)
    for order in ({"sft": configs["sft"], "dpo": dpo}, {"sft": configs["sft"], "dpo": dpo, "reward": reward}):
        with pytest.raises(Refused, match="no result 'reward_model prefers_after'"):
            stages_of(order)


def test_a_reward_function_of_the_recipe_is_a_metric(configs: Configs, data_files: dict[str, Path]) -> None:
    from chain.stages import stages_of

    def brief(completions: Any, **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    own, built_in = ({"metric": f"rewards {name}", "not_below_input": 0.1} for name in ("brief", "exact_match"))
    fields: dict[str, Any] = {"dataset_name": str(data_files["prompts"]), "output_dir": "my-grpo"}
    grpo = replace(configs["dpo"], **fields, gates=[own, built_in])
    extra = GRPOExtraConfig(reward_func=[brief, "exact_match"])
    assert stages_of({"sft": configs["sft"], "grpo": grpo}, extra)
    with pytest.raises(Refused, match="no result 'rewards brief'"):
        stages_of({"sft": configs["sft"], "grpo": grpo}, GRPOExtraConfig(reward_func="exact_match"))


def test_gates_can_be_set_from_the_command_line(configs: Configs) -> None:
    from chain.set_values import with_values

    changed, _ = with_values(configs, None, ['sft.gates=[{"metric": "demonstrations loss", "at_most": 2}]'])
    assert changed["sft"].gates == [{"metric": "demonstrations loss", "at_most": 2}]
    assert with_values(configs, None, ["sft.gates=[]", "sft.on_fail=input"])[0]["sft"].on_fail == "input"
