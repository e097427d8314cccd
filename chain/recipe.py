"""Recipes: one file is one run. Here they are found, and loaded by path, since their names may have dots."""

import ast
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from pretrain.pretrain_config import PretrainConfig
from utils.errors import Refused, did_you_mean, without_number

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
CONFIGS = (TrainingConfig, PretrainConfig, GRPOExtraConfig)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe file says."""

    name: str
    """The name of a recipe that comes with sixgig, or the path of a file; either loads it again."""
    configs: dict[str, Any]
    """The stages by label, in the order of the run, as the file has them: not checked yet."""
    grpo_extra: Any = None
    """Rewards and sampling of the stages that sample."""
    verifier: Any = None
    """What every stage is measured by."""
    sizes: Mapping[str, Mapping[str, Any]]
    """What the file records, as SIZES, of the models and data that it names: for a plan without a network."""


def shipped() -> dict[str, str]:
    """Return the recipes that come with sixgig: name → first line of the file's docstring. Runs none of them."""
    return {path.stem: _purpose(path) for path in sorted(RECIPES.glob("*.py"))}


def _purpose(path: Path) -> str:
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except SyntaxError as error:
        return f"cannot be read: {_syntax(error)}"
    except (OSError, ValueError) as error:
        return f"cannot be read: {without_number(error)}"
    return docstring.partition("\n")[0]


def _syntax(error: SyntaxError) -> str:
    return f"line {error.lineno}: {error.msg}" if error.lineno else str(error.msg)  # of a zero byte there is no line


def load(name_or_file: str) -> Recipe:
    """Load a recipe by the name of a shipped one or by its file.

    Raises:
        Refused: there is none, it raises, or it defines no `configs`.
    """
    path, name = _locate(name_or_file)
    module = _run(path)
    configs = getattr(module, "configs", None)
    if not isinstance(configs, Mapping) or not configs:
        given = "none" if configs is None else repr(configs)
        raise Refused(f"{path} has no stages: it must define `configs`, a dict of stages by label; given: {given}")
    extra = getattr(module, "grpo_extra", None)
    if not isinstance(extra, GRPOExtraConfig | Mapping | None):
        raise Refused(f"{path}: grpo_extra must be a GRPOExtraConfig; given: {extra!r}")
    from evaluation.verifier import Verifier  # not above: `data` may be hidden by a file beside a script

    verifier = getattr(module, "verifier", None)
    if not isinstance(verifier, Verifier | None):
        raise Refused(f"{path}: verifier must be a Verifier; given: {verifier!r}")
    sizes = getattr(module, "SIZES", {})
    if not isinstance(sizes, Mapping) or not all(isinstance(one, Mapping) for one in sizes.values()):
        raise Refused(f"{path}: SIZES must map the name of a model or data set to a dict; given: {sizes!r}")
    return Recipe(name=name, configs=dict(configs), grpo_extra=extra, verifier=verifier, sizes=sizes)


def _locate(name_or_file: str) -> tuple[Path, str]:
    """Return the recipe's file, and the name that finds it again from any directory."""
    given, named = Path(name_or_file).expanduser(), RECIPES / f"{name_or_file.removesuffix('.py')}.py"
    if given.is_file():
        path = given.resolve()
    elif name_or_file and given.is_dir():
        raise Refused(f"{name_or_file} is a directory: give the file of a recipe in it")
    elif named.is_file() and named.parent == RECIPES:
        path = named
    else:
        names = shipped()
        near = did_you_mean(name_or_file, names)
        raise Refused(
            f"no recipe {name_or_file!r}{near or '.'} Give a recipe's file or one of: {', '.join(names)} (see --list)"
        )
    return path, name_of(path)


def name_of(path: Path) -> str:
    """Return what finds a recipe's file again from any directory: the name of a shipped one, or the path."""
    return path.stem if path.parent == RECIPES else str(path)


def of_script(configs: Any) -> str | None:
    """Return the script that is being run, as `--recipe` takes it; None if that would not find these `configs`."""
    script = vars(sys.modules["__main__"])
    defines_them = "__file__" in script and "configs" in script and script["configs"] is configs
    return name_of(Path(script["__file__"]).resolve()) if defines_them else None


class _RunsItself(BaseException):
    """A recipe that is being loaded has come to its end, where it would run itself."""


_loading = False


def end_of_recipe() -> None:
    """Stop the loading of a recipe here, if one is being loaded: it ends by running itself, maybe without a guard."""
    if _loading:
        raise _RunsItself


def _run(path: Path) -> types.ModuleType:
    """Execute a recipe file as a module, with its own directory importable, now and when a reward function runs."""
    name = "recipe_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refused(f"{path} is no Python file: a recipe's name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a reward function defined there can then be found by what inspects it
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that no file of the user's takes the place of one of ours
    global _loading
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # loading leaves nothing beside the file
    _loading = True
    try:
        spec.loader.exec_module(module)
    except _RunsItself:
        pass
    except (Exception, SystemExit) as error:  # whatever it raises, it is the recipe's fault
        if isinstance(error, Refused) and not isinstance(error, TypeError):
            raise
        problems = list(_unknown_fields(path)) if isinstance(error, TypeError) else []
        problems = problems or [f"{_fault(error, path)}{_hidden(error, path)}"]
        told = problems[0] if len(problems) == 1 else "\n".join(["", *(f"- {problem}" for problem in problems)])
        raise Refused(f"the recipe {path} cannot be loaded: {told}") from error
    finally:
        sys.dont_write_bytecode, _loading = writes_bytecode, False
    return module


def _unknown_fields(path: Path) -> Iterator[str]:
    """Yield every name that the recipe's text gives to a configuration that has no such field."""
    known = {cls.__name__: [field.name for field in fields(cls)] for cls in CONFIGS}
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    for node in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        called = str(getattr(node.func, "id", getattr(node.func, "attr", None)))
        for keyword in node.keywords if called in known else ():
            if keyword.arg is not None and keyword.arg not in known[called]:
                near = did_you_mean(keyword.arg, known[called])
                yield f"line {keyword.value.lineno}: {called} has no field {keyword.arg!r}{near}"


def _fault(error: BaseException, path: Path) -> str:
    """Say what a recipe raised and in which line."""
    if isinstance(error, SyntaxError):
        return _syntax(error)
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    text = f"{type(error).__name__}: {error}"
    return text if line is None else f"line {line}: {text}"


def _hidden(error: BaseException, path: Path) -> str:
    """Name what lies beside a recipe and cannot be imported, since a module of ours has its name."""
    if not isinstance(error, ImportError | AttributeError) or path.parent in (RECIPES, ROOT):
        return ""
    ours = {found.stem for found in (*ROOT.glob("*.py"), *(init.parent for init in ROOT.glob("*/__init__.py")))}
    beside = [entry for entry in path.parent.iterdir() if entry.suffix == ".py" or entry.is_dir()]
    hidden = ", ".join(sorted(entry.name for entry in beside if entry.stem in ours))
    return f". sixgig's own modules hide {hidden} beside the recipe: rename what it imports" if hidden else ""
