"""Many sequences of different length in two memory-mapped files: texts as UTF-8 bytes, documents as token ids."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Ragged:
    """The sequences that a `Writer` wrote to `<path>.bin` and `<path>.ends.npy`; opening reads nothing of them."""

    def __init__(self, path: Path, dtype: DTypeLike = np.uint8) -> None:
        self.values: NDArray = mapped(path.with_name(path.name + ".bin"), dtype)
        self.ends: NDArray[np.int64] = np.load(path.with_name(path.name + ".ends.npy"), mmap_mode="r").view(np.ndarray)
        """Where each sequence ends in `values`; it starts where the one before ends."""

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> NDArray:
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each sequence."""
        return np.diff(self.ends, prepend=0)

    def text(self, index: int) -> str:
        """Return a sequence of UTF-8 bytes as text."""
        return self[index].tobytes().decode()

    def texts(self) -> Iterator[str]:
        """Yield every sequence as text."""
        return map(self.text, range(len(self)))


class Writer:
    """Writes sequences one after another; they are on the disk at the end of its `with`."""

    def __init__(self, path: Path, dtype: DTypeLike = np.uint8) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._ends, self._end = array("q"), 0
        self._file = path.with_name(path.name + ".bin").open("wb", buffering=1 << 20)

    def append(self, values: bytes | NDArray) -> None:
        """Write one sequence, whose values all fit into the type."""
        data = values if isinstance(values, bytes) else values.astype(self._dtype).tobytes()
        self._file.write(data)
        self._end += len(data) // self._dtype.itemsize
        self._ends.append(self._end)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        np.save(self._path.with_name(self._path.name + ".ends.npy"), np.array(self._ends, np.int64))


def mapped(path: Path, dtype: DTypeLike) -> NDArray:
    """Return the values of a file, memory-mapped for reading."""
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # np.memmap's own slicing is slow
