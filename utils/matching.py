"""When a text is, or has, the right answer: one reading of Unicode and of numbers for rewards and for evaluation."""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,40})"
NUMBER = re.compile(
    rf"(?:(?<![\w)])-)?(?:{_DIGITS}(?:\.\d{{1,40}})?|(?<![.\w])\.\d{{1,40}})(?:[eE][+-]?\d{{1,3}})?(?:/[1-9]\d{{0,40}})?"
)
"""A number, of which a minus is a part where no word or bracket stands before it: `3-5` has none that is negative. What
a model writes has no end: longer ones are several."""
NUMBERS = re.compile(rf"[(\[{{]?\s*(?:{NUMBER.pattern})(?:\s*[,;]\s*(?:{NUMBER.pattern}))+\s*[)\]}}]?")
DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which part no words by spaces, and of Korean, which joins
particles to them."""
WORKED_OUT = re.compile(r"(?:^|\n)####[ \t]*([^\s#][^\n]*)\s*\Z")
"""How the last line of GSM8K's worked answers begins."""
GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'\u2019_](?=\d{3}(?!\d))")
"""What parts the thousands of a number in other countries and in code; a comma does in `NUMBER`."""
SPACED = re.compile(r"-?\d{1,3}( \d{3})+")
POWER = re.compile("(\\d{1,40})([\u00b2\u00b3\u00b9\u2070\u2074-\u2079]{1,2})")
HALVES = re.compile("[\u00bc-\u00be\u2150-\u215e]")


def right_answers(value: Any) -> list[str]:
    """Return the answers that are right, as texts: of a list any one, of a worked answer what it comes to.

    >>> right_answers("40 + 32 = 72\\n#### 72"), right_answers([0.5, "a half"]), right_answers(None)
    (['72'], ['0.5', 'a half'], [])
    """
    values = value if isinstance(value, list | tuple) else [value]
    texts = (_written(one).strip() for one in values if one is not None and one == one)  # NaN is not itself
    return [worked[1].strip() if (worked := WORKED_OUT.search(text)) else text for text in texts if text]


def strict_match(said: str, answer: Any) -> bool:
    """Return whether a text is a right answer and nothing else: the same text, or a number of the same value.

    >>> strict_match(" 1\\n", 1.0), strict_match("Cafe\\u0301", "Caf\\u00e9"), strict_match("It is 1", "1")
    (True, True, False)
    """
    text = _plain(said)
    return any(text == _plain(one) or _same_number(text, _plain(one)) for one in right_answers(answer))


def flexible_match(said: str, answer: Any) -> bool:
    """Return whether a text has a right answer in any form.

    Of an answer that is a number, the last number of the text is compared by value, and of some numbers the last ones;
    another must stand in the text as whole words, without regard to case, punctuation and space.

    >>> flexible_match("That makes 1,234.0 in all.", "1234"), flexible_match("It is PARIS!", "Paris")
    (True, True)
    """
    return any(_has(_plain(said), _plain(one)) for one in right_answers(answer))


def _written(value: Any) -> str:
    """Return an answer as text; a float in digits, as a column of halves and whole numbers has them."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _plain(text: str) -> str:
    """Return a text with composed letters, dashes, digits and fractions of keyboards, and powers worked out."""
    text = HALVES.sub(lambda found: " " + unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/"), text)
    text = POWER.sub(lambda found: str(int(found[1]) ** int(unicodedata.normalize("NFKC", found[2]))), text)
    text = unicodedata.normalize("NFC", text).translate(FULL_WIDTH).translate(DASHES).strip()
    return text.replace(" ", "") if SPACED.fullmatch(text) else GROUPED.sub("", text)


def _has(said: str, answer: str) -> bool:
    if NUMBER.fullmatch(answer) or NUMBERS.fullmatch(answer):
        wanted, found = list(_values(answer)), list(_values(said))
        return found[-len(wanted) :] == wanted
    words = _words(answer)
    if WITHOUT_SPACES.search(words):
        joined = words.replace(" ", "")
        before = "(?<![0-9a-z])" if joined[0].isascii() else ""  # 2 is no part of 12
        after = "(?![0-9a-z])" if joined[-1].isascii() else ""
        return bool(re.search(before + re.escape(joined) + after, _words(said).replace(" ", "")))
    return bool(words) and f" {words} " in f" {_words(said)} "


def _same_number(one: str, other: str) -> bool:
    return bool(NUMBER.fullmatch(one) and NUMBER.fullmatch(other)) and list(_values(one)) == list(_values(other))


def _values(text: str) -> Iterator[Fraction]:
    text = re.sub(r"\{,\}|\\[,!]", "", text)
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r" \1/\2", text)
    text = re.sub(r"\b(\d{1,9})\s+(\d{1,9})/([1-9]\d{0,8})\b", _improper, text)
    for found in NUMBER.findall(text):
        number, _, below = found.replace(",", "").partition("/")
        yield Fraction(number) / int(below or 1)


def _improper(mixed: "re.Match[str]") -> str:
    """Return 1 1/2 as 3/2."""
    whole, above, below = (int(part) for part in mixed.groups())
    return f"{whole * below + above}/{below}"


def _words(text: str) -> str:
    """Return the words of a text: letters with their marks, digits, and what is a part of names such as C++ and C#."""
    kept: list[str] = []
    for character in unicodedata.normalize("NFC", text.casefold()):
        category = unicodedata.category(character)
        named = character in "+#" and kept and (kept[-1] in "+#" or kept[-1].isalpha())
        if category[0] in "LMN" or named:
            kept.append(character)
        elif category != "Cf":  # which is neither seen nor a space
            kept.append(" ")
    return " ".join("".join(kept).split())
