"""A recipe's verifier: what is refused of one, what it judges, and what a run makes of it."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.sft import SupervisedFineTuning
from data.sources import load_for
from evaluation import Verifier, tasks_for
from evaluation.answers import Rewards
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, Task
from kinds import Stage, named
from recipes.arithmetic import VERIFIER
from tests.evaluation.test_tasks import Scripted
from utils.errors import Refused, StageFailed

SUMS = [{"prompt": f"{n}+{n}?", "answer": str(2 * n), "size": "small" if n < 3 else "large"} for n in range(1, 5)]


def ends_right(text: str, row: Any) -> bool:
    return bool(text.endswith(row["answer"]))


def exact(text: str, row: Any) -> bool:
    return bool(text == row["answer"])


def test_what_cannot_be_a_verifier_is_refused_when_the_recipe_is_loaded(tmp_path: Path) -> None:
    """In a process of its own, since the tests' own check of types would come first."""
    code = """from evaluation import Verifier
for fields in (
    {"problems": 7, "strict": "exact", "respond": 3}, {"problems": [], "strict": len, "count": 0},
    {"problems": [], "strict": len, "max_new_tokens": "9"},
):
    try:
        Verifier(**fields)
    except ValueError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wrong_types, too_few, no_number = done.stdout.splitlines()
    assert wrong_types.startswith("Refused verifier: problems = 7: must be str or list of ")
    assert "strict = 'exact': must be callable, not str; respond = 3: must be callable or None" in wrong_types
    assert too_few == "Refused verifier: count = 0: must be at least 1"
    assert no_number == "Refused verifier: max_new_tokens = '9': must be int, not str"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problems": [{"answer": "4"}]}, "problem 0 has no prompt; given: {'answer': '4'}"),
        ({"problems": []}, "there are no problems"),
        ({"problems": "there/is/no/such.jsonl"}, "no data set"),
        ({"problems": SUMS, "strict": lambda text, row: row["result"] == text},
         "strict fails on problem 0, for an empty answer: KeyError: 'result'. The problem has prompt, answer, size"),
        ({"problems": SUMS, "respond": lambda text, row: text.split()[0]}, "respond fails on problem 0.*IndexError"),
        ({"problems": [{"prompt": "Name two.", "answer": "one two"}],
          "strict": lambda text, row: sum(word in text for word in row["answer"].split()) / 2},
         "returned 0.5: .* It was asked about 'one' to problem 0"),
        ({"problems": SUMS, "group": "kind"}, "group = 'kind': problem 0 has prompt, answer, size"),
    ],
)  # fmt: skip
def test_what_would_fail_after_training_is_refused_before(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        Verifier(**{"strict": exact} | fields).check()


def test_problems_come_from_rows_a_function_or_the_held_out_side_of_data(tmp_path: Path) -> None:
    asked = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in SUMS]
    assert Verifier(problems=SUMS, strict=exact).rows() == asked
    assert Verifier(problems=lambda: iter(SUMS), strict=exact, count=3).rows() == asked[:3]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(400)))
    rows = Verifier(problems=str(file), strict=exact, count=8).rows()
    config = TrainingConfig(model_name="m", output_dir="sft", dataset_name=str(file))
    (demonstrations, *_) = tasks_for([Stage("sft", named("sft"), config)])["sft"]
    held_out = [row["prompt"] for row in demonstrations.held_out.rows]
    assert [row["prompt"] for row in rows] == held_out[:8], "what an SFT stage on the same file does not train on"
    assert [row["answer"] for row in rows] == [str(int(row["question"].split("+")[0]) + 1) for row in rows]


def test_a_users_functions_decide_what_is_right(tmp_path: Path) -> None:
    verifier = Verifier(problems=SUMS, strict=exact, flexible=ends_right, group="size")
    task = Skills(HeldOut(verifier.rows), verifier=verifier)
    scores = task.score(Scripted(tmp_path, ["2", "It is 4", "7", "8"]))
    assert scores["strict"] == [1.0, 0.0, 0.0, 1.0]
    assert scores["flexible"] == [1.0, 1.0, 0.0, 1.0]
    assert scores["strict/small"] == [1.0, 0.0, None, None]
    assert {"strict/small", "strict/large", "flexible/large"} <= set(task.all_metrics())
    assert "strict/*" in Skills(HeldOut([]), verifier=Verifier(problems="x", strict=exact, group="size")).all_metrics()
    alone = Verifier(problems=SUMS, strict=exact)
    assert Skills(HeldOut(alone.rows), verifier=alone).score(Scripted(tmp_path, ["2", "It is 4", "7", "8"])) == {
        "strict": [1.0, 0.0, 0.0, 1.0], "flexible": [1.0, 0.0, 0.0, 1.0], "stop_rate": [1.0] * 4,
        "completion_tokens": [1.0, 7.0, 1.0, 1.0],
    }  # fmt: skip


async def later(text: str, row: Any) -> bool:
    return True


def in_parts(text: str, row: Any) -> Any:
    yield True


@pytest.mark.parametrize("form", ["strict", "flexible"])
@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (later, "later, returned <coroutine object"),
        (in_parts, "in_parts, returned <generator object"),
        *((lambda text, row, value=value: value, f"returned {value!r}: it must return True or False")
          for value in ("no", "", math.nan, 0.1, 2, [], [True])),
    ],
)  # fmt: skip
def test_what_says_neither_right_nor_wrong_is_refused_by_the_function(judge: Any, said: str, form: str) -> None:
    functions: dict[str, Any] = {"strict": exact} | {form: judge}
    verifier = Verifier(problems=SUMS, **functions)
    with pytest.raises(Refused, match=f"verifier: {form}, the function .*{re.escape(said)}.* to problem 0"):
        verifier.check()
    with pytest.raises(StageFailed, match=re.escape(said)):
        verifier.verdict(form, "2", SUMS[0])


def test_true_and_false_have_several_forms() -> None:
    forms = (True, 1, 1.0, numpy.bool_(True), torch.tensor(1)), (False, 0, 0.0, None, numpy.bool_(False))
    for right, values in zip((1.0, 0.0), forms, strict=True):
        for value in values:
            always: Any = partial(lambda text, row, said: said, said=value)
            verifier = Verifier(problems=SUMS, strict=always)
            assert verifier.verified(["2"], ["1+1?"], answer=["2"]) == [right]


def test_a_tool_answers_once_and_what_is_said_then_is_judged(tmp_path: Path) -> None:
    def half(text: str, row: Any) -> str | None:
        return str(int(row["answer"]) // 2) if text == "half?" else None

    def judged(text: str, row: Any) -> bool:
        return exact(text, row) and row["prompt"][-1]["role"] == "tool"

    verifier = Verifier(problems=SUMS, strict=judged, flexible=exact, respond=half)
    told = Scripted(tmp_path, ["half?", "4", "half?", "half?"], ["2", "half?", "8"])
    task = Skills(HeldOut(verifier.rows), verifier=verifier)
    scores = task.score(told)
    assert scores["strict"] == [1.0, 0.0, 0.0, 1.0]
    assert scores["flexible"] == [1.0, 1.0, 0.0, 1.0]
    assert told.asked[1][0][-2:] == [{"role": "assistant", "content": "half?"}, {"role": "tool", "content": "1"}]
    told = Scripted(tmp_path, ["half?", "4", "4", "4"], ["2"])
    assert task.texts(told) == ["half?\n→ 1\n2", "4", "4", "4"]


def test_scores_are_kept_apart_by_the_source_of_the_functions(tmp_path: Path) -> None:
    def strict(text: str, row: Any) -> bool:
        return text == row["answer"]

    one, same = (Verifier(problems=SUMS, strict=function) for function in (exact, exact))
    assert one.key == same.key != Verifier(problems=SUMS, strict=strict).key
    assert one.key != Verifier(problems=SUMS, strict=exact, flexible=ends_right).key
    assert Verifier(problems=SUMS, strict=exact, version="2").key == {"verifier": "2"}


def test_a_changed_helper_is_seen_although_scores_are_kept(checkpoint: Any) -> None:
    right = [False]
    verifier = Verifier(problems=SUMS, strict=lambda text, row: right[0])
    task = Skills(HeldOut(verifier.rows), 4, verifier=verifier)
    assert task.scores(checkpoint)["strict"] == [0.0] * 4
    right[0] = True
    del checkpoint.model, checkpoint._load  # the answers are those that were generated
    assert task.scores(checkpoint)["strict"] == [1.0] * 4


def test_a_verifier_is_a_reward_of_grpo() -> None:
    verifier = Verifier(problems=SUMS, strict=exact)
    said = [[{"role": "assistant", "content": text}] for text in ("2", "5")]
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in SUMS[:2]]
    assert verifier.verified(said, prompts, completion_ids=[[1], [2]], answer=["2", "4"], trainer_state=None) == [1, 0]
    assert verifier.verified(["2", "4"], ["1+1?", "2+2?"], answer=["2", "4"]) == [1, 1]


def stages(**more: Any) -> list[Stage]:
    plain = TrainingConfig(model_name="m", output_dir="o", dataset_name="mine.jsonl")
    extra = GRPOExtraConfig(max_completion_length=40, **more)
    return [Stage("code", named("sft"), plain), Stage("talk", named("sft"), plain), Stage("r", named("reward"), plain),
            Stage("rl", named("grpo"), plain, extra)]  # fmt: skip


def test_every_stage_is_measured_by_the_recipes_verifier_under_its_label() -> None:
    verifier = Verifier(problems=SUMS, strict=exact, max_new_tokens=64)
    functions: dict[str, Callable[..., Any]] = {"verified": verifier.verified, "brief": len}
    tasks = tasks_for(stages(), verifier, {"rl": functions})
    assert {label: [task.name for task in some] for label, some in tasks.items()} == {
        "code": ["skills", "sampled_skills", "demonstrations", "other_questions", "answers"],
        "talk": ["skills", "sampled_skills", "demonstrations", "other_questions", "answers"],
        "r": ["verified_answers", "pairs", "worse_answers"],
        "rl": ["skills", "sampled_skills", "demonstrations", "rewards", "sampled_rewards"],
    }
    verified = [task for some in tasks.values() for task in some if isinstance(task, Skills)]
    assert {task.max_new_tokens for task in verified} == {40}, "as long as the stage that samples allows"
    assert {id(task.held_out) for task in verified if not isinstance(task, SampledSkills)} == {id(verified[0].held_out)}
    demonstrations = {label: task for label, some in tasks.items() for task in some if task.name == "demonstrations"}
    assert demonstrations["rl"].held_out is demonstrations["code"].held_out, "those of the first stage of that layout"
    assert demonstrations["talk"].held_out is not demonstrations["code"].held_out, "its own"
    (rewards,) = [task for task in tasks["rl"] if type(task) is Rewards]
    assert list(rewards.functions) == ["brief"], "the verifier's own says what skills say"


def test_made_data_bring_their_verifier_where_the_recipe_has_none() -> None:
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="made:conversations")
    own = Verifier(problems=SUMS, strict=exact)
    for given, expected in ((None, VERIFIER), (own, own)):
        (skills, *_) = tasks_for([Stage("sft", named("sft"), config)], given)["sft"]
        assert isinstance(skills, Skills)
        assert skills.verifier is expected


def test_a_kind_may_bring_a_task_of_its_own() -> None:
    verifier = Verifier(problems=SUMS, strict=exact)

    def poems(stage: Stage, chain: Any) -> list[Task]:
        return [SampledSkills(chain.problems, 9, verifier=chain.verifier)] if stage.label == "mine" else []

    class Poetry(SupervisedFineTuning):
        name = "poetry"
        tasks = ("skills", poems)  # type: ignore[assignment]

    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="mine.jsonl")
    tasks = tasks_for([Stage("mine", Poetry(), config)], verifier)["mine"]
    assert [(task.name, getattr(task, "max_new_tokens", None)) for task in tasks] == [
        ("skills", 128), ("sampled_skills", 9)
    ]  # fmt: skip


def test_problems_are_what_the_stage_on_the_same_data_holds_out(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(100)))
    config = TrainingConfig(model_name="m", output_dir="rl", dataset_name=str(file), eval_fraction=0.5)
    verifier = Verifier(problems=str(file), strict=exact)
    (skills, *_) = tasks_for([Stage("rl", named("grpo"), config)], verifier)["rl"]
    trained = {row["question"] for row in load_for(config, "grpo").train}
    asked = {row["question"] for row in skills.held_out.rows}
    assert len(asked) > 30
    assert not asked & trained
    assert {row["question"] for row in verifier.rows()} < asked, "without the stage: a twentieth"


def test_a_function_may_ask_without_an_end() -> None:
    verifier = Verifier(problems=lambda: ({"prompt": f"{n}?"} for n in count()), strict=exact, count=3)
    assert [row["prompt"][0]["content"] for row in verifier.rows()] == ["0?", "1?", "2?"]


def close(text: str, row: Any, within: int) -> bool:
    return abs(int(text) - int(row["answer"])) <= within


class Close:
    def __call__(self, text: str, row: Any) -> bool:
        return close(text, row, 1)


def test_a_fingerprint_tells_functions_arguments_and_problems_apart() -> None:
    verifiers = [
        Verifier(problems=SUMS, strict=exact),
        Verifier(problems=SUMS, strict=ends_right),
        Verifier(problems=SUMS, strict=partial(close, within=1)),
        Verifier(problems=SUMS, strict=partial(close, within=2)),
        Verifier(problems=SUMS, strict=Close()),
        Verifier(problems=SUMS[:2], strict=exact),
        Verifier(problems=SUMS, strict=exact, max_new_tokens=9),
    ]
    assert len({one.fingerprint() for one in verifiers}) == len(verifiers)
    assert Verifier(problems=list(SUMS), strict=exact).fingerprint() == verifiers[0].fingerprint()
