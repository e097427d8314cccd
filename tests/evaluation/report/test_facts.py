"""What is read of a run while it goes on."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from evaluation.report.facts import _size


def test_what_a_run_removes_while_it_is_counted_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kept", "checkpoint-1/gone", "checkpoint-2/gone"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    assert _size(tmp_path) == 15
    lstat, scandir = Path.lstat, os.scandir

    def lstat_late(path: Path) -> os.stat_result:
        if path.name == "gone":
            path.unlink(missing_ok=True)
        return lstat(path)

    def scandir_late(path: Any) -> Any:
        if str(path).endswith("checkpoint-2"):
            shutil.rmtree(path, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(Path, "lstat", lstat_late)
    monkeypatch.setattr(os, "scandir", scandir_late)
    assert _size(tmp_path) == 5
