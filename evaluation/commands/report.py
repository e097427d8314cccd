"""Write the report of a run, finished or not, from its files alone."""

import argparse
from pathlib import Path

from utils.command_line import relative
from utils.console import console
from utils.errors import Refused, without_number
from utils.run_directory import RUN_ID, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("run", metavar="RUN_ID", help="a run's id, or latest: the newest, whatever became of it")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")


def serve(args: argparse.Namespace) -> None:
    """Write the report, and say where it lies and how it begins.

    Raises:
        Refused: there is no such run, or its directory cannot be written.
    """
    from evaluation.report import REPORT_FILE, write_report

    run_dir = run_directory(args.runs_dir, args.run)
    try:
        lines = write_report(run_dir)
    except OSError as error:
        raise Refused(f"the report of {run_dir} cannot be written: {without_number(error)}") from error
    console().print(*lines, f"Report: {relative(run_dir / REPORT_FILE)}", sep="\n", markup=False, soft_wrap=True)


def run_directory(runs_dir: Path, run_id: str) -> Path:
    """Return the directory of a run, which may have no record yet; `latest` is the newest.

    Raises:
        Refused: there is no such run.
    """
    found = sorted(path for path in runs_dir.glob("*") if RUN_ID.fullmatch(path.name) and path.is_dir())
    if run_id == "latest" and found:
        return found[-1].resolve()
    if run_id in {path.name for path in found}:
        return (runs_dir / run_id).resolve()
    return find(runs_dir, run_id).run_dir
