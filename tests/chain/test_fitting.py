"""What there is of the GPU to plan with, and what a stage took of it: said where the forecast was off."""

import pytest

from algorithms import TrainingConfig
from algorithms.memory import CONTEXT_BYTES
from chain.fitting import available_bytes, fit_all, missed
from chain.stages import Stage

GIB = 2**30


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 8 GiB, of which 5 are free: this process's context has a part of the rest, other programs have more."""
    monkeypatch.setattr("chain.fitting.card_bytes", lambda: 8 * GIB)
    monkeypatch.setattr("watching.gpu_memory.device", lambda: "cuda")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda card: (5 * GIB, 8 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda card: GIB)


def test_what_other_programs_hold_is_not_planned_with(card: None, capsys: pytest.CaptureFixture[str]) -> None:
    others = 2 * GIB - CONTEXT_BYTES  # in use are 3 GiB, of which torch has reserved 1; a forecast counts the context
    assert available_bytes(6 * GIB) == 6 * GIB - others
    assert available_bytes(None) == available_bytes(80 * GIB) == 8 * GIB - others
    assert available_bytes(GIB) == 0
    assert "other programs hold 1.61 GiB of the GPU: 4.39 GiB are left" in capsys.readouterr().out


def test_a_card_that_nothing_else_uses_is_all_to_plan_with(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda card: (7 * GIB - CONTEXT_BYTES // 2, 8 * GIB))
    assert available_bytes(None) == 8 * GIB


def test_the_micro_batch_keeps_to_what_is_left(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []
    monkeypatch.setattr("chain.forecast.fit", lambda stage, models, budget: budgets.append(budget))
    monkeypatch.setattr("chain.forecast.refusal_of", lambda *_: "it does not fit")
    with pytest.raises(ValueError, match="it does not fit"):
        fit_all([Stage("sft", TrainingConfig(model_name="m", output_dir="o", dataset_name="d"))], {}, 6 * GIB, {})
    assert budgets == [4 * GIB + CONTEXT_BYTES]


def test_without_a_gpu_the_budget_is_what_was_given_and_without_one_nothing_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chain.fitting.card_bytes", lambda: None)
    assert (available_bytes(6 * GIB), available_bytes(None)) == (6 * GIB, None)
    assert fit_all([Stage("sft", TrainingConfig(model_name="m", output_dir="o", dataset_name="d"))], {}, None, {}) == {}


def test_a_forecast_that_is_more_than_a_tenth_off_is_said() -> None:
    record = {"reserved_bytes": 4 * GIB, "peak_bytes": 5 * GIB}
    assert missed("sft", record, 4 * GIB) is None
    assert missed("sft", record, int(4.4 * GIB)) is None
    assert missed("sft", record, 5 * GIB) == "sft: 5.00 GiB of the GPU were reserved, and 4.00 GiB forecast (-20%)"
    assert missed("sft", record, 2 * GIB) == "sft: 2.00 GiB of the GPU were reserved, and 4.00 GiB forecast (+100%)"
    assert missed("pretrain", None, 4 * GIB) is None


def test_a_forecast_that_is_some_megabytes_off_is_not_said() -> None:
    assert missed("sft", {"reserved_bytes": 450 << 20}, 530 << 20) is None
    assert missed("sft", {"reserved_bytes": 450 << 20}, 600 << 20) is not None
