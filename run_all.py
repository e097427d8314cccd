"""The command line: choose a recipe, run it, print the result table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from chain import recipe
from chain import request as command_line
from chain.fetch import missing
from chain.first_recipe import command as first_recipe
from chain.record import resumable
from chain.request import Request
from pipeline import run_pipeline
from records.run_directory import RunInfo
from utils.command_line import Parser, refuse
from utils.console import console, warn
from utils.errors import Refused, StageFailed, plain_endings, refusal, report, way_out, without_number
from utils.quiet import quiet_libraries
from utils.secrets import HIDDEN

TEST, PROD = "scratch_tiny", "qwen2.5_0.5b"


def parser() -> Parser:
    """Return the parser of the command line."""
    flags = Parser(
        prog="run_all.py",
        description="Train a language model end to end. Without a flag: --test, then --prod.",
        allow_abbrev=False,
    )
    which = flags.add_mutually_exclusive_group()
    which.add_argument("--test", action="store_true", help="the embedded recipe: offline, CPU or GPU, minutes")
    which.add_argument("--prod", action="store_true", help="Qwen2.5-0.5B on the published data sets, one GPU")
    which.add_argument("--recipe", metavar="NAME_OR_FILE", help="any recipe")
    which.add_argument("--list", action="store_true", help="name the recipes")
    command_line.add_flags(flags, which)
    first_recipe.add_flags(flags, which)
    return flags


def main(argv: Sequence[str] | None = None, script: str | None = None) -> int:
    """Serve one command line, of the recipe `script` if that is run by itself; return the exit code."""
    try:
        args = parser().parse_args(argv)
        if first_recipe.is_asked(args, parser().parse_args([]), script):
            first_recipe.serve(args)
            return 0
        refuse_combinations(args, script)
        if args.list:
            show_recipes()
            return 0
        requests, refused = requested(args, script)
        for one in requests:
            act(args, one)
        if refused is not None:
            raise refused
    except (Refused, StageFailed, KeyboardInterrupt) as error:
        return report(error)
    except OSError as error:
        if not (way := way_out(error)):
            raise
        said = f"{without_number(error)}. {way.capitalize()}; --resume goes on with a run that had begun."
        return report(StageFailed(said))
    return 0


def refuse_combinations(args: argparse.Namespace, script: str | None) -> None:
    """Raise Refused where one flag needs, or forbids, another."""
    other_recipe = args.test or args.prod or args.recipe is not None or args.list
    one_recipe = other_recipe or args.resume is not None or script is not None
    alone = vars(args) == vars(parser().parse_args(["--list"]))
    refuse(
        (script and other_recipe, f"{script} is the recipe: leave out --test, --prod, --recipe and --list"),
        (args.list and not alone, "--list names the recipes and does nothing else: leave out the other flags"),
        (args.values and not one_recipe, "--set changes one recipe: add --test, --prod or --recipe"),
        (args.stages is not None and not one_recipe, "--stages belongs to one recipe: add --test, --prod or --recipe"),
    )
    command_line.refuse_combinations(args)


def requested(args: argparse.Namespace, script: str | None) -> tuple[list[Request], Refused | None]:
    """Return what the arguments ask for, in order, and what is refused of it once that is done.

    Without a flag it is the test recipe, then the production one. What both need is looked for first: if the
    production recipe's cannot be had, that is said, and the test recipe is served all the same.

    Raises:
        Refused: it cannot be done; nothing has been created.
    """
    if args.resume is not None:
        info = resumable(Path(args.runs_dir), args.resume)
        args.resume = info.run_dir.name  # `latest` is looked for once
        return [request(args, script or recipe_of(info))], None
    name_or_file = script or (TEST if args.test else PROD if args.prod else args.recipe)
    if name_or_file is not None:
        return [request(args, name_or_file)], None
    test, prod = request(args, TEST), request(args, PROD)
    if args.plan:  # which starts nothing, and says by itself what cannot be had
        return [test, prod], None
    check(test)
    try:
        check(prod)
    except Refused as error:
        warn(f"only {test.recipe} will run, not {prod.recipe}; {error}")
        return [test], Refused(f"{prod.recipe} did not run; {error}")
    return [test, prod], None


def request(args: argparse.Namespace, name_or_file: str) -> Request:
    """Return what the arguments ask for, of this recipe."""
    loaded = recipe.load(name_or_file)
    return command_line.request(args, loaded.name, loaded.configs, loaded.grpo_extra, loaded.sizes, loaded.verifier)


def recipe_of(info: RunInfo) -> str:
    """Return the recipe of an earlier run."""
    name_or_file = info.read()["recipe"]
    if name_or_file is None:
        name = info.run_dir.name
        raise Refused(f"run {name} has no recipe file: continue it with run_pipeline(configs, resume={name!r})")
    if HIDDEN in name_or_file:
        name = info.run_dir.name
        raise Refused(
            f"run {name}: the path of its recipe held a secret, which is on no record: python FILE --resume {name}"
        )
    return str(name_or_file)


def act(args: argparse.Namespace, asked: Request) -> None:
    """Plan, download or run one recipe."""
    if args.plan or args.download:
        if args.plan:
            command_line.show_plan(asked, args.check_data, args.force)
        else:
            command_line.download(asked, args.force)
        return
    new = asked.resume is None  # a resumed run knows its stages and their inputs
    run_pipeline(
        asked.configs,
        asked.grpo_extra,
        verifier=asked.verifier,
        recipe=asked.recipe,
        runs_dir=asked.runs_dir,
        stages=asked.stages if new else None,
        from_run=asked.from_run if new else None,
        resume=asked.resume,
        force=args.force,
        values=asked.values,
        memory_budget=asked.limits.memory_budget_bytes,
        max_hours=asked.limits.max_hours,
    )


def check(asked: Request) -> None:
    """Raise Refused unless the recipe is sound and what it needs can be had."""
    with quiet_libraries(None):
        if problems := missing(command_line.stages(asked)[0]):
            raise refusal(problems)


def show_recipes() -> None:
    """Print the names of the recipes that come with sixgig, with what each is for."""
    shipped = recipe.shipped()
    width = max(map(len, shipped), default=0)
    for name, purpose in shipped.items():
        console().print(f"{name:<{width}}  {purpose}", markup=False, soft_wrap=True)


def run_script(file: str) -> NoReturn:
    """Serve a recipe that is run by itself, with the flags that `--recipe` has; a recipe ends with this call."""
    recipe.end_of_recipe()
    plain_endings()
    sys.exit(main(sys.argv[1:], script=file))


if __name__ == "__main__":
    plain_endings()
    sys.exit(main())
