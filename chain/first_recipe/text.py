"""A first recipe as Python text: as one would write it by hand, every value below its reason."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from chain.first_recipe.look import Facts, Model
from chain.first_recipe.values import Draft, Values
from kinds import StageOutput
from utils.errors import Refused
from utils.text import one_line

WIDTH = 120
NAME = 60  # characters of a file's name in a comment
END = """
if __name__ == "__main__":
    from run_all import run_script

    run_script(__file__)
"""
LEARNS = {
    "conversations": "Learns the answers of demonstrations; of plain text, how it goes on.",
    "pairs": "Moves the model from the rejected answers to the chosen ones.",
    "labelled": "Moves the model to answers with thumbs up, away from those with thumbs down.",
    "prompts": "Samples answers, rewards those that are right, and prefers the better of each group.",
}


def recipe(facts: Facts, chosen: tuple[Values, list[Draft]], path: Path) -> str:
    """Return the text of the recipe that is written to `path`.

    Raises:
        Refused: the path of its model or data is no text.
    """
    common, drafts = chosen
    constants = dict(_constants(facts, drafts))
    codes = {value: name for name, (value, _) in constants.items()}
    paths = [_path(name, value, path.parent, why) for name, (value, why) in constants.items()]
    lines = [*_docstring(facts, drafts, path), *_imports("HERE" in "".join(map("".join, paths)), drafts)]
    lines += [line for each in paths for line in each]
    shared = common if len(drafts) > 1 else {}  # of one stage they stand in it
    if shared:
        lines += ["", "# Of every stage.", "COMMON: dict[str, Any] = {"]
        lines += [*_fields(shared, codes, "    ", '"{}": {},'), "}"]
    lines += ["", "configs = {"]
    for draft in drafts:
        lines += [*_comment(_learns(draft), "    "), f'    "{draft.label}": {draft.rows.kind.config_class.__name__}(']
        lines += _fields(draft.values if shared else draft.values | common, codes, "        ", "{}={},")
        lines += ["        **COMMON,"] if shared else []
        lines += ["    ),"]
    lines += ["}"]
    extra = [draft for draft in drafts if draft.extra]
    several = len(extra) > 1
    lines += ["grpo_extra = {"] if several else []
    for draft in extra:
        start, indent, end = (f'    "{draft.label}": ', "    ", ",") if several else ("grpo_extra = ", "", "")
        lines += [
            f"{start}GRPOExtraConfig(",
            *_fields(draft.extra, codes, indent + "    ", "{}={},"),
            f"{indent}){end}",
        ]
    lines += ["}"] if several else []
    return "\n".join(lines) + "\n" + END


def _docstring(facts: Facts, drafts: list[Draft], path: Path) -> Iterator[str]:
    data = " and ".join(dict.fromkeys(_shown(draft.rows.name) for draft in drafts))
    model = _shown(facts.model.name)
    labels = ", ".join(draft.label for draft in drafts)
    yield from wrap(f'"""Trains {model} on {data} ({labels}): a first recipe, to be read and changed.', WIDTH)
    yield ""
    yield from wrap(
        f"Written by `run_all.py --init` on a machine with {facts.machine}. Every value is where one begins, with its "
        "reason; none was tried out. A path below this file's folder is written from that folder, so that both can be "
        "moved together; any other is absolute.",
        WIDTH,
    )
    file = shlex.quote(_shown(path.name))
    yield from (
        "",
        f"    python run_all.py --recipe {file} --plan",
        f"    python run_all.py --recipe {file}",
        '"""',
        "",
    )


