"""The command line of pretraining: `python -m pretrain`, alone or under `accelerate launch -m` and `torchrun -m`."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from kinds import recorded
from pretrain import prepare
from pretrain.presets import PRESETS, preset
from pretrain.pretrain_config import PretrainConfig, range_problems
from pretrain.stage import PRETRAIN
from records.schema import Unsound
from records.stage_log import StageLog
from utils.command_line import Parser, command, refuse, relative, this_command
from utils.console import console, panel, tee, warn
from utils.errors import Interrupted, Refused, StageFailed, plain_endings, report, without_number
from utils.files import user_path, weights_sha256
from utils.locks import is_live, lock
from utils.processes import count, is_first
from utils.quiet import quiet_libraries
from utils.runtime import hardware, keep_freed_memory, versions
from utils.values import field_type, mistyped, parse
from watching.energy import counted
from watching.trackers import stage_environment

NAME = PRETRAIN.name


def parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="python -m pretrain",
        description="Train base weights from random ones, on text of your own or published text.",
        epilog="presets (MB: weights, gradients and optimizer; activations come on top):\n"
        + "\n".join(f"  {name:12} {summary}" for name, (summary, _) in PRESETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", default="tiny", metavar="NAME", help="the shape and its settings (tiny)")
    sources = "file or folder of text, Hub id, tinystories, hermes, or a mixture: tinystories:0.7,notes/:0.3"
    add("--data", metavar="SOURCE", help=sources)
    add("--out", metavar="DIR", help="where the model goes (runs/PRESET-TIME)")
    add("--max-steps", metavar="N", help="optimizer steps, rather than the preset's")
    add("--data-fraction", metavar="F", help="train on this share of the documents, above 0 to 1")
    value: dict[str, Any] = {"dest": "values", "action": "append", "default": [], "metavar": "FIELD=VALUE"}
    add("--set", **value, help="change a value of the preset; repeatable")
    again = "go on where DIR stopped; without DIR: the newest stopped"
    add("--resume", nargs="?", const="", metavar="DIR", help=again)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one command line; return the exit code."""
    try:
        serve(parser().parse_args(argv))
    except (Refused, StageFailed, KeyboardInterrupt) as error:
        return report(error)
    return 0


def serve(args: argparse.Namespace) -> None:
    """Train as the arguments say.

    Raises:
        Refused: it cannot be done; nothing has been created.
        StageFailed: training failed.
        Interrupted: it was stopped, and can be resumed.
    """
    if args.resume is None:
        out, config = new_run(args)
    else:
        changes = [args.data, args.out, args.max_steps, args.data_fraction, *args.values]
        refuse((any(changes), "--resume goes on with the values that the run began with: leave the other flags out"))
        out, config = stopped_run(args.resume)
    train(config, out)


def new_run(args: argparse.Namespace) -> tuple[Path, PretrainConfig]:
    """Return the directory and the configuration of a new run."""
    if not args.data:
        raise Refused("--data says what to train on: a file or folder of text, a Hub id, tinystories, hermes.")
    given = [("max_steps", args.max_steps), ("data_fraction", args.data_fraction)]
    assignments = [*args.values, *(f"{name}={text}" for name, text in given if text is not None)]
    config = preset(args.preset, output_dir=NAME, dataset_name=args.data)
    problems = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        try:
            if not equals:
                raise ValueError("must be FIELD=VALUE, such as max_length=256")
            config = replace(config, **{name: parse(text.strip(), field_type(PretrainConfig, name))})
        except ValueError as error:
            problems.append(f"{assignment}: {error}")
    problems = problems or list(mistyped(config).values()) or list(range_problems(config))
    if config.gates or config.on_fail != "stop":
        problems.append("gates and on_fail belong to a stage of a recipe: here nothing is compared by them")
    if problems:
        raise Refused("\n".join(problems))
    return _new_directory(args.out, args.preset), config


def _new_directory(out: str | None, preset_name: str) -> Path:
    if count() > 1 and out is None:
        raise Refused("--out names the directory that several processes share: add it.")
    path = user_path(out or f"runs/{preset_name}-{datetime.now():%Y%m%d_%H%M%S}")
    if is_first() and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        what = "a file" if path.is_file() else "in use"
        go_on = f", or go on: {this_command('--resume', str(path))}" if _can_go_on(path) else ""
        raise Refused(f"--out {path} is {what}: name a new directory{go_on}")
    return path


