"""The files in which a stage records what happens: events, metrics, and stage_info.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from records.schema import STAGE, Shape, read_record
from utils.console import warn
from utils.files import json_line, replace_text, write_json
from utils.processes import first_only
from utils.runtime import now
from utils.text import one_line

EventKind = Literal[
    "STAGE_START", "TRAIN_START", "CHECKPOINT", "RESUME", "ALARM", "TRAIN_END", "STAGE_FAILED", "STAGE_INTERRUPTED",
    "OUT_OF_MEMORY", "GATE",
]  # fmt: skip

NOT_YET: dict[str, Any] = {
    "name": None, "status": "pending", "config": {}, "input": None, "output": None, "data": None, "steps": 0,
    "tokens": 0, "duration_s": None, "energy_j": None, "energy_from": [], "peak_memory_bytes": None, "evaluation": [],
    "alarms": [], "error": None, "out_of_memory": [], "gates": [], "gate_failed": None,
}  # fmt: skip


class StageLog:
    """The record of the stage in `stage_dir`. Holds no state: each call opens, writes and closes its file.

    Of several processes the first writes it.
    """

    INFO = "stage_info.json"

    def __init__(self, stage_dir: Path) -> None:
        self.events_file = stage_dir / "training_events.log"
        self.metrics_file = stage_dir / "training_metrics.jsonl"
        self.info_file = stage_dir / self.INFO

    @first_only
    def open(self, **fields: Any) -> None:
        """Begin the record, or take it up again: these fields are set, and every other file and field exists."""
        for file in (self.events_file, self.metrics_file, self.info_file.parent / "training.log"):
            file.touch()
        write_json(self.info_file, NOT_YET | self.read_info() | fields)

    @first_only
    def event(self, kind: EventKind, text: str) -> None:
        """Append one line `<time> | KIND | text`; line breaks in `text` become spaces, and secrets are hidden."""
        with self.events_file.open("a", encoding="utf-8") as file:
            file.write(f"{now()} | {kind} | {one_line(text)}\n")

    @first_only
    def metrics(self, step: int, epoch: float | None, values: Mapping[str, Any]) -> None:
        """Append one JSON object: step, epoch, timestamp and the trainer's metrics. A NaN is null."""
        line = json_line({"step": step, "epoch": epoch, "timestamp": now()} | dict(values))
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the logged rows, oldest first, without a last line that a crash left incomplete."""
        return [json.loads(line) for line in self._rows() if _step_of(line) is not None]

    def done(self) -> dict[str, int]:
        """Return the steps up to the last line of metrics, and the tokens seen in them: of a stage that did not end."""
        last = (self.read_metrics() or [{}])[-1]
        return {"steps": last.get("step", 0), "tokens": int(last.get("num_tokens") or 0)}

    def _rows(self) -> list[str]:
        """Return the lines of the metrics. What else Python takes for an end of line, such as U+2028, may be in one."""
        return self.metrics_file.read_text(encoding="utf-8").split("\n") if self.metrics_file.exists() else []

    @first_only
    def resumed(self, checkpoint: str, text: str) -> None:
        """Write that training goes on from a checkpoint; first that it was written, if a kill came before that line."""
        written = self.events_file.read_text(encoding="utf-8") if self.events_file.exists() else ""
        if f" | CHECKPOINT | {checkpoint}\n" not in written:
            self.event("CHECKPOINT", checkpoint)
        self.event("RESUME", text)

    @first_only
    def train_end(self, text: str) -> None:
        """Write that training has ended, once for each time that it began: a kill may come before its result counts."""
        written = self.events_file.read_text(encoding="utf-8") if self.events_file.exists() else ""
        if " | TRAIN_END | " not in written.rpartition(" | TRAIN_START | ")[2]:
            self.event("TRAIN_END", text)

    @first_only
    def cut_back(self, step: int) -> None:
        """Drop the metrics and alarms of later steps than `step`, and a last line that a crash left incomplete.

        Alarms of step 0 stay: they are raised by what is checked before training, at every start.
        """
        if self.metrics_file.exists():
            kept = [line for line in self._rows() if (logged := _step_of(line)) is not None and logged <= step]
            replace_text(self.metrics_file, "".join(line + "\n" for line in kept))
        if alarms := self.read_info().get("alarms"):
            self.info(alarms=[alarm for alarm in alarms if alarm["step"] <= max(step, 0)])

    @first_only
    def take_up(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Append what a trainer logged after the last line here: a kill may come between a checkpoint and its line."""
        last = max((step for line in self._rows() if (step := _step_of(line)) is not None), default=-1)
        rows: dict[int, dict[str, Any]] = {}
        for line in history:
            if line["step"] > last:
                rows.setdefault(line["step"], {}).update(line)
        for step, row in rows.items():
            self.metrics(step, row.pop("epoch", None), {name: row[name] for name in row if name != "step"})

    @first_only
    def alarm(self, step: int, name: str, message: str, **more: Any) -> None:
        """Record an alarm as an event and in stage_info.json, there once however often it is raised; tell the user.

        `more` stands beside it in stage_info.json, such as the numbers of rows.
        """
        self.event("ALARM", f"step {step}: {name}: {message}")
        others = [one for one in self.read_info().get("alarms") or [] if (one["step"], one["name"]) != (step, name)]
        self.info(alarms=[*others, {"step": step, "name": name, "message": message} | more])
        warn(f"step {step}: {name}: {message}")

    @first_only
    def info(self, **fields: Any) -> None:
        """Set these fields of stage_info.json; the others stay as they are."""
        write_json(self.info_file, self.read_info() | fields)

    def read_info(self) -> dict[str, Any]:
        """Return stage_info.json, or {} where there is none.

        Raises:
            Unsound: it cannot be read, or is no stage's record.
        """
        return read_object(self.info_file, STAGE)


def read_object(file: Path, shape: Shape) -> dict[str, Any]:
    """Return the object in a JSON file, which is of that shape; {} where there is no file.

    Raises:
        Unsound: it cannot be read, or is another one.
    """
    return read_record(file, shape) if file.exists() else {}


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
