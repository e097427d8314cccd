"""Tasks: what each score means, on real rows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batching.complete import Completion
from data.made import rows
from evaluation.answers import Answers, Rewards, SampledRewards, call_reward
from evaluation.calibration import calibration_gaps
from evaluation.paired import paired_difference
from evaluation.scored_model import Impossible, ScoreCache, ScoredModel, load_reward_model
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, weighted
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs
from recipes.arithmetic import VERIFIER
from recipes.arithmetic.conversations import after_tool, solution
from recipes.arithmetic.problems import Problem
from utils.errors import StageFailed

SUM = Problem(skill="arithmetic", key="", question="34 and 57?", trace="34+57: 4+7=11, 3+5+1=9, 91", answer="91")
CALL = Problem(skill="calculator", key="", question="What is 348 times 27?", trace="348*27", answer="9396")


def said(text: str) -> Completion:
    return Completion(text, [ord(letter) for letter in text], True)


class Scripted(ScoredModel):
    """A checkpoint that says what it is told to, turn by turn, in place of a model."""

    def __init__(self, tmp_path: Path, *turns: Sequence[str]) -> None:
        self.turns, self.asked = list(turns), list[Any]()
        self.cache = ScoreCache(tmp_path)

    def complete(
        self, prompts: Sequence[tuple[Any, Any]], max_new_tokens: int, sampled: bool = False
    ) -> list[Completion | None]:
        self.asked.append([prompt for prompt, _ in prompts])
        return [said(text) for text in self.turns.pop(0)]


def posed(*problems: Problem) -> HeldOut:
    return HeldOut([{"prompt": after_tool(one)[:2], "skill": one.skill, "answer": one.answer} for one in problems])


def test_taught_solutions_are_strictly_right(tmp_path: Path) -> None:
    scores = Skills(posed(SUM, CALL), verifier=VERIFIER).score(
        Scripted(tmp_path, [solution(SUM), solution(CALL)], ["Answer: 9396"])
    )
    assert scores["strict"] == scores["flexible"] == scores["stop_rate"] == [1.0, 1.0]
    assert scores["strict/arithmetic"] == [1.0, None]
    assert scores["strict/calculator"] == [None, 1.0]


def test_the_second_turn_sees_what_the_tool_said(tmp_path: Path) -> None:
    said = Scripted(tmp_path, [solution(CALL)], ["Answer: 9396"])
    Skills(posed(CALL), verifier=VERIFIER).score(said)
    (second,) = said.asked[1]
    assert second[-2:] == [{"role": "assistant", "content": solution(CALL)}, {"role": "tool", "content": "9396"}]


@pytest.mark.parametrize(
    ("first", "second", "strict", "flexible"),
    [
        (solution(CALL), "Answer: 9395", 0, 0),  # read out wrongly
        (solution(CALL), "That makes 9396", 0, 1),
        (solution(CALL) + "\nWait.", "Answer: 9396", 0, 1),  # a call with words around it
        (solution(CALL).replace("348*27", "348+27"), "Answer: 375", 0, 0),
        (solution(CALL).replace("348*27", "9396/1"), "Answer: 9396", 1, 1),
        ("Answer: 9396", None, 0, 1),  # right without the tool
        ("Answer: 1", None, 0, 0),
        ("<tool_call>\n348*27\n</tool_call>", None, 0, 0),
    ],
)
def test_calculator_problems_are_solved_by_both_turns(
    tmp_path: Path, first: str, second: str | None, strict: float, flexible: float
) -> None:
    scores = Skills(posed(CALL), verifier=VERIFIER).score(
        Scripted(tmp_path, [first], *([] if second is None else [[second]]))
    )
    assert (scores["strict"], scores["flexible"]) == ([strict], [flexible])


def test_flexible_is_right_in_any_form(tmp_path: Path) -> None:
    said = ["I think it is 91", "Answer: 91", "<think>1</think>\nAnswer: 90"]
    scores = Skills(posed(SUM, SUM, SUM), verifier=VERIFIER).score(Scripted(tmp_path, said))
    assert scores["strict"] == [0, 0, 0]
    assert scores["flexible"] == [1, 1, 0]


def test_skills_of_a_random_model_are_zero(checkpoint: ScoredModel) -> None:
    scores = Skills(HeldOut(rows("prompts", "eval", 12)), max_new_tokens=8, verifier=VERIFIER).scores(checkpoint)
    assert scores["strict"] == [0.0] * 12
    assert all(n is not None and 1 <= n <= 8 for n in scores["completion_tokens"])


def test_sampled_answers_are_several_to_a_prompt_and_differ(checkpoint: ScoredModel) -> None:
    fewer = HeldOut(rows("prompts", "eval", 3))
    sampled = SampledSkills(fewer, max_new_tokens=8, verifier=VERIFIER)
    texts = [one.text for one in sampled.completions(checkpoint) if one]
    assert len(texts) == 12
    assert len(set(texts[:4])) > 1
    judged = checkpoint.complete([(row["prompt"], None) for row in fewer.rows for _ in range(4)], 8, sampled=True)
    assert [one.text for one in judged if one] == texts


def test_pass_at_k_of_a_problem_is_that_of_its_samples(tmp_path: Path) -> None:
    """Of 4 answers 1 is strictly right: pass@1 is 1/4, pass@2 3 of the 6 pairs, pass@4 1; another is flexibly right."""
    right, wrong = solution(SUM), "Answer: 90"
    turns = [right, wrong, "It is 91", wrong, *[wrong] * 4, solution(CALL), solution(CALL), wrong, wrong]
    said = Scripted(tmp_path, turns, ["Answer: 9396", "Answer: 1"])
    scores = SampledSkills(posed(SUM, SUM, CALL), verifier=VERIFIER).score(said)
    assert scores["strict"] == [0.25, 0.0, 0.25]
    assert scores["flexible"] == [0.5, 0.0, 0.25]
    assert scores["pass@2"] == [0.5, 0.0, 0.5]
    assert scores["pass@4"] == [1.0, 0.0, 1.0]
    assert scores["flexible_pass@2"] == pytest.approx([5 / 6, 0.0, 0.5])
    assert scores["strict/calculator"] == [None, None, 0.25]
    assert scores["stop_rate"] == [1.0, 1.0, 1.0]


def test_pass_at_k_of_reward_functions_is_of_those_that_verify(tmp_path: Path) -> None:
    functions: dict[str, Any] = {
        "right": lambda completions, answer, **_: [float(c == a) for c, a in zip(completions, answer, strict=True)],
        "length": lambda completions, **_: [len(text) / 10 for text in completions],
    }
    asked = HeldOut([{"prompt": "2+3?", "answer": "5"}, {"prompt": "2+4?", "answer": "6"}])
    told = Scripted(tmp_path, ["5", "4", "4", "5", "9", "9", "9", "9"])
    scores = SampledRewards(asked, 4, functions).score(told)
    assert scores == {"right/pass@1": [0.5, 0.0], "right/pass@2": [5 / 6, 0.0], "right/pass@4": [1.0, 0.0]}


def test_document_scores_average_to_the_figures_of_all_tokens(checkpoint: ScoredModel) -> None:
    texts = [row["text"] for row in rows("documents", "eval", 10)]
    scores = LanguageModelling(HeldOut([{"text": text} for text in texts])).scores(checkpoint)
    nll = tokens = n_bytes = 0.0
    for text in texts:
        ids = checkpoint.tokenizer(text, return_tensors="pt")["input_ids"]
        nll += float(checkpoint.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
        n_bytes += len(text.encode()) - len(checkpoint.tokenizer.decode(ids[0, :1]).encode())
    assert math.fsum(scores["loss"]) / 10 == pytest.approx(nll / tokens, rel=1e-4)  # type: ignore[arg-type]
    assert math.fsum(scores["bits_per_byte"]) / 10 == pytest.approx(nll / math.log(2) / n_bytes, rel=1e-4)  # type: ignore[arg-type]


def test_weighted_scores_average_to_the_ratio_of_sums() -> None:
    """12 over 4 is 3, the mean size 2: 3 + (2 - 3·1)/2 = 2.5 and 3 + (10 - 3·3)/2 = 3.5."""
    assert weighted([2.0, 10.0, 5.0], [1, 3, 0]) == [2.5, 3.5, None]
    assert weighted([0.0], [0]) == [None]


def test_the_spread_of_lengths_is_no_spread_of_the_effect() -> None:
    """Every token of every document lost 0.1 nats, so the difference is known exactly."""
    sizes = [10, 20, 400, 30, 50, 900]
    before = weighted([2.0 * size for size in sizes], sizes)
    after = weighted([1.9 * size for size in sizes], sizes)
    difference = paired_difference(before, after)  # type: ignore[arg-type]
    assert difference == pytest.approx((-0.1, -0.1, -0.1))


def test_the_interval_of_a_token_weighted_difference_holds_the_truth_95_times_in_100() -> None:
    random, held, widths, trials = Random(3), 0, 0.0, 1000
    for _ in range(trials):
        sizes = [1 + int(random.expovariate(1 / 40)) for _ in range(80)]
        before = [size * random.gauss(2.0, 0.5) for size in sizes]
        after = [total - size * random.gauss(0.3, 0.2) for total, size in zip(before, sizes, strict=True)]
        difference = paired_difference(weighted(before, sizes), weighted(after, sizes))  # type: ignore[arg-type]
        held += difference.low <= -0.3 <= difference.high
        widths += difference.high - difference.low
    assert 0.93 <= held / trials <= 0.97
    assert widths / trials == pytest.approx(2 * 1.99 * 0.2 * math.sqrt(2 / 80), rel=0.05)  # E[size²] = 2 E[size]²


def test_demonstrations_that_do_not_fit_count_for_nothing(checkpoint: ScoredModel) -> None:
    fits = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}
    too_long = {"messages": [{"role": "user", "content": "1" * 600}, {"role": "assistant", "content": "2"}]}
    scores = Demonstrations(HeldOut([fits, too_long])).scores(checkpoint)
    assert scores["loss"][0] is not None
    assert scores["loss"][1] is None


def test_preferences_compare_the_two_sides(checkpoint: ScoredModel) -> None:
    pairs = rows("preferences", "eval", 8)
    scores = Preferences(HeldOut(pairs)).scores(checkpoint)
    swapped = Preferences(
        HeldOut([row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs])
    ).scores(checkpoint)
    for metric, other, sign in (("margin", "margin", -1), ("chosen_logp", "rejected_logp", 1)):
        assert scores[metric] == pytest.approx([sign * value for value in swapped[other] if value is not None])
    assert scores["accuracy"] == [float(margin > 0) for margin in scores["margin"] if margin is not None]
    assert all(logp < 0 for logp in scores["chosen_logp"] if logp is not None)
    assert sum(name.startswith("accuracy/") for name in scores) == len({row["kind"] for row in pairs})


def test_reward_pairs_compare_the_two_sides(
    make_model: Callable[..., Path], open_checkpoint: Callable[..., ScoredModel], tmp_path: Path
) -> None:
    directory = make_model(tmp_path / "reward", reward=True)
    judge = open_checkpoint(directory, load=lambda path: load_reward_model(path, 2))
    scores = RewardPairs(HeldOut(rows("preferences", "eval", 8))).scores(judge)
    margins = [c - r for c, r in zip(scores["chosen_reward"], scores["rejected_reward"], strict=True)]  # type: ignore[operator]
    assert scores["margin"] == margins
    assert scores["accuracy"] == [float(margin > 0) for margin in margins]
    assert scores["brier"] == pytest.approx([(1 - 1 / (1 + math.exp(-margin))) ** 2 for margin in margins])
    assert scores["calibration_error"] == calibration_gaps(margins)


def test_length_bias_is_of_pairs_whose_answers_differ_in_tokens(
    make_model: Callable[..., Path], open_checkpoint: Callable[..., ScoredModel], tmp_path: Path
) -> None:
    directory = make_model(tmp_path / "reward", reward=True)
    judge = open_checkpoint(directory, load=lambda path: load_reward_model(path, 2))
    pairs = [("1 2 3 4", "1"), ("1", "1 2 3 4"), ("1", "2")]
    held_out = HeldOut([{"prompt": "Count ", "chosen": chosen, "rejected": other} for chosen, other in pairs])
    scores = RewardPairs(held_out).scores(judge)
    assert scores["longer_is_right"] == [1.0, 0.0, None]
    first, second, _ = scores["accuracy"]
    assert first != second, "the same two answers, the other way round"
    assert scores["longer_wins"] == [first, first, None]
    assert scores["length_bias"] == [first - 1.0, first, None]  # type: ignore[operator]


def test_answers_skip_rows_that_ask_nothing(checkpoint: ScoredModel) -> None:
    asking, telling = {"prompt": "One"}, {"messages": [{"role": "assistant", "content": "Hello"}]}
    scores = Answers(HeldOut([telling, asking, {"prompt": "1" * 600}]), max_new_tokens=4).scores(checkpoint)
    assert scores["completion_tokens"] == [None, 4.0, None]


def test_reward_functions_get_what_trl_gives_them() -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: Any, completions: Any, answer: list[str], **rest: Any) -> list[float | None]:
        seen.update(rest, prompts=prompts, completions=completions, answer=answer)
        return [1, None]

    asked = [{"role": "user", "content": "2+3?"}]
    rows_of_two = [{"prompt": asked, "answer": "5"}, {"prompt": asked, "answer": "6"}]
    assert call_reward(reward, rows_of_two, [said("5"), said("78")]) == [1.0, None]
    assert seen["prompts"] == [asked, asked]
    assert seen["completions"] == [[{"role": "assistant", "content": "5"}], [{"role": "assistant", "content": "78"}]]
    assert seen["completion_ids"] == [[53], [55, 56]]
    assert seen["answer"] == ["5", "6"]
    assert {"trainer_state", "log_extra", "log_metric"} <= set(seen)
    call_reward(reward, [{"prompt": "a", "answer": "5"}, {"prompt": "b", "answer": "6"}], [said("5"), said("78")])
    assert seen["completions"] == ["5", "78"]


def test_trls_rewards_of_length_measure_the_lengths(checkpoint: ScoredModel) -> None:
    from trl.rewards import get_soft_overlong_punishment

    punish = get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=4)
    scores = Rewards(HeldOut(rows("prompts", "eval", 12)), 8, {"length": punish}).scores(checkpoint)
    expected = [-max(0.0, (n or 0) - 4) / 4 for n in scores["completion_tokens"]]
    assert scores["length"] == expected
    assert min(expected) < 0


def test_an_async_reward_function_is_awaited() -> None:
    async def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    assert call_reward(reward, [{"prompt": "a"}], [said("four")]) == [4.0]


def test_a_reward_function_with_too_few_rewards_is_an_error() -> None:
    with pytest.raises(StageFailed, match="the reward <lambda> returned 1 rewards"):
        call_reward(lambda **_: [1.0], [{"prompt": "a"}, {"prompt": "b"}], [said(""), said("")])


def test_a_changed_reward_function_is_called_again(checkpoint: ScoredModel) -> None:
    asked = HeldOut([{"prompt": "One"}])
    for value in (1.0, 2.0):
        task = Rewards(asked, 4, {"mine": lambda value=value, **_: [value]})
        assert task.scores(checkpoint)["mine"] == [value]
    assert Rewards(asked, 4, {"mine": lambda **_: [math.nan]}).scores(checkpoint)["mine"] == [None]


@pytest.mark.parametrize(
    "task",
    [
        Skills(HeldOut(rows("prompts", "eval", 2)), verifier=VERIFIER),
        Demonstrations(HeldOut(rows("conversations", "eval", 2))),
        Preferences(HeldOut(rows("preferences", "eval", 2))),
    ],
)
def test_conversations_are_impossible_without_a_template(
    task: Any, make_model: Callable[..., Path], open_checkpoint: Callable[..., ScoredModel], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(make_model(tmp_path, template=False))
    with pytest.raises(Impossible, match="no chat template"):
        task.scores(checkpoint)


def test_no_held_out_rows_is_impossible(checkpoint: ScoredModel) -> None:
    with pytest.raises(Impossible, match="no held-out row has what the task 'documents' needs"):
        LanguageModelling(HeldOut([])).scores(checkpoint)


@pytest.mark.shared
def test_stories260k_predicts_tiny_stories_as_published(
    shared: Path, open_checkpoint: Callable[..., ScoredModel]
) -> None:
    """About 1.30 nats a token; paragraphs without what came before them are harder."""
    text = (shared / "fixtures/data/pretrain/tinystories_minigpt_197k.txt").read_text(encoding="utf-8")
    paragraphs = text.split("\n\n")
    documents = ["\n\n".join(paragraphs[start : start + 4]) for start in range(0, 80, 4)]
    checkpoint = open_checkpoint(shared / "fixtures/models/stories260K")
    scores = LanguageModelling(HeldOut([{"text": one} for one in documents])).scores(checkpoint)
    assert 1.2 < math.fsum(scores["loss"]) / len(documents) < 1.6  # type: ignore[arg-type]
