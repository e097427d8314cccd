"""Names of sources, and mixtures of them."""

from pathlib import Path

import pytest

from data.corpus.mixture import parse
from utils.errors import Refused


@pytest.mark.parametrize("name", ["enwik8", "owner/name", "made:documents", "notes/a.txt"])
def test_a_name_alone_is_one_part(name: str) -> None:
    assert parse(name) == [(name, 1.0)]


def test_a_mixture_has_its_parts_and_shares() -> None:
    assert parse("tinystories:0.7, path/to/notes:0.3") == [("tinystories", 0.7), ("path/to/notes", 0.3)]
    assert parse("made:documents:0.5,notes:0.5") == [("made:documents", 0.5), ("notes", 0.5)]
    assert [weight for _, weight in parse("a:0.33,b:0.33,c:0.33")] == pytest.approx([1 / 3] * 3)


def test_a_path_with_a_comma_is_one_part(tmp_path: Path) -> None:
    path = tmp_path / "tea, cakes:2"
    path.mkdir()
    assert parse(str(path)) == [(str(path), 1.0)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no name"),
        ("a:0.7,b", "'b' .*is not a name and its weight"),
        ("a:0.7,b:much", "'b:much'"),
        ("a:0.7,:0.3", "':0.3'"),
        ("a:0.7,,b:0.3", "''"),
        ("a:1.5,b:-0.5", "weight -0.5"),
        ("a:1,b:0", "weight 0"),
        ("a:nan,b:1", "weight nan"),
        ("a:0.5,a:0.5", "names a twice"),
        ("a:2,b:1", "sum to 3.*write a:0.6667,b:0.3333"),
    ],
)
def test_a_malformed_mixture_is_refused(source: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        parse(source)
