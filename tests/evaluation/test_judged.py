"""A reward model asked about the answers of the policy that it started from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batching.complete import Completion
from data.made import rows
from evaluation import evaluate_stage
from evaluation.judged import VerifiedAnswers
from evaluation.scored_model import Impossible, ScoreCache, ScoredModel, load_reward_model, load_tokenizer
from evaluation.task import HeldOut
from kinds import named
from recipes.arithmetic import VERIFIER
from recipes.arithmetic.conversations import solution
from tests.evaluation.test_tasks import SUM, posed

REWARD = named("reward")


class Said(ScoredModel):
    """A policy that says what it is told to, four times a problem."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def complete(self, *_: Any, **__: Any) -> list[Completion | None]:
        return [Completion(text, [1], True) for text in self.texts]


@pytest.fixture
def judge(make_model: Callable[..., Path], tmp_path: Path) -> ScoredModel:
    directory = make_model(tmp_path / "reward", seed=3, reward=True)
    load: Any = lambda path: load_reward_model(path, 2)  # noqa: E731
    return ScoredModel(directory, load_tokenizer(directory), ScoreCache(tmp_path), load, "reward model")


def test_the_auc_is_that_of_the_rewards_of_right_answers_against_wrong_ones(judge: ScoredModel) -> None:
    texts = [solution(SUM), "Answer: 90", "It is 91", solution(SUM), "no", "91 91", "<think>1</think>", "Answer: 1"]
    judge.policy = Said(*texts)
    task = VerifiedAnswers(posed(SUM, SUM), verifier=VERIFIER)
    scores = task.score(judge)
    prompt = task.held_out.rows[0]["prompt"]
    rewards: list[float] = []
    for text in texts:
        turns = [*prompt, {"role": "assistant", "content": text}]
        ids = judge.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        rewards.append(judge.model(ids).logits.item())
    for metric, is_right in (("auc", VERIFIER.strict), ("auc_flexible", VERIFIER.any_form)):
        right = [is_right(text, task.held_out.rows[0]) for text in texts]
        pairs = [
            (r, w) for r, a in zip(rewards, right, strict=True) for w, b in zip(rewards, right, strict=True) if a > b
        ]
        expected = sum((r > w + 1e-5) + 0.5 * (abs(r - w) <= 1e-5) for r, w in pairs) / len(pairs)
        found = [value for value in scores[metric] if value is not None]
        assert sum(found) / len(found) == pytest.approx(expected)
    assert scores["auc"] != scores["auc_flexible"]


def test_answers_that_are_all_wrong_leave_nothing_to_rank(judge: ScoredModel) -> None:
    judge.policy = Said(*["no"] * 4)
    with pytest.raises(Impossible, match="nothing to rank"):
        VerifiedAnswers(posed(SUM), verifier=VERIFIER).score(judge)


def test_without_a_policy_the_question_is_not_asked(judge: ScoredModel) -> None:
    with pytest.raises(Impossible, match="which policy"):
        VerifiedAnswers(posed(SUM), verifier=VERIFIER).score(judge)


def test_a_reward_stage_asks_about_its_inputs_answers_and_says_why_not(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A random model solves nothing, so there is nothing to rank; its sampled answers are kept all the same."""
    policy, reward = make_model(tmp_path / "sft"), make_model(tmp_path / "reward", seed=3, reward=True)
    task = VerifiedAnswers(HeldOut(rows("prompts", "eval", 2)), max_new_tokens=4, verifier=VERIFIER)
    (result,) = evaluate_stage(REWARD, policy, reward, [task])
    assert (result["metric"], result["n"], result["after"]) == ("auc", 0, None)
    assert "nothing to rank" in result["reason"]
    assert "sampled-completions" in (reward / "evaluation_scores.json").read_text()
