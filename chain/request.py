"""The flags that one recipe takes, and what is done with them."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from algorithms.checks import RULES
from chain.fetch import fetch, refuse_absent
from chain.fitting import available_bytes
from chain.forecast import Sizes
from chain.plan import memory_lines, plan, plan_lines
from chain.record import chosen_stages, finished_outputs, resumable
from chain.set_values import recorded_values, seeds, with_values
from chain.stages import Extra, plainly_sound
from kinds import Stage
from records.run_directory import find_source, find_unfinished
from utils.command_line import refuse, resume_command
from utils.console import console
from utils.errors import Refused
from utils.limits import Limits, hours, size_bytes_of
from utils.quiet import quiet_libraries
from utils.secrets import hide


def add_flags(parser: argparse.ArgumentParser, which: Any) -> None:
    """Add the flags of one recipe to a parser; to its group `which` the one that names a run."""
    which.add_argument("--resume", metavar="RUN_ID", help="continue where it stopped; `latest`: newest unfinished")
    parser.add_argument("--stages", type=_names, metavar="A,B", help="only these stages")
    parser.add_argument(
        "--from", dest="from_run", metavar="RUN_ID", help="the run that --stages take their inputs from"
    )
    value: dict[str, Any] = {"dest": "values", "action": "append", "default": [], "metavar": "LABEL.FIELD=VALUE"}
    parser.add_argument("--set", **value, help="change a value; repeatable")
    parser.add_argument("--seed", type=_seed, metavar="N", help="the seed of every stage")
    parser.add_argument("--plan", action="store_true", help="inputs, rows, steps, memory, disk; starts nothing")
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="with --plan: look at every row, of data on the Hub too",
    )
    parser.add_argument("--download", action="store_true", help="fetch what the recipe needs, and stop")
    parser.add_argument(
        "--force",
        action="store_true",
        help="start although a step tried ahead fails; with --resume: accept changes, on the record",
    )
    parser.add_argument("--memory-budget", type=_limit(size_bytes_of), metavar="SIZE", help="of the GPU, such as 6GiB")
    parser.add_argument("--max-hours", type=_limit(hours), metavar="H", help="stop before it takes longer")
    parser.add_argument("--runs-dir", default="runs", metavar="DIR", help="where runs are kept (runs)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _limit(read: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _seed(text: str) -> int:
    allowed, said = RULES["seed"]
    try:
        if allowed(int(text)):
            return int(text)
    except ValueError:
        pass  # refused below, as a number out of range is
    raise argparse.ArgumentTypeError(f"{text}: must be a whole number, {said}")


def refuse_combinations(args: argparse.Namespace) -> None:
    """Raise Refused where one flag needs, or forbids, another, or the directory of runs cannot be used."""
    resume, stages = args.resume is not None, args.stages is not None  # "" is given too: a shell variable without value
    refuse(
        (args.from_run is not None and not stages, "--from gives --stages their inputs: add --stages"),
        (stages and resume, "--resume runs the stages that the run began with: leave out --stages"),
        (args.seed is not None and resume, "--resume keeps the seed that the run began with: leave out --seed"),
        (args.check_data and not args.plan, "--check-data belongs to --plan: add --plan"),
        (args.plan and args.download, "--plan starts nothing, --download fetches: choose one"),
    )
    refuse((not str(args.runs_dir), "--runs-dir is empty: name a directory, or leave it out"))


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Request:
    """A recipe as the command line asks for it: its values are set."""

    recipe: str
    configs: Mapping[str, Any]
    grpo_extra: Extra
    runs_dir: Path
    values: tuple[str, ...]
    """What has been set in the recipe, for the record."""
    stages: tuple[str, ...] | None = None
    from_run: str | None = None
    resume: str | None = None
    limits: Limits = NO_LIMITS
    sizes: Sizes = field(default_factory=dict)
    """What the recipe records of the models and data that it names."""
    verifier: Any = None
    """What the recipe has every stage measured by."""


def request(
    args: argparse.Namespace,
    recipe: str,
    configs: Mapping[str, Any],
    grpo_extra: Extra,
    sizes: Sizes | None = None,
    verifier: Any = None,
) -> Request:
    """Return what the arguments ask for of a recipe; with `--resume`, also what the run was asked for before."""
    asked: dict[str, Any] = {"stages": args.stages, "from_run": args.from_run}
    allowed = Limits(memory_budget_bytes=args.memory_budget, max_hours=args.max_hours)
    values = [*args.values, *(() if args.seed is None else seeds(configs, args.seed))]
    if args.resume is not None:
        info = resumable(Path(args.runs_dir), args.resume)
        record = info.read()
        if record["recipe"] != hide(recipe):
            said = f"run {info.run_dir.name} is not of {recipe} but of {record['recipe'] or 'none that has a file'}"
            raise Refused(f"{said}. Continue it with:\n  {resume_command(info.run_dir)}")
        values = [*recorded_values(record, values), *values]
        names = tuple(entry["name"] for entry in record["stages"])
        asked = {"stages": names, "from_run": record["from_run"], "resume": info.run_dir.name}
    configs, grpo_extra = with_values(configs, grpo_extra, values)
    if args.resume is None:
        source = None if args.from_run is None else find_source(Path(args.runs_dir), args.from_run)
        asked["from_run"] = source and source.run_dir.name  # `latest` is looked for once
        refuse_absent(plainly_sound(configs, grpo_extra, args.stages, finished_outputs(source) if source else {}))
    asked |= {"limits": allowed, "sizes": sizes or {}, "verifier": verifier}
    return Request(recipe, configs, grpo_extra, Path(args.runs_dir), tuple(values), **asked)


def stages(asked: Request) -> tuple[list[Stage], dict[str, Path]]:
    """Return the checked stages, and the directories of an earlier run that they may start from."""
    source = None if asked.from_run is None else find_source(asked.runs_dir, asked.from_run)
    return chosen_stages(asked.configs, asked.grpo_extra, asked.stages, source, asked.verifier)


def show_plan(asked: Request, check_data: bool, force: bool = False) -> None:
    """Print what each stage needs; of a run that would be resumed, each that has not passed."""
    with quiet_libraries(None):
        chosen, outputs = stages(asked)
        passed = finished_outputs(find_unfinished(asked.runs_dir, asked.resume)) if asked.resume else {}
        left = [stage for stage in chosen if stage.label not in passed]
        if check_data:  # all that a run would refuse before it starts, and rows that it would only meet
            fetch(left, outputs | passed, check_data=True, forced=[one.label for one in left if force])
            _check_verifier(left, asked.verifier)
        budget_bytes = available_bytes(asked.limits.memory_budget_bytes)
        needs = plan(
            left, outputs | passed, check_data=check_data, budget_bytes=budget_bytes, sizes=asked.sizes,
            verifier=asked.verifier,
        )  # fmt: skip
    title = f"Plan of {asked.recipe}"
    if passed:
        title += f": what is left of run {asked.resume}, in which {', '.join(passed)} passed"
    for line in [*plan_lines(title, needs, asked.runs_dir), *memory_lines(needs, budget_bytes)]:
        console().print(line, soft_wrap=isinstance(line, str), markup=False)


def download(asked: Request, force: bool = False) -> None:
    """Fetch the models and data that the recipe names, so that it can run without a network."""
    with quiet_libraries(None):
        chosen, outputs = stages(asked)
        fetched = fetch(chosen, outputs, forced=[one.label for one in chosen if force])
        _check_verifier(chosen, asked.verifier)
    for (name, _), directory in fetched.models.items():
        console().print(f"model {name}: {directory}", markup=False, soft_wrap=True)
    for label, data in fetched.data.items():
        console().print(f"{label}: {data['name']}, {data['train_rows']} rows", markup=False)


def _check_verifier(chosen: list[Stage], verifier: Any) -> None:
    from evaluation.choose import verifier_for

    if judge := verifier_for(chosen, verifier):
        judge.check([stage.config for stage in chosen])
