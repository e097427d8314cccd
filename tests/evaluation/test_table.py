"""The result table: readable, complete about what matters, silent about the rest."""

from typing import Any

import pytest
from rich.console import Console

from evaluation import result_table
from evaluation.gates import decide
from evaluation.measures import shown
from evaluation.metrics import LEAST_EFFECT, verdict
from kinds import SHIPPED, Unknown, named


def result(
    task: str, metric: str, before: float | None, after: float | None, *ci95: float, n: int = 600
) -> dict[str, Any]:
    return {"task": task, "metric": metric, "n": n, "before": before, "after": after, "ci95": list(ci95) or None}


STAGES = [
    {
        "name": "pretrain",
        "evaluation": [result("documents", "loss", None, 1.234), result("skills", "strict", None, 0.0)],
    },
    {
        "name": "sft",
        "evaluation": [
            result("skills", "strict", 0.0, 0.75, 0.71, 0.78),
            result("skills", "completion_tokens", 80.0, 41.5, -39.9, -38.0),
            result("skills", "strict/arithmetic", 0.0, 0.005, -0.003, 0.02, n=200),
            result("demonstrations", "loss", 2.5, 0.31, -2.3, -2.1),
        ],
    },
    {
        "name": "dpo",
        "evaluation": [
            result("preferences", "rejected_logp", -123.45, -234.56, -130.22, -100.11),
            result("preferences", "chosen_logp", -1023.45, -1234.56, -230.22, -200.11),
            result("reward_model", "prefers_after", 0.5, 0.61, 0.07, 0.15),
            result("skills", "strict", 0.75, 0.70, -0.08, -0.02),
            result("answers", "stop_rate", None, None, n=0) | {"reason": "the model has no chat template"},
        ],
    },
    {"name": "grpo", "evaluation": [result("rewards", "my_reward[0]", 0.1, 0.2, 0.05, 0.15)]},
]


def rendered(stages: list[dict[str, Any]], width: int = 100) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(result_table(stages))
    return [line.rstrip() for line in capture.get().splitlines()]


def line_with(text: str, lines: list[str]) -> list[str]:
    (found,) = [line for line in lines if text in line]
    return found.split()


def test_a_line_says_what_changed_and_whether_it_is_more_than_noise() -> None:
    lines = rendered(STAGES)
    assert line_with("0.000 → 0.750", lines) == (
        "sft skills strict 600 0.000 → 0.750 +0.750 [+0.710, +0.780] better".split()
    )
    assert line_with("skills strict/arithmetic", lines)[-2:] == ["no", "evidence"]
    assert line_with("demonstrations loss", lines)[-1] == "better"
    assert line_with("rejected_logp", lines) == (
        "preferences rejected_logp 600 -123.5 → -234.6 -111.1 [-130.2, -100.1] better".split()
    )
    assert line_with("0.750 → 0.700", lines)[-1] == "worse"
    assert line_with("documents loss", lines) == "pretrain documents loss 600 – → 1.234 –".split()


def test_too_few_examples_for_an_interval_get_no_verdict() -> None:
    lines = rendered([{"name": "sft", "evaluation": [result("skills", "strict", 0.0, 1.0, n=2)]}])
    assert line_with("skills strict", lines) == "sft skills strict 2 0.000 → 1.000 – too few".split()


def test_zero_has_no_sign_of_its_own() -> None:
    few = result("demonstrations", "loss", -0.0, -0.0004, -0.0003, 0.0002)
    text = "\n".join(rendered([{"name": "sft", "evaluation": [few]}]))
    assert "0.000 → 0.000  +0.000 [+0.000, +0.000]" in text


def test_the_table_fits_100_columns() -> None:
    lines = rendered(STAGES)
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_only_what_matters_is_shown_and_a_reward_by_its_name() -> None:
    text = "\n".join(rendered(STAGES))
    assert "completion" not in text
    assert "rewards my_reward[0]" in text


def test_the_reason_for_a_missing_figure_stands_below() -> None:
    lines = rendered(STAGES)
    assert line_with("see below", lines)[:4] == ["answers", "stop_rate", "0", "–"]
    assert "dpo, answers stop_rate: the model has no chat template" in lines


