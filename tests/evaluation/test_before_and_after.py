"""A stage's evaluation: paired with its input, computed once, honest about what could not be measured."""

import gc
import json
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from data.made import rows
from evaluation import evaluate_stage
from evaluation.answers import Answers
from evaluation.paired import paired_difference
from evaluation.scored_model import CACHE_FILE, ScoredModel, load_policy, load_reward_model
from evaluation.skills import Skills
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs
from kinds import named
from recipes.arithmetic import VERIFIER

DPO, GRPO, PRETRAIN, REWARD, SFT = named("dpo"), named("grpo"), named("pretrain"), named("reward"), named("sft")

DOCUMENTS = LanguageModelling(HeldOut(rows("documents", "eval", 12)))
PROBLEMS = Skills(HeldOut(rows("prompts", "eval", 12)), max_new_tokens=8, verifier=VERIFIER)
PAIRS = HeldOut(rows("preferences", "eval", 12))


@pytest.fixture
def stages(make_model: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """Two stages of different weights, the second trained from the first."""
    return make_model(tmp_path / "first", seed=0), make_model(tmp_path / "second", seed=1)


def result(results: Sequence[dict[str, Any]], task: str, metric: str) -> dict[str, Any]:
    (found,) = [one for one in results if (one["task"], one["metric"]) == (task, metric)]
    return found


def test_before_is_the_inputs_after(stages: tuple[Path, Path]) -> None:
    first, second = stages
    of_first = evaluate_stage(PRETRAIN, None, first, [DOCUMENTS, PROBLEMS])
    of_second = evaluate_stage(SFT, first, second, [DOCUMENTS, PROBLEMS])
    assert [(one["task"], one["metric"], one["n"], one["after"]) for one in of_first] == [
        (one["task"], one["metric"], one["n"], one["before"]) for one in of_second
    ]
    assert all(one["before"] is None and one["ci95"] is None for one in of_first)
    loss = result(of_second, "documents", "loss")
    assert loss["n"] == 12
    assert loss["ci95"][0] < loss["after"] - loss["before"] < loss["ci95"][1]


def test_random_weights_are_measured_but_asked_for_no_answers(
    stages: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stages
    answered: list[str] = []
    complete = ScoredModel.complete

    def watched(self: ScoredModel, *given: Any, **options: Any) -> Any:
        answered.append(self.kind)
        return complete(self, *given, **options)

    monkeypatch.setattr(ScoredModel, "complete", watched)
    results = evaluate_stage(
        PRETRAIN,
        None,
        second,
        [DOCUMENTS, PROBLEMS],
        random_weights=lambda: load_policy(first),
        reward_model=first,
    )
    loss, right = result(results, "documents", "loss"), result(results, "skills", "strict")
    assert loss["before"] == result(evaluate_stage(SFT, first, first, [DOCUMENTS]), "documents", "loss")["after"]
    assert loss["ci95"][0] < loss["after"] - loss["before"] < loss["ci95"][1]
    assert (right["before"], right["ci95"], right["n"]) == (None, None, 12)
    assert "reason" not in right
    assert set(answered) == {"policy"}
    assert not any(one["task"] == "reward_model" for one in results)


def test_the_interval_is_that_of_the_same_examples(stages: tuple[Path, Path]) -> None:
    first, second = stages
    results = evaluate_stage(SFT, first, second, [DOCUMENTS])
    kept = json.loads((second / CACHE_FILE).read_text())
    after, before = (scores["loss"] for scores in kept.values())  # in the order in which they were computed
    difference = paired_difference(before, after)
    assert result(results, "documents", "loss")["ci95"] == [difference.low, difference.high]


def test_perplexity_is_that_of_the_mean_loss(stages: tuple[Path, Path]) -> None:
    results = evaluate_stage(SFT, stages[0], stages[1], [DOCUMENTS])
    loss, perplexity = result(results, "documents", "loss"), result(results, "documents", "perplexity")
    assert perplexity["after"] == math.exp(loss["after"])
    assert perplexity["before"] == math.exp(loss["before"])


def test_scores_are_computed_once_for_the_same_weights(stages: tuple[Path, Path]) -> None:
    """Shown by a mark in the kept scores: it comes back while the weights stay, and is gone when they change."""
    first, second = stages
    evaluate_stage(PRETRAIN, None, first, [DOCUMENTS])
    kept = json.loads((first / CACHE_FILE).read_text())
    (key,) = kept
    kept[key]["accuracy"] = [1000.0] * 12
    (first / CACHE_FILE).write_text(json.dumps(kept))
    assert result(evaluate_stage(SFT, first, second, [DOCUMENTS]), "documents", "accuracy")["before"] == 1000.0

    (second / CACHE_FILE).unlink()
    weights = second / "model.safetensors"
    weights.replace(first / "model.safetensors")
    weights.write_bytes((first / "model.safetensors").read_bytes())
    assert result(evaluate_stage(SFT, first, second, [DOCUMENTS]), "documents", "accuracy")["before"] < 1


def test_scores_of_other_rows_are_not_taken_over(stages: tuple[Path, Path]) -> None:
    first, _ = stages
    few = LanguageModelling(HeldOut(rows("documents", "eval", 5)))
    assert result(evaluate_stage(PRETRAIN, None, first, [DOCUMENTS]), "documents", "loss")["n"] == 12
    assert result(evaluate_stage(PRETRAIN, None, first, [few]), "documents", "loss")["n"] == 5


def test_the_inputs_directory_is_not_written_to(stages: tuple[Path, Path]) -> None:
    first, second = stages
    before = {path.name for path in first.iterdir()}
    evaluate_stage(SFT, first, second, [DOCUMENTS])
    assert {path.name for path in first.iterdir()} == before


def test_an_input_without_a_template_is_read_through_the_outputs(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    base, tuned = make_model(tmp_path / "base", template=False), make_model(tmp_path / "tuned")
    loss = result(evaluate_stage(SFT, base, tuned, [Demonstrations(PAIRS_AS_TALK)]), "demonstrations", "loss")
    assert loss["before"] == loss["after"]
    assert loss["ci95"] == [0, 0]


PAIRS_AS_TALK = HeldOut([{"messages": [*row["prompt"], *row["chosen"]]} for row in PAIRS.rows])


@pytest.mark.parametrize("task", [PROBLEMS, Preferences(PAIRS)])
def test_what_cannot_be_measured_is_null_with_the_reason(
    task: Task, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    base, other = (make_model(tmp_path / name, seed, template=False) for seed, name in enumerate(("base", "other")))
    results = evaluate_stage(DPO, base, other, [task, DOCUMENTS])
    impossible = [one for one in results if one["task"] == task.name]
    assert {one["metric"] for one in impossible} == set(task.headline)
    for one in impossible:
        assert (one["n"], one["before"], one["after"], one["ci95"]) == (0, None, None, None)
        assert "no chat template" in one["reason"]
    assert result(results, "documents", "loss")["after"] is not None


def test_broken_weights_give_null_and_never_nan(stages: tuple[Path, Path]) -> None:
    from transformers import AutoModelForCausalLM

    first, second = stages
    model = AutoModelForCausalLM.from_pretrained(second)
    model.get_input_embeddings().weight.data.fill_(math.nan)
    model.save_pretrained(second)
    results = evaluate_stage(SFT, first, second, [DOCUMENTS])
    loss = result(results, "documents", "loss")
    assert (loss["after"], loss["ci95"]) == (None, None)
    assert "no example" in loss["reason"]
    json.dumps(results, allow_nan=False)


def test_a_reward_model_starts_from_the_untrained_head_of_its_seed(
    stages: tuple[Path, Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    first, _ = stages
    trained = make_model(tmp_path / "reward", seed=3, reward=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    results = evaluate_stage(REWARD, first, trained, [RewardPairs(PAIRS)], seed=11)
    assert torch.equal(torch.get_rng_state(), state), "evaluation must not disturb what training draws"
    heads = [load_reward_model(first, 2, head_seed=seed).score.weight for seed in (11, 11, 12)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    other = evaluate_stage(REWARD, first, trained, [RewardPairs(PAIRS)], seed=12)
    margins = [result(found, "pairs", "margin") for found in (results, other)]
    assert margins[0]["after"] == margins[1]["after"]
    assert margins[0]["before"] != margins[1]["before"]


def test_the_reward_model_judges_the_answers_of_both(
    stages: tuple[Path, Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = stages
    judge = make_model(tmp_path / "reward", seed=3, reward=True)
    results = evaluate_stage(DPO, first, second, [PROBLEMS], reward_model=judge)
    preferred, reward = (result(results, "reward_model", metric) for metric in ("prefers_after", "reward"))
    assert preferred["before"] == 0.5
    assert 0 < preferred["after"] < 1
    assert reward["n"] == preferred["n"] == 12
    assert reward["before"] != reward["after"]
    one = Skills(HeldOut(PROBLEMS.held_out.rows[:1]), max_new_tokens=8, verifier=VERIFIER)
    alone = result(evaluate_stage(DPO, first, second, [one], reward_model=judge), "reward_model", "prefers_after")
    assert alone["after"] in (0, 1)
    assert alone["ci95"] is None
    back = evaluate_stage(DPO, second, first, [PROBLEMS], reward_model=judge)
    assert result(back, "reward_model", "prefers_after")["after"] == pytest.approx(1 - preferred["after"])


def test_no_two_models_are_in_memory_at_once(
    stages: tuple[Path, Path], make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation import before_and_after as compare
    from evaluation import scored_model as checkpoint

    loaded: list[weakref.ref[Any]] = []
    gc.collect()

    def watched(load: Callable[..., Any]) -> Callable[..., Any]:
        def first_look(*args: Any, **named: Any) -> Any:
            assert all(earlier() is None for earlier in loaded)
            model = load(*args, **named)
            loaded.append(weakref.ref(model))
            return model

        return first_look

    monkeypatch.setattr(compare, "load_policy", watched(checkpoint.load_policy))
    monkeypatch.setattr(checkpoint, "load_reward_model", watched(checkpoint.load_reward_model))
    judge = make_model(tmp_path / "reward", seed=3, reward=True)
    evaluate_stage(DPO, *stages, [PROBLEMS], reward_model=judge)
    assert len(loaded) == 5  # after and before for the tasks, both for sampled answers, the judge


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_where_the_gpu_has_no_room_both_sides_are_loaded_in_4_bits_and_scored_anew(
    kind: str, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU. Only matrices within the layers are in 4 bits, so a new head is that of its seed."""
    from bitsandbytes.nn import Linear4bit

    from algorithms.overrides import without_cpu_packing
    from evaluation import before_and_after as compare
    from evaluation import scored_model as checkpoint
    from evaluation.placement import Placement

    first, second = make_model(tmp_path / "first"), make_model(tmp_path / "second", seed=1, reward=kind == "reward")
    task = RewardPairs(PAIRS) if kind == "reward" else DOCUMENTS
    metric = "margin" if kind == "reward" else "loss"
    as_saved = result(evaluate_stage(named(kind), first, second, [task]), task.name, metric)
    loaded: list[set[str]] = []
    ready = checkpoint.ready

    def watched(model: Any, placed: Placement) -> Any:
        loaded.append({name for name, module in model.named_modules() if isinstance(module, Linear4bit)})
        without_cpu_packing(model)  # which fails at so small a size, and is nothing that a GPU does
        return ready(model, placed)

    monkeypatch.setattr(compare, "placed_alike", lambda _models: Placement.IN_4_BITS)
    monkeypatch.setattr(checkpoint, "ready", watched)
    for _ in range(2):  # the second time, the scores of the first are taken
        in_4_bits = result(evaluate_stage(named(kind), first, second, [task]), task.name, metric)
        assert len(loaded) == 2
    assert loaded[0] == loaded[1]
    assert len(loaded[0]) == 14  # 7 in each of 2 layers
    assert not any("head" in name or "score" in name for name in loaded[0])
    for side in ("before", "after"):
        assert in_4_bits[side] != as_saved[side]
        assert in_4_bits[side] == pytest.approx(as_saved[side], rel=0.5, abs=1.0)


def test_random_weights_that_do_not_fit_the_gpu_are_compared_on_the_cpu(
    stages: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation import before_and_after as compare
    from evaluation import scored_model as checkpoint
    from evaluation.placement import Placement

    placed: list[Placement] = []
    monkeypatch.setattr(compare, "placed_alike", lambda _models: Placement.IN_4_BITS)

    def watched(model: Any, where: Placement) -> Any:
        placed.append(where)
        return model.eval()

    for module in (checkpoint, compare):
        monkeypatch.setattr(module, "ready", watched)
    first, second = stages
    evaluate_stage(PRETRAIN, None, second, [DOCUMENTS], random_weights=lambda: load_policy(first))
    assert placed[0] == placed[-1] == Placement.ON_CPU  # between them stands the load of what is random here


def test_equal_answers_are_a_tie(make_model: Callable[..., Path], tmp_path: Path) -> None:
    first, same = make_model(tmp_path / "first"), make_model(tmp_path / "same")
    judge = make_model(tmp_path / "reward", seed=3, reward=True)
    answers = Answers(HeldOut([{"prompt": f"One and {n}"} for n in range(6)]), max_new_tokens=4)
    results = evaluate_stage(GRPO, first, same, [answers], reward_model=judge)
    preferred = result(results, "reward_model", "prefers_after")
    assert (preferred["after"], preferred["ci95"]) == (0.5, [0, 0])
