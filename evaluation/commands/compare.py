"""Runs side by side: every result with its interval, and what differs in settings, data and environment."""

import argparse
from pathlib import Path

from records.run_directory import find
from utils.console import console
from utils.errors import Refused
from utils.files import new_file, replace_text

MOST = 26
"""Runs that are compared: each has a letter."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("runs", nargs="+", metavar="RUN_ID", help="two runs or more; each is set against the first")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where they are (runs)")
    parser.add_argument("--html", metavar="FILE", help="write the tables into one HTML file too")


def serve(args: argparse.Namespace) -> None:
    """Print the tables."""
    from evaluation.comparison import compared
    from evaluation.sections import page, rendered

    if len(set(args.runs)) < len(args.runs) or not 2 <= len(args.runs) <= MOST:
        raise Refused(f"compare takes two different runs or more, up to {MOST}, not {' '.join(args.runs)}")
    file = new_file(args.html, "--html") if args.html is not None else None
    sections = compared([find(args.runs_dir, name) for name in args.runs])
    for section in sections:
        console().print(rendered(section))
    if file is not None:
        replace_text(file, page(sections))
        console().print(f"written to {file}", markup=False, soft_wrap=True)