@pytest.mark.parametrize("stages", [[], [{"name": "sft"}], [{"name": "sft", "evaluation": []}]])
def test_a_run_without_results_has_an_empty_table(stages: list[dict[str, Any]]) -> None:
    assert result_table(stages).row_count == 0


@pytest.mark.parametrize(
    ("metric", "interval", "says"),
    [
        ("strict", [0.001, 0.002], "tiny gain"),
        ("loss", [0.001, 0.002], "tiny loss"),
        ("completion_tokens", [0.1, 0.2], "tiny change"),
        ("mine/pass@2", [0.001, 0.002], "tiny gain"),
        ("my_reward", [0.001, 0.002], "tiny gain"),
        ("strict/counting", [0.1, 0.2], "better"),
        ("strict", [-0.2, -0.1], "worse"),
        ("loss", [-0.2, -0.1], "better"),
        ("bits_per_byte", [0.1, 0.2], "worse"),
        ("my_reward", [0.1, 0.2], "better"),
        ("completion_tokens", [1.1, 1.2], "changed"),
        ("strict", [-0.1, 0.2], "no evidence"),
        ("strict", [0.0, 0.0], "no evidence"),
        ("strict", None, ""),
    ],
)
def test_a_verdict_needs_an_interval_without_zero_and_a_change_that_matters(
    metric: str, interval: list[float] | None, says: str
) -> None:
    change = sum(interval or [0.0]) / 2
    assert verdict(result(metric, metric, 0.5, 0.5 + change, *interval or ()) | {"metric": metric}) == says


def test_the_least_change_that_matters_is_stated_for_every_metric_of_a_shown_result() -> None:
    for kind in map(named, SHIPPED):
        for name in (one.partition(" ")[2] for one in kind.figures):
            assert name.partition("/")[0] in LEAST_EFFECT or name in ("*", "prefers_after"), (kind.name, name)


def test_a_tiny_change_is_explained_below_and_gates_are_none_of_its_business() -> None:
    sure = result("skills", "strict", 0.9, 0.904, 0.001, 0.007, n=6000)
    lines = rendered([{"name": "sft", "evaluation": [sure]}])
    assert line_with("skills strict", lines)[-2:] == ["tiny", "gain"]
    assert any(line.startswith("tiny: sure, but smaller than") for line in lines)
    scores = ([0.0, 1.0] * 3000, [0.0, 1.0] * 2970 + [1.0] * 60)
    (decided,) = decide([{"metric": "skills strict", "better_than_input": True}], [sure | {"scores": scores}])
    assert not decided["failed"]


def test_what_n_counts_is_said_where_it_is_not_the_rows_that_the_panel_tells() -> None:
    results = [result("skills", "strict", 0.1, 0.5, 0.3, 0.5, n=210)]
    results.append(result("demonstrations", "loss", 2.5, 0.31, -2.3, -2.1, n=120))
    text = "\n".join(rendered([{"name": "sft", "data": {"eval_rows": 120}, "evaluation": results}]))
    assert "n of skills: the verifier's problems" in text
    assert "n of demonstrations" not in text


def test_a_table_names_a_measure_as_gates_do() -> None:
    """In every kind of stage, with what its gates may name."""
    for kind in map(named, SHIPPED):
        results = [
            result(task, metric, 0.1, 0.2)
            for task, metric in (name.replace("*", "x").split(" ") for name in kind.figures)
        ]
        names = [name for name, _ in shown(kind, results)]
        assert names == [f"{one['task']} {one['metric']}" for one in results]


def test_a_kind_is_shown_by_its_own_figures_whatever_the_label_and_one_that_is_not_known_by_all() -> None:
    strict, of_group = result("skills", "strict", 0.1, 0.2), result("skills", "strict/a", 0.1, 0.2)
    results = [strict, of_group, result("poems", "rhyme", 0.0, 1.0)]
    stage = {"name": "code", "evaluation": results}
    assert line_with("skills strict", rendered([stage | {"kind": "pretrain"}]))[0] == "code"
    assert [label for label, _ in shown(Unknown("poetry"), results)] == ["skills strict", "poems rhyme"]
    assert line_with("poems rhyme", rendered([stage | {"kind": "poetry"}]))