def _imports(has_paths: bool, drafts: list[Draft]) -> Iterator[str]:
    standard = ["from pathlib import Path"] * has_paths + ["from typing import Any"] * (len(drafts) > 1)
    yield from (*standard, *([""] if standard else []))
    used = {"GRPOExtraConfig": any(draft.extra for draft in drafts), "TrainingConfig": True}
    used["StageOutput"] = "StageOutput(" in repr([(draft.values, draft.extra) for draft in drafts])
    if names := sorted(name for name, is_used in used.items() if is_used):
        yield f"from algorithms import {', '.join(names)}"
    yield ""
    if has_paths:
        yield "HERE = Path(__file__).resolve().parent"


def _constants(facts: Facts, drafts: list[Draft]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the name, the value and a comment of each model and data set."""
    yield "MODEL", (facts.model.name, _of_model(facts.model))
    of_data: dict[str, list[Draft]] = {}
    for draft in drafts:
        of_data.setdefault(draft.rows.name, []).append(draft)
    names = {name: "PREFERENCES" if _only_preferences(users) else "DATA" for name, users in of_data.items()}
    for name, users in of_data.items():
        read = [
            f"{len(draft.rows.positions):,} rows for {draft.label}: {', '.join(map(_shown, draft.rows.columns))}"
            for draft in users
        ]
        yield names[name] if len(set(names.values())) > 1 else "DATA", (name, "; ".join(read))


def _only_preferences(users: list[Draft]) -> bool:
    return all(draft.rows.kind.layout in ("pairs", "labelled") for draft in users)


def _of_model(model: Model) -> str:
    reads = f", reads {model.max_tokens:,} tokens at once" if model.max_tokens else ""
    template = "" if model.has_template else "; it has no chat template: SFT on questions and answers gives it one"
    return f"{model.parameters:,} weights{reads}{template}"


def _learns(draft: Draft) -> str:
    if draft.rows.kind.scores:
        return "Learns to score answers: the chosen one above the rejected one."
    return LEARNS[draft.rows.kind.layout]


def _fields(values: Values, codes: Mapping[Any, str], indent: str, form: str) -> Iterator[str]:
    for name, (value, why) in values.items():
        yield from (*_comment(why, indent), indent + form.format(name, _code(value, codes)))


def _comment(said: str, indent: str) -> Iterator[str]:
    if said:
        prefix = f"{indent}# "
        yield from wrap(said, WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False)


def _code(value: Any, codes: Mapping[Any, str]) -> str:
    """Return a value as ruff would write it."""
    if isinstance(value, list):
        return f"[{', '.join(_code(one, codes) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(name)}: {_code(one, codes)}' for name, one in value.items())}}}"
    if isinstance(value, StageOutput):
        return f'StageOutput("{value.name}")'
    if isinstance(value, str):
        return codes.get(value) or _quoted(value)
    if isinstance(value, float) and 0 < value < 1e-3:
        digits, _, exponent = f"{value:.0e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return repr(value)


def _path(name: str, value: str, folder: Path, why: str) -> list[str]:
    """Return the lines that define a model or data: what lies below the recipe's folder is written from there."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"{value!a} is no UTF-8, so that no recipe can name it: rename it") from error
    path = Path(value)
    inside = path.is_absolute() and path.is_relative_to(folder.resolve())
    braced = str(path.relative_to(folder.resolve())).replace("{", "{{").replace("}", "}}") if inside else ""
    line = f"{name} = " + (f"f{_quoted('{HERE}/' + braced)}" if inside else _quoted(value))
    return [*_comment(why, ""), line + ("  # noqa: E501" if len(line) > WIDTH else "")]


def _quoted(text: str) -> str:
    """Return a text as Python has it, between double quotes as ruff wants them whatever it holds."""
    plain = (one if one.isprintable() and one not in '\\"' else f"\\U{ord(one):08x}" for one in text)
    return f'"{"".join(plain)}"'


def _shown(name: str) -> str:
    """Return how a model, file or column is called in a comment, whatever its name holds."""
    bare = one_line(Path(name).name if Path(name).is_absolute() else name).replace('"', "'").replace("\\", "/")
    return bare if len(bare) <= NAME else f"{bare[: NAME - 1]}…"
