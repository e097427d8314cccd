"""How well and how fast pretraining works: our optimizer, our loop and our result against the usual ones.

    python benchmarks/pretraining.py optimizer --text FILE      steps to one loss: Muon with AdamW against AdamW alone
    python benchmarks/pretraining.py throughput --text FILE     tokens a second: our loop against transformers' Trainer
    python benchmarks/pretraining.py quality --text FILE        bits per byte after the same seconds, likewise
    python benchmarks/pretraining.py overhead --text FILE       the share of evaluation, logging and checkpoints

Both sides of a ratio get the same documents, tokenizer, shape, threads and machine, each run in a process of its own
(pretraining_side.py), sides in turn. FILE is .txt, documents parted by blank lines; by their hash a tenth are held out
for the test and a twentieth for validation. Prints one JSON object a line, the machine first, and a table at the end;
progress goes to stderr. `--quick` is a tiny model and a few steps: it shows that everything runs, and measures nothing.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from benchmarks.pretraining_runs import Bench, Result, prepare, refuse_other_threads, say, spread, table
from benchmarks.pretraining_side import Job
from utils.errors import Refused
from utils.quiet import quiet_libraries
from utils.runtime import computes_in_bf16, device, git_commit, hardware, versions

SHAPE = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 6,
    "max_position_embeddings": 256,  # documents are measured up to here: the longest row that either side may train on
}  # fmt: skip
VOCAB_SIZE, DEFAULT_VOCAB_SIZE = 2048, 1024
ROWS = {"max_length": 128, "per_device_train_batch_size": 16}
QUICK_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
QUICK_VOCAB_SIZE = 512

NEVER = 10**9
"""Steps between two evaluations, checkpoints or logged lines of a run that has none; documents, where all are meant."""
SILENT = {"eval_steps": NEVER, "save_steps": NEVER, "logging_steps": NEVER}
SILENT_TRAINER = {"save_strategy": "no", "logging_strategy": "no"}

TUNING_SEED = 0
"""Not among the seeds that are reported."""
EVALUATIONS = 10
"""Of a run of `quality`, on either side; the weights of the best one are the result."""
CALIBRATION_STEPS = 40

Search = Mapping[str, Sequence[Any]]
SEARCH: Mapping[str, Search] = {
    "ours": {"muon_learning_rate": (0.02, 0.005, 0.01, 0.03, 0.05), "dropout": (0.0, 0.1)},
    "trainer": {"learning_rate": (4e-3, 1e-3, 2e-3, 8e-3, 1.6e-2), "attention_dropout": (0.0, 0.1)},
}
"""What `quality` tries, one setting after the other; each side starts from the first values and has as many trials."""


# ----------------------------------------------------------------------------------------------------------- optimizer


def optimizer(bench: Bench) -> str:
    """Steps to one held-out loss: that at which AdamW alone ends, reached by Muon with AdamW.

    Model, initialisation, order of the data, rows, schedule's shape and weight decay are the same. AdamW is run twice:
    with our rates of embedding, head and norms, the matrices' tuned; and with one tuned rate for all, as is usual.
    """
    args = bench.args
    shared = {**SILENT, "weight_decay": 0.01, "eval_samples": NEVER}

    @cache
    def loss_after(kind: str, rate: float, seed: int, steps: int) -> float:
        given = {**shared, "muon_learning_rate": rate, "seed": seed, "max_steps": steps}
        job = bench.job("ours", given, optimizer=kind)
        return float(bench.run(f"{kind}, rate {rate:g}, seed {seed}, {steps} steps", job)["eval_losses"][-1][1])

    best = {}
    for kind, rates in (("muon", args.muon_rates), ("adamw", args.adamw_rates), ("adamw_one_rate", args.adamw_rates)):
        losses = {rate: loss_after(kind, rate, TUNING_SEED, args.steps) for rate in rates}
        best[kind] = min(losses, key=losses.__getitem__)
        warn_at_the_edge(f"the rate of {kind}", best[kind], rates)
    rows, ratio = [], {}
    for kind, name in (("adamw", "AdamW with our rates beside it"), ("adamw_one_rate", "AdamW with one rate")):
        ratios = []
        for seed in args.seeds:
            goal = loss_after(kind, best[kind], seed, args.steps)

            def reaches(steps: int, seed: int = seed, goal: float = goal) -> bool:
                # A run of its own with a whole schedule: a longer one cut short would not have decayed.
                return loss_after("muon", best["muon"], seed, steps) <= goal

            needed = fewest_steps(reaches, args.steps, args.bisections)
            ratios.append(needed / args.steps)
            rows.append([name, seed, goal, args.steps, needed, ratios[-1]])
            found = {"loss": goal, "adamw_steps": args.steps, "muon_steps": needed, "ratio": ratios[-1]}
            say({"against": kind, "seed": seed, **found})
        ratio[kind] = statistics.fmean(ratios)
        rows.append([name, "mean", "–", "–", "–", ratio[kind]])
    step, inner = step_costs(bench, shared, {kind: best[kind] for kind in ("muon", "adamw")})
    of_time = {kind: each * step["muon"] / step["adamw"] for kind, each in ratio.items()}
    say({"ratio_of_steps": ratio, "ratio_of_time": of_time, "rates": best, "step_ms": step, "optimizer_ms": inner})
    costs = [
        ["a whole training step, ms", step["muon"], step["adamw"], step["muon"] / step["adamw"]],
        ["the optimizer in it, ms", inner["muon"], inner["adamw"], inner["muon"] / inner["adamw"]],
    ]
    head = ["against", "seed", "held-out loss", "steps of AdamW", "steps of Muon with AdamW", "ratio"]
    shown = table(head, rows) + "\n\n" + table(["cost", "Muon with AdamW", "AdamW alone", "ratio"], costs)
    return f"{shown}\n\nTuned rates: {', '.join(f'{kind} {rate:g}' for kind, rate in best.items())}"


def fewest_steps(reaches: Callable[[int], bool], steps: int, bisections: int) -> float:
    """Return the fewest steps found to suffice, to within steps / 2**bisections; infinity if `steps` do not suffice."""
    too_few, enough = 0, steps
    for _ in range(bisections):
        middle = (too_few + enough) // 2
        if reaches(middle):
            enough = middle
        else:
            too_few = middle
    return enough if enough < steps or reaches(steps) else math.inf


def step_costs(bench: Bench, shared: Mapping[str, Any], best: Mapping[str, float]) -> tuple[dict[str, float], ...]:
    """Return the milliseconds of a training step and of the optimizer in it, for both optimizers; medians of pairs."""
    few = {**shared, "eval_samples": 8, "max_steps": bench.args.cost_steps}
    jobs = {kind: bench.job("ours", {**few, "muon_learning_rate": best[kind]}, optimizer=kind) for kind in best}
    pairs = bench.pairs("cost of a step", jobs, bench.args.cost_pairs)
    names = ("step_ms", "optimizer_ms")
    return tuple({kind: statistics.median(pair[kind][name] for pair in pairs) for kind in best} for name in names)


def warn_at_the_edge(what: str, best: float, tried: Sequence[float]) -> None:
    """Say that a tuned value is the lowest or highest that was tried, so that the side may not be at its best."""
    if len(tried) > 1 and best in (min(tried), max(tried)):
        say({"warning": f"{what}: {best:g} is at the edge of {', '.join(f'{value:g}' for value in sorted(tried))}"})


# ---------------------------------------------------------------------------------------------------------- throughput


def throughput(bench: Bench) -> str:
    """Tokens a second of our loop and of the Trainer, with equal settings and with each one's defaults.

    `equal`: same start, attention, rows, precision, allocator and optimizer; neither logs, evaluates or saves.
    `equal, AdamW`: likewise, but the Trainer has its own optimizer. `defaults`: attention, precision, optimizer,
    allocator, logging, evaluations and checkpoints are each side's own, the rows are equal. Ours always packs documents
    and keeps them apart by a mask; the Trainer's are one stream, cut into blocks. Padding does not count.
    """
    args = bench.args
    alike = {"attn_implementation": "eager" if device() == "cpu" else "sdpa", "torch_compile": False}
    equal = {**ROWS, **SILENT, **alike, "max_steps": args.warmup + args.steps}
    default = {**ROWS, "max_steps": args.warmup + args.default_steps}
    equal_trainer = {"arguments": {**SILENT_TRAINER, **half_precision()}}
    default_trainer = {"optimizer": "adamw", "keep_memory": False}
    modes: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
        "equal": (equal, equal, equal_trainer),
        "equal, AdamW": (equal, equal, {**equal_trainer, "optimizer": "adamw"}),
        "defaults": (default, {**default, "attn_implementation": "sdpa"}, default_trainer),
    }
    figures = []
    for mode in args.modes:
        mine, its, options = modes[mode]
        jobs = {
            "ours": bench.job("ours", mine, warmup=args.warmup),
            "trainer": bench.job("trainer", its, warmup=args.warmup, **options),
        }
        pairs = bench.pairs(mode, jobs, args.pairs)
        ratios = [pair["ours"]["tokens_per_s"] / pair["trainer"]["tokens_per_s"] for pair in pairs]
        ours, theirs = (statistics.median(pair[side]["tokens_per_s"] for pair in pairs) for side in jobs)
        figures.append([mode, ours, theirs, statistics.median(ratios), spread(ratios)])
        say({"mode": mode, "ours": ours, "trainer": theirs, "ratio": statistics.median(ratios), "ratios": ratios})
    return table(["settings", "ours, tokens/s", "Trainer, tokens/s", "median ratio", "lowest … highest"], figures)


def half_precision() -> dict[str, bool]:
    """Return the Trainer's arguments for the precision that our loop chooses on this machine."""
    where = device()
    if computes_in_bf16(where):
        return {"bf16": True}
    return {"fp16": True} if where == "cuda" else {}


