"""The engine says what transformers says of each prompt alone, whatever shares its batch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

from batching.complete import sample
from batching.engine import Engine
from batching.requests import Request, Settings
from batching.slots import GROWTH, suits

VOCABULARY, LIMIT = 97, 24
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.4,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
WINDOW = SMALL | {"sliding_window": 7, "head_dim": 16}
EXPERTS: dict[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
MODELS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": SMALL | {"head_dim": 16},
    "qwen2 eager": SMALL,
    "mistral": WINDOW,
    "gemma2 eager": WINDOW,
    "gemma3_text": WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": SMALL,
    "olmo2": SMALL,
    "phi3": SMALL,
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.4} | NO_DROPOUT,
    "gpt_neox": SMALL,
    "mixtral": SMALL | {"num_local_experts": 4},
    "deepseek_v3": SMALL | EXPERTS,
}
PROMPTS = [[5, 9, 2], [7], [11, 3, 8, 4, 6, 1, 13, 20, 21, 22], [5, 9, 2], [30, 31], [40, 41, 42, 43, 44, 45]]


def model_of(name: str) -> Any:
    """Return a random model."""
    kind, _, attention = name.partition(" ")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **MODELS[name])
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention or "sdpa").eval()


def alone(model: Any, prompt: list[int], limit: int = LIMIT) -> list[int]:
    """Return transformers' own greedy completion."""
    output = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=limit,
        eos_token_id=VOCABULARY, pad_token_id=0,
    )  # fmt: skip
    return list(output[0, len(prompt) :].tolist())


def ids(requests: list[Request]) -> list[list[int]]:
    """Return the completions."""
    return [request.ids for request in requests]


@pytest.fixture(scope="module")
def llama() -> Any:
    """A random Llama."""
    return model_of("llama")


