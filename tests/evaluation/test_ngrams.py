"""Runs of words: what is planted is found wherever it is, and nothing else is."""

from random import Random

import pytest

from data.corpus import shards
from evaluation import ngrams
from evaluation.ngrams import Index, Overlap, words

VOCABULARY = ["".join(Random(n).choices("abcdefghijklmnoprstuvwz", k=2 + n % 8)) for n in range(3000)]

BEFORE, AFTER = ["", "“", "(", "**"], [" ", ", ", ")\n", "… ", "\t– "]


def text(random: Random, size: int) -> str:
    return " ".join(random.choices(VOCABULARY, k=size))


def disguised(sentence: str, random: Random) -> str:
    """Return the same words in other case, with other spaces and punctuation."""
    spelt = (random.choice([word.upper(), word.title(), word]) for word in sentence.split())
    return "".join(random.choice(BEFORE) + word + random.choice(AFTER) for word in spelt)


def planted(seed: int) -> tuple[list[list[str]], list[list[str]], dict[int, int]]:
    """Return 50 items, 400 training rows of two turns with all of them inside, and the row of each."""
    random = Random(seed)
    items = [[text(random, random.choice([5, 7, 12, 13, 14, 60]))] for _ in range(50)]
    rows = [[text(random, 80), text(random, 200)] for _ in range(400)]
    places = dict(zip(range(50), random.sample(range(400), 50), strict=True))
    for item, row in places.items():
        turn = random.randrange(2)
        spelt = rows[row][turn].split()
        at = random.randrange(len(spelt) + 1)
        spelt.insert(at, disguised(items[item][0], random))
        rows[row][turn] = " ".join(spelt)
    return items, rows, places


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("piece_chars", [shards.PIECE_CHARS, 100])
def test_all_planted_items_are_found_in_their_rows(
    seed: int, piece_chars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PIECE_CHARS", piece_chars)
    items, rows, places = planted(seed)
    found = Index(items).search(rows)
    assert {one.item: (one.first_rows, one.rows, one.share) for one in found} == {
        item: ([row], 1, 1.0) for item, row in places.items()
    }
    assert all(one.shared == items[one.item][0] for one in found)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_found_where_nothing_was_planted(seed: int) -> None:
    items, _, _ = planted(seed)
    random = Random(seed + 100)
    assert Index(items).search([text(random, 80), text(random, 200)] for _ in range(400)) == []


def by_hand(items: list[list[str]], rows: list[list[str]], n: int) -> dict[int, tuple[list[int], float]]:
    """Return the rows and the share of each item, from every pair of turns, word by word."""
    found = {}
    for number, turns in enumerate(items):
        long = [turn.split() for turn in turns if len(turn.split()) >= ngrams.SHORTEST]
        where, covered = set(), 0
        for turn in long:
            size = min(n, len(turn))
            marks = [False] * len(turn)
            for start in range(len(turn) - size + 1):
                run = turn[start : start + size]
                for row, others in enumerate(rows):
                    for other in map(str.split, others):
                        if any(other[at : at + size] == run for at in range(len(other) - size + 1)):
                            where.add(row)
                            marks[start : start + size] = [True] * size
            covered += sum(marks)
        if where:
            found[number] = (sorted(where), covered / sum(map(len, long)))
    return found


@pytest.mark.parametrize("piece_chars", [shards.PIECE_CHARS, 37, 16])
def test_rows_and_shares_are_those_of_a_search_by_hand(piece_chars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PIECE_CHARS", piece_chars)  # so that runs go on from one piece to the next
    random = Random(7)
    few = ["one", "two", "three"]  # so that runs repeat, in items and in rows
    items = [[" ".join(random.choices(few, k=random.randint(3, 14))) for _ in range(2)] for _ in range(30)]
    items = [item for item in items if any(len(turn.split()) >= ngrams.SHORTEST for turn in item)]
    rows = [[" ".join(random.choices(few, k=random.randint(1, 12))) for _ in range(2)] for _ in range(60)]
    found = Index(items, 8).search(rows)
    expected = by_hand(items, rows, 8)
    assert {one.item: one.rows for one in found} == {item: len(where) for item, (where, _) in expected.items()}
    for one in found:
        assert one.share == pytest.approx(expected[one.item][1])
        assert one.first_rows == expected[one.item][0][: ngrams.FIRST_ROWS]
    assert 5 < len(found) < len(items)


def test_a_run_does_not_go_on_from_one_turn_or_row_to_the_next() -> None:
    index = Index([["a b c d e f"]])
    assert index.search([["a b c", "d e f"], ["a b c"], ["d e f"]]) == []


def test_an_item_of_short_turns_is_found_where_a_whole_turn_says_the_same() -> None:
    index = Index([["Hi there"], ["yes", "a b c d e"]])
    assert [one.item for one in index.search([["say hi there"], ["hi there you"], ["yes"]])] == []
    assert index.search([["no"], ["HI, there!"]]) == [Overlap(0, 1.0, 1, [1], "hi there")]


def test_words_are_cut_alike_in_every_spelling() -> None:
    assert words("Don't  count_this:\n3.5 ÄPFEL") == ["don", "t", "count", "this", "3", "5", "äpfel"]
    assert words("ＦＵＬＬ width ﬁne") == ["full", "width", "fine"]
    assert words("我是 GPT，ok") == ["我", "是", "gpt", "ok"]
    plain = "Every word_of: this, is 1 ASCII-text"
    assert words(plain) == words(plain + " ä")[:-1]


def test_items_without_words_and_no_items_find_nothing() -> None:
    assert Index([[], ["…"]]).search([["a b c d e f"]]) == []
    assert Index([]).search([["a b c d e f"], []]) == []
    assert Index([["a b c d e f"]]).search([]) == []


@pytest.mark.parametrize("before", range(14))
def test_a_run_is_found_wherever_in_a_row_it_begins(before: int) -> None:
    """Only a part of the places is looked at before a row is searched: 13 words have one of them in each position."""
    random = Random(before)
    item = text(random, ngrams.NGRAM)
    row = " ".join(filter(None, (text(random, before), item, text(random, 3))))
    assert [one.item for one in Index([[item], [text(random, 20)]]).search([[row]])] == [0]
