"""What gates catch and what they stop: injected regressions and harmless reruns, on the outcomes of a real run.

    python benchmarks/gates.py --run runs/20260131_101500_k3x9/tiny-dpo --reruns runs/*/tiny-dpo

The base are the outcomes, 0 or 1, of the stage's held-out problems, drawn with replacement. A harmless rerun changes a
share of them, the churn, as often one way as the other. A regression loses points on top. Each is shown to the gate
many times, which decides as in a run. What churn is real, the reruns tell: the same stage with other seeds.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation.gates import decide
from evaluation.paired import standard_error
from evaluation.scored_model import CACHE_FILE
from records.stage_log import StageLog
from utils.files import read_json

SIZES = (200, 600, 2000)
CHURNS = (0.01, 0.02, 0.05, 0.08, 0.10, 0.15, 0.20, 0.25)
POINTS = 0.05
"""What an injected regression loses."""
GATE = {"metric": "skills strict", "not_below_input": 0.0}


def outcomes(stage_dir: Path, task: str = "skills") -> list[float]:
    """Return whether each made problem was solved strictly by the model that a stage wrote."""
    info = StageLog(stage_dir).read_info()
    if not info.get("output") or not (stage_dir / CACHE_FILE).exists():
        raise SystemExit(f"{stage_dir} is no directory of a stage that has passed, such as runs/RUN_ID/tiny-sft")
    written = str(info["output"]["sha256"])[:16]
    kept = read_json(stage_dir / CACHE_FILE)
    (scores,) = [value for key, value in kept.items() if key.startswith(f"{task}-v") and f"@{written}" in key]
    return [float(score) for score in scores["strict"]]


def rerun(before: Sequence[float], solved: float, churn: float, lost: float, random: Random) -> list[float]:
    """Return the outcomes of a model that loses the share `lost` of all, while `churn` changes without effect.

    Half of the churn is lost and half gained, in expectation: `solved` is the share that the base solves, so that each
    example is lost, gained or kept independently of the others. More than twice what is unsolved cannot churn.
    """
    chance = {1.0: (churn / 2 + lost) / solved, 0.0: churn / 2 / (1 - solved)}
    return [1 - value if random.random() < chance[value] else value for value in before]


def stopped(
    base: Sequence[float], n: int, churn: float, lost: float, repetitions: int, seed: int
) -> tuple[float, float]:
    """Return how often the gate stops such a rerun, and the share of outcomes that changed in it, in the mean."""
    random, times, changed, solved = Random(seed), 0, 0, sum(base) / len(base)
    for _ in range(repetitions):
        before = random.choices(base, k=n)
        after = rerun(before, solved, churn, lost, random)
        changed += sum(b != a for b, a in zip(before, after, strict=True))
        result = {"task": "skills", "metric": "strict", "n": n, "before": 0.0, "after": 0.0, "scores": (before, after)}
        times += decide([GATE], [result])[0]["failed"]
    return times / repetitions, changed / (n * repetitions)


def table(base: Sequence[float], repetitions: int, seed: int) -> str:
    """Return, for each churn, what share of harmless reruns is stopped and of regressions caught, as Markdown."""
    header = "".join(f" stopped, n = {n} | caught, n = {n} |" for n in SIZES)
    lines = [f"| churn | churn with regression |{header}", "| --- | --- |" + " --- | --- |" * len(SIZES)]
    for churn in CHURNS:
        cells, both = [], 0.0
        for n in SIZES:
            harmless, _ = stopped(base, n, churn, 0.0, repetitions, seed)
            caught, both = stopped(base, n, churn, POINTS, repetitions, seed + 1)
            cells += [f"{harmless:.1%}", f"{caught:.1%}"]
        lines.append(f"| {churn:.0%} | {both:.1%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def real_churn(reruns: Sequence[Path], task: str) -> str:
    """Return what other seeds of a stage changed: of each pair of reruns the churn and the difference in points."""
    scores = [outcomes(stage_dir, task) for stage_dir in reruns]
    means = [sum(one) / len(one) for one in scores]
    pairs = [(sum(a != b for a, b in zip(*two, strict=True)) / len(two[0])) for two in combinations(scores, 2)]
    gaps = [abs(a - b) for a, b in combinations(means, 2)]
    spread = standard_error(means) * math.sqrt(len(means))
    return (
        f"{task}: {len(reruns)} reruns, exact match {min(means):.3f} to {max(means):.3f} (standard deviation"
        f" {spread:.3f}); of two, churn {min(pairs):.1%} to {max(pairs):.1%}, difference up to {max(gaps):.3f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print what the reruns changed, and what the gate stops and catches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="STAGE_DIR", help="whose outcomes are the base")
    parser.add_argument("--reruns", type=Path, nargs="*", default=[], metavar="STAGE_DIR", help="of the same stage")
    parser.add_argument("--repetitions", type=int, default=1000, metavar="N", help="of each cell (1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the simulation (0)")
    args = parser.parse_args(argv)
    for task in ("skills", "sampled_skills") if len(args.reruns) > 1 else ():
        print(real_churn(args.reruns, task))
    base = outcomes(args.run)
    print(f"base: {len(base)} outcomes, {sum(base) / len(base):.3f} solved; regression: {POINTS:.0%} of all lost")
    print(table(base, args.repetitions, args.seed))


if __name__ == "__main__":
    main()
