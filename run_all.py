"""The command line: choose a recipe, run it, print the result table."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from utils.errors import Refused, StageFailed, did_you_mean, report

if TYPE_CHECKING:
    from chain.stages import Stage
    from recipes import Recipe

TEST, PROD = "scratch_tiny", "qwen2.5_0.5b"


class Parser(argparse.ArgumentParser):
    """Refuses in one message, with the nearest right flag, instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise Refused."""
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        unknown = [word for word in message.split() if word.startswith("--")] if "unrecognized" in message else []
        near = "".join(did_you_mean(word.partition("=")[0], flags) for word in unknown[:1])
        raise Refused(f"{message}{near or '.'} All flags: python run_all.py --help")


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
    which.add_argument("--resume", metavar="RUN_ID", help="continue where it stopped; `latest`: newest unfinished")
    which.add_argument("--list", action="store_true", help="name the recipes")
    made.add_argument("--stages", metavar="A,B", help="only these stages")
    made.add_argument("--from", dest="from_run", metavar="RUN_ID", help="the run that --stages take their inputs from")
    value: dict[str, Any] = {"dest": "values", "action": "append", "default": [], "metavar": "STAGE.FIELD=VALUE"}
    made.add_argument("--set", **value, help="change a value; repeatable")
    made.add_argument("--seed", type=int, metavar="N", help="the seed of every stage")
    made.add_argument("--plan", action="store_true", help="inputs, rows, steps, parameters, disk; starts nothing")
    made.add_argument("--check-data", action="store_true", help="with --plan: read every row, of data on the Hub too")
    made.add_argument("--download", action="store_true", help="fetch what the recipe needs, and stop")
    made.add_argument(
        "--force",
        action="store_true",
        help="with --resume: accept changes, on the record; what was stopped starts over",
    )
    made.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    return made


@dataclass(frozen=True)
class Request:
    """A recipe as the command line asks for it."""

    recipe: str
    runs_dir: Path
    values: tuple[str, ...] = ()
    seed: int | None = None
    stages: tuple[str, ...] | None = None
    from_run: str | None = None
    resume: str | None = None
    force: bool = False
    check_data: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one command line; return the exit code."""
    try:
        args = parser().parse_args(argv)
        refuse_combinations(args)
        return serve(args)
    except (Refused, StageFailed, KeyboardInterrupt) as error:
        return report(error)


def refuse_combinations(args: argparse.Namespace) -> None:
    """Raise Refused where one flag needs, or forbids, another."""
    resume, stages = args.resume is not None, args.stages is not None  # "" is given too: a shell variable without value
    one_recipe = args.test or args.prod or args.recipe is not None or resume
    rules = [
        (args.values and not one_recipe, "--set changes one recipe: add --test, --prod or --recipe"),
        (stages and not one_recipe, "--stages belongs to one recipe: add --test, --prod or --recipe"),
        (args.from_run is not None and not stages, "--from gives --stages their inputs: add --stages"),
        (stages and resume, "--resume runs the stages that the run began with: leave out --stages"),
        (args.seed is not None and resume, "--resume keeps the seed that the run began with: leave out --seed"),
        (args.force and not resume, "--force accepts what --resume would refuse: add --resume"),
        (args.check_data and not args.plan, "--check-data belongs to --plan: add --plan"),
        (args.plan and args.download, "--plan starts nothing, --download fetches: choose one"),
    ]
    problems = [problem for broken, problem in rules if broken]
    if problems:
        raise Refused("\n".join(problems))


def serve(args: argparse.Namespace) -> int:
    """Do what the arguments ask, and return the exit code.

    Raises:
        Refused: it cannot be done; nothing has been created.
        StageFailed: a stage of the run failed.
        Interrupted: the run was stopped.
    """
    if args.list:
        return show_recipes()
    act = show_plan if args.plan else download if args.download else run
    if args.resume is not None:
        return act(resumed(args))
    if args.recipe is not None:
        return act(request(args, args.recipe))
    if args.test or args.prod:
        return act(request(args, TEST if args.test else PROD))
    return serve_both(act, request(args, TEST), request(args, PROD))


def serve_both(act: Callable[[Request], int], test: Request, prod: Request) -> int:
    """Serve the test recipe, then the production one.

    What both need is looked for first. If the production recipe's cannot be had, that is said, the test recipe is
    served all the same, and then the refusal is raised.
    """
    from utils.console import warn

    check(test)
    refusal = None
    try:
        check(prod)
    except Refused as error:
        refusal = Refused(f"{prod.recipe} did not run: {error}")
        warn(f"only {test.recipe} will run, {prod.recipe} cannot: {error}")
    act(test)
    if refusal is not None:
        raise refusal
    return act(prod)


