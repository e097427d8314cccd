"""What a user states of memory and time."""

import pytest

from utils.limits import hours, size_bytes_of


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("6GiB", 6 * 2**30), ("6 gb", 6 * 10**9), ("5.5GiB", 11 * 2**29), ("5500MiB", 5500 * 2**20), (2**30, 2**30)],
)
def test_a_size_is_read_with_its_unit(text: str | int, size_bytes: int) -> None:
    assert size_bytes_of(text) == size_bytes


@pytest.mark.parametrize("text", ["", "six", "6", "-6GiB", "6GiX", "GiB", "0GiB", "1e3GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 6GiB"):
        size_bytes_of(text)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "eight", ""])
def test_what_is_no_number_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hours above 0"):
        hours(text)
    assert hours("0.5") == 0.5
