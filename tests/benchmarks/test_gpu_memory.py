"""The benchmark of GPU memory runs end to end without a GPU, on the shapes that the models really have."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_memory_inputs as inputs
from benchmarks.gpu_memory import savings
from chain.recipe import load

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_memory.py"


@pytest.mark.parametrize(
    ("name", "parameters"),  # as the models' cards have them
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("HuggingFaceTB/SmolLM3-3B", 3_075_098_624),
    ],
)
def test_a_shape_has_the_parameters_of_the_published_model(name: str, parameters: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(inputs.model_config(name, quick=False))
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_rows_have_the_length_that_is_asked_for(kind: str, tmp_path: Path) -> None:
    inputs.save_rows(kind, tmp_path / "rows", 8, 200)
    tokenizer = inputs.tokenizer()
    lengths = []
    for line in (tmp_path / "rows/train.jsonl").read_text().splitlines():
        row = json.loads(line)
        messages = row.get("messages") or row["prompt"] + row.get("chosen", [])
        generates = kind == "grpo"
        lengths.append(len(tokenizer.apply_chat_template(messages, add_generation_prompt=generates, return_dict=False)))
    assert lengths[0] == (100 if kind == "grpo" else 200)
    if kind == "sft":
        assert min(lengths) >= 50
        assert max(lengths) == 200
    else:
        assert len(set(lengths)) == 1


def test_each_saving_of_the_prod_recipe_is_switched_off_in_turn() -> None:
    configs = load("qwen2.5_0.5b").configs
    found = {kind: [name for name, _ in savings(kind, config, "cuda")] for kind, config in configs.items()}
    every = ["bfloat16 weights", "8-bit optimizer states", "activations computed again", "Liger's layers"]
    assert found == {
        "sft": [*every, "packing"],
        "reward": every,
        "dpo": [*every, "the reference computed ahead"],
        "grpo": [*every, "no reference model"],
    }


def quick_runs(*flags: str, checked: bool = True) -> tuple[list[dict[str, Any]], str]:
    """Return what a try on a CPU printed: its runs, each with all figures if `checked`, and all of it."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--recipes", "qwen2.5_0.5b", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *runs = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert first["machine"]["cpu_cores"] >= 1
    if not checked:
        return runs, done.stdout
    assert all(run["steps"] == 3 and run["step_s"] > 0 and run["reserved_bytes"] > 0 for run in runs)
    assert all(run["tokens_per_s"] > 0 for run in runs)
    return runs, done.stdout


@pytest.mark.slow
def test_every_side_runs_on_a_cpu() -> None:
    runs, _ = quick_runs("--stages", "reward,grpo", "--no-savings")
    expected = [(kind, side) for kind in ("reward", "grpo") for side in ("ours", "trl", "trl_defaults")]
    assert [(run["stage"], run["side"]) for run in runs] == expected


@pytest.mark.slow
def test_sides_that_run_at_once_tell_their_memory_first_and_are_timed_in_turn() -> None:
    warm_and_timed, shown = quick_runs("--stages", "sft", "--no-savings", "--at-once", "3", checked=False)
    warm, timed = warm_and_timed[:3], warm_and_timed[3:]
    for runs in (warm, timed):
        assert sorted(run["side"] for run in runs) == ["ours", "trl", "trl_defaults"]
        assert all(run["reserved_bytes"] > 0 for run in runs)
    assert [run["steps"] for run in warm] == [1, 1, 1]
    assert [run["steps"] for run in timed] == [3, 3, 3]
    assert all(run["step_s"] is None for run in warm)
    assert all(len(run["seconds"]) == 2 and run["tokens_per_s"] > 0 for run in timed)
    assert "| qwen2.5_0.5b | sft | trl_defaults |" in shown


@pytest.mark.slow
def test_a_stage_runs_on_a_cpu_without_each_of_its_savings_and_both_tables_are_shown() -> None:
    runs, shown = quick_runs("--stages", "sft")
    without = [run["changed"] for run in runs if run["changed"]]
    assert [list(changed) for changed in without] == [["dtype"], ["optim"], ["gradient_checkpointing"], ["packing"]]
    assert "| qwen2.5_0.5b | sft | trl_defaults |" in shown
    assert "| qwen2.5_0.5b | sft | packing |" in shown
    assert "no GPU: tries the script" in shown
