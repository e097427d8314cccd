"""The optimizers: who trains what, and the schedule."""

from typing import Any

import pytest
import torch

from pretrain import optim
from pretrain.model import parameter_count
from pretrain.optim import Muon, learning_rate_factor, make_optimizer, orthogonalise
from pretrain.pretrain_config import PretrainConfig


def tiny_model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    return Qwen3ForCausalLM(shape)


def test_every_parameter_has_one_optimizer_and_muon_has_the_hidden_matrices() -> None:
    model = tiny_model()
    muon, adamw = make_optimizer(
        model, muon_learning_rate=0.02, learning_rate=0.003, embedding_learning_rate=0.1, weight_decay=0.0
    ).parts
    hidden = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert not hidden & rest
    assert hidden | rest == {id(p) for p in model.parameters()}
    assert len(hidden) == 2 * 7  # four attention and three MLP matrices in each of two layers
    assert id(model.get_input_embeddings().weight) in rest
    assert [group["initial_lr"] for group in adamw.param_groups] == [0.1, 0.003]
    assert {id(p) for p in adamw.param_groups[0]["params"]} == {id(model.get_input_embeddings().weight)}


def test_muon_is_torchs_muon_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "computes_in_bf16", lambda device: True)  # torch's always orthogonalises in bfloat16
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (24, 8), (8, 8), (8, 24), (24, 8))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = [Muon(ours, lr=0.02, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)]
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q), p.shape


def test_muon_orthogonalises_in_float32_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "computes_in_bf16", lambda device: False)
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(8, 8))
    p.grad = torch.randn(8, 8)
    Muon([p], lr=1.0).step()
    exact = orthogonalise(p.grad.double()[None], torch.float64)[0]
    torch.testing.assert_close(p.double(), -exact, rtol=1e-4, atol=1e-5)  # bfloat16 is some 1e-2 off


def test_orthogonalised_matrix_keeps_its_directions_with_singular_values_near_one() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3, 12, 8)
    singular = torch.linalg.svdvals(orthogonalise(matrix).float())
    assert singular.min() > 0.3
    assert singular.max() < 1.6
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.mT @ orthogonalise(matrix).float() @ right.mT  # diagonal if the singular vectors are the same
    assert (core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))).abs().max() < 0.05


@pytest.mark.parametrize(("step", "factor"), [(0, 0.05), (19, 1.0), (100, 1.0), (180, 1.0), (240, 0.5), (299, 1 / 120)])
def test_schedule_by_hand(step: int, factor: float) -> None:
    found = learning_rate_factor(step, max_steps=300, warmup_steps=20, decay_fraction=0.4)
    assert found == pytest.approx(factor)


def test_parameter_count_of_the_demo_by_hand() -> None:
    config = PretrainConfig(output_dir="base", dataset_name="made:documents")
    # 1024*128 each for embedding and head; a layer: 4*128*128 + 3*128*336 + 2*128 + 2*32 = 194,880; last norm 128.
    assert parameter_count(config, 1024) == 2 * 131_072 + 4 * 194_880 + 128 == 1_041_792
