"""A batch whose tokens are read once gives what each of its rows gives alone: hidden states, losses and gradients."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy
import pytest
import torch

from batching.read_once import layout, narrowest, reading_once
from batching.slots import suits
from tests.batching.test_engine import MODELS, VOCABULARY, model_of


def sequences_of(seed: int, groups: int = 4, each: int = 4, prompt: int = 20, answer: int = 12) -> list[list[int]]:
    """Return sequences that begin alike in groups, and all with the same two tokens, in any order."""
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(1, VOCABULARY) for _ in range(draw.randrange(1, most))]

    prompts = [[1, 2, *tokens(prompt)] for _ in range(groups)]
    found = [start + tokens(answer) for start in prompts for _ in range(each)]
    draw.shuffle(found)
    return found


def padded(sequences: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of a padded batch."""
    width = max(map(len, sequences))
    pads = [[0] * (width - len(one)) for one in sequences]
    ids = [pad + one if side == "left" else one + pad for pad, one in zip(pads, sequences, strict=True)]
    ones = [[1] * len(one) for one in sequences]
    mask = [pad + one if side == "left" else one + pad for pad, one in zip(pads, ones, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("seed", range(20))
def test_every_token_has_its_place_and_sees_what_it_saw(seed: int) -> None:
    sequences = [numpy.array(one) for one in sequences_of(seed)]
    found = layout(sequences, [32, 64, 96], lambda rows, width: rows * width)
    width = found.ids.shape[1]
    for places, ids in zip(found.places, sequences, strict=True):
        assert (found.ids.flatten()[places] == ids).all()
        assert (found.positions.flatten()[places] == numpy.arange(len(ids))).all()
        (row,) = set(places // width)
        for query, place in enumerate(places % width):
            sees = (found.family[row] == found.family[row, place]) & (numpy.arange(width) <= place)
            sees &= (found.branch[row] == 0) | (found.branch[row] == found.branch[row, place])
            assert set(sees.nonzero()[0]) == set(places[: query + 1] % width)
    read = len(set(numpy.concatenate(found.places)))
    assert read < 0.75 * sum(map(len, sequences)), "prompts are read once"


def test_one_that_is_the_beginning_of_another_and_equal_ones_are_read_once() -> None:
    sequences = [numpy.array(one) for one in ([1, 2, 3, 4], [1, 2], [1, 2, 3, 4], [9])]
    found = layout(sequences, [32], lambda rows, width: rows * width)
    assert len(set(numpy.concatenate(found.places))) < sum(map(len, sequences)) - 3
    for places, ids in zip(found.places, sequences, strict=True):
        assert (found.ids.flatten()[places] == ids).all()


def test_the_cheapest_width_is_taken() -> None:
    sequences = [numpy.arange(1, 31) for _ in range(8)]
    assert layout(sequences, [32, 64], lambda rows, width: rows * width).ids.shape == (1, 32)
    others = [numpy.arange(one, one + 30) for one in range(8)]
    assert layout(others, [32, 64], lambda rows, width: rows * width * (2 if width == 32 else 1)).ids.shape == (4, 64)


@pytest.fixture
def both() -> Iterator[Callable[[str], tuple[Any, Any]]]:
    """Return a function that gives a model and the same one that reads once."""
    with ExitStack() as stack:

        def make(name: str) -> tuple[Any, Any]:
            plain, once = model_of(name), model_of(name)
            once.load_state_dict(plain.state_dict())
            assert stack.enter_context(reading_once(once))
            return plain.train(), once.train()

        yield make


Both = Callable[[str], tuple[Any, Any]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_gradients_are_those_of_each_row_alone(name: str, side: str, both: Both) -> None:
    plain, once = both(name)
    sequences = sequences_of(3, prompt=80, answer=50)
    ids, mask = padded(sequences, side)
    passes: list[int] = []
    embed = once.base_model.get_input_embeddings()
    embed.register_forward_pre_hook(lambda _, given: passes.append(given[0].numel()))
    hidden = once.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert passes[0] < 0.6 * ids.numel()
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=hidden.dtype)
    (hidden * weights * mask[..., None]).sum().backward()
    for row, sequence in enumerate(sequences):
        alone = plain.base_model(torch.tensor([sequence]), use_cache=False).last_hidden_state[0]
        assert torch.allclose(hidden[row][mask[row] == 1], alone, rtol=1e-3, atol=1e-4)
        (alone * weights[row][mask[row] == 1]).sum().backward()
    for (label, parameter), other in zip(plain.named_parameters(), once.parameters(), strict=True):
        if parameter.grad is not None:
            scale = parameter.grad.abs().max()
            assert (parameter.grad - other.grad).abs().max() <= 2e-3 * scale + 1e-5, label


def test_a_batch_that_holds_nothing_twice_is_read_as_it_is(both: Both) -> None:
    plain, once = both("llama")
    ids = torch.randint(1, VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(0))
    expected = plain.base_model(ids, use_cache=False).last_hidden_state
    assert torch.equal(once.base_model(ids, use_cache=False).last_hidden_state, expected)
    assert torch.equal(once.base_model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state, expected)


def test_a_row_with_a_hole_is_read_as_it_is(both: Both) -> None:
    """As a row with padding on both sides is not."""
    plain, once = both("llama")
    ids, mask = padded(sequences_of(5, prompt=80, answer=50), "right")
    holes = mask.clone()
    holes[:, 1] = 0
    passes: list[int] = []
    once.base_model.get_input_embeddings().register_forward_pre_hook(lambda _, given: passes.append(given[0].numel()))
    expected = plain.base_model(ids, attention_mask=holes, use_cache=False).last_hidden_state
    assert torch.equal(once.base_model(ids, attention_mask=holes, use_cache=False).last_hidden_state, expected)
    framed = torch.nn.functional.pad(ids, (5, 5)), torch.nn.functional.pad(mask, (5, 5))
    once.base_model(framed[0], attention_mask=framed[1], use_cache=False)
    assert passes[0] == ids.numel()
    assert passes[1] < 0.7 * framed[0].numel()


def test_generation_is_left_alone(both: Both) -> None:
    plain, once = both("llama")
    ids, mask = padded([[5, 6, 7], [8]], "left")
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(plain.eval().generate(ids, **options), once.eval().generate(ids, **options))


def test_attention_is_never_larger_than_that_of_the_padded_batch(both: Both) -> None:
    _, once = both("llama")
    seen: list[Any] = []
    once.model.layers[0].register_forward_pre_hook(
        lambda _, given, named: seen.append(named["attention_mask"]), with_kwargs=True
    )
    draw = random.Random(0)
    for seed in range(30):
        shape = {"groups": draw.randrange(1, 6), "each": draw.randrange(1, 9), "answer": draw.choice((3, 40, 200))}
        ids, mask = padded(sequences_of(seed, **shape), "right")
        once.base_model(ids, attention_mask=mask, use_cache=False)
        if seen[-1] is not None and seen[-1].dtype == torch.bool and seen[-1].shape[0] != len(ids):
            assert seen[-1].numel() <= ids.shape[0] * ids.shape[1] ** 2


def test_an_adapter_is_trained_through_it() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model_of("qwen3"), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    ids, mask = padded(sequences_of(1), "right")
    labels = ids.masked_fill(mask == 0, -100)
    before = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    with reading_once(model) as reads:
        assert reads
        after = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        after.backward()
    assert float(after.detach()) == pytest.approx(float(before.detach()), rel=1e-5)
    assert any(one.grad is not None and one.grad.abs().max() > 0 for one in model.parameters() if one.requires_grad)


def test_a_model_is_as_it_was_afterwards() -> None:
    model = model_of("llama")
    with reading_once(model) as reads:
        assert reads
        assert "forward" in vars(model.model)
        with reading_once(model) as again:
            assert not again
    assert "forward" not in vars(model.model)


SMALLER = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "mamba": SMALLER,
    "falcon_h1": SMALLER,
    "gpt_neo": SMALLER | {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 2},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 2},
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_do_more_than_attend_are_left_as_they_are(name: str) -> None:
    """States, windows over places in the cache, biases by place."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **OTHERS[name])).eval()
    with reading_once(model) as reads:
        assert not reads
    assert not suits(model)


def test_a_model_that_trains_with_dropout_is_left_as_it_is() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gpt2", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2)
    with reading_once(AutoModelForCausalLM.from_config(config)) as reads:
        assert not reads


def test_a_model_that_looks_at_more_than_its_mask_is_left_as_it_is() -> None:
    model = model_of("llama")
    layer = model.model.layers[1]
    whole = layer.forward
    layer.forward = lambda hidden, *given, **named: whole(hidden, *given, **named) + 0.1 * hidden.mean(1, keepdim=True)
    with reading_once(model) as reads:
        assert not reads


def test_a_defect_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any) -> None:
        raise TypeError("of ours")

    monkeypatch.setattr("batching.read_once.mask_for", broken)
    monkeypatch.setattr("batching.slots.mask_for", broken)
    model = model_of("llama")
    with reading_once(model) as reads:
        assert not reads
    assert not suits(model)
    said = capsys.readouterr().out
    assert "LlamaModel reads batches as they are padded: TypeError" in said
    assert "LlamaForCausalLM is sampled by transformers alone: TypeError" in said


def test_the_tokens_that_are_read_are_told_ahead() -> None:
    config = model_of("llama").config
    sequences = [numpy.array(one) for one in sequences_of(2, prompt=80, answer=50)]
    padded_to = max(map(len, sequences))
    found = narrowest(sequences, config, padded_to)
    assert found is not None
    assert found.ids.size < 0.9 * len(sequences) * padded_to
    assert narrowest([numpy.arange(1, 60)] * 1, config, 59) is None
