"""The runs behind benchmarks/pretraining.py: what all of them share, each in a process of its own, pairs in turn."""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pretraining_side import Job
from data.local_files import read_path
from data.splits import position

ROOT = Path(__file__).resolve().parent.parent
TEST_SHARE, HELD_OUT_SHARE = 0.10, 0.15
"""More for the test than the product holds out: of 1 MB, a hundredth is too little to tell models apart."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the runs of one call share."""

    args: argparse.Namespace
    directory: Path
    """For the data, the tokenizer, and the files of the run under way."""
    config: Mapping[str, Any]
    """Fields of PretrainConfig: data, tokenizer and shape."""

    def job(self, side: str, given: Mapping[str, Any], **options: Any) -> Job:
        """Return a job on the shared data, tokenizer and shape, with `given` fields of PretrainConfig."""
        return Job(side=side, config={**self.config, **given}, **options)

    def run(self, what: str, job: Job) -> Result:
        """Do a job in a process of its own; print its result as JSON, and say on stderr what was done."""
        job_file, result_file, log = (self.directory / name for name in ("job.json", "result.json", "side.log"))
        job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmarks" / "pretraining_side.py"), str(job_file), str(result_file)]
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{what} ended with {done.returncode}:\n{log.read_text(encoding='utf-8')[-4000:]}")
        result: Result = json.loads(result_file.read_text(encoding="utf-8"))
        say({"run": what, **result})
        print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return result

    def pairs(self, what: str, jobs: Mapping[str, Job], count: int) -> list[dict[str, Result]]:
        """Run both jobs `count` times in the order A B, B A, A B, ...; return the results of each pair."""
        found = []
        for number in range(count):
            order = list(jobs) if number % 2 == 0 else list(jobs)[::-1]
            found.append({name: self.run(f"{what}, pair {number + 1}, {name}", jobs[name]) for name in order})
        refuse_other_threads(found)
        return found


def prepare(args: argparse.Namespace, directory: Path) -> Bench:
    """Split the text into a folder, train the tokenizer on its training side, and return what all runs share."""
    from pretrain.tokenizer import train_tokenizer

    folder, tokenizer = directory / "text", directory / "tokenizer"
    folder.mkdir()
    sides: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for text in read_path(args.text, "train")["text"]:
        place = position(text)
        sides["test" if place < TEST_SHARE else "validation" if place < HELD_OUT_SHARE else "train"].append(text)
    for name, documents in sides.items():
        (folder / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    train_tokenizer(sides["train"], args.vocab_size, tokenizer)
    return Bench(
        args,
        directory,
        {"output_dir": "model", "dataset_name": str(folder), "tokenizer_name": str(tokenizer), **args.shape},
    )


def refuse_other_threads(pairs: Sequence[Mapping[str, Result]]) -> None:
    """Stop if the runs did not all have the same number of threads."""
    found = {result["threads"] for pair in pairs for result in pair.values()}
    if len(found) != 1:
        raise SystemExit(f"the runs had different numbers of threads: {sorted(found)}")


def say(value: Any) -> None:
    """Print one JSON object; what is not finite becomes null."""
    print(json.dumps(_finite(value)), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; numbers below 1,000 with four significant digits, larger ones without decimals.

    >>> print(table(["side", "ratio", "tokens/s"], [["ours", 1.23456, 12345.6]]))
    | side | ratio | tokens/s |
    | --- | --- | --- |
    | ours | 1.235 | 12,346 |
    """
    lines = [list(head), ["---"] * len(head), *([_shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"


def spread(values: Sequence[float]) -> str:
    """Return the lowest and the highest of some values, as text."""
    return f"{_shown(min(values))} … {_shown(max(values))}"
