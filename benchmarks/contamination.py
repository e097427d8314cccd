"""How fast training text is searched for held-out items, and that all of those hidden in it are found.

    python benchmarks/contamination.py --megabytes 100 --items 2000 --text FILE

Documents of about 2 kB, whose words follow Zipf's law or are the paragraphs of FILE in random order, are written as
pretraining stores them, and as many held-out items as asked for are drawn alike. 50 of the items stand in documents, in
other case, spacing and punctuation. Each must be found in its document, and of made-up words no other item.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from data.corpus.ragged import Ragged, Writer
from evaluation.ngrams import FIRST_ROWS, Index
from utils.runtime import memory_bytes, peak_memory_bytes, reset_peak_memory

HIDDEN = 50
DOCUMENT_BYTES = 2000


def zipf(random: Random) -> Iterator[str]:
    """Yield documents of words of which the n-th is used about 1/n times as often as the first."""
    vocabulary = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 10))) for _ in range(50_000)]
    cumulative = list(accumulate(1 / n for n in range(1, len(vocabulary) + 1)))
    while True:
        yield " ".join(random.choices(vocabulary, cum_weights=cumulative, k=DOCUMENT_BYTES // 7))


def shuffled(text: Path, random: Random) -> Iterator[str]:
    """Yield documents of sentences of a file in random order."""
    sentences = [line for line in text.read_text(encoding="utf-8").replace(". ", ".\n").split("\n") if line.strip()]
    while True:
        chosen: list[str] = []
        while sum(map(len, chosen)) < DOCUMENT_BYTES:
            chosen.append(random.choice(sentences))
        yield " ".join(chosen)


def disguised(text: str) -> str:
    """Return the same words in capitals, on lines of their own, with commas."""
    return ",\n ".join(word.upper() for word in text.split())


def write(directory: Path, documents: Iterator[str], hidden: list[str], megabytes: float) -> dict[int, int]:
    """Write documents, some with a hidden item in their midst; return the document of each item."""
    count = max(2 * HIDDEN, round(megabytes * 1e6 / DOCUMENT_BYTES))
    places = {item: (item * count) // HIDDEN for item in range(HIDDEN)}
    at = {place: item for item, place in places.items()}
    with Writer(directory / "train") as out:
        for number in range(count):
            text = next(documents)
            if number in at:
                middle = text.find(" ", len(text) // 2)
                text = f"{text[:middle]} {disguised(hidden[at[number]])} {text[middle:]}"
            out.append(text.encode())
    return places


def main(argv: Sequence[str] | None = None) -> None:
    """Write, search, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--items", type=int, default=2000, help="held-out documents (2000)")
    parser.add_argument("--text", type=Path, help="take sentences of this file instead of made-up words")
    args = parser.parse_args(argv)
    random = Random(0)
    documents = shuffled(args.text, random) if args.text else zipf(random)
    items = [next(documents) for _ in range(max(HIDDEN, args.items))]
    with tempfile.TemporaryDirectory() as made:
        places = write(Path(made), documents, items, args.megabytes)
        texts = Ragged(Path(made) / "train")
        started, before = time.perf_counter(), memory_bytes()
        index = Index([[item] for item in items])
        built_s = time.perf_counter() - started
        reset_peak_memory()
        found = index.search([text] for text in texts.texts())
        took_s, size = time.perf_counter() - started - built_s, len(texts.values)
    of = {one.item: one for one in found if one.share == 1}
    lost = [
        item
        for item, place in places.items()
        if item not in of or (of[item].rows <= FIRST_ROWS and place not in of[item].first_rows)
    ]
    others = len({one.item for one in found} - places.keys())
    print(f"{size / 1e6:.1f} MB searched for {len(items):,} items in {took_s:.1f} s ({size / 1e6 / took_s:.1f} MB/s)")
    memory = (peak_memory_bytes() - before) / 2**20
    print(f"the index took {built_s:.1f} s; peak of memory {memory:.0f} MiB above what was there before")
    print(f"{HIDDEN - len(lost)} of {HIDDEN} hidden items found whole; {others:,} other items share a run")
    if lost or (others and not args.text):
        sys.exit("some were lost, or found where they are not")


if __name__ == "__main__":
    main()
