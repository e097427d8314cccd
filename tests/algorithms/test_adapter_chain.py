"""A whole run with adapters: kept from stage to stage, merged at the end, measured, resumed, and talked to."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from algorithms.rewards import exact_match
from pipeline import Refused, run_pipeline
from records.catalogue import find_checkpoint
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]


def varied(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between most completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=[varied, exact_match, StageOutput("reward")], max_completion_length=6)


@pytest.fixture
def recipe(configure: Configure) -> dict[str, TrainingConfig]:
    """A QLoRA stage whose adapter is kept, a reward model and DPO from it, and GRPO, which merges."""
    common = {"learning_rate": 1e-2, "eval_samples": 6, "max_steps": 4, "save_steps": 2}
    return {
        "sft": configure("sft", peft="qlora", peft_args={"r": 4}, merge_adapter=False, **common),
        "reward": configure("reward", peft="lora", model_name=StageOutput("sft"), **common),
        "dpo": configure("dpo", peft="lora", model_name=StageOutput("sft"), merge_adapter=False, **common),
        "grpo": configure("grpo", peft="lora", model_name=StageOutput("dpo"), **common),
    }


def stage_info(run_dir: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run_dir / name / "stage_info.json").read_text()))


def test_a_run_hands_its_adapter_from_stage_to_stage_and_goes_on_where_it_stopped(
    recipe: dict[str, TrainingConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # the runs are named by a relative path
    whole = run_pipeline(recipe, EXTRA)
    for name in ("sft", "dpo"):
        assert {file.name for file in (whole / name).glob("*.safetensors")} == {"adapter_model.safetensors"}
        assert stage_info(whole, name)["output"]["sha256"] == weights_sha256(whole / name)
    assert {file.name for file in (whole / "grpo").glob("*.safetensors")} == {"model.safetensors"}
    assert stage_info(whole, "dpo")["input"]["sha256"] == weights_sha256(whole / "sft")
    for name in ("sft", "dpo"):  # the adapter is there when the stage is measured
        measured = {row["metric"]: row for row in stage_info(whole, name)["evaluation"]}
        loss = measured["loss" if name == "sft" else "chosen_logp"]
        assert loss["before"] != loss["after"]

    stopped = whole.with_name("20260101_000000_aaaa")
    shutil.copytree(whole, stopped)
    for name in ("run_info.json", "dpo/stage_info.json"):
        file = stopped / name
        record = json.loads(file.read_text().replace(whole.name, stopped.name))
        record["status"] = "interrupted"
        for entry in record.get("stages", []):
            if entry["name"] in ("dpo", "grpo"):
                entry["status"] = "interrupted" if entry["name"] == "dpo" else "pending"
        if "output" in record:
            record["output"] = None
        file.write_text(json.dumps(record))
    shutil.rmtree(stopped / "grpo")
    shutil.rmtree(stopped / "dpo" / "checkpoint-4")
    for file in (stopped / "dpo").glob("adapter*"):
        file.unlink()
    resumed = run_pipeline(recipe, EXTRA, resume=stopped.name)
    assert (resumed / "dpo" / "adapter_model.safetensors").read_bytes() == (
        whole / "dpo" / "adapter_model.safetensors"
    ).read_bytes()

    import chat

    capsys.readouterr()
    for name in (f"{whole.name}/sft", f"{whole.name}/dpo/checkpoint-2", f"{whole.name}/grpo"):
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        assert chat.main([name, "--prompt", "say red", "--max-tokens", "3", "--runs-dir", "runs"]) == 0
    with pytest.raises(Refused, match="is a reward model"):
        find_checkpoint(f"{whole.name}/reward/checkpoint-2", Path("runs"))
    later = replace(recipe["grpo"], peft=None, peft_args={})
    with pytest.raises(Refused, match=r"dpo holds an adapter, not a whole model"):
        run_pipeline({**recipe, "grpo": later}, EXTRA, stages=["grpo"], from_run=whole.name)


def test_a_recipe_whose_stage_does_not_train_a_kept_adapter_on_is_refused_before_it_starts(
    recipe: dict[str, TrainingConfig], tmp_path: Path
) -> None:
    plain = replace(recipe["dpo"], peft=None, merge_adapter=True)
    with pytest.raises(Refused, match=r"dpo: starts from the adapter that sft keeps .* and trains all weights"):
        run_pipeline({**recipe, "dpo": plain}, EXTRA, runs_dir=tmp_path / "runs")
    other = replace(recipe["dpo"], peft_args={"r": 8})
    with pytest.raises(Refused, match=r"its peft_args must be those of sft, {'r': 4}, or be left out"):
        run_pipeline({**recipe, "dpo": other}, EXTRA, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
