"""The files of ours whose code decides a result, found by what imports what, and a hash of each."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

DECIDES_NOTHING = frozenset(
    "watching.alarms records.catalogue evaluation.from_python utils.command_line utils.console watching.energy"
    " utils.pace utils.quiet records.run_directory utils.secrets records.stage_log utils.text watching.trackers".split()
)
"""What only shows, records or finds. It, and what is imported through it alone, is left out; any other file decides."""


def code_hashes(modules: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Return a short hash of the code of each file under `root` that `modules` import, directly or not, by its path.

    Comments, docstrings and formatting are no code.
    """
    pending, files = list(modules), set[Path]()
    while pending:
        name = pending.pop()
        file = _file_of(name, root)
        if file is None or file in files or name in DECIDES_NOTHING:
            continue
        files.add(file)
        pending += [name.rpartition(".")[0], *_parsed(file)[1]]  # a package's own file runs first
    return {file.relative_to(root).as_posix(): _parsed(file)[0] for file in sorted(files)}


def _file_of(name: str, root: Path) -> Path | None:
    """Return the file of a module of ours; None of another's, and of what is no module."""
    path = root / name.replace(".", "/")
    return next((file for file in (path.parent / f"{path.name}.py", path / "__init__.py") if file.is_file()), None)


@cache
def _parsed(file: Path) -> tuple[str, list[str]]:
    """Return the hash of a file's code, and the names that it imports, modules or what stands in them."""
    tree = ast.parse(file.read_bytes())
    imported = list(_imported(tree))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a lambda's is an expression
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12], imported


def _is_text(node: ast.AST) -> bool:
    """Tell whether a statement is a string alone: a docstring, or what is said of a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield what is imported below a node, but for the types that only a checker sees."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)
