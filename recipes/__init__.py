"""Recipes: one file is one run. Here they are found, and loaded by path, since their names may have dots."""

import ast
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from evaluation.verifier import Verifier
from utils.errors import Refused, did_you_mean, without_number

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe file says."""

    name: str
    """The name of a recipe that comes with sixgig, or the path of a file; either loads it again."""
    configs: dict[str, Any]
    """The stages by kind, in the order of the run, as the file has them: not checked yet."""
    grpo_extra: GRPOExtraConfig | None = None
    """What GRPO needs besides."""
    verifier: Verifier | None = None
    """What every stage is measured by."""
    sizes: Mapping[str, Mapping[str, Any]]
    """What the file records, as SIZES, of the models and data that it names: for a plan without a network."""


def shipped() -> dict[str, str]:
    """Return the recipes that come with sixgig: name → first line of the file's docstring. Runs none of them."""
    return {path.stem: _purpose(path) for path in sorted(HERE.glob("*.py")) if path.name != "__init__.py"}


def _purpose(path: Path) -> str:
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except SyntaxError as error:
        return f"cannot be read: line {error.lineno}: {error.msg}"
    except (OSError, ValueError) as error:
        return f"cannot be read: {without_number(error)}"
    return docstring.partition("\n")[0]


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
        raise Refused(f"{path} has no stages: it must define `configs`, a dict of stages by kind; given: {given}")
    extra = getattr(module, "grpo_extra", None)
    if not isinstance(extra, GRPOExtraConfig | None):
        raise Refused(f"{path}: grpo_extra must be a GRPOExtraConfig; given: {extra!r}")
    verifier = getattr(module, "verifier", None)
    if not isinstance(verifier, Verifier | None):
        raise Refused(f"{path}: verifier must be a Verifier; given: {verifier!r}")
    sizes = getattr(module, "SIZES", {})
    if not isinstance(sizes, Mapping) or not all(isinstance(one, Mapping) for one in sizes.values()):
        raise Refused(f"{path}: SIZES must map the name of a model or data set to a dict; given: {sizes!r}")
    return Recipe(name=name, configs=dict(configs), grpo_extra=extra, verifier=verifier, sizes=sizes)


def _locate(name_or_file: str) -> tuple[Path, str]:
    """Return the recipe's file, and the name that finds it again from any directory."""
    given, named = Path(name_or_file).expanduser(), HERE / f"{name_or_file.removesuffix('.py')}.py"
    if given.is_file():
        path = given.resolve()
    elif name_or_file and given.is_dir():
        raise Refused(f"{name_or_file} is a directory: give the file of a recipe in it")
    elif named.is_file() and named.parent == HERE and named.stem != "__init__":
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
    return path.stem if path.parent == HERE else str(path)


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
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # loading leaves nothing beside the file
    try:
        with _taking_any_name(path) as problems:
            spec.loader.exec_module(module)
    except Refused:
        raise
    except (Exception, SystemExit) as error:  # whatever it raises, it is the recipe's fault
        raise _unloadable(path, [*problems, f"{_fault(error, path)}{_hidden(error, path)}"]) from error
    finally:
        sys.dont_write_bytecode = writes_bytecode
    if problems:
        raise _unloadable(path, problems)
    return module


def _unloadable(path: Path, problems: list[str]) -> Refused:
    told = problems[0] if len(problems) == 1 else "\n".join(["", *(f"- {problem}" for problem in problems)])
    return Refused(f"the recipe {path} cannot be loaded: {told}")


@contextmanager
def _taking_any_name(path: Path) -> Iterator[list[str]]:
    """Let the configurations in a recipe be given any name, and tell all that are none of their fields at once."""
    from pretrain import PretrainConfig

    wrong: list[str] = []

    def taking(cls: type, init: Callable[..., None]) -> Callable[..., None]:
        names = [field.name for field in fields(cls)]

        def lenient(self: Any, *values: Any, **given: Any) -> None:
            stack = traceback.extract_stack()
            line = next((frame.lineno for frame in reversed(stack) if frame.filename == str(path)), None)
            unknown = [name for name in given if name not in names]
            wrong.extend(
                f"line {line}: {cls.__name__} has no field {name!r}{did_you_mean(name, names)}" for name in unknown
            )
            init(self, *values, **{name: value for name, value in given.items() if name in names})

        return lenient

    with ExitStack() as stack:
        for cls in (TrainingConfig, PretrainConfig, GRPOExtraConfig):
            stack.callback(setattr, cls, "__init__", cls.__init__)
            setattr(cls, "__init__", taking(cls, cls.__init__))  # noqa: B010  mypy refuses an assignment
        yield wrong


def _fault(error: BaseException, path: Path) -> str:
    """Say what a recipe raised and in which line."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    text = f"{type(error).__name__}: {error}"
    return text if line is None else f"line {line}: {text}"


def _hidden(error: BaseException, path: Path) -> str:
    """Name what lies beside a recipe and cannot be imported, since a module of ours has its name."""
    if not isinstance(error, ImportError | AttributeError) or path.parent in (HERE, HERE.parent):
        return ""
    root = HERE.parent
    ours = {found.stem for found in (*root.glob("*.py"), *(init.parent for init in root.glob("*/__init__.py")))}
    hidden = ", ".join(sorted(entry.name for entry in path.parent.iterdir() if entry.stem in ours))
    return f". sixgig's own modules hide {hidden} beside the recipe: rename what it imports" if hidden else ""
