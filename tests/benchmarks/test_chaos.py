"""Runs that are broken go on to the reference's results; and the harness that says so notices when they do not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.chaos_runs import STAGES, Place, Wrong
from records.sealed import MANIFEST

SCRIPT = Path(chaos.__file__)
CHEAP = ("kill", "hangup", "closed-screen", "full-disk", "file-limit", "damaged-checkpoint")


@pytest.fixture(scope="module")
def broken() -> "subprocess.CompletedProcess[str]":
    """What the harness says of the faults that cost little."""
    command = [sys.executable, str(SCRIPT), "--faults", ",".join(CHEAP)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_every_outcome_is_the_stated_one(broken: "subprocess.CompletedProcess[str]") -> None:
    assert broken.returncode == 0, broken.stdout + broken.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_a_fault_has_a_line_and_a_row(name: str, broken: "subprocess.CompletedProcess[str]") -> None:
    said, expected = broken.stdout.splitlines(), chaos.FAULTS[name].expected
    start = f"{name}: expected {expected}; happened: "
    (line,) = [line for line in said if line.startswith(start)]
    (row,) = [line for line in said if line.startswith(f"| `{name}` | {expected} | ")]
    happened = line.removeprefix(start)
    assert row.split(" | ")[2] == happened
    assert happened.endswith("the reference's results") or (name == "full-disk" and happened.startswith("skipped: "))


@pytest.mark.slow
def test_a_wrong_outcome_ends_with_exit_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(place: Place) -> str:
        """Start a run that is refused, where one is expected that passes."""
        place.run("--test", "--set", "sft.steps=1").must_end_with(0)
        return "exit 0"

    def fine(_: Place) -> str:
        return "exit 0"

    monkeypatch.setattr(chaos, "reference", lambda scratch: tmp_path)
    monkeypatch.setattr(chaos, "FAULTS", {"bad": chaos.Fault("exit 0", refused), "good": chaos.Fault("exit 0", fine)})
    assert chaos.main(["--faults", "bad,good"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("bad: expected exit 0; happened: WRONG: exit 2: ")
    assert said[1] == "good: expected exit 0; happened: exit 0"
    assert chaos.main(["--faults", "good"]) == 0


def test_an_unknown_fault_is_refused_and_the_nearest_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--faults", "kil"]) == 2
    assert "did you mean 'kill'?" in capsys.readouterr().err


def test_the_list_names_every_fault_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(chaos.FAULTS)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place with a run of pretraining alone, which equals its reference."""
    place = Place(tmp_path / "place", tmp_path / "cache", tmp_path / "reference")
    run_dir = place.runs_dir / "20260131_101500_k3x9"
    stage_dir = run_dir / STAGES["pretrain"]
    (stage_dir / "checkpoint-1").mkdir(parents=True)
    (stage_dir / "checkpoint-1" / MANIFEST).write_text('{"files": {}}')
    (stage_dir / "model.safetensors").write_bytes(b"weights")
    rows = ({"step": step, "loss": 1 / step, "timestamp": "now"} for step in (1, 2))
    (stage_dir / "training_metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (stage_dir / "training_events.log").write_text("now | CHECKPOINT | checkpoint-1\nnow | TRAIN_END | step 2\n")
    entry = {"name": "pretrain", "status": "passed", "duration_s": 1.0}
    (run_dir / "run_info.json").write_text(json.dumps({"status": "passed", "stages": [entry]}))
    shutil.copytree(run_dir, place.reference)
    return place


def _edit(file: str, old: str, new: str) -> Callable[[Path], object]:
    """Return an edit of a file of the stage."""
    return lambda stage_dir: (stage_dir / file).write_text((stage_dir / file).read_text().replace(old, new))


def test_a_run_that_differs_in_its_times_alone_has_the_references_results(place: Place) -> None:
    stage_dir = place.stage_dir("pretrain")
    _edit("training_metrics.jsonl", "now", "later")(stage_dir)
    _edit("training_events.log", "now", "later")(stage_dir)
    place.must_equal_the_reference()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_edit("model.safetensors", "weights", "Weights"), "has other weights than the reference"),
        (
            _edit("training_metrics.jsonl", '{"step": 2', '{"step": 1'),
            r"of the steps \[1, 1\], the reference of \[1, 2",
        ),
        (_edit("training_metrics.jsonl", "0.5", "0.6"), r"at step 2: {'loss': \(0.6, 0.5\)}"),
        (
            _edit("training_events.log", "checkpoint-1", "checkpoint-3"),
            r"lacks the events \[\('CHECKPOINT', 'checkpoint-1'\)\]",
        ),
        (
            _edit("training_events.log", "now | TRAIN", "now | CHECKPOINT | checkpoint-1\nnow | TRAIN"),
            "has twice the event",
        ),
        (_edit("../run_info.json", '"duration_s": 1.0', '"duration_s": null'), "run_info.json says"),
        (
            _edit("../run_info.json", '"status": "passed", "stages"', '"status": "failed", "stages"'),
            "status is 'failed'",
        ),
        (lambda stage_dir: (stage_dir / "checkpoint-1" / MANIFEST).unlink(), "checkpoint-1 is not whole"),
        (lambda stage_dir: (stage_dir / ".partial").mkdir(), "left half-written"),
        (lambda stage_dir: (stage_dir / ".stage_info.json.x.tmp").touch(), "left half-written"),
    ],
)
def test_what_differs_from_the_reference_is_wrong(damage: Callable[[Path], object], told: str, place: Place) -> None:
    place.must_equal_the_reference()
    damage(place.stage_dir("pretrain"))
    with pytest.raises(Wrong, match=told):
        place.must_equal_the_reference()
