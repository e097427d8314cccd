"""The count of the source's lines."""

import subprocess
from pathlib import Path

from benchmarks.size import ROOT, rows, sizes


def test_the_lines_of_each_room_are_counted(tmp_path: Path) -> None:
    for name, count in (("run.py", 2), ("data/one.py", 3), ("data/page.html.jinja", 4), ("tests/test_one.py", 9)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n" * count)
    (tmp_path / "data/notes.md").write_text("x\n")
    subprocess.run("git init -q && git add .", shell=True, cwd=tmp_path, check=True)
    lines, files = sizes(tmp_path)
    assert (dict(lines), dict(files)) == ({".": 2, "data": 7}, {".": 1, "data": 2})
    assert rows(tmp_path, tmp_path)[-1] == ["all", "3", "9", "9 (1.00 of it)"]
    assert sizes(ROOT)[0]["algorithms"] > 1000
