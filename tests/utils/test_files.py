"""JSON that is whole at any moment, and the fingerprint of weights."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import Refused
from utils.files import jsonable, read_json, remove_half, remove_temporary, weight_files, weights_sha256, write_json


def test_nan_and_infinity_become_null_and_paths_strings(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"nan": float("nan"), "deep": [float("inf"), {"path": Path("x/y")}], 1: (2,)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "deep": [None, {"path": "x/y"}], "1": [2]}


def test_numbers_of_numpy_and_torch_become_plain_ones() -> None:
    np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    assert jsonable([np.float32(0.5), np.int64(3), torch.tensor(2.0), np.arange(2)]) == [0.5, 3, 2.0, [0, 1]]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"old": True})

    def disk_full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_json(tmp_path / "a.json", {"old": False})
    assert read_json(tmp_path / "a.json") == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000], ids=["a bracket", "many brackets", "digits"])
def test_broken_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Refused, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(Refused, match="cannot be read"):
        read_json(tmp_path)


def test_weights_sha256_by_hand(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    by_hand = hashlib.sha256(b"model.safetensors\0" + hashlib.sha256(b"weights").digest()).hexdigest()
    assert weights_sha256(tmp_path) == by_hand


def test_weights_sha256_sees_bytes_and_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"1")
    first = weights_sha256(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weights_sha256(tmp_path) == first
    (tmp_path / "b.safetensors").write_bytes(b"2")
    second = weights_sha256(tmp_path)
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    assert len({first, second, weights_sha256(tmp_path)}) == 3


def test_pickles_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"1")
    assert weight_files(tmp_path) == []


def test_a_directory_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights"):
        weights_sha256(tmp_path)


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    for name in ("info.json", "stage/info.json", "stage/.lock", "stage/notes.tmp", "stage/.info.json.x7.tmp"):
        (tmp_path / name).touch()
    remove_temporary(tmp_path)
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == [".lock", "info.json", "notes.tmp"]


def test_what_one_killed_process_left_of_a_file_is_removed_and_no_others(tmp_path: Path) -> None:
    killed = "import os; os.fsync = lambda _: os.kill(os.getpid(), 9); from utils.files import replace_text as r; "
    file, others = tmp_path / "page[1].html", tmp_path / ".page[1].html.1.abc.tmp"
    others.touch()
    process = subprocess.Popen([sys.executable, "-c", f"{killed}from pathlib import Path; r(Path({str(file)!r}), 'x')"])
    assert process.wait() == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    remove_half(file, process.pid)
    assert list(tmp_path.iterdir()) == [others]
