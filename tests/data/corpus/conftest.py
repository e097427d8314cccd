"""A cache of its own for each test, and texts of documents that differ."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's prepared data are kept."""
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes documents to a file, set apart by blank lines."""

    def write(name: str, documents: list[str] | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(documents if isinstance(documents, str) else "\n\n".join(documents), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """One token a byte, with a pad and <|endoftext|>."""
    return make_tokenizer("<|endoftext|>", "<pad>", pad_token="<pad>")


def tales(count: int, start: int = 0) -> list[str]:
    """Return documents of different length, none like another."""
    return [
        f"Tale {n}: " + " ".join(f"word{n * k % 97}" for k in range(1 + n % 23)) for n in range(start, start + count)
    ]
