"""How large the source is: lines and files of each room, beside another checkout's.

    python benchmarks/size.py
    python benchmarks/size.py --against ../before        a checkout to compare with

Lines are all lines of the Python files and page templates that git knows, without tests and benchmarks.
"""

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pretraining_runs import table

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".py", ".jinja")
APART = ("tests", "benchmarks")


def sizes(root: Path) -> tuple[Counter[str], Counter[str]]:
    """Return lines and files of each room of a checkout; `.` is what lies at its top."""
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    lines, files = Counter[str](), Counter[str]()
    for name in map(Path, listed.stdout.splitlines()):
        room = name.parts[0] if len(name.parts) > 1 else "."
        if name.suffix in SUFFIXES and room not in APART and (root / name).is_file():
            lines[room] += len((root / name).read_text(encoding="utf-8").splitlines())
            files[room] += 1
    return lines, files


def rows(root: Path, against: Path | None) -> list[list[str]]:
    """Return the table's rows, the largest room first."""
    lines, files = sizes(root)
    found = [[room, str(files[room]), f"{count:,}"] for room, count in lines.most_common()]
    found.append(["all", str(files.total()), f"{lines.total():,}"])
    if against is None:
        return found
    before, _ = sizes(against)
    there = [f"{before[room]:,}" for room, *_ in found[:-1]]
    share = lines.total() / before.total()
    return [[*row, cell] for row, cell in zip(found, [*there, f"{before.total():,} ({share:.2f} of it)"], strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="lines and files of each room")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    against = parser.parse_args().against
    print(table(["room", "files", "lines", *(["lines there"] if against else [])], rows(ROOT, against)))


if __name__ == "__main__":
    main()
