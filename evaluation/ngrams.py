"""Runs of words that held-out items share with training text: found by hash, kept only where the words are the same."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from data.corpus.shards import cut

NGRAM = 13
"""Words in a run that two texts hardly share by chance (Brown et al., 2020, "Language models are few-shot learners",
appendix C)."""
SHORTEST = 5
"""Words of a turn from which on it counts whole wherever it stands, where it is shorter than a run."""
FIRST_ROWS = 20
"""Training rows that are named for each item; all are counted."""
BATCH_WORDS = 400_000

ONE_CHARACTER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Scripts that are written without spaces: each character counts as a word."""
WORD = re.compile(rf"[{ONE_CHARACTER}]|[^\W_{ONE_CHARACTER}]+")
SPACES = str.maketrans({character: " " for character in map(chr, range(128)) if not character.isalnum()})
END, UNKNOWN = "", 0
"""What stands around each turn, which no word is; and the number of all words that no item has."""

Turns = Sequence[str]


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded, without punctuation; characters that look alike are one (NFKC).

    >>> words("Don't  count_this:\\n3.5 ÄPFEL")
    ['don', 't', 'count', 'this', '3', '5', 'äpfel']
    """
    if text.isascii():
        return text.lower().translate(SPACES).split()
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class Overlap:
    """What one held-out item shares with a training set."""

    item: int
    share: float
    """Of the item's words, those in runs that the training set has too."""
    rows: int
    """Training rows that have one of these runs."""
    first_rows: list[int]
    shared: str
    """The longest stretch of such words."""


