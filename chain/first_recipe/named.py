"""What the command line of `--init` names: the stages, the model and the data, found without a library."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinds
from kinds import Kind
from records.catalogue import find_checkpoint
from utils import hub
from utils.errors import Refused
from utils.files import user_path


@dataclass(frozen=True)
class Named:
    """What is there of what was named."""

    stages: Mapping[str, Kind]
    """By label, in the order of the run; none: what the data can feed."""
    model: tuple[str, Path]
    """Its name in the recipe and the directory of its configuration."""
    data: Mapping[str, str | None]
    """By flag, as the recipe names them: a whole path or a Hub id."""
    columns: Mapping[str, Mapping[str, str]]
    """By flag, columns of its data by the names that they get."""
    memory_budget: int | None


def named(args: argparse.Namespace) -> Named:
    """Return what a command line names.

    Raises:
        Refused: with everything that is not there, or does not go together.
    """
    problems: list[str] = []
    stages = tried(problems, "--stages", _stages, args.stages or ()) or {}
    if args.model is None:
        problems.append("--init needs a model to train: add --model MODEL")
    model = None if args.model is None else tried(problems, "--model", _model, args.model, Path(args.runs_dir))
    given = {"--data": args.data, "--data-preferences": args.data_preferences}
    data = {flag: name and tried(problems, flag, _data, name) for flag, name in given.items()}
    refuse_all(problems)
    assert model is not None
    columns = {"--data-preferences" if args.data is None else "--data": args.columns or {}}
    return Named(stages, model, data, columns, args.memory_budget)


def tried(problems: list[str], flag: str, look: Callable[..., Any], *given: Any) -> Any:
    """Return what `look` does, or note among the problems what it refuses."""
    try:
        return look(*given)
    except Refused as error:
        problems.append(f"{flag}: {error}")
        return None


def refuse_all(problems: list[str]) -> None:
    """Raise Refused with the problems, if there are any."""
    if problems:
        raise Refused("\n".join(problems))


def _stages(labels: tuple[str, ...]) -> dict[str, Kind]:
    found = {label: kinds.named(label) for label in labels}
    if nothing := next((label for label, kind in found.items() if kind.starts_from_nothing), None):
        raise Refused(f"{nothing} begins with random weights, and not with a model: see docs/first_steps.ipynb")
    if len(found) < len(labels):
        raise Refused("a stage is named twice, and runs once")
    return found


def _model(given: str, runs_dir: Path) -> tuple[str, Path]:
    first = given.partition("/")[0]
    here = first == "latest" or hub.is_path(given) or user_path(given).exists() or (runs_dir / first).exists()
    if not here and "/" in given and hub.local_model(given, None) is None and hub.unreachable() is None:
        hub.model_on_hub(given, None)
        return given, hub.download_model(given, None, weights=False)
    checkpoint = find_checkpoint(given, runs_dir, talks=False)
    if checkpoint.scores:
        raise Refused(f"{checkpoint.name} is a reward model, and writes no answers: name the model that it judges")
    directory = checkpoint.path.resolve()
    return str(directory) if here else given, directory


def _data(name: str) -> str:
    if name.startswith("made:"):
        raise Refused("made: data belong to the recipe that registers them: name a file, a folder or a Hub id")
    from data.named import refuse_unknown  # not above: `data` may be hidden by a file beside a script

    refuse_unknown(name)
    path = user_path(name)
    return str(path.resolve()) if path.exists() else name
