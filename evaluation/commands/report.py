"""Write the report of a run, finished or not, from its files alone."""

import argparse
from pathlib import Path

from records.run_directory import find
from utils.command_line import relative
from utils.console import console
from utils.errors import Refused, without_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("run", metavar="RUN_ID", help="a run's id, or latest: the newest, whatever became of it")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")


def serve(args: argparse.Namespace) -> None:
    """Write the report, and say where it lies and how it begins.

    Raises:
        Refused: there is no such run, a record of it is not sound, or its directory cannot be written.
    """
    from evaluation.report import REPORT_FILE, write_report

    run_dir = find(args.runs_dir, args.run).run_dir
    try:
        lines = write_report(run_dir)
    except OSError as error:
        raise Refused(f"the report of {run_dir} cannot be written: {without_number(error)}") from error
    console().print(*lines, f"Report: {relative(run_dir / REPORT_FILE)}", sep="\n", markup=False, soft_wrap=True)
