"""Text from data, models and errors as it may be shown: it steers no terminal, forges no line, tells no secret."""

import re
import unicodedata

from utils.secrets import hide

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control codes but for tab and line feed, other ends of lines, what turns the direction of writing around, and bytes
that are no text, which Python keeps as halves of surrogate pairs."""


ENDS = re.compile(r"<\|(endoftext|im_end|eot_id|end_of_text|end)\|>|</s>|<eos>|<end_of_turn>")
"""Tokens with which published models end what they say."""


def says(text: str) -> str:
    """Return what of a text can be seen, without the space around it: "" of zero-width letters and an end's mark alone.

    >>> says(" 4\u200b </s>"), says("\u200b\n<|im_end|>")
    ('4', '')
    """
    seen = ENDS.sub("", text) if "<" in text else text
    if not seen.replace("\n", "").isprintable():  # which is said a hundred times as fast
        seen = "".join(one for one in seen if one.isspace() or unicodedata.category(one)[0] != "C")
    return seen.strip()


def plain(text: str) -> str:
    """Return `text` with a replacement character for each that could steer a terminal."""
    return UNPRINTABLE.sub("\ufffd", text)


def safe(text: str) -> str:
    """Return `text` as it may be shown: plain, and without secrets."""
    return hide(plain(text))


def one_line(text: str) -> str:
    """Return `text` as one line that may be shown."""
    return " ".join(safe(text).split())


def entry(text: str) -> str:
    """Return `text` as an entry of a log: its further lines are indented, so that none passes for another entry."""
    return safe(text).rstrip("\n").replace("\n", "\n    ") + "\n"
