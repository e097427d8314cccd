"""Likelihoods and rewards: the same alone as in a padded batch, and the same as by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, PreTrainedConfig

from data.examples import Example, demonstration
from data.made import rows
from evaluation import likelihood
from evaluation.likelihood import likelihoods, reward_scores, right_padded
from evaluation.scored_model import ScoredModel, load_reward_model
from utils.errors import Refused


@pytest.fixture
def examples(checkpoint: ScoredModel) -> list[Example]:
    return [demonstration(checkpoint.tokenizer, row) for row in rows("conversations", "eval", 12)]


def test_likelihood_is_the_sum_over_scored_tokens(checkpoint: ScoredModel) -> None:
    example = Example([40, 41, 42, 43], [False, False, True, True])
    with torch.inference_mode():
        logps = checkpoint.model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    (found,) = likelihoods(checkpoint.model, [example], 2)
    assert found.nll == pytest.approx(-float(logps[1, 42] + logps[2, 43]), rel=1e-5)
    assert found.tokens == 2
    assert found.correct == int(logps[1].argmax() == 42) + int(logps[2].argmax() == 43)


def test_the_first_choice_of_the_model_is_correct(checkpoint: ScoredModel) -> None:
    ids = [40, 41]
    with torch.inference_mode():
        ids.append(int(checkpoint.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert likelihoods(checkpoint.model, [Example(ids, [False, False, True])], 2)[0].correct == 1


def test_padded_likelihoods_are_the_unpadded_ones(checkpoint: ScoredModel, examples: list[Example]) -> None:
    together = likelihoods(checkpoint.model, examples, checkpoint.pad_token_id)
    for example, found in zip(examples, together, strict=True):
        (alone,) = likelihoods(checkpoint.model, [example], checkpoint.pad_token_id)
        assert found.nll == pytest.approx(alone.nll, rel=1e-5)
        assert found[1:] == alone[1:]
    assert len({found.tokens for found in together}) > 1


def sizes_of_logits(model: Any) -> list[int]:
    """Return a list that grows by the number of logits whenever the model's head makes some."""
    sizes: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _layer, _given, made: sizes.append(made.numel()))
    return sizes


def test_rows_within_the_bound_have_their_logits_made_as_one_batch(
    checkpoint: ScoredModel, examples: list[Example]
) -> None:
    sizes = sizes_of_logits(checkpoint.model)
    likelihoods(checkpoint.model, examples, checkpoint.pad_token_id)
    assert sizes == [len(examples) * max(len(example.input_ids) for example in examples) * 512]


def test_logits_of_a_long_row_are_made_in_slices_within_the_bound_and_the_model_runs_once(
    checkpoint: ScoredModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = likelihoods(checkpoint.model, examples, checkpoint.pad_token_id)
    sizes, runs = sizes_of_logits(checkpoint.model), list[int]()
    checkpoint.model.base_model.register_forward_hook(lambda _layer, _given, _made: runs.append(1))
    monkeypatch.setattr(likelihood, "LOGITS_PER_BATCH", 10 * 512 + 3)
    found = likelihoods(checkpoint.model, examples, checkpoint.pad_token_id)
    assert min(len(example.input_ids) for example in examples) > 10
    assert max(sizes) == 10 * 512
    assert len(runs) == len(examples) + 2  # the head is tried on one token, with the model around it and without
    assert [one.nll for one in found] == pytest.approx([one.nll for one in expected], rel=1e-5)
    assert [one[1:] for one in found] == [one[1:] for one in expected]
    assert likelihoods(checkpoint.model, [Example([40] * 11, [False] * 11)], 2) == [(0.0, 0, 0)]


SMALL = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, final_logit_softcapping=1.0),
        GraniteConfig(**SMALL, logits_scaling=3.0),
        CohereConfig(**SMALL, logit_scale=0.25),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_that_are_capped_or_scaled_behind_the_head_are_so_in_slices_too(
    config: PreTrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype="float32").eval()
    example = Example(torch.randint(3, 64, (40,)).tolist(), [index % 5 > 0 for index in range(40)])
    (expected,) = likelihoods(model, [example], 0)
    sizes = sizes_of_logits(model)
    monkeypatch.setattr(likelihood, "LOGITS_PER_BATCH", 7 * 64)
    (found,) = likelihoods(model, [example], 0)
    assert max(sizes) == 7 * 64
    assert found.nll == pytest.approx(expected.nll, rel=1e-5)
    assert found[1:] == expected[1:]


def test_likelihoods_and_rewards_are_the_same_where_memory_runs_out(
    checkpoint: ScoredModel,
    examples: list[Example],
    make_model: Callable[..., Path],
    short_of_memory: Callable[..., list[int]],
    tmp_path: Path,
) -> None:
    pad, sequences = checkpoint.pad_token_id, [example.input_ids for example in examples]
    judge = load_reward_model(make_model(tmp_path / "reward", reward=True), pad)
    expected, rewards = likelihoods(checkpoint.model, examples, pad), reward_scores(judge, sequences, pad)
    seen = [short_of_memory(model, most_rows=2) for model in (checkpoint.model, judge)]
    found = likelihoods(checkpoint.model, examples, pad)
    assert [one.nll for one in found] == pytest.approx([one.nll for one in expected], rel=1e-5)
    assert [one[1:] for one in found] == [one[1:] for one in expected]
    assert reward_scores(judge, sequences, pad) == pytest.approx(rewards, rel=1e-4)
    assert seen == [[12, 6, 3, 2, 1, 2, 1, 2, 1, 2, 1]] * 2


def test_padded_rewards_are_the_unpadded_ones(
    checkpoint: ScoredModel, examples: list[Example], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    pad = checkpoint.pad_token_id
    model = load_reward_model(make_model(tmp_path / "reward", reward=True), pad)
    sequences = [example.input_ids for example in examples]
    together = reward_scores(model, sequences, pad)
    assert together == pytest.approx([reward_scores(model, [ids], pad)[0] for ids in sequences], rel=1e-4)
    assert len(set(together)) == len(sequences)


def test_a_classifier_without_its_head_is_no_judge(make_model: Callable[..., Path], tmp_path: Path) -> None:
    directory = make_model(tmp_path / "policy")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"id2label": {"0": "score"}}))
    with pytest.raises(Refused, match=r"lacks score\.weight: its scores would be random"):
        load_reward_model(directory, 2)


def test_nothing_to_score_is_no_error(checkpoint: ScoredModel) -> None:
    assert likelihoods(checkpoint.model, [], 2) == []
    assert likelihoods(checkpoint.model, [Example([40], [False])], 2)[0] == (0.0, 0, 0)


def test_padding_stands_on_the_right_and_is_masked() -> None:
    input_ids, attention_mask = right_padded([[5, 6, 7], [8]], 0)
    assert input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
