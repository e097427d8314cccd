"""What a stage records."""

import json
import re
from pathlib import Path

import pytest

from records.stage_log import StageLog


def _steps(log: StageLog) -> list[int]:
    return [json.loads(line)["step"] for line in log.metrics_file.read_text().splitlines()]


def test_an_event_is_one_line_of_time_kind_and_text(tmp_path: Path) -> None:
    StageLog(tmp_path).event("STAGE_FAILED", "two\nlines")
    line = (tmp_path / "training_events.log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \| STAGE_FAILED \| two lines\n", line)


def test_a_nan_metric_is_null_in_valid_json(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.metrics(3, 0.5, {"loss": float("nan"), "kl": 1.5})
    line = json.loads(log.metrics_file.read_text(), parse_constant=pytest.fail)
    assert line.pop("timestamp")
    assert line == {"step": 3, "epoch": 0.5, "loss": None, "kl": 1.5}


def test_cut_back_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    for step in (1, 2, 3, 4):
        log.metrics(step, None, {})
    with log.metrics_file.open("a") as file:
        file.write('{"step": 5, "lo')
    log.cut_back(2)
    assert _steps(log) == [1, 2]
    log.metrics(3, None, {})
    assert _steps(log) == [1, 2, 3]


def test_what_is_done_is_what_the_last_whole_line_says(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    assert log.done() == {"steps": 0, "tokens": 0}
    log.metrics(5, None, {"num_tokens": 70.0})
    log.metrics(9, None, {"num_tokens": 130.0})
    with log.metrics_file.open("a") as file:
        file.write('{"step": 12, "lo')
    assert log.done() == {"steps": 9, "tokens": 130}


def test_cut_back_drops_later_alarms(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    for step in (0, 2, 3):
        log.alarm(step, "spike", "loss doubled")
    log.cut_back(2)
    assert [alarm["step"] for alarm in log.read_info()["alarms"]] == [0, 2]


def test_a_start_anew_keeps_no_metrics_but_what_was_found_before_training(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    for step in (0, 1):
        log.metrics(step, None, {})
        log.alarm(step, "spike", "loss doubled")
    log.cut_back(-1)
    assert _steps(log) == []
    assert [alarm["step"] for alarm in log.read_info()["alarms"]] == [0]


def test_an_alarm_raised_again_at_the_same_step_is_recorded_once(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    for message in ("3 of 9", "3 of 9 again"):
        log.alarm(0, "cut_off_examples", message)
    assert log.read_info()["alarms"] == [{"step": 0, "name": "cut_off_examples", "message": "3 of 9 again"}]


def test_cut_back_before_anything_was_logged_is_no_error(tmp_path: Path) -> None:
    StageLog(tmp_path).cut_back(7)
    assert list(tmp_path.iterdir()) == []


def test_info_merges_and_open_keeps_what_is_there(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.info(steps=3, output={"sha256": "x"})
    log.open(name="sft", status="running")
    found = log.read_info()
    assert (found["steps"], found["output"], found["name"], found["evaluation"]) == (3, {"sha256": "x"}, "sft", [])
    assert {path.name for path in tmp_path.iterdir()} == {
        "stage_info.json", "training.log", "training_events.log", "training_metrics.jsonl",
    }  # fmt: skip


def test_an_alarm_reaches_events_info_and_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = StageLog(tmp_path)
    log.alarm(4, "zero_gradient", "nothing [is] learnt")
    log.alarm(9, "spike", "loss doubled")
    assert [alarm["step"] for alarm in log.read_info()["alarms"]] == [4, 9]
    assert "ALARM | step 4: zero_gradient: nothing [is] learnt" in log.events_file.read_text()
    assert "warning: step 4: zero_gradient: nothing [is] learnt" in capsys.readouterr().out


def test_a_metric_whose_name_holds_a_line_separator_is_one_row(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.open(name="grpo")
    log.metrics(1, 0.1, {"rewards/a\u2028b/mean": 0.5, "num_tokens": 7})
    log.cut_back(1)
    log.take_up([{"step": 1, "loss": 1.0}])
    assert len(log.metrics_file.read_text(encoding="utf-8").split("\n")) == 2
    assert log.done() == {"steps": 1, "tokens": 7}


def test_a_name_that_is_no_utf8_is_recorded(tmp_path: Path) -> None:
    StageLog(tmp_path).info(data={"name": "rows-\udcff.jsonl"})
    assert StageLog(tmp_path).read_info()["data"] == {"name": "rows-\udcff.jsonl"}


def test_a_checkpoint_whose_line_a_kill_prevented_has_it_after_the_resume(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.open(name="sft")
    for _ in range(2):
        log.resumed("checkpoint-4", "from checkpoint-4 of 9 steps")
    kinds = [line.split(" | ")[1] for line in log.events_file.read_text().splitlines()]
    assert kinds == ["CHECKPOINT", "RESUME", "RESUME"]


def test_the_end_of_training_is_written_once_for_each_beginning(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.event("TRAIN_START", "9 rows")
    for _ in range(2):
        log.train_end("3 steps")  # the second after a kill before the result counted
    log.event("TRAIN_START", "9 rows")
    log.train_end("3 steps")
    kinds = [line.split(" | ")[1] for line in log.events_file.read_text().splitlines()]
    assert kinds == ["TRAIN_START", "TRAIN_END", "TRAIN_START", "TRAIN_END"]
