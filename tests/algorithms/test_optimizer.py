"""How bfloat16 weights are updated: small steps are kept on average, states are 8 bits, and a resume loses nothing."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig, arguments
from tests.algorithms.test_stages import run
from tests.train_stage import KINDS
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]


@pytest.fixture
def eager() -> Iterator[None]:
    """Run torchao's update without compiling it: that takes longer than a tiny model trains."""
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="session")
def wide_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, wide enough for tensors of 4,096 elements, below which states stay as they are; in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(model_dir, directory)
    wider = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "vocab_size": 512}
    config = AutoConfig.from_pretrained(model_dir, **wider)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


def mean_after(steps: int, learning_rate: float, kind: str) -> float:
    """Return the mean of 65,536 weights that start at 1, after AdamW's steps along a gradient of 1."""
    import torch
    from torchao.optim import AdamW8bit

    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    weight = torch.nn.Parameter(torch.ones(256, 256, dtype=dtype))
    given: dict[str, Any] = {"lr": learning_rate, "weight_decay": 0.0}
    torch.manual_seed(0)
    if kind == "stochastic":
        optimizer: torch.optim.Optimizer = AdamW8bit([weight], bf16_stochastic_round=True, **given)
    else:
        optimizer = torch.optim.AdamW([weight], **given)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return float(weight.detach().double().mean())


@pytest.mark.usefixtures("eager")
def test_small_updates_of_bfloat16_weights_are_kept_on_average_and_lost_without_stochastic_rounding() -> None:
    # Along a constant gradient AdamW moves each weight by the learning rate: 100 steps of 1e-6 take 1 to 0.9999.
    # float32 has a value every 2**-24 below 1, so each step is 17 of them, 1.3 % too much. bfloat16 has one every
    # 2**-8, so rounding to the nearest keeps 1. Rounded stochastically, a step takes a weight down by 2**-8 with
    # probability 1e-6 / 2**-8 = 0.000256: in 100 steps of 65,536 weights, 1,678 times, give or take 41, or 2.4 %.
    assert 1 - mean_after(100, 1e-6, "float32") == pytest.approx(100 * 17 * 2**-24, rel=1e-3)
    assert mean_after(100, 1e-6, "bfloat16") == 1
    assert 1 - mean_after(100, 1e-6, "stochastic") == pytest.approx(1e-4, rel=0.1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_stage_of_bfloat16_weights_ends_with_those_of_the_uninterrupted_one(
    kind: str, configure: Configure, wide_dir: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from torchao.optim.subclass_8bit import OptimState8bit

    config = configure(kind, model_name=str(wide_dir), dtype="bfloat16", max_steps=4, save_steps=2)
    whole, resumed = run(kind, config, tmp_path / "whole"), tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    assert weights_sha256(run(kind, config, resumed)) == weights_sha256(whole)
    assert {weight.dtype for weight in load_file(whole / "model.safetensors").values()} == {torch.bfloat16}
    states = torch.load(whole / "checkpoint-2/optimizer.pt", weights_only=True)["state"].values()
    eight_bit = [isinstance(state["exp_avg_sq"], OptimState8bit) for state in states]
    assert sum(eight_bit) == 15  # the embedding, and seven matrices in each of two layers; not the norms
    assert len(eight_bit) == (21 if kind == "reward" else 20)


def test_bfloat16_weights_get_stochastic_rounding_unless_the_recipe_says_otherwise(
    configure: Configure, tmp_path: Path
) -> None:
    def resolved(**fields: Any) -> tuple[Any, Any]:
        options = arguments.resolve(configure("sft", **fields), None, tmp_path)
        return options.get("optim"), options.get("optim_args")

    assert resolved(dtype="bfloat16") == ("adamw_torch_8bit", "bf16_stochastic_round=True")
    assert resolved(dtype="bfloat16", optim="adamw_torch_8bit")[1] == "bf16_stochastic_round=True"
    plain = {"optim_args": "bf16_stochastic_round=False"}
    assert resolved(dtype="bfloat16", trainer_args=plain)[1] == "bf16_stochastic_round=False"
    assert resolved(dtype="bfloat16", optim="adamw_torch") == ("adamw_torch", None)
    assert resolved() == resolved(dtype="float32") == (None, None)


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"dtype": "bfloat16", "optim": "adamw_torch", "learning_rate": 1e-5}, True),
        ({"dtype": "bfloat16", "optim": "adamw_torch", "learning_rate": None}, True),  # TRL's own, 2e-5
        ({"dtype": "bfloat16", "optim": "adamw_torch", "learning_rate": 1e-3}, False),
        ({"dtype": "bfloat16", "learning_rate": 1e-5}, False),
        ({"optim": "adamw_torch", "learning_rate": 1e-5}, False),
    ],
)
def test_bfloat16_weights_with_a_plain_optimizer_at_a_small_rate_are_warned_of_in_one_line(
    fields: dict[str, Any],
    warned: bool,
    configure: Configure,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from algorithms import training
    from algorithms.sft import SFT

    training.trl_config(SFT, configure("sft", **fields), tmp_path)
    said = [line for line in capsys.readouterr().out.replace("\n  ", " ").splitlines() if "rounds most updates" in line]
    assert len(said) == warned


@pytest.mark.slow
def test_the_compiled_update_is_the_one_that_is_not_compiled() -> None:
    import torch
    from torchao.optim import AdamW8bit

    weights = []
    for stance in ("force_eager", "default"):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64, 256))
        optimizer = AdamW8bit([weight], lr=1e-2)
        with torch.compiler.set_stance(stance):
            for _ in range(3):
                weight.grad = torch.randn(64, 256)
                optimizer.step()
        weights.append(weight.detach())
    assert weights[0].allclose(weights[1], atol=1e-4)
