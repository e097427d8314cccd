"""The flags of `--init`, and the recipe that it writes: checked as a run would check it, or not left behind."""

import argparse
from pathlib import Path
from typing import Any

from chain import recipe
from chain.first_recipe import look, text, values
from chain.first_recipe.named import named
from chain.request import Request, show_plan
from utils.command_line import RUN_ALL, command, refuse, relative
from utils.console import console
from utils.errors import Refused, without_number
from utils.files import new_file
from utils.limits import Limits
from utils.quiet import quiet_libraries

ITS_OWN = {"model": "--model", "data": "--data", "data_preferences": "--data-preferences", "columns": "--columns"}
"""Flags that nothing but `--init` reads."""
READS = frozenset({"init", "stages", "memory_budget", "runs_dir", *ITS_OWN})


def add_flags(parser: argparse.ArgumentParser, which: Any) -> None:
    """Add the flags of `--init` to a parser; itself to its group `which`."""
    which.add_argument("--init", metavar="NEW_FILE", help="write a recipe for data of your own, and show its plan")
    parser.add_argument("--model", metavar="MODEL", help="with --init: RUN_ID, RUN_ID/STAGE, a directory or a Hub id")
    parser.add_argument("--data", metavar="FILE", help="with --init: the rows to learn, a file, a folder or a Hub id")
    parser.add_argument(
        "--columns", type=_columns, metavar="NAME=COLUMN", help="with --init: what columns of --data are called"
    )
    parser.add_argument("--data-preferences", metavar="FILE", help="with --init: pairs of answers, for dpo or reward")


def _columns(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name.strip() and column.strip() for name, _, column in pairs):
        raise argparse.ArgumentTypeError(f"{text}: must be NAME=COLUMN, such as question=Question,answer=Answer")
    return {name.strip(): column.strip() for name, _, column in pairs}


def is_asked(args: argparse.Namespace, unset: argparse.Namespace, script: str | None) -> bool:
    """Tell whether a recipe is to be written. `unset` are the arguments of an empty command line.

    Raises:
        Refused: flags are given that do not go together, or one is missing.
    """
    given = [flag for name, flag in ITS_OWN.items() if getattr(args, name) is not None]
    if args.init is None:
        refuse((given, f"{', '.join(given)}: read by --init alone: add --init NEW_FILE"))
        return False
    others = [name for name, value in vars(args).items() if name not in READS and value != getattr(unset, name)]
    flags = [{"from_run": "--from", "values": "--set"}.get(name, f"--{name.replace('_', '-')}") for name in others]
    refuse(
        (script, f"{script} is a recipe: --init belongs to run_all.py"),
        (flags, f"--init writes a recipe and shows its plan: leave out {', '.join(flags)}"),
        (not (args.data or args.data_preferences), "--init needs the rows to learn: add --data FILE"),
        (args.stages == (), "--stages names no stage"),
    )
    return True


def serve(args: argparse.Namespace) -> None:
    """Write the recipe that is asked for, and show its plan.

    Raises:
        Refused: there can be none; nothing is left behind.
    """
    path = new_file(args.init, "--init").absolute()
    if path.suffix != ".py":
        raise Refused(f"--init {args.init}: a recipe is a Python file: let its name end in .py")
    given = named(args)
    names = ", ".join(name for name in (args.model, args.data, args.data_preferences) if name)
    console().print(f"looking at {names}", markup=False, soft_wrap=True)
    with quiet_libraries(None), console().capture():  # the plan says again what there is to say of the rows
        facts = look.facts(given)
        written = text.recipe(facts, values.stages(facts), path)
    try:
        file = path.open("x", encoding="utf-8")
    except OSError as error:
        raise Refused(f"--init {args.init} cannot be written: {without_number(error)}") from error
    try:
        with file:
            file.write(written)
        loaded = recipe.load(str(path))
        limits = Limits(memory_budget_bytes=args.memory_budget)
        asked = Request(loaded.name, loaded.configs, loaded.grpo_extra, Path(args.runs_dir), (), limits=limits)
        show_plan(asked, check_data=True)
    except BaseException:
        path.unlink()
        raise
    run = command(RUN_ALL, "--recipe", relative(path))
    console().print(f"{relative(path)} is written, each value with its reason. Run it:\n  {run}", markup=False)