def request(args: argparse.Namespace, recipe: str) -> Request:
    """Return what the arguments ask for, of this recipe."""
    return Request(
        recipe=recipe,
        runs_dir=args.runs_dir,
        values=tuple(args.values),
        seed=args.seed,
        stages=None if args.stages is None else tuple(name.strip() for name in args.stages.split(",") if name.strip()),
        from_run=args.from_run,
        check_data=args.check_data,
    )


def resumed(args: argparse.Namespace) -> Request:
    """Return what an earlier run was asked for, as its record tells, and what `--set` changes now."""
    from chain.record import resumable

    info = resumable(args.runs_dir, args.resume)
    record, run_id = info.read(), info.run_dir.name
    if record["recipe"] is None:
        raise Refused(f"run {run_id} has no recipe file: continue it with run_pipeline(configs, resume={run_id!r})")
    return Request(
        recipe=record["recipe"],
        runs_dir=args.runs_dir,
        values=(*record["values"], *args.values),
        stages=tuple(entry["name"] for entry in record["stages"]),
        from_run=record["from_run"],
        resume=run_id,
        force=args.force,
        check_data=args.check_data,
    )


def show_recipes() -> int:
    """Print the names of the recipes that come with sixgig, with what each is for."""
    from recipes import shipped
    from utils.console import console

    recipes = shipped()
    width = max(map(len, recipes), default=0)
    for name, purpose in recipes.items():
        console().print(f"{name:<{width}}  {purpose}", markup=False, soft_wrap=True)
    return 0


def run(request: Request) -> int:
    """Run the recipe."""
    from pipeline import run_pipeline

    recipe, values = load(request)
    new = request.resume is None  # a resumed run knows its stages and their inputs
    run_pipeline(
        recipe.configs,
        recipe.grpo_extra,
        recipe=recipe.name,
        runs_dir=request.runs_dir,
        stages=request.stages if new else None,
        from_run=request.from_run if new else None,
        resume=request.resume,
        force=request.force,
        values=values,
    )
    return 0


def check(request: Request) -> None:
    """Raise Refused unless the recipe is sound and what it needs can be had."""
    from chain.preflight import missing
    from utils.quiet import quiet_libraries

    with quiet_libraries(None):
        problems = missing(stages(request)[0])
    if problems:
        raise Refused("\n".join(problems))


def show_plan(request: Request) -> int:
    """Print what each stage needs."""
    from chain.plan import plan, plan_table
    from utils.console import console
    from utils.quiet import quiet_libraries

    with quiet_libraries(None):
        needs = plan(*stages(request), check_data=request.check_data)
    console().print(plan_table(request.recipe, needs, request.runs_dir))
    return 0


def download(request: Request) -> int:
    """Fetch the models and data that the recipe names, so that it can run without a network."""
    from chain.preflight import fetch
    from utils.console import console
    from utils.quiet import quiet_libraries

    with quiet_libraries(None):
        fetched = fetch(*stages(request))
    for (name, _), directory in fetched.models.items():
        console().print(f"model {name}: {directory}", markup=False)
    for kind, data in fetched.data.items():
        console().print(f"{kind}: {data['name']}, {data['train_rows']} rows", markup=False)
    return 0


def load(request: Request) -> tuple["Recipe", list[str]]:
    """Return the recipe, changed as requested, and the values that changed it."""
    import recipes
    from chain.set_values import seeds, with_values

    recipe = recipes.load(request.recipe)
    values = [*request.values, *(() if request.seed is None else seeds(recipe.configs, request.seed))]
    configs, extra = with_values(recipe.configs, recipe.grpo_extra, values)
    return replace(recipe, configs=configs, grpo_extra=extra), values


def stages(request: Request) -> tuple[list["Stage"], dict[str, Path]]:
    """Return the checked stages, and the directories of an earlier run that they may start from."""
    from chain.record import chosen_stages
    from chain.run_directory import find

    recipe, _ = load(request)
    source = None if request.from_run is None else find(request.runs_dir, request.from_run)
    return chosen_stages(recipe.configs, recipe.grpo_extra, request.stages, source)


if __name__ == "__main__":
    sys.exit(main())