class Index:
    """The runs of words of held-out items, to search training text for; its memory grows with the items alone.

    Of a turn with `n` words or more it has every run of n; of one with `SHORTEST` or more, the whole turn. An item of
    shorter turns alone is found only where a whole training turn has the same words.
    """

    def __init__(self, items: Sequence[Turns], n: int = NGRAM) -> None:
        self.items, self.numbers = len(items), {END: UNKNOWN + 1}
        turns = np.array(list(self._runs(items, n)), np.int64).reshape(-1, 4)
        counts = turns[:, 3]
        self.item, first, self.length = (np.repeat(column, counts) for column in turns[:, :3].T)
        self.start = first + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._longest = int(self.length.max(initial=1))
        random = np.random.default_rng(0)
        self._values = random.integers(0, 2**64, len(self.numbers) + 1, np.uint64)
        base = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2**64
        self._base, self._inverse = base, np.uint64(pow(int(base), -1, 2**64))
        self._powers, self._inverses = (np.ones(1, np.uint64) for _ in range(2))
        self.same = np.empty(len(self.item), np.int64)
        self._by_length = {int(length): self._hashed(int(length)) for length in np.unique(self.length)}
        self._bits = max(16, min(27, (32 * len(self.item)).bit_length()))
        self._filter = np.zeros(2**self._bits, bool)
        for hashes, _ in self._by_length.values():
            self._filter[hashes >> np.uint64(64 - self._bits)] = True

    def _runs(self, items: Sequence[Turns], n: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield of each turn item, start of its first run, length and number of its runs; number the words.

        Starts are places in `words`. The runs of a turn start at one word after the other.
        """
        placed = [self.numbers[END]]
        counted, ends = [False], [0]
        for item, turns in enumerate(items):
            split = [found for turn in turns if (found := words(turn))]
            any_long = any(len(found) >= SHORTEST for found in split)
            for found in split:
                start, size = len(placed), len(found)
                placed += [self.numbers.setdefault(word, len(self.numbers) + 1) for word in found]
                placed.append(self.numbers[END])
                searched = size >= SHORTEST or not any_long
                counted += [*[searched] * size, False]
                if not searched:
                    continue
                if size >= SHORTEST:
                    length = min(size, n)
                    yield item, start, length, size - length + 1
                else:
                    yield item, start - 1, size + 2, 1
            ends.append(len(placed) - 1)  # the next item's words are behind the end that both share
        self.ends = ends
        self.words, self.counted = np.array(placed, np.int64), np.array(counted)

    def _hashed(self, length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the hash of each run of one length that is another than those before it, sorted, and which run it is.

        The others are noted in `same`, as are these: for each run, the first that has its words.
        """
        runs = np.flatnonzero(self.length == length)
        found = self._hashes(self.words, [length])[length][self.start[runs]]
        hashes, first, which = np.unique(found, return_index=True, return_inverse=True)
        self.same[runs] = runs[first][which]
        places = np.arange(length)
        one, other = (self.words[self.start[some][:, None] + places] for some in (runs, self.same[runs]))
        assert np.array_equal(one, other), "two runs of words have one hash of 64 bits"
        return hashes, runs[first]

    def _hashes(self, numbers: NDArray[np.int64], lengths: Iterable[int]) -> dict[int, NDArray[np.uint64]]:
        """Return for each length the hash of every run of words: Σ value(word j) · base^j, modulo 2**64."""
        if len(self._powers) <= len(numbers):
            bases = [np.full(len(numbers) + 1, base) for base in (self._base, self._inverse)]
            self._powers, self._inverses = (np.multiply.accumulate(np.r_[np.uint64(1), base]) for base in bases)
        sums = np.zeros(len(numbers) + 1, np.uint64)
        np.cumsum(self._values[numbers] * self._powers[: len(numbers)], out=sums[1:])
        return {
            length: (sums[length:] - sums[:-length]) * self._inverses[: len(sums) - length]
            for length in lengths
            if length <= len(numbers)
        }

    def search(self, rows: Iterable[Turns]) -> list[Overlap]:
        """Return every item that shares a run of words with one of the training rows, in the items' order."""
        search = _Search(self)
        batch, starts, numbers = [END], list[int](), list[int]()
        for number, turns in enumerate(rows):
            starts.append(len(batch) - 1)  # at the end of the turn before, which is the start of this one
            numbers.append(number)
            for turn in turns:
                for piece in cut(turn):
                    batch += words(piece)
                    if len(batch) >= BATCH_WORDS:
                        search.look(batch, starts, numbers)
                        kept = max(0, len(batch) - self._longest)  # runs that go on behind what has been looked at
                        here = bisect_right(starts, kept) - 1
                        starts, numbers = [max(0, start - kept) for start in starts[here:]], numbers[here:]
                        batch = batch[kept:]
                batch.append(END)
        search.look(batch, starts, numbers)
        return search.overlaps()

    def matches(self, batch: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return places in a batch of words, and for each the first of the items' runs that has the words there."""
        numbers = np.fromiter(map(self.numbers.get, batch, repeat(UNKNOWN)), np.int64, len(batch))
        every = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for length, found in self._hashes(numbers, self._by_length).items():
            places = np.flatnonzero(self._filter[found >> np.uint64(64 - self._bits)])
            hashes, runs = self._by_length[length]
            near = np.minimum(np.searchsorted(hashes, found[places]), len(hashes) - 1)
            same = hashes[near] == found[places]
            places, runs = places[same], runs[near[same]]
            for offset in range(length):  # the words themselves: no collision of hashes is reported
                same = numbers[places + offset] == self.words[self.start[runs] + offset]
                places, runs = places[same], runs[same]
            every.append((places, runs))
        return np.concatenate([places for places, _ in every]), np.concatenate([runs for _, runs in every])


class _Search:
    """What has been found so far of one training set."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.order = np.argsort(index.same, kind="stable")
        """The runs, those of the same words together; `bounds` of a run and of the next are where its own lie."""
        self.bounds = np.searchsorted(index.same[self.order], np.arange(len(index.same) + 1))
        self.there = np.zeros(len(index.same), bool)
        self.rows = np.zeros(index.items, np.int64)
        self.last = np.full(index.items, -1)
        self.first: list[list[int]] = [[] for _ in range(index.items)]

    def look(self, batch: Sequence[str], starts: Sequence[int], numbers: Sequence[int]) -> None:
        """Look at a batch of words, in which the training rows of these numbers begin at these places."""
        places, runs = self.index.matches(batch)
        if not len(places):
            return
        self.there[runs] = True
        runs, rows = _pairs(runs, np.searchsorted(starts, places, "right") - 1, len(starts))
        sizes = self.bounds[runs + 1] - self.bounds[runs]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        items = self.index.item[self.order[np.repeat(self.bounds[runs], sizes) + within]]
        items, rows = _pairs(items, np.repeat(rows, sizes), len(starts))
        self._count(items, np.asarray(numbers)[rows])

    def _count(self, items: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Count for each item a row that has a run of it, unless that row's words before have been counted."""
        new = self.last[items] != rows
        items, rows = items[new], rows[new]
        rank = np.arange(len(items)) - np.searchsorted(items, items)
        for place in np.flatnonzero(self.rows[items] + rank < FIRST_ROWS).tolist():
            self.first[items[place]].append(int(rows[place]))
        self.rows += np.bincount(items, minlength=len(self.rows))
        np.maximum.at(self.last, items, rows)

    def overlaps(self) -> list[Overlap]:
        """Return what each item that was found shares."""
        index, there = self.index, self.there[self.index.same]
        steps = np.zeros(len(index.words) + 1, np.int64)
        np.add.at(steps, index.start[there], 1)
        np.add.at(steps, (index.start + index.length)[there], -1)
        covered = (np.cumsum(steps)[:-1] > 0) & index.counted
        spelt = list(index.numbers)
        found = []
        for item in np.flatnonzero(self.rows).tolist():
            begin, end = index.ends[item : item + 2]
            mine = covered[begin:end]
            start, stop = _longest(mine)
            text = " ".join(spelt[number - 1] for number in index.words[begin + start : begin + stop].tolist())
            share = float(mine.sum() / index.counted[begin:end].sum())
            found.append(Overlap(item, share, int(self.rows[item]), self.first[item], text))
        return found


def _longest(covered: NDArray[np.bool_]) -> tuple[int, int]:
    """Return where the longest stretch of True starts and stops."""
    edges = np.flatnonzero(np.diff(np.r_[False, covered, False].astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])


def _pairs(one: NDArray[np.int64], other: NDArray[np.int64], below: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each pair once, sorted; the second numbers are smaller than `below`."""
    pairs = np.unique(one * below + other)
    return pairs // below, pairs % below
