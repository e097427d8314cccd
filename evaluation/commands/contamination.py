"""Held-out items in training text: the runs of words that evaluation sets share with all that a run was trained on."""

import argparse
from pathlib import Path

from records.run_directory import find
from utils.console import console
from utils.errors import Refused
from utils.files import new_file, write_json

NGRAM = 13
"""Words in a run that two texts hardly share by chance; see evaluation/ngrams.py."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("run", metavar="RUN_ID")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where it is (runs)")
    parser.add_argument("--ngram", type=int, default=NGRAM, metavar="N", help=f"words of a run ({NGRAM})")
    tasks = "other held-out items to look for: tasks as run takes them, such as FILE.jsonl of your own"
    parser.add_argument("--tasks", default="", metavar="T1,T2", help=tasks)
    parser.add_argument("--out", metavar="FILE", help="write every item that was found into a JSON file")


def serve(args: argparse.Namespace) -> None:
    """Search, and print the tables."""
    from evaluation.held_out_overlap import contamination, sections
    from evaluation.lineage import Lineage
    from evaluation.lm_harness import PREFIX
    from evaluation.named import tasks_named
    from evaluation.ngrams import SHORTEST
    from evaluation.sections import rendered
    from utils.quiet import quiet_libraries

    if args.ngram < SHORTEST:
        raise Refused(
            f"--ngram {args.ngram}: runs of fewer than {SHORTEST} words are shared by chance; 8 to 13 is usual"
        )
    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    if foreign := [name for name in names if name.startswith(PREFIX)]:
        raise Refused(f"--tasks {foreign[0]}: its rows are lm-eval's own, and are not searched for here")
    tasks = tasks_named(names)
    file = new_file(args.out, "--out") if args.out is not None else None
    info = find(args.runs_dir, args.run)
    with quiet_libraries(None):
        report = contamination(Lineage(info, args.runs_dir), args.ngram, tasks)
    for section in sections(report):
        console().print(rendered(section))
    if file is not None:
        write_json(file, report)
        console().print(f"written to {file}", markup=False, soft_wrap=True)
