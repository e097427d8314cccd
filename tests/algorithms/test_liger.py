"""Liger's layers: where they are used, that they are there, and that they compute what transformers' layers do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig, liger
from records.stage_log import StageLog
from tests.algorithms import liger_parity
from tests.algorithms.liger_parity import ARCHITECTURES, LAYERS
from utils.errors import StageFailed

pytest.importorskip("liger_kernel")

Configure = Callable[..., TrainingConfig]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_layer_is_replaced_and_recorded_and_no_other_model_is_touched(architecture: str, stage_dir: Path) -> None:
    other = liger_parity.small_model(architecture)
    model = liger.replace_layers(liger_parity.small_model(architecture), stage_dir)
    expected = {"LigerRMSNorm": 2 * LAYERS + 1, "LigerSwiGLUMLP": LAYERS, "RoPE": LAYERS}
    assert liger.layers(model) == expected
    assert StageLog(stage_dir).read_info()["config"] == {"liger": expected}
    assert liger.layers(other) == liger.layers(liger_parity.small_model(architecture)) == {}


def test_a_reward_model_gets_them_too(model_dir: Path, stage_dir: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=1)
    assert liger.layers(liger.replace_layers(model, stage_dir))["LigerRMSNorm"] == 5


def test_a_model_with_an_adapter_gets_them_too_beside_its_adapter(stage_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(liger_parity.small_model("qwen2"), config)
    expected = {"LigerRMSNorm": 2 * LAYERS + 1, "LigerSwiGLUMLP": LAYERS, "RoPE": LAYERS}
    assert liger.layers(liger.replace_layers(model, stage_dir)) == expected
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_an_architecture_that_liger_does_not_know_keeps_its_layers_and_that_is_said(
    stage_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    assert liger.layers(liger.replace_layers(model, stage_dir)) == {}
    assert "Liger has no layers for gpt2" in capsys.readouterr().out


def test_a_liger_that_replaces_nothing_fails_the_stage(stage_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from liger_kernel.transformers import monkey_patch

    monkeypatch.setitem(monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN, "llama", lambda **_: None)
    with pytest.raises(StageFailed, match="replaced no layer of a LlamaForCausalLM"):
        liger.replace_layers(liger_parity.small_model("llama"), stage_dir)


@pytest.mark.parametrize(
    ("device", "asked", "layers", "said"),
    [
        ("cuda", None, True, False),
        ("cuda", True, True, False),
        ("cuda", False, False, False),
        ("cpu", None, False, False),
        ("cpu", True, False, True),
        ("mps", True, False, True),
        ("cpu", False, False, False),
    ],
)
def test_liger_is_the_default_on_cuda_and_off_elsewhere_which_is_said_to_whom_asked(
    device: str,
    asked: bool | None,
    layers: bool,
    said: bool,
    configure: Configure,
    stage_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(liger, "training_device", lambda options: device)
    model = liger_parity.small_model("llama")
    assert liger.with_liger(model, configure("sft", use_liger_kernel=asked), stage_dir) is model
    assert bool(liger.layers(model)) is layers
    assert ("use_liger_kernel is off" in capsys.readouterr().out) is said


def test_trl_is_never_told_of_liger(configure: Configure, tmp_path: Path) -> None:
    from algorithms import arguments

    for kind in ("sft", "reward", "dpo"):
        options = arguments.resolve(configure(kind, use_liger_kernel=True), None, tmp_path)
        assert "use_liger_kernel" not in options
        assert arguments.config_class(kind)(**options).use_liger_kernel is False


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_and_gradients_are_those_of_transformers_in_tritons_interpreter(architecture: str) -> None:
    script = str(Path(liger_parity.__file__))
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # read when Triton is imported: so in a process of its own
    done = subprocess.run([sys.executable, script, architecture], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["layers"] == 4 * LAYERS + 1
    assert 0 < max(found["logits"], found["gradients"]) < 1e-5  # 0: the same code ran twice


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_and_gradients_are_those_of_transformers_on_a_gpu(architecture: str, stage_dir: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    found = liger_parity.differences(architecture, "cuda", stage_dir, **shape)
    assert found["layers"] == 4 * LAYERS + 1
    assert 0 < max(found["logits"], found["gradients"]) < 1e-4
