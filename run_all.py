"""The command line: choose a recipe, run it, print the result table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
import recipes
from chain import command_line
from chain.command_line import Request
from chain.preflight import missing
from chain.record import resumable
from pipeline import run_pipeline
from utils.command_line import Parser, refuse
from utils.console import console, warn
from utils.errors import Refused, StageFailed, lacks_room, plain_endings, refusal, report, without_number
from utils.quiet import quiet_libraries

TEST, PROD = "scratch_tiny", "qwen2.5_0.5b"


def parser() -> Parser:
    """Return the parser of the command line."""
    made = Parser(
        prog="run_all.py",
        description="Train a language model end to end. Without a flag: --test, then --prod.",
        allow_abbrev=False,
    )
    which = made.add_mutually_exclusive_group()
    which.add_argument("--test", action="store_true", help="the embedded recipe: offline, CPU or GPU, minutes")
    which.add_argument("--prod", action="store_true", help="Qwen2.5-0.5B on the published data sets, one GPU")
    which.add_argument("--recipe", metavar="NAME_OR_FILE", help="any recipe")
    which.add_argument("--list", action="store_true", help="name the recipes")
    command_line.add_flags(made, which)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one command line; return the exit code."""
    try:
        args = parser().parse_args(argv)
        refuse_combinations(args)
        serve(args)
    except (Refused, StageFailed, KeyboardInterrupt) as error:
        return report(error)
    except OSError as error:
        if not lacks_room(error):
            raise
        return report(StageFailed(f"{without_number(error)}. Make room; --resume goes on with a run that had begun."))
    return 0


def refuse_combinations(args: argparse.Namespace) -> None:
    """Raise Refused where one flag needs, or forbids, another."""
    one_recipe = args.test or args.prod or args.recipe is not None or args.resume is not None
    alone = vars(args) == vars(parser().parse_args(["--list"]))
    refuse(
        (args.list and not alone, "--list names the recipes and does nothing else: leave out the other flags"),
        (args.values and not one_recipe, "--set changes one recipe: add --test, --prod or --recipe"),
        (args.stages is not None and not one_recipe, "--stages belongs to one recipe: add --test, --prod or --recipe"),
    )
    command_line.refuse_combinations(args)


def serve(args: argparse.Namespace) -> None:
    """Do what the arguments ask.

    Raises:
        Refused: it cannot be done; nothing has been created.
        StageFailed: a stage of the run failed.
        Interrupted: the run was stopped.
    """
    if args.list:
        show_recipes()
    elif args.resume is not None:
        act(args, request(args, recipe_of(args.runs_dir, args.resume)))
    elif args.test or args.prod or args.recipe is not None:
        act(args, request(args, TEST if args.test else PROD if args.prod else args.recipe))
    else:
        test, prod = request(args, TEST), request(args, PROD)
        if args.plan:  # which starts nothing, and says by itself what cannot be had
            act(args, test)
            act(args, prod)
        else:
            serve_both(args, test, prod)


def serve_both(args: argparse.Namespace, test: Request, prod: Request) -> None:
    """Serve the test recipe, then the production one.

    What both need is looked for first. If the production recipe's cannot be had, that is said, the test recipe is
    served all the same, and then the refusal is raised.
    """
    check(test)
    refused = None
    try:
        check(prod)
    except Refused as error:
        refused = Refused(f"{prod.recipe} did not run; {error}")
        warn(f"only {test.recipe} will run, not {prod.recipe}; {error}")
    act(args, test)
    if refused is not None:
        raise refused
    act(args, prod)


def request(args: argparse.Namespace, name_or_file: str) -> Request:
    """Return what the arguments ask for, of this recipe."""
    recipe = recipes.load(name_or_file)
    return command_line.request(args, recipe.name, recipe.configs, recipe.grpo_extra, recipe.sizes, recipe.verifier)


def recipe_of(runs_dir: str, run_id: str) -> str:
    """Return the recipe of an earlier run."""
    info = resumable(Path(runs_dir), run_id)
    recipe = info.read()["recipe"]
    if recipe is None:
        name = info.run_dir.name
        raise Refused(f"run {name} has no recipe file: continue it with run_pipeline(configs, resume={name!r})")
    return str(recipe)


def act(args: argparse.Namespace, asked: Request) -> None:
    """Plan, download or run one recipe."""
    command_line.serve(args, asked, run_pipeline)


def check(asked: Request) -> None:
    """Raise Refused unless the recipe is sound and what it needs can be had."""
    with quiet_libraries(None):
        if problems := missing(command_line.stages(asked)[0]):
            raise refusal(problems)


def show_recipes() -> None:
    """Print the names of the recipes that come with sixgig, with what each is for."""
    shipped = recipes.shipped()
    width = max(map(len, shipped), default=0)
    for name, purpose in shipped.items():
        console().print(f"{name:<{width}}  {purpose}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    plain_endings()
    sys.exit(main())
