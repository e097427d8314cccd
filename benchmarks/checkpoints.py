"""What it costs that nothing is lost: the share of checkpoints and hashes in a run of the embedded recipe.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --set pretrain.max_steps=20 --set sft.max_steps=2   any run of it

Timed within one run: writing checkpoints (the trainers' own part of it apart from what sealing adds: flushing, hashing,
renaming), and the hashes of each stage's input and output. Prints a table; what the run prints goes to stderr.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
import run_all
from benchmarks.pretraining_runs import table
from utils.runtime import hardware


class Clock:
    """Sums what functions take, by name. A function is counted once where one calls another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, whose calls are counted as `name`."""
        self.seconds.setdefault(name, 0.0)

        def call(*given: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*given, **options)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return call


def measure(values: list[str]) -> tuple[float, Clock]:
    """Run the embedded recipe, and return the seconds of the run and of what is timed in it."""
    from transformers import Trainer

    import pretrain.checkpoint as of_pretraining
    from algorithms import overrides
    from chain import run_stage as run

    clock, trainer, mine, its = Clock(), Trainer, run, overrides
    patched: list[tuple[Any, str, str]] = [
        (trainer, "_save_checkpoint", "files of checkpoints, TRL's stages"),
        (of_pretraining, "save_checkpoint", "checkpoints of pretraining, whole"),
        (its, "seal", "sealing, TRL's stages"),
        (mine, "weights_sha256", "hashes of inputs and outputs"),
    ]
    for owner, name, label in patched:
        setattr(owner, name, clock.timed(label, getattr(owner, name)))
    words = [word for value in values for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as runs_dir, contextlib.redirect_stdout(sys.stderr):
        started = time.perf_counter()
        code = run_all.main(["--test", "--runs-dir", runs_dir, *words])
        taken = time.perf_counter() - started
    if code:
        raise SystemExit(code)
    return taken, clock


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", metavar="STAGE.FIELD=VALUE", action="append", default=[], dest="values")
    taken, clock = measure(parser.parse_args().values)
    rows: list[list[object]] = [[name, seconds, f"{seconds / taken:.2%}"] for name, seconds in clock.seconds.items()]
    whole = sum(clock.seconds.values())
    machine = hardware()
    print(table(["part", "seconds", "share"], [*rows, ["together", whole, f"{whole / taken:.2%}"], ["run", taken, ""]]))
    print(f"\nMeasured on {machine['cpu_cores']} cores of {machine['cpu']}, device {machine['device']}.")


if __name__ == "__main__":
    main()
