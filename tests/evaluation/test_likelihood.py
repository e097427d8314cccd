"""Likelihoods and rewards: the same alone as in a padded batch, and the same as by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.world import rows
from evaluation.checkpoint import Checkpoint, load_reward_model
from evaluation.encode import Example, demonstration
from evaluation.likelihood import batches, likelihoods, reward_scores, right_padded
from utils.errors import Refused


@pytest.fixture
def examples(checkpoint: Checkpoint) -> list[Example]:
    return [demonstration(checkpoint.tokenizer, row) for row in rows("conversations", "eval", 12)]


def test_likelihood_is_the_sum_over_scored_tokens(checkpoint: Checkpoint) -> None:
    example = Example([40, 41, 42, 43], [False, False, True, True])
    with torch.inference_mode():
        logps = checkpoint.model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    (found,) = likelihoods(checkpoint.model, [example], 2)
    assert found.nll == pytest.approx(-float(logps[1, 42] + logps[2, 43]), rel=1e-5)
    assert found.tokens == 2
    assert found.correct == int(logps[1].argmax() == 42) + int(logps[2].argmax() == 43)


def test_the_first_choice_of_the_model_is_correct(checkpoint: Checkpoint) -> None:
    ids = [40, 41]
    with torch.inference_mode():
        ids.append(int(checkpoint.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert likelihoods(checkpoint.model, [Example(ids, [False, False, True])], 2)[0].correct == 1


def test_padded_likelihoods_are_the_unpadded_ones(checkpoint: Checkpoint, examples: list[Example]) -> None:
    together = likelihoods(checkpoint.model, examples, checkpoint.pad_token_id)
    for example, found in zip(examples, together, strict=True):
        (alone,) = likelihoods(checkpoint.model, [example], checkpoint.pad_token_id)
        assert found.nll == pytest.approx(alone.nll, rel=1e-5)
        assert found[1:] == alone[1:]
    assert len({found.tokens for found in together}) > 1


def test_padded_rewards_are_the_unpadded_ones(
    checkpoint: Checkpoint, examples: list[Example], make_model: Callable[..., Path], tmp_path: Path
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


def test_nothing_to_score_is_no_error(checkpoint: Checkpoint) -> None:
    assert likelihoods(checkpoint.model, [], 2) == []
    assert likelihoods(checkpoint.model, [Example([40], [False])], 2)[0] == (0.0, 0, 0)


def test_batches_hold_every_index_once_within_the_budget() -> None:
    lengths = [5, 90, 7, 30, 31, 200, 1, 1]
    found = list(batches(lengths, 100, max_rows=3))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 100 for batch in found)
    assert max(map(len, found)) == 3


def test_padding_stands_on_the_right_and_is_masked() -> None:
    input_ids, attention_mask = right_padded([[5, 6, 7], [8]], 0)
    assert input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
