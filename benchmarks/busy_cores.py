"""What a step takes on a CPU that others use too: threads that share the cores, beside libgomp's own ways to wait.

    python benchmarks/busy_cores.py
    python benchmarks/busy_cores.py --rounds 5

A step is one of the embedded recipe's pretraining: a Qwen3 of 1.0 M parameters, 2,048 tokens, with AdamW. Each way runs
in a process of its own, in turn with the others, beside no, one and two processes that never rest; medians of all steps
are told. Nothing else should run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pretraining_runs import table
from utils.runtime import hardware

STEPS, WARM_S = 40, 3.0
"""Steps that are timed, and seconds of others before them, in which the load is seen."""
WAYS: dict[str, dict[str, str]] = {
    "sixgig": {"SIXGIG_SIDE": "share"},
    "torch as it is": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = (0, 1, 2)


def side(steps: int, warm_s: float) -> None:
    """Print the seconds of each step."""
    import torch
    from transformers import AutoModelForCausalLM

    from chain import recipe
    from utils.spinning import share_cores

    if os.environ.get("SIXGIG_SIDE") == "share":
        share_cores()
    config = recipe.load("scratch_tiny").configs["pretrain"]
    from pretrain.stage import PRETRAIN

    model = AutoModelForCausalLM.from_config(PRETRAIN.model_config(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(config.vocab_size, (16, 128))
    warm_until = time.perf_counter() + warm_s
    taken: list[float] = []
    while len(taken) < steps:
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if began > warm_until:
            taken.append(time.perf_counter() - began)
    print(*taken)


def measured(way: str, busy: int, steps: int = STEPS, warm_s: float = WARM_S) -> list[float]:
    """Return the seconds of a way's steps, beside `busy` other processes."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    with ExitStack() as stack:
        for _ in range(busy):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        done = subprocess.run(
            [sys.executable, __file__, "--side", str(steps), str(warm_s)],
            env=ours | WAYS[way],
            capture_output=True,
            text=True,
            check=True,
        )
    return [float(one) for one in done.stdout.split()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="what a step takes on a CPU that others use too")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way (3)")
    parser.add_argument("--side", nargs=2, type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        side(int(asked.side[0]), asked.side[1])
        return
    machine = hardware()
    print(f"{machine['cpu']}, {machine['cpu_cores']} cores; seconds a step")
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(asked.rounds):
        for busy in BUSY:
            for way in WAYS:
                taken.setdefault((way, busy), []).extend(measured(way, busy))
    medians = {key: statistics.median(times) for key, times in taken.items()}
    rows = [[way, *(f"{medians[way, busy]:.3f}" for busy in BUSY)] for way in WAYS]
    print(table(["way", *(f"{busy} beside" for busy in BUSY)], rows))


if __name__ == "__main__":
    main()
