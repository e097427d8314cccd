"""The arrows between the parts, and what importing them costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"algorithms", "chain", "data", "evaluation", "pretrain", "recipes", "utils"}
MODULES = {path.stem for path in ROOT.glob("*.py")}

MAY_IMPORT = {
    "utils": {"utils"},
    "kinds": {"utils"},
    "data": {"data", "kinds", "utils"},
    "pretrain": {"pretrain", "data", "kinds", "utils"},
    "algorithms": {"algorithms", "data", "kinds", "utils"},
    "evaluation": {"evaluation", "data", "kinds", "utils"},
    "chain": {"chain", "pretrain", "algorithms", "evaluation", "data", "kinds", "utils"},
    "recipes": {"recipes", "algorithms", "data", "evaluation", "kinds", "pretrain", "pipeline", "utils"},
    "cache_config": set(),
    "pipeline": PARTS | {"cache_config", "kinds"},
    "run_all": PARTS | {"cache_config", "kinds", "pipeline"},
    "chat": {"chain", "evaluation", "data", "kinds", "utils", "cache_config"},
}
HEAVY = "torch transformers trl datasets numpy pandas pyarrow accelerate peft".split()
LIGHT = [*sorted(MODULES), "recipes", "algorithms", "algorithms.grpo", "pretrain"]


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write out where a relative import leads"
            found.add(node.module.partition(".")[0])
    return found & (PARTS | MODULES)


def _sources() -> list[Path]:
    inside = [path for part in sorted(PARTS) for path in sorted((ROOT / part).rglob("*.py"))]
    return [*inside, *sorted(ROOT.glob("*.py"))]


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    command_line = {"cache_config"} if path.name == "__main__.py" else set()
    assert _imported(path) <= MAY_IMPORT[part] | command_line


def _loaded(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after `code`."""
    report = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_shell_loads_no_heavy_library() -> None:
    inside = [path for part in ("chain", "utils") for path in sorted((ROOT / part).glob("[a-z]*.py"))]
    shell = [f"{path.parent.name}.{path.stem}" for path in inside]
    assert _loaded("import " + ", ".join([*LIGHT, *shell])) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_loading_a_recipe_loads_no_heavy_library(path: Path) -> None:
    assert _loaded(f"import runpy; runpy.run_path({str(path)!r})") == set()


@pytest.mark.parametrize("command", ["run_all", "chat"])
def test_help_loads_no_heavy_library(command: str) -> None:
    asked = f"import {command}\ntry: {command}.main(['--help'])\nexcept SystemExit: pass"
    assert _loaded(asked) == set()
