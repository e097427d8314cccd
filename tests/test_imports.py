"""The arrows between the parts, what importing them costs, and that each kind of stage keeps to its file."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from kinds import KINDS, named

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"algorithms", "batching", "chain", "data", "evaluation", "pretrain", "recipes", "records", "utils", "watching"}
MODULES = {path.stem for path in ROOT.glob("*.py")}

BELOW_WATCHING = ("records", "kinds", "utils")
BELOW_BATCHING = ("data", "watching", *BELOW_WATCHING)
BELOW_STAGES = ("batching", *BELOW_BATCHING)
MAY_IMPORT = {
    "utils": {"utils"},
    "kinds": {"utils"},
    "records": {"records", "kinds", "utils"},
    "watching": {"watching", *BELOW_WATCHING},
    "data": {"data", *BELOW_WATCHING},
    "batching": {"batching", *BELOW_BATCHING},
    "pretrain": {"pretrain", *BELOW_STAGES},
    "algorithms": {"algorithms", *BELOW_STAGES},
    "evaluation": {"evaluation", *BELOW_STAGES},
    "chain": {"chain", "pretrain", "algorithms", "evaluation", *BELOW_STAGES},
    "recipes": {"algorithms", "pretrain", "evaluation", "data", "recipes", "run_all", "utils"},
    "cache_config": set(),
    "pipeline": PARTS | {"cache_config", "kinds"},
    "run_all": PARTS | {"cache_config", "kinds", "pipeline"},
    "chat": {"evaluation", "cache_config", *BELOW_STAGES},
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


def test_what_is_imported_is_pinned_or_required_by_what_is() -> None:
    def named(requirement: str) -> str:
        return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    allowed = {named(line) for line in lines if "==" in line} | {"lm-eval", "nvidia-ml-py"}  # used if they are there
    for package in list(allowed):
        try:
            allowed |= {named(requirement) for requirement in metadata.requires(package) or []}
        except metadata.PackageNotFoundError:
            continue
    packages = metadata.packages_distributions()
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {module.partition(".")[0] for module in modules} & packages.keys():
                of = {named(package) for package in packages[top]}
                assert of & (allowed | {"sixgig"}), f"{path}: {top} is not in requirements.txt"


def _loaded(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after `code`."""
    report = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_shell_loads_no_heavy_library() -> None:
    inside = [
        path for part in ("chain", "records", "utils", "watching") for path in sorted((ROOT / part).glob("[a-z]*.py"))
    ]
    shell = [f"{path.parent.name}.{path.stem}" for path in inside]
    assert _loaded("import " + ", ".join([*LIGHT, *shell])) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_loading_a_recipe_loads_no_heavy_library(path: Path) -> None:
    assert _loaded(f"import runpy; runpy.run_path({str(path)!r})") == set()


@pytest.mark.parametrize("command", ["run_all", "chat"])
def test_help_loads_no_heavy_library(command: str) -> None:
    asked = f"import {command}\ntry: {command}.main(['--help'])\nexcept SystemExit: pass"
    assert _loaded(asked) == set()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("--stages grpo", "has not run: add dpo to --stages"),
        ("--stages grpp", "did you mean 'grpo'?"),
        ("--set sft.max_stepz=3", "did you mean 'max_steps'?"),
        ("--set sft.learning_rate=-1", "learning_rate = -1.0: must be above 0"),
        ("--set pretrain.max_steps=0", "max_steps = 0: must be above 0"),
        ("--set sft.dataset_name=nowhere.jsonl", "there is no data set 'nowhere.jsonl'"),
        (
            "--set pretrain.dataset_name=nowhere.txt --set pretrain.max_samples=None",
            "there is no data set 'nowhere.txt'",
        ),
        ("--set sft.dataset_name=made:conversation", "did you mean 'made:conversations'?"),
        ("--set sft.model_name=./nowhere", "there is no directory ./nowhere"),
    ],
)
def test_what_needs_no_library_is_refused_before_one_is_loaded(argv: str, told: str) -> None:
    code = f"""
import contextlib, io, run_all
with contextlib.redirect_stderr(io.StringIO()) as said:
    assert run_all.main({["--test", *argv.split()]!r}) == 2
assert {told!r} in " ".join(said.getvalue().split()), said.getvalue()"""
    assert _loaded(code) == set()


NOT_YET = {
    "data/layouts.py",
    "evaluation/card.py",
    "evaluation/choose.py",
    "evaluation/before_and_after.py",
    "evaluation/held_out_overlap.py",
    "evaluation/report/facts.py",
    "records/catalogue.py",
}
"""Files that still compare with the name of a kind."""


def _compares_with_a_kind(path: Path) -> bool:
    """Tell whether a file compares anything with the name of a kind, alone or among others: == != in, a match."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        sides: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        values = [value for side in sides for value in (side, *getattr(side, "elts", ()), *getattr(side, "keys", ()))]
        if any(isinstance(value, ast.Constant) and value.value in KINDS for value in values):
            return True
    return False


def test_only_its_own_file_compares_with_the_name_of_a_kind() -> None:
    """What is true of one kind stands in its file; all else asks the kind: `scores`, `samples`, `layout`, …"""
    own = {str(sys.modules[type(named(name)).__module__].__file__) for name in KINDS}
    core = [path for path in _sources() if path.relative_to(ROOT).parts[0] != "recipes" and str(path) not in own]
    assert {str(path.relative_to(ROOT)) for path in core if _compares_with_a_kind(path)} <= NOT_YET


def test_a_comparison_with_the_name_of_a_kind_is_seen(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    for compared in ("kind == 'sft'", "'dpo' != kind", "kind in ('x', 'grpo')", "kind in {'reward': 1}"):
        code.write_text(f"kind = 'sft'\nfound = {compared}\n")
        assert _compares_with_a_kind(code), compared
    code.write_text("kind = 'sft'\nfound = {'sft': 1}[kind] or kind.startswith('grpo')\n")
    assert not _compares_with_a_kind(code)