# ------------------------------------------------------------------------------------------------------------- quality


def quality(bench: Bench) -> str:
    """Bits per byte of the test's documents after the same seconds of training, ours and the Trainer's, seed by seed.

    Each side is tuned in as many shorter runs, and chosen by the validation documents. The seconds are those of
    `train()`, its evaluations and checkpoints included; how many steps they are, shorter runs tell.
    """
    args = bench.args
    sides, best, cost = ("ours", "trainer"), {}, {}
    for side in sides:
        best[side], cost[side] = tuned(bench, side, args.search[side])
    pairs: list[dict[str, Result]] = []
    for number, seed in enumerate(args.seeds):
        pairs.append({})
        for side in sides if number % 2 == 0 else sides[::-1]:
            steps = affordable(args.seconds, cost[side])
            result = bench.run(f"{side}, seed {seed}, {steps} steps", run_of(bench, side, best[side], seed, steps))
            pairs[-1][side], cost[side] = result, [result]
    refuse_other_threads(pairs)
    rows: list[list[Any]] = []
    for seed, pair in zip(args.seeds, pairs, strict=True):
        ours, theirs = (pair[side]["test_bits_per_byte"] for side in sides)
        took = [f"{pair[side]['seconds']['train']:.0f} s, {pair[side]['steps']} steps" for side in sides]
        rows.append([seed, ours, theirs, ours / theirs, *took])
    ours, theirs, ratio = (statistics.fmean(row[column] for row in rows) for column in (1, 2, 3))
    say({"ours": ours, "trainer": theirs, "ratio": ratio, "seconds": args.seconds, "settings": best})
    head = ["seed", "ours, bits per byte", "Trainer, bits per byte", "ratio", "ours took", "the Trainer took"]
    found = "\n".join(f"{side}: {', '.join(f'{n} {v:g}' for n, v in best[side].items())}" for side in sides)
    return table(head, [*rows, ["mean", ours, theirs, ratio, "–", "–"]]) + f"\n\nTuned settings of\n{found}"


