"""enwik8, the first 10^8 bytes of a Wikipedia dump: downloaded once, verified, split 90/5/5 MB by position.

Mahoney, Large Text Compression Benchmark, mattmahoney.net/dc/textdata.html, which also gives size and SHA-1.
"""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from data.corpus.cache import made_once, root
from data.corpus.meter import metered
from utils.errors import Refused

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
PAGE = re.compile(rb"(?=^  <page>)", re.MULTILINE)


@dataclass(frozen=True)
class Published:
    """One file in a zip archive at an address, and what is known of it."""

    url: str
    size_bytes: int
    sha1: str


ENWIK8 = Published("http://mattmahoney.net/dc/enwik8.zip", 100_000_000, "57b8363b814821dc9d47aa4d41f58733519076b2")


def documents(published: Published | None = None) -> Mapping[str, Iterator[str]]:
    """Return the pages by split, after downloading what is not there; joined, a split's pages are its bytes.

    The first 90 % of the bytes are for training, then 5 % each for validation and test. A cut inside a character moves
    behind it, by at most 3 bytes.

    Raises:
        Refused: the download fails, or is not the published file.
    """
    data = file(published or ENWIK8).read_bytes()
    cuts = [0, *(_whole(data, len(data) * share // 100) for share in (90, 95)), len(data)]
    names = ("train", "validation", "test")
    return {name: _pages(data[start:end]) for name, (start, end) in zip(names, pairwise(cuts), strict=True)}


def is_here() -> bool:
    """Tell whether the file can be had without a download."""
    return _directory(ENWIK8).exists() or _by_hand(ENWIK8).exists()


def _directory(published: Published) -> Path:
    return root() / "downloads" / f"{Path(published.url).stem}-{published.sha1[:12]}"


def _by_hand(published: Published) -> Path:
    return root() / "downloads" / Path(published.url).name


def file(published: Published) -> Path:
    """Return the verified file in the cache; an archive of the same name beside it is taken instead of the download."""
    name, directory = Path(published.url).stem, _directory(published)
    made_once(directory, name, lambda partial: _fetch(published, partial / name))
    return directory / name


def _fetch(published: Published, target: Path) -> dict[str, Any]:
    by_hand = _by_hand(published)
    advice = f"Put the archive there by hand as {by_hand}, or choose other data."
    archive = by_hand if by_hand.exists() else _download(published.url, target.with_suffix(".zip"), advice)
    try:
        with zipfile.ZipFile(archive) as packed, packed.open(target.stem) as content, target.open("wb") as out:
            shutil.copyfileobj(content, out, CHUNK_BYTES)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise Refused(f"{published.url} is not the archive of {target.stem} ({error}). {advice}") from None
    if archive != by_hand:
        archive.unlink()
    with target.open("rb") as content:
        found = (target.stat().st_size, hashlib.file_digest(content, "sha1").hexdigest())
    if found != (published.size_bytes, published.sha1):
        raise Refused(
            f"{target.stem} has {found[0]:,} bytes and SHA-1 {found[1]}, where {published.size_bytes:,} and "
            f"{published.sha1} are published: the archive is not the published one. {advice}"
        )
    return {"url": published.url, "sha1": published.sha1}


def _download(url: str, archive: Path, advice: str) -> Path:
    with archive.open("wb") as out:
        for chunk in _chunks(url, advice):
            out.write(chunk)
    return archive


def _chunks(url: str, advice: str) -> Iterator[bytes]:
    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:
            total_bytes = int(answer.headers.get("Content-Length") or 0)
            done = 0
            with metered(f"download {url}", total_bytes) as read:
                while chunk := answer.read(CHUNK_BYTES):
                    done += len(chunk)
                    read(len(chunk))
                    yield chunk
        if done < total_bytes:
            raise OSError(f"it ended after {done:,} of {total_bytes:,} bytes")
    except (OSError, HTTPException) as error:
        raise Refused(f"{url} cannot be downloaded: {error}. {advice}") from None


def _whole(data: bytes, cut: int) -> int:
    while cut < len(data) and data[cut] & 0xC0 == 0x80:  # within a character
        cut += 1
    return cut


def _pages(data: bytes) -> Iterator[str]:
    return (page.decode() for page in PAGE.split(data) if page)
