"""What is made once: whole or absent, whoever dies, however many start."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from data.corpus import cache
from utils.errors import Refused

FORK = multiprocessing.get_context("fork")  # starts at once; nothing here uses threads


def fill(partial: Path) -> dict[str, Any]:
    (partial / "data.bin").write_bytes(b"1234")
    return {"made": True}


def left_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_it_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(partial: Path) -> dict[str, Any]:
        made.append(partial)
        return fill(partial)

    first, second = (cache.made_once(tmp_path / "x", "x", make) for _ in range(2))
    assert first == second == {"made": True, "files": {"data.bin": 4}}
    assert len(made) == 1
    assert left_in(tmp_path) == ["x"]


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    cache.made_once(tmp_path / "x", "x", fill)
    (tmp_path / "x" / "data.bin").write_bytes(b"12")
    cache.made_once(tmp_path / "x", "x", fill)
    assert (tmp_path / "x" / "data.bin").read_bytes() == b"1234"


def stall(directory: Path) -> None:
    def make(partial: Path) -> dict[str, Any]:
        (partial / "data.bin").write_bytes(b"12")
        (directory / "began").touch()
        time.sleep(60)
        return {}

    cache.made_once(directory / "x", "x", make)


def test_a_start_after_a_kill_makes_it_whole(tmp_path: Path) -> None:
    child = FORK.Process(target=stall, args=(tmp_path,))
    child.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert ".x.partial" in left_in(tmp_path)
    cache.made_once(tmp_path / "x", "x", fill)
    assert (tmp_path / "x" / "data.bin").read_bytes() == b"1234"
    assert left_in(tmp_path) == ["began", "x"]


def slowly(directory: Path) -> None:
    def make(partial: Path) -> dict[str, Any]:
        with (directory / "makers").open("a") as makers:
            makers.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return fill(partial)

    assert cache.made_once(directory / "x", "x", make)["made"]
    assert (directory / "x" / "data.bin").read_bytes() == b"1234"


def test_of_several_processes_one_makes_it_and_all_have_it(tmp_path: Path) -> None:
    children = [FORK.Process(target=slowly, args=(tmp_path,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    assert len((tmp_path / "makers").read_text().split()) == 1
    assert left_in(tmp_path) == ["makers", "x"]


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    def make(partial: Path) -> dict[str, Any]:
        (partial / "data.bin").write_bytes(b"12")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Refused, match=r"no room for the tokens: .* GiB free.*SIXGIG_CACHE"):
        cache.made_once(tmp_path / "x", "the tokens", make)
    assert left_in(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"cannot be written.*SIXGIG_CACHE"):
        cache.made_once(tmp_path / "file" / "x", "the tokens", fill)