def tuned(bench: Bench, side: str, search: Search) -> tuple[dict[str, Any], list[Result]]:
    """Return the best settings of a side, and the runs in which its speed at them was seen.

    One setting after the other is chosen, the others as they are by then; what was tried before is not run again.
    """
    best = {name: values[0] for name, values in search.items()}
    lowest, cost = math.inf, [calibration(bench, side, best)]
    steps = affordable(bench.args.tuning_seconds, cost)  # a rate or a dropout hardly changes the speed
    for name, values in search.items():
        for value in values if name == next(iter(search)) else values[1:]:
            trial = best | {name: value}
            shown = ", ".join(f"{key} {each:g}" for key, each in trial.items())
            result = bench.run(f"{side}, {shown}, {steps} steps", run_of(bench, side, trial, TUNING_SEED, steps))
            if result["validation_bits_per_byte"] < lowest:
                lowest, best, cost = result["validation_bits_per_byte"], trial, [result]
        warn_at_the_edge(f"{name} of {side}", best[name], values if "rate" in name else ())
    return best, cost


def calibration(bench: Bench, side: str, settings: Mapping[str, Any]) -> Result:
    """Return a short run with as many evaluations and checkpoints as a long one, to see what these and a step take."""
    return bench.run(f"{side}, calibration", run_of(bench, side, settings, TUNING_SEED, CALIBRATION_STEPS))


