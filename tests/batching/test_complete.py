"""Completions as texts: a batch of prompts says what each would say alone."""

from collections.abc import Callable

import pytest
import torch

from batching.complete import complete
from data.chat import encode
from data.made import rows
from evaluation.scored_model import ScoredModel

LIMIT = 37


@pytest.fixture
def prompts(checkpoint: ScoredModel) -> list[list[int]]:
    return [encode(checkpoint.tokenizer, row["prompt"]) for row in rows("prompts", "eval", 16)]


def alone(checkpoint: ScoredModel, prompt: list[int], eos_token_id: int | None) -> list[int]:
    """Return the unpadded completion by transformers' own loop, EOS included."""
    none = len(checkpoint.tokenizer)  # no token's id; None would be the model's own EOS
    eos = none if eos_token_id is None else eos_token_id
    output = checkpoint.model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=LIMIT, eos_token_id=eos, pad_token_id=0
    )
    return list(output[0, len(prompt) :].tolist())


def test_completions_of_a_batch_are_those_of_each_prompt_alone(
    checkpoint: ScoredModel, prompts: list[list[int]]
) -> None:
    """With an EOS that the model says at different times, so that rows leave the batch."""
    free = [alone(checkpoint, prompt, None) for prompt in prompts]
    said = [token for tokens in free for token in tokens]
    eos = min(set(said), key=lambda token: abs(sum(token in tokens for tokens in free) - len(free) // 2))
    checkpoint.tokenizer.eos_token = checkpoint.tokenizer.convert_ids_to_tokens(eos)
    checkpoint.model.generation_config.eos_token_id = None
    expected = [alone(checkpoint, prompt, eos) for prompt in prompts]

    found = complete(checkpoint.model, checkpoint.tokenizer, prompts, LIMIT)

    assert [one.text for one in found] == checkpoint.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert [one.n_tokens for one in found] == [len(tokens) for tokens in expected]
    assert [one.stopped for one in found] == [tokens[-1] == eos for tokens in expected]
    assert {one.stopped for one in found} == {True, False}
    assert len({len(prompt) for prompt in prompts}) > 3


def test_every_eos_of_the_generation_config_ends_a_completion(
    checkpoint: ScoredModel, prompts: list[list[int]]
) -> None:
    third = alone(checkpoint, prompts[0], None)[2]
    checkpoint.model.generation_config.eos_token_id = [0, third]
    (found,) = complete(checkpoint.model, checkpoint.tokenizer, prompts[:1], LIMIT)
    assert found.stopped
    assert found.n_tokens <= 3


def test_the_models_sampling_settings_do_not_change_greedy_search(
    checkpoint: ScoredModel, prompts: list[list[int]]
) -> None:
    plain = complete(checkpoint.model, checkpoint.tokenizer, prompts[:3], LIMIT)
    config = checkpoint.model.generation_config
    config.do_sample, config.temperature, config.top_p, config.top_k = True, 0.3, 0.5, 3
    config.repetition_penalty, config.use_cache = 5.0, False
    assert complete(checkpoint.model, checkpoint.tokenizer, prompts[:3], LIMIT) == plain


def test_special_tokens_are_left_out_of_the_text_and_other_added_ones_stay(
    checkpoint: ScoredModel, prompts: list[list[int]]
) -> None:
    tokenizer = checkpoint.tokenizer
    (plain,) = complete(checkpoint.model, tokenizer, prompts[:1], LIMIT)
    special, tag = list(dict.fromkeys(plain.ids))[:2]
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.convert_ids_to_tokens(special)]})
    tokenizer.add_tokens([tokenizer.convert_ids_to_tokens(tag)])
    (found,) = complete(checkpoint.model, tokenizer, prompts[:1], LIMIT)
    kept = [token for token in plain.ids if token not in tokenizer.all_special_ids]
    assert tag in kept
    assert special not in kept
    assert found.ids == plain.ids
    assert found.text == tokenizer.decode(kept) != tokenizer.decode(plain.ids)


def test_no_prompts_give_no_completions(checkpoint: ScoredModel) -> None:
    assert complete(checkpoint.model, checkpoint.tokenizer, [], LIMIT) == []


@pytest.mark.parametrize("sampled", [False, True])
def test_completions_are_the_same_where_memory_runs_out_half_way(
    sampled: bool,
    checkpoint: ScoredModel,
    prompts: list[list[int]],
    short_of_memory: Callable[..., list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = complete(checkpoint.model, checkpoint.tokenizer, prompts, LIMIT, sampled=sampled)
    since = 19
    seen = short_of_memory(checkpoint.model, most_rows=4, since=since)
    assert complete(checkpoint.model, checkpoint.tokenizer, prompts, LIMIT, sampled=sampled) == expected
    assert seen[since] > 8
    assert max(seen[since + 1 :]) <= seen[since] // 2, "fewer rows, from there on"
    assert "out of memory while" in (said := capsys.readouterr().out)
    assert said.count("out of memory") == 1


def test_what_runs_out_of_memory_with_one_completion_fails(
    checkpoint: ScoredModel, prompts: list[list[int]], short_of_memory: Callable[..., list[int]]
) -> None:
    short_of_memory(checkpoint.model, most_rows=0, since=3)
    with pytest.raises(torch.OutOfMemoryError):
        complete(checkpoint.model, checkpoint.tokenizer, prompts, LIMIT)
