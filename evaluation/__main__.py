"""The command line of evaluation: what runs and checkpoints are worth, after the fact."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from utils.command_line import Parser
from utils.errors import Refused, StageFailed, plain_endings, report

COMMANDS = Path(__file__).resolve().parent / "commands"


def parser() -> Parser:
    """Return the parser of the command line: a command for each file in `commands/`, which its first line describes."""
    made = Parser(prog="python -m evaluation", description=__doc__, allow_abbrev=False)
    commands = made.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for file in sorted(COMMANDS.glob("[a-z]*.py")):
        module = import_module(f"evaluation.commands.{file.stem}")
        summary = (module.__doc__ or "").strip().partition("\n")[0]
        command = commands.add_parser(file.stem, help=summary, description=summary, allow_abbrev=False)
        command.words = (file.stem,)
        module.add_arguments(command)
        command.set_defaults(serve=module.serve)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one command line; return the exit code."""
    try:
        args: argparse.Namespace = parser().parse_args(argv)
        args.serve(args)
    except (Refused, StageFailed, KeyboardInterrupt) as error:
        return report(error)
    return 0


if __name__ == "__main__":
    plain_endings()
    sys.exit(main())
