"""Score any checkpoint on tasks, alone or against another one."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.sections import Section, rendered
from evaluation.table import TINY, number
from utils.command_line import refuse
from utils.console import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    named = "RUN_ID, RUN_ID/STAGE, `latest`, a model's directory or a Hub id"
    tasks = "tasks, with commas between: NAME or NAME@VERSION, FILE.jsonl of your own, lm-eval:NAME"
    add("checkpoint", metavar="CHECKPOINT", help=named)
    add("--tasks", required=True, metavar="T1,T2", help=tasks)
    add("--against", metavar="CHECKPOINT", help="compare with this one on the same examples")
    add("--limit", type=int, metavar="N", help="only the first N examples of each task")
    add("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer to a prompt of a FILE (128)")
    add("--include-path", type=Path, metavar="DIR", help="where lm-eval finds definitions of your own, .yaml")
    modes = "lm-eval's tasks as text, which is its own default, or through the chat template (text)"
    add("--mode", choices=("chat", "text"), help=modes)
    add("--out", metavar="FILE.json", help="write the results there too, into a new file")
    add("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")


def serve(args: argparse.Namespace) -> None:
    """Score what is named, and print the table.

    Raises:
        Refused: what is asked for cannot be had.
    """
    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    refuse(
        (not names, "--tasks names none: name one, such as --tasks skills"),
        (len(set(names)) < len(names), f"--tasks names a task twice; given: {args.tasks}"),
        (args.limit is not None and args.limit < 1, f"--limit must be at least 1; given: {args.limit}"),
        (args.max_new_tokens < 1, f"--max-new-tokens must be at least 1; given: {args.max_new_tokens}"),
    )
    from evaluation.evaluate_checkpoint import refuse_unfit, results_of
    from evaluation.lm_harness import PREFIX
    from evaluation.named import tasks_named
    from records.catalogue import find_checkpoint
    from utils.files import new_file, weights_sha256, write_json
    from utils.quiet import quiet_libraries
    from utils.runtime import hardware, versions

    file = new_file(args.out, "--out") if args.out is not None else None
    of_harness = any(name.startswith(PREFIX) for name in names)
    refuse((args.mode and not of_harness, f"--mode is for tasks of {PREFIX}, and --tasks names none: leave it out"))
    with quiet_libraries(None):
        chat = args.mode == "chat"
        tasks = tasks_named(names, args.limit, args.max_new_tokens, args.include_path, chat=chat)
        given = [name for name in (args.checkpoint, args.against) if name is not None]
        found = [find_checkpoint(name, args.runs_dir, talks=False) for name in given]
        refuse_unfit(found, tasks)
        results = results_of(found, tasks)
    console().print(rendered(results_table([one.name for one in found], results)))
    if file is not None:
        models = [{"name": one.name, "path": one.path, "sha256": weights_sha256(one.path)} for one in found]
        sides = dict(zip(("checkpoint", "against"), models, strict=False))
        machine = {"versions": versions(), "hardware": hardware()}
        write_json(file, sides | {"limit": args.limit, "results": results} | machine)


def results_table(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> Section:
    """Return the table of one checkpoint's results, or of the first against the second; reasons stand below it."""
    columns = ["task", "metric", "n", "value, 95 %", *(["against", "difference, 95 %", ""] if len(names) == 2 else [])]
    rows = []
    reasons: dict[str, None] = {}
    for result in results:
        task = f"{result['task']} v{result['version']}"
        cells = [task, str(result["metric"]), str(result["n"]), _with_interval(number(result["value"]), result["ci95"])]
        if "against" in result:
            difference = _with_interval(number(result["difference"], "+"), result["difference_ci95"], "+")
            cells += [number(result["against"]), difference, str(result["verdict"])]
            reasons |= {TINY: None} if cells[-1].startswith("tiny") else {}
        rows.append((*cells, *[""] * (len(columns) - len(cells))))
        if result.get("reason"):
            reasons[f"{task}, {result['metric']}: {result['reason']}"] = None
    return Section(" against ".join(names), tuple(columns), rows, "\n".join(reasons))


def _with_interval(value: str, interval: Sequence[float] | None, sign: str = "") -> str:
    return value if interval is None else f"{value} [{', '.join(number(bound, sign) for bound in interval)}]"
