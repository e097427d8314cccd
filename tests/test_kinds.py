"""The registry of kinds, and how an optimizer step is made up."""

from typing import Any

import pytest

import kinds
from algorithms.sft import SupervisedFineTuning
from kinds import KINDS, Kind, MicroBatch, named, recorded, register
from utils.errors import Refused


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_found_by_its_own_name(name: str) -> None:
    kind = named(name)
    assert isinstance(kind, Kind)
    assert (kind.name, named(name)) == (name, kind)
    assert kind.layout in ("documents", "conversations", "pairs", "prompts", "labelled")


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(Refused, match=r"no kind of stage 'stf', did you mean 'sft'\? Kinds: "):
        named("stf")


def test_a_record_without_a_kind_is_of_the_kind_that_its_name_says() -> None:
    assert recorded({"name": "code", "kind": "sft"}) is recorded({"name": "sft"}) is named("sft")


def test_a_recorded_stage_of_a_kind_that_is_not_here_can_be_shown_and_not_trained() -> None:
    kind = recorded({"name": "mine", "kind": "distillation"})
    assert (kind.name, kind.scores, list(kind.figures)) == ("distillation", False, [])
    assert "distillation" not in kinds.KINDS
    with pytest.raises(Refused, match="'distillation' is not registered here"):
        kind.load(None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MicroBatch(8, 1), MicroBatch(4, 2)),
        (MicroBatch(6, 5), MicroBatch(3, 10)),
        (MicroBatch(3, 2), MicroBatch(2, 3)),  # 3 cannot be halved; of the 6 rows a step, 2 is the next divisor
        (MicroBatch(5, 2), MicroBatch(2, 5)),
        (MicroBatch(7, 1), MicroBatch(1, 7)),
        (MicroBatch(9, 2, 27), MicroBatch(3, 6, 27)),  # 6 would divide the 18 rows a step, not the 27 completions
        (MicroBatch(1, 8), None),
    ],
)
def test_the_step_keeps_its_rows_in_more_passes(before: MicroBatch, after: MicroBatch | None) -> None:
    assert before.smaller() == after


class Mine(SupervisedFineTuning):
    name = "mine"


class Taken(SupervisedFineTuning):
    pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Mine, "is no kind: give it an object"), (Taken(), "the kind 'sft' is sixgig's own: call yours otherwise")],
)
def test_what_is_no_kind_of_its_own_is_not_registered(kind: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinds.KINDS", dict(KINDS))
    with pytest.raises(Refused, match=message):
        register(kind)
    assert register(Mine()) is named("mine")
