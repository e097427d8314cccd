"""Processes of the shortened embedded recipe for `benchmarks/chaos.py` to break, and how their results compare."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chain import recipe as recipes
from records.sealed import PARTIAL, damage
from utils.files import read_json, weights_sha256

ROOT = Path(__file__).resolve().parent.parent
STAGES = {kind: config.output_dir for kind, config in recipes.load("scratch_tiny").configs.items()}
FEW = "max_steps=6 max_samples=64 eval_samples=20 save_steps=2"
SHORT = {
    "pretrain": "max_steps=20 max_samples=600 tokenizer_samples=600 eval_samples=50 eval_steps=10 save_steps=5"
    " num_hidden_layers=2",
    "sft": FEW,
    "reward": FEW,
    "dpo": FEW,
    "grpo": "max_steps=4 max_samples=32 eval_samples=20 per_device_train_batch_size=16 max_completion_length=8"
    " save_steps=1",
}
OF_THE_CLOCK = ("timestamp", "step_time")
"""Metrics that no two runs share."""
LONGEST_S = 600.0
"""How long one process may take: one that hangs is a wrong outcome."""


class Wrong(Exception):
    """What happened is not what must happen."""


def check(holds: object, otherwise: str) -> None:
    """Raise Wrong with `otherwise` unless something holds."""
    if not holds:
        raise Wrong(otherwise)


def asked(*stages: str) -> list[str]:
    """Return the words that ask `run_all.py` for these stages of the shortened recipe, or for all of them."""
    values = [f"{stage}.{value}" for stage in stages or STAGES for value in SHORT[stage].split()]
    only = ["--stages", ",".join(stages)] if stages else []
    return ["--test", *only, *(word for value in values for word in ("--set", value))]


def metrics(stage_dir: Path) -> list[dict[str, Any]]:
    """Return a stage's metrics, without those `OF_THE_CLOCK`."""
    lines = (stage_dir / "training_metrics.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in rows]


def events(stage_dir: Path) -> list[tuple[str, str]]:
    """Return the kind and the text of each event of a stage; none where it has not begun."""
    file = stage_dir / "training_events.log"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    split = (line.split(" | ", 2) for line in lines)
    return [(parts[1], parts[2]) for parts in split if len(parts) == 3]


class Place:
    """Where one fault happens: a working directory with its runs, the cache that they use, and the reference's run."""

    def __init__(self, directory: Path, cache: Path, reference: Path) -> None:
        self.directory, self.cache, self.reference = directory, cache, reference
        self.runs_dir = directory / "runs"
        directory.mkdir(parents=True)

    def beside(self, name: str, cache: Path | None = None) -> "Place":
        """Return a place of that name inside this one, with a cache of its own or the same."""
        return Place(self.directory / name, cache or self.cache, self.reference)

    @property
    def run_dir(self) -> Path:
        """The directory of the one run here."""
        found = [path.parent for path in self.runs_dir.glob("*/run_info.json")]
        check(len(found) == 1, f"there are {len(found)} runs in {self.runs_dir}")
        return found[0]

    def stage_dir(self, stage: str) -> Path:
        """Return the directory of a stage of the one run here."""
        return self.run_dir / STAGES[stage]

    def process(self, *words: str, **options: Any) -> "Process":
        """Start `run_all.py` with these words; `options` are those of `Process`."""
        return Process(self, [sys.executable, str(ROOT / "run_all.py"), *words, "--runs-dir", "runs"], **options)

    def run(self, *words: str, **options: Any) -> "Process":
        """Run `run_all.py` to its end."""
        with self.process(*words, **options) as process:
            process.wait()
        return process

    def resume(self, **options: Any) -> "Process":
        """Resume the run here, which must pass with the reference's results."""
        process = self.run("--resume", "latest", **options)
        process.must_end_with(0)
        self.must_equal_the_reference()
        return process

    def must_equal_the_reference(self) -> None:
        """Raise Wrong unless the run here has passed with the reference's results, and nothing half-written is left."""
        record = read_json(self.run_dir / "run_info.json")
        check(record["status"] == "passed", f"the run's status is {record['status']!r}")
        stages = [entry["name"] for entry in record["stages"]]
        for entry in record["stages"]:
            check(entry["status"] == "passed" and entry["duration_s"], f"run_info.json says {entry}")
            mine, other = self.stage_dir(entry["name"]), self.reference / STAGES[entry["name"]]
            _compare(mine, other)
            if stages == list(STAGES):  # what is measured of one depends on the others
                ours, its = (read_json(one / "stage_info.json")["evaluation"] for one in (mine, other))
                check(ours == its, f"{mine.name} was measured as {ours}, the reference as {its}")
        self.must_be_whole()
        left = [str(path) for path in self.run_dir.rglob("*") if path.name == PARTIAL or path.suffix == ".tmp"]
        check(not left, f"left half-written: {left}")

    def must_be_whole(self) -> None:
        """Raise Wrong if something half-written stands under a final name."""
        for path in self.run_dir.rglob("*.json"):
            read_json(path)
        for name in STAGES.values():
            stage_dir = self.run_dir / name
            for checkpoint in stage_dir.glob("checkpoint-*"):
                wrong = damage(checkpoint)
                check(wrong is None, f"{checkpoint} is not whole: {wrong}")
            if (stage_dir / "model.safetensors").exists():
                same = weights_sha256(stage_dir) == weights_sha256(self.reference / name)
                check(same, f"{stage_dir} has other weights than the reference")


def _compare(mine: Path, other: Path) -> None:
    """Raise Wrong unless two directories of a stage have the same weights, metrics and events."""
    check(weights_sha256(mine) == weights_sha256(other), f"{mine.name} has other weights than the reference")
    ours, its = metrics(mine), metrics(other)
    steps, wanted = [row["step"] for row in ours], [row["step"] for row in its]
    check(steps == wanted, f"{mine.name} has metrics of the steps {steps}, the reference of {wanted}")
    for row, its_row in zip(ours, its, strict=True):
        differ = {name: (row.get(name), its_row.get(name)) for name in row | its_row}
        differ = {name: pair for name, pair in differ.items() if pair[0] != pair[1]}
        check(not differ, f"{mine.name} has other metrics than the reference at step {row['step']}: {differ}")
    lost = set(events(other)) - set(events(mine))
    check(not lost, f"{mine.name} lacks the events {sorted(lost)}")
    since_start: set[tuple[str, str]] = set()
    for event in events(mine):
        if event[0] == "STAGE_START":  # of each process
            since_start.clear()
        check(event not in since_start, f"{mine.name} has twice the event {event}")
        since_start.add(event)


class Process:
    """One process of `run_all.py`, a context that it does not outlive, and what it prints."""

    def __init__(
        self, place: Place, command: Sequence[str], environment: dict[str, str] | None = None, **options: Any
    ) -> None:
        """Start it, without the keys and trackers of whoever tests; `options` are those of `Popen`."""
        self.place, self.printed = place, place.directory / f"printed-{time.monotonic_ns()}.txt"
        others = ("WANDB", "REPORT_TO", "HF_")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        variables |= {"OMP_NUM_THREADS": "1", "SIXGIG_CACHE": str(place.cache), "HF_HUB_OFFLINE": "1"}
        variables |= environment or {}
        with self.printed.open("wb") as file:
            given: dict[str, Any] = {"stdout": file, "stderr": file, "start_new_session": True} | options
            self.popen = subprocess.Popen(
                command, cwd=place.directory, env=variables, stdin=subprocess.DEVNULL, **given
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return self.printed.read_text(encoding="utf-8", errors="replace")

    def says(self, words: str) -> bool:
        """Tell whether it has printed these words, wherever lines are broken."""
        return words in " ".join(self.text.split())

    def until_said(self, words: str) -> None:
        """Wait until it has printed these words."""
        self._until(lambda: self.says(words), f"{words!r} was said")

    def until_event(self, stage: str, kind: str, text: str = "") -> None:
        """Wait until a stage of the run has recorded an event that begins with `text`."""

        def recorded() -> bool:
            stage_dirs = self.place.runs_dir.glob(f"*/{STAGES[stage]}")
            found = (event for stage_dir in stage_dirs for event in events(stage_dir))
            return any(event[0] == kind and event[1].startswith(text) for event in found)

        self._until(recorded, f"the event {kind} {text} of {stage}")

    def until_file(self, stage: str, name: str) -> None:
        """Wait until a stage of the run has a file of that name."""
        where = f"*/{STAGES[stage]}/{name}"
        self._until(lambda: list(self.place.runs_dir.glob(where)), f"{stage} had {name}")

    def _until(self, wanted: Callable[[], object], what: str) -> None:
        """Wait until something holds, which it must while the process runs."""
        ends_at = time.monotonic() + LONGEST_S
        while not wanted():
            code = self.popen.poll()
            check(code is None, f"exit {code} before {what}: {self.last_words()}")
            check(time.monotonic() < ends_at, f"{LONGEST_S:g} s passed before {what}: {self.last_words()}")
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, which it must live to see."""
        code = self.popen.poll()
        check(code is None, f"exit {code} before {number.name}: {self.last_words()}")
        self.popen.send_signal(number)

    def kill(self) -> None:
        """Kill it, as the system does where memory runs out."""
        self.send(signal.SIGKILL)
        self.popen.wait()

    def wait(self) -> int:
        """Return its exit code."""
        try:
            return self.popen.wait(LONGEST_S)
        except subprocess.TimeoutExpired as error:
            raise Wrong(f"no end within {LONGEST_S:g} s: {self.last_words()}") from error

    def must_end_with(self, code: int) -> None:
        """Raise Wrong unless that is its exit code, and it has printed no traceback."""
        found = self.wait()
        check(found == code, f"exit {found}: {self.last_words()}")
        check("Traceback" not in self.text, f"a traceback: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of what it has printed, on one line."""
        return " ".join(self.text.split())[-600:]
