"""The benchmark of GPU memory runs end to end without a GPU, on the shapes that the models really have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_memory_inputs as inputs
from benchmarks.gpu_memory import savings
from recipes import load

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


@pytest.mark.slow
def test_every_side_of_every_stage_runs_on_a_cpu_and_is_told() -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--recipes", "qwen2.5_0.5b"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *runs = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert first["machine"]["cpu_cores"] >= 1
    sides = [(run["stage"], run["side"]) for run in runs if not run["changed"]]
    kinds = ("sft", "reward", "dpo", "grpo")
    assert sides == [(kind, side) for kind in kinds for side in ("ours", "trl", "trl_defaults")]
    assert {run["stage"] for run in runs if run["changed"]} == set(kinds)
    assert all(run["steps"] == 3 and run["step_s"] > 0 and run["reserved_bytes"] > 0 for run in runs)
    assert all(run["tokens_per_s"] > 0 for run in runs)
    assert "| qwen2.5_0.5b | dpo | the reference computed ahead |" in done.stdout
    assert "no GPU: tries the script" in done.stdout