def affordable(seconds: float, seen: Sequence[Result]) -> int:
    """Return how many steps fit into `seconds` beside the evaluations and checkpoints, as fast as the last run seen."""
    step_s = seen[-1]["step_ms"] / 1e3
    other_s = seen[-1]["seconds"]["train"] - seen[-1]["steps"] * step_s
    return max(EVALUATIONS, round((seconds - other_s) / step_s))


def run_of(bench: Bench, side: str, settings: Mapping[str, Any], seed: int, steps: int) -> Job:
    """Return a run of one side of `quality`, with its best weights as the result.

    The Trainer's is what is usual: transformers' own start and attention, blocks of one stream, AdamW with betas of
    0.9 and 0.95 and a weight decay of 0.1, warmup and cosine, bf16 or fp16 where our loop computes in it.
    """
    every = math.ceil(steps / EVALUATIONS)
    given: dict[str, Any] = {"seed": seed, "max_steps": steps}
    cadence: dict[str, Any] = {"eval_steps": every, "save_steps": every, "save_total_limit": 1}
    if side == "ours":
        given |= {"weight_decay": 0.01, "eval_samples": NEVER, **ROWS, **cadence, **settings}
        return bench.job("ours", given, score=True)
    arguments = {
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,  # of all steps
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "load_best_model_at_end": True,
        "per_device_eval_batch_size": ROWS["per_device_train_batch_size"],
        "logging_steps": 10,  # as ours
    }
    return bench.job(
        "trainer",
        given | ROWS | {"attn_implementation": "sdpa"},
        arguments=arguments | cadence | half_precision(),
        optimizer="adamw",
        own_start=True,
        attention_dropout=settings["attention_dropout"],
        keep_memory=False,
        score=True,
    )


# ------------------------------------------------------------------------------------------------------------ overhead


def overhead(bench: Bench) -> str:
    """The share of evaluation, logging and checkpoints in a run of our loop at its defaults, shape included.

    Two answers that check each other: the difference of whole runs with and without, and the time spent in these parts
    in the runs with. The test at the end and the writing of the result are in the whole.
    """
    jobs = {
        name: bench.job("ours", {"max_steps": bench.args.steps}, bare=name == "without") for name in ("with", "without")
    }
    pairs = bench.pairs("overhead", jobs, bench.args.pairs)
    whole = {
        name: [sum(pair[name]["seconds"][part] for part in ("train", "finish")) for pair in pairs] for name in jobs
    }
    by_difference = [1 - less / more for more, less in zip(whole["with"], whole["without"], strict=True)]
    spent = {
        part: [pair["with"]["seconds"][part] / total for pair, total in zip(pairs, whole["with"], strict=True)]
        for part in ("evaluate", "test", "save", "log")
    }
    spent["all four"] = [sum(shares) for shares in zip(*spent.values(), strict=True)]
    rows = [
        *([f"{name}, s", statistics.median(whole[name]), spread(whole[name])] for name in jobs),
        ["share by difference", statistics.median(by_difference), spread(by_difference)],
        *([f"share spent: {part}", statistics.median(shares), spread(shares)] for part, shares in spent.items()),
    ]
    medians = {part: statistics.median(shares) for part, shares in spent.items()}
    say({"share_by_difference": statistics.median(by_difference), "share_spent": medians, "steps": bench.args.steps})
    return table(["figure", "median", "lowest … highest"], rows)