@pytest.fixture
def passes(llama: Any) -> Iterator[list[tuple[int, int]]]:
    """The rows and tokens of each forward pass of the Llama."""
    suits(llama)  # tries a few tokens
    seen: list[tuple[int, int]] = []
    hook = llama.register_forward_pre_hook(
        lambda _, __, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


@pytest.mark.parametrize("name", MODELS)
def test_it_says_what_transformers_says_of_each_prompt_alone(name: str) -> None:
    model = model_of(name)
    assert suits(model)
    expected = [alone(model, prompt) for prompt in PROMPTS]
    assert len({tuple(one) for one in expected}) >= 4, "a model that says the same of everything tests nothing"
    for max_rows in (6, 2):
        assert ids(sample(model, PROMPTS, Settings(LIMIT, temperature=0.0), max_rows=max_rows)) == expected


def test_a_sequence_that_grows_over_its_room_goes_on(llama: Any) -> None:
    limit = GROWTH + 40
    prompts = [[5, 9, 2], [7]]
    found = Engine(llama)
    requests = [Request(prompt, Settings(limit, temperature=0.0)) for prompt in prompts]
    found.add(requests)
    found.run()
    assert ids(requests) == [alone(llama, prompt, limit) for prompt in prompts]


def test_draws_do_not_depend_on_what_shares_the_batch(llama: Any) -> None:
    settings = Settings(LIMIT, frozenset({1, 2, 3, 4, 5}))
    prompts = PROMPTS * 4
    expected = sample(llama, prompts, settings, seed=3)
    assert len({len(request.ids) for request in expected}) > 3
    assert expected[0].ids != expected[3].ids, "equal prompts have draws of their own"
    for max_rows, max_tokens in ((1, None), (5, None), (40, 80)):
        assert ids(sample(llama, prompts, settings, 3, max_rows, max_tokens)) == ids(expected)
    assert ids(sample(llama, prompts[:7], settings, seed=3)) == ids(expected[:7])
    assert ids(sample(llama, prompts, settings, seed=4)) != ids(expected)


def test_sampling_leaves_the_random_state_alone(llama: Any) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    sample(llama, PROMPTS, Settings(4))
    assert torch.rand(1) == expected


def test_equal_prompts_are_read_once_and_what_ends_leaves(llama: Any, passes: list[tuple[int, int]]) -> None:
    prompt = PROMPTS[2]
    requests = sample(llama, [prompt] * 8, Settings(LIMIT, frozenset(range(10))), seed=1)
    assert passes[0] == (1, len(prompt) - 1)
    steps = passes[1:]
    lengths = [len(request.ids) for request in requests]
    assert len(set(lengths)) > 2
    assert steps == [(sum(length > step for length in lengths), 1) for step in range(max(lengths))]


def test_what_waits_takes_the_place_of_what_has_ended(llama: Any, passes: list[tuple[int, int]]) -> None:
    requests = sample(llama, [[token] for token in range(40)], Settings(LIMIT, frozenset(range(12))), max_rows=8)
    rows = [rows for rows, tokens in passes if tokens == 1]
    assert sum(rows) == sum(len(request.ids) for request in requests)
    assert max(rows) == 8
    assert min(rows[: rows.index(8) + 10]) > 4


def test_budget_of_tokens_bounds_what_is_held(llama: Any) -> None:
    engine = Engine(llama, max_tokens=45)
    engine.add(Request(prompt, Settings(10, temperature=0.0)) for prompt in PROMPTS)
    held = []
    while engine.rows or engine.waiting:
        engine.step()
        held.append(len(engine.rows) * max((request.most_tokens for request in engine.rows), default=0))
    assert 30 < max(held) <= 45
    alone = Request(PROMPTS[2], Settings(60))
    engine.add([alone])
    engine.run()
    assert len(alone.ids) == 60, "a single one may need more"


def test_a_request_leaves_when_it_is_told_to(llama: Any) -> None:
    engine = Engine(llama, max_rows=2)
    first, second, third = (Request(PROMPTS[place], Settings(LIMIT, temperature=0.0)) for place in (0, 2, 5))
    engine.add([first, second, third])
    for _ in range(3):
        assert engine.step() == []
    first.ended = True
    engine.run()
    assert first.ids == alone(llama, PROMPTS[0])[:3]
    assert (second.ids, third.ids) == (alone(llama, PROMPTS[2]), alone(llama, PROMPTS[5]))


def test_one_that_waits_can_be_told_to_leave(llama: Any) -> None:
    engine = Engine(llama, max_rows=1)
    first, second = (Request(PROMPTS[0], Settings(3)) for _ in range(2))
    engine.add([first, second])
    engine.step()
    second.ended = True
    engine.run()
    assert (len(first.ids), second.ids) == (3, [])


def test_it_ends_where_its_callback_says(llama: Any) -> None:
    request = Request(PROMPTS[0], Settings(LIMIT), on_token=lambda request: len(request.ids) == 4)
    engine = Engine(llama)
    engine.add([request])
    engine.run()
    assert len(request.ids) == 4
    assert not request.stopped


@pytest.mark.parametrize("name", ["mamba", "falcon_h1"])
def test_models_with_a_state_are_sampled_by_transformers(name: str) -> None:
    torch.manual_seed(0)
    small = SMALL if name != "mamba" else {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
    config = transformers.AutoConfig.for_model(name, **small)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert not suits(model)
    greedy = sample(model, PROMPTS, Settings(6, temperature=0.0))
    assert greedy[2].ids == alone(model, PROMPTS[2], 6)  # the longest: transformers pads, and Mamba reads padding
    stop = greedy[2].ids[2]
    ended = sample(model, PROMPTS, Settings(6, frozenset({stop}), temperature=0.0))[2]
    assert ended.ids == greedy[2].ids[: greedy[2].ids.index(stop) + 1]
    assert ids(sample(model, PROMPTS, Settings(6), 1)) == ids(sample(model, PROMPTS, Settings(6), 1))
    assert ids(sample(model, PROMPTS, Settings(6), 1)) != ids(sample(model, PROMPTS, Settings(6), 2))
