"""The benchmark finds what it hides, and says so where it does not."""

from pathlib import Path

import pytest

from benchmarks import contamination


def test_all_that_is_hidden_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    contamination.main(["--megabytes", "0.5", "--items", "60"])
    said = capsys.readouterr().out
    assert "50 of 50 hidden items found whole; 0 other items share a run" in said
    assert "MB searched for 60 items" in said


def test_sentences_of_a_file_take_the_place_of_made_up_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"This is line {number} of a text, number {number * 7} in it." for number in range(400)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    contamination.main(["--megabytes", "0.3", "--text", str(tmp_path / "text.txt"), "--items", "50"])
    assert "50 of 50" in capsys.readouterr().out


def test_an_item_that_is_lost_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "disguised", lambda text: text[: len(text) // 2])
    with pytest.raises(SystemExit, match="some were lost"):
        contamination.main(["--megabytes", "0.3", "--items", "50"])