# --------------------------------------------------------------------------------------------------------- the command


QUICK: Mapping[str, Mapping[str, Any]] = {
    "optimizer": {"seeds": [1], "steps": 12, "muon_rates": [0.02], "adamw_rates": [1e-4]}
    | {"bisections": 1, "cost_pairs": 1, "cost_steps": 8},
    "throughput": {"pairs": 1, "steps": 4, "modes": ["equal"], "warmup": 2},
    "quality": {"seeds": [1], "seconds": 1.0, "tuning_seconds": 1.0}
    | {"search": {side: {name: values[:1] for name, values in search.items()} for side, search in SEARCH.items()}},
    "overhead": {"pairs": 1, "steps": 20},
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    for work in (optimizer, throughput, quality, overhead):
        one = commands.add_parser(work.__name__, help=str(work.__doc__).split("\n")[0])
        one.set_defaults(work=work, shape=SHAPE, vocab_size=VOCAB_SIZE)
        one.add_argument("--text", type=Path, required=True, help="a .txt file, documents parted by blank lines")
        one.add_argument("--quick", action="store_true", help="a tiny model and few steps: measures nothing")
        if work in (optimizer, quality):
            one.add_argument("--seeds", type=numbers(int), default=[1, 2, 3], help="of the reported runs (1,2,3)")
        if work is optimizer:
            muon, adamw = [0.01, 0.02, 0.03, 0.05], [1e-3, 2e-3, 4e-3, 8e-3]
            one.add_argument("--steps", type=int, default=600, help="optimizer steps of AdamW alone (600)")
            one.add_argument("--muon-rates", type=numbers(float), default=muon, help=f"to be tried ({muon})")
            one.add_argument("--adamw-rates", type=numbers(float), default=adamw, help=f"as many ({adamw})")
            one.set_defaults(bisections=5, cost_pairs=3, cost_steps=50)
        elif work is throughput:
            one.add_argument("--pairs", type=int, default=5, help="runs of each side (5)")
            one.add_argument("--steps", type=int, default=100, help="timed steps with equal settings (100)")
            one.add_argument("--default-steps", type=int, default=200, help="timed steps with defaults (200)")
            one.set_defaults(warmup=10, modes=["equal", "equal, AdamW", "defaults"])
        elif work is quality:
            one.add_argument("--seconds", type=float, default=180.0, help="of training, on either side (180)")
            one.add_argument("--tuning-seconds", type=float, default=60.0, help="of a trial, on either side (60)")
            one.set_defaults(search=SEARCH)
        else:
            one.add_argument("--pairs", type=int, default=3, help="runs of each side (3)")
            one.add_argument("--steps", type=int, default=600, help="optimizer steps of a run (600)")
            one.set_defaults(shape={}, vocab_size=DEFAULT_VOCAB_SIZE)
    return made


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a parser of comma-separated values."""
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    """Measure in a cache that is removed afterwards."""
    command_line = parser()
    args = command_line.parse_args()
    if args.quick:
        vars(args).update(QUICK[args.command], shape=QUICK_SHAPE, vocab_size=QUICK_VOCAB_SIZE)
    if not args.text.is_file():
        command_line.error(f"--text is a file: {args.text}")
    if args.command == "optimizer" and len(args.muon_rates) != len(args.adamw_rates):
        command_line.error("both optimizers are tuned in the same number of trials: give as many rates to each")
    if TUNING_SEED in getattr(args, "seeds", ()):
        command_line.error(f"--seeds: {TUNING_SEED} is the seed of the tuning")
    machine = hardware()
    say({"command": sys.argv[1:], "machine": machine, "versions": versions(), "commit": git_commit()})
    with tempfile.TemporaryDirectory() as name, quiet_libraries(None):
        os.environ["SIXGIG_CACHE"] = str(Path(name) / "cache")
        try:
            bench = prepare(args, Path(name))
        except (Refused, ValueError) as error:
            command_line.error(f"--text {args.text}: {error}")
        figures = args.work(bench)
    print(f"\n{figures}\n\nMeasured on {machine['cpu_cores']} cores of {machine['cpu']}, device {machine['device']}.")


if __name__ == "__main__":
    main()
