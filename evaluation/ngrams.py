"""Runs of words that held-out items share with training text."""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from data.corpus.shards import cut

NGRAM = 13
"""Words in a run that two texts hardly share by chance (Brown et al., 2020, "Language models are few-shot learners",
appendix C)."""
SHORTEST = 5
"""Words of a turn from which on it counts whole wherever it stands, where it is shorter than a run."""
FIRST_ROWS = 20
"""Training rows that are named for each item; all are counted."""

ONE_CHARACTER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Scripts that are written without spaces: each character counts as a word."""
WORD = re.compile(rf"[{ONE_CHARACTER}]|[^\W_{ONE_CHARACTER}]+")
SPACES = str.maketrans({character: " " for character in map(chr, range(128)) if not character.isalnum()})

Turns = Sequence[str]
Run = tuple[str, ...]


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded, without punctuation; characters that look alike are one (NFKC).

    >>> words("Don't  count_this:\\n3.5 ÄPFEL")
    ['don', 't', 'count', 'this', '3', '5', 'äpfel']
    """
    if text.isascii():
        return text.lower().translate(SPACES).split()
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def runs(found: Sequence[str], size: int) -> Iterator[Run]:
    """Return every run of `size` words, in order."""
    return zip(*(islice(found, start, None) for start in range(size)), strict=False)


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
        self.items, self.n = items, n
        self._items_of: dict[Run, list[int]] = {}
        self._by_start: dict[Run, set[Run]] = {}
        """Whole turns shorter than a run, by their first SHORTEST words."""
        self._anchors: set[Run] = set()
        """All that a run of n has of SHORTEST words: one of them stands in it at a multiple of `_stride`."""
        self._stride = n - SHORTEST + 1
        for item, turns in enumerate(items):
            for turn in self._searched(turns):
                for run in self._runs_of(turn):
                    holders = self._items_of.setdefault(tuple(map(sys.intern, run)), [])
                    if holders[-1:] != [item]:
                        holders.append(item)
                if len(turn) >= n:
                    self._anchors.update(runs(turn, SHORTEST))
                elif turn[0]:
                    self._by_start.setdefault(tuple(turn[:SHORTEST]), set()).add(tuple(turn))

    def _searched(self, turns: Turns) -> list[list[str]]:
        """Return the words of those turns of an item that are searched for: the short ones only if there are no other.

        A turn of fewer than SHORTEST words stands between two empty words, as a whole training turn of its words does.
        """
        found = [found for turn in turns if (found := words(turn))]
        return [turn for turn in found if len(turn) >= SHORTEST] or [["", *turn, ""] for turn in found]

    def _runs_of(self, turn: Sequence[str]) -> Iterator[Run]:
        whole = turn[0] == "" or len(turn) < self.n
        return iter([tuple(turn)]) if whole else runs(turn, self.n)

    def search(self, rows: Iterable[Turns]) -> list[Overlap]:
        """Return every item that shares a run of words with one of the training rows, in the items' order."""
        shared: set[Run] = set()
        counts: dict[int, int] = {}
        first: dict[int, list[int]] = {}
        for number, turns in enumerate(rows):
            here = {run for turn in turns for run in self._found_in(turn)}
            shared |= here
            for item in {item for run in here for item in self._items_of[run]}:
                counts[item] = counts.get(item, 0) + 1
                if counts[item] <= FIRST_ROWS:
                    first.setdefault(item, []).append(number)
        return [self._overlap(item, shared, counts[item], first[item]) for item in sorted(counts)]

    def _found_in(self, turn: str) -> Iterator[Run]:
        """Yield the items' runs that a training turn has; a long one goes by in pieces."""
        before: list[str] = []
        pieces = cut(turn)
        for piece in pieces:
            found = before + words(piece)
            anchors = zip(*(found[start :: self._stride] for start in range(SHORTEST)), strict=False)
            if not self._anchors.isdisjoint(anchors):
                yield from self._items_of.keys() & runs(found, self.n)
            if self._by_start and self._by_start.keys() & runs(found, SHORTEST):
                for place, start in enumerate(runs(found, SHORTEST)):
                    for whole in self._by_start.get(start, ()):
                        if tuple(found[place : place + len(whole)]) == whole:
                            yield whole
            before = found[-self.n + 1 :]
        if len(pieces) == 1 and (short := ("", *found, "")) in self._items_of:
            yield short

    def _overlap(self, item: int, shared: set[Run], rows: int, first: list[int]) -> Overlap:
        stretches: list[list[str]] = [[]]
        count = 0
        for turn in self._searched(self.items[item]):
            size = min(len(turn), self.n) if turn[0] else len(turn)
            marks = [False] * len(turn)
            for start, run in enumerate(self._runs_of(turn)):
                if run in shared:
                    marks[start : start + size] = [True] * size
            for word, mark in zip(turn, marks, strict=True):
                if word and mark:
                    stretches[-1].append(word)
                elif stretches[-1]:
                    stretches.append([])
            stretches.append([])
            count += len(turn) - turn.count("")
        covered = sum(map(len, stretches))
        longest: list[str] = max(stretches, key=len)
        return Overlap(item, covered / count, rows, first, " ".join(longest))