def stopped_run(directory: str) -> tuple[Path, PretrainConfig]:
    """Return a run that was stopped, the newest in `runs` if none is named, and the configuration it began with."""
    if not directory:
        records = sorted(Path("runs").glob(f"*/{StageLog.INFO}"), key=lambda path: path.stat().st_mtime)
        stopped = [path.parent for path in records if _can_go_on(path.parent)]
        if not stopped:
            raise Refused("runs/ holds no stopped pretraining run to go on with: name the directory of one.")
        directory = str(stopped[-1])
    out = user_path(directory)
    log = StageLog(out)
    info = log.read_info()
    if not recorded(info).starts_from_nothing:
        raise Refused(f"{out} is not the directory of a pretraining run: it has no {StageLog.INFO} of one.")
    if info.get("status") == "passed":
        raise Refused(f"{out} has been trained to its last step, {info.get('steps')}: there is nothing to go on with.")
    if "config" not in info:
        raise Refused(f"{log.info_file} has no config: what {out} began with is not known. Start a new run.")
    known = info["config"].keys() - {"gates", "on_fail"}  # which only a recipe's stage has
    names = [field.name for field in fields(PretrainConfig) if field.name in known]
    return out, PretrainConfig(**{name: info["config"][name] for name in names})


def _can_go_on(directory: Path) -> bool:
    """Tell whether a directory's run can be gone on with; one whose record is not sound is passed over."""
    try:
        info = StageLog(directory).read_info()
    except Unsound as refused:
        warn(f"passed over: {refused}")
        return False
    return recorded(info).starts_from_nothing and info.get("status") != "passed" and not is_live(directory)


def train(config: PretrainConfig, out: Path) -> None:
    """Train into `out`, with the records of a stage; say at the end what came out, and how to talk to it."""
    keep_freed_memory()
    with quiet_libraries(None):
        corpus = prepare(config)  # a source that cannot be had is refused before anything is created
        if config.tokenizer_name is None and is_first() and not (out / "tokenizer.json").exists():
            from pretrain.tokenizer import trained_tokenizer

            trained_tokenizer(config, corpus)  # and so is a text that is too small for it
    with _stage(config, out) as log:
        from pretrain.loop import pretrain  # torch and transformers load only when something is trained

        pretrain(config, out)
    if is_first():
        _show_result(log.read_info(), out)


@contextmanager
def _stage(config: PretrainConfig, out: Path) -> Iterator[StageLog]:
    """Record a run as a stage is recorded."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{out} cannot be made: {without_number(error)}. Name another directory with --out") from error
    log = StageLog(out)
    with (
        lock(out),
        counted(log) as spent,
        tee(out / "console_output.log"),
        stage_environment(out.name, NAME, out),
        quiet_libraries(out / "training.log"),
    ):
        log.open(name=NAME, kind=NAME, status="running", config=asdict(config), error=None)
        log.event("STAGE_START", f"{NAME} from random weights")
        console().print(_header(config, out))
        status, reason = "failed", None
        try:
            yield log
            status = "passed"
        except KeyboardInterrupt as error:
            status = "interrupted"
            resume = this_command("--resume", str(out))
            raise Interrupted(f"{str(error) or 'interrupted'}. Go on with:\n  {resume}") from error
        except Exception as error:
            reason = str(error)
            log.event("STAGE_FAILED", reason)
            raise
        finally:
            done = status == "passed" and is_first()  # others may be here before the weights are
            output = {"path": str(out.resolve()), "sha256": weights_sha256(out)} if done else None
            log.info(status=status, error=reason, output=output, **spent.until_now())


def _header(config: PretrainConfig, out: Path) -> RenderableType:
    machine, known = hardware(), versions()
    changed = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in fields(config)
        if field.name not in ("output_dir", "dataset_name") and getattr(config, field.name) != field.default
    ]
    rows = {
        "data": config.dataset_name,
        "settings": ", ".join(changed) or "the defaults",
        "files": relative(out),
        "machine": f"{machine['device']}, {machine['cpu']}, {machine['cpu_cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.1f} GiB memory",
        "versions": ", ".join(f"{name} {known[name]}" for name in ("python", "torch", "transformers", "accelerate")),
    }
    return panel(NAME, rows)


def _show_result(info: Mapping[str, Any], out: Path) -> None:
    test = info["test"] or {}
    measured = ", ".join(f"{name} {value:.4f}" for name, value in test.items())
    console().print(f"test documents: {measured}" if test else "no documents were left for a test", markup=False)
    console().print(f"talk to it:\n  {command('chat.py', relative(out))}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    plain_endings()
    sys.exit(main())
