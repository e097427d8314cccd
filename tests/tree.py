"""Write docs/tree.md: every file of the project, each with the first line of its own docstring.

python -m tests.tree
"""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/tree.md"
FOLDERS = "recipes chain pretrain algorithms evaluation data watching records utils benchmarks".split()
HEAD = """# Every file

Each with its first line, which says what it is. `python -m tests.tree` writes this page anew; a test compares.
"""


def tracked() -> list[Path]:
    """Return the project's files, as git knows them, relative to its root."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    return sorted(Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists())


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def page() -> str:
    """Return the page."""
    modules = [path for path in tracked() if path.suffix == ".py" and path.name != "__init__.py"]
    parts = [HEAD]
    for title, folder in (("At the top", "."), *((f"{name}/", name) for name in FOLDERS)):
        own = [path for path in modules if path.parts[0] == folder or (folder == "." and len(path.parts) == 1)]
        lines = [f"| `{path}` | {first_line(path)} |" for path in own]
        parts.append("\n".join([f"## {title}\n", "| file | what it is |", "| --- | --- |", *lines]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
