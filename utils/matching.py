"""When a text is, or has, the right answer: one reading of Unicode and of numbers for rewards and for evaluation."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

from utils.errors import Refused
from utils.values import shown

_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,40})"
NUMBER = re.compile(
    rf"(?:(?<![\w)])-)?(?:{_DIGITS}(?:\.\d{{1,40}})?|(?<![.\w])\.\d{{1,40}})(?:[eE][+-]?\d{{1,3}})?(?:/[1-9]\d{{0,40}})?"
)
"""A number, of which a minus is a part where no word or bracket stands before it: `3-5` has none that is negative. What
a model writes has no end: longer ones are several."""
NUMBERS = re.compile(rf"(?:{NUMBER.pattern})(?:\s*[,;]\s*(?:{NUMBER.pattern}))*")
AROUND = " $€£¥₹₩₽฿%°\\()[]{}"
"""What may stand around an answer that is a number, numbers or a letter."""
SIGNS = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-") | str.maketrans("⁄∕×⋅·٪٫٬", "//***%.,")
"""Dashes, signs of fractions and of products, and those of Arabic numbers, as keyboards have them."""
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which part no words by spaces, and of Korean, which joins
particles to them."""
WORKED_OUT = re.compile(r"(?:^|\n)####[ \t]*([^\s#][^\n]*)\s*\Z")
"""How the last line of GSM8K's worked answers begins."""
GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'\u2019_](?=\d{3}(?!\d))|(?<=\d)\{,\}|\\[,!]")
"""What parts the thousands of a number in other countries, in code and in LaTeX; a comma does in `NUMBER`."""
SPACED = re.compile(r"(?<![\w.,/])\d{1,3}(?: \d{3})+(?!\d)")
"""What is read as one number, and may be several: neither reading has the last group as the number that is said."""
RAISED = re.compile("[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]{1,9}")
SQUARE = re.compile(r"(?<![A-Za-z])([A-Za-z]{1,2})([23])(?!\w)")
"""m2 and the like, of which 2 is no number."""
SCIENTIFIC = re.compile(r"(?<=\d)\s*(?:\*|\\times|x)\s*10\^\{?([+-]?\d{1,2})\}?(?!\d)")
POWER = re.compile(r"(?<![\w.,])(\d{1,40})(?:\^|\*\*)(?:\{(-?\d{1,2})\}|(-?\d{1,2}))(?![\d.])")
UNSAID = re.compile(
    r"[\d.,]{0,40}\^(?!\{?(?:th|st|nd|rd))\{?-?\w{0,40}\}?|(?<!\d)\d{1,2}:\d\d(?!\d)|"
    r"[\d.,]{0,40} ?[√π][({]?[\d.,]{0,40}[)}]?(?:/\d{1,40})?"
)
"""What has no number that is said: exponents and roots that are not worked out, with what they stand by, and times."""
DECIMAL_COMMA = re.compile(r"(?<![\w.,])\d{1,40},(?!\d{3}(?!\d))\d{1,40}(?![\d,])")
"""One number or two, of which a single answer is neither."""
HALVES = re.compile("[\u00bc-\u00be\u2150-\u215e]")
FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?[\\\w.]+)\s*\}|(\w))\s*(?:\{\s*([\\\w.]+)\s*\}|(\w))")
LATEX = re.compile(
    r" ?\\(?:times|cdot)(?![A-Za-z]) ?|\\(?:infty|leq?|geq?|neq?|sqrt|pm|pi|text|mathrm|boxed|left|right)(?![A-Za-z])|"
    r"\\(?=[%$])|[<>!=]="
)
WRITTEN = {
    "\\times": "*", "\\cdot": "*", "\\infty": "∞", "\\le": "≤", "\\leq": "≤", "<=": "≤", "\\ge": "≥", "\\geq": "≥",
    ">=": "≥", "\\ne": "≠", "\\neq": "≠", "!=": "≠", "==": "=", "\\sqrt": "√", "\\pm": "±", "\\pi": "π",
}  # fmt: skip
"""What `LATEX` finds as one sign; the rest of it says nothing."""
_OPERAND = r"(?=-?(?:[\d.({\[\\∞√]|[a-zα-ω](?![^\W\d_])))"
OPERATOR = re.compile(
    rf"\^{_OPERAND}|(?<=\d):(?=\d)|(?<=\d),(?=\d)(?!\d{{3}}(?!\d))|(?<!\d[eE])"
    rf"(?:(?<=[\d)\]}}!])|(?<=(?<![^\W\d_])[a-zα-ω]))( ?)(?:[-+*=<>]|(?<!\d)/|/(?!\d))\1{_OPERAND}|"
    r"(?<=(?<![^\W\d_])[a-z]{2})( ?)[+*=<>]\2(?=[\da-z(\\])|(?<=[\da-z)])( ?)[+*=<>]\3(?=[a-z]{2}(?![^\W\d_]))"
)
"""A sign between numbers, brackets and letters that stand alone; in `state-of-the-art` and `**bold**` there is none."""
SIGN = re.compile(rf"(?<![\w)\]}}])-{_OPERAND}")
KEPT = 0xE000  # private use: where the signs stand that are part of what is said
JOINS = frozenset(chr(KEPT + ord(sign)) for sign in "^:,-+*/~") | {"√", "±"}
"""Signs next to which a text is no answer but part of another one: `x^2` in `x^2+1`."""
CHOICE = re.compile(r"(?<![\w'+#^])(?<!\w-)([A-Za-z])(?![\w+#'^]|-\w)")
NO_CHOICE = re.compile(
    r"[Ia] (?=[^\W\d_])|(?<![a-z,] )A (?!(?:is|was|and|or|because|since|as|would|seems)\b)(?=[^\W\d_])"
)
"""The article, and the pronoun."""
AS_ANSWER = re.compile(r"(?i)\banswer(?: is|\s*[:=])[^\w]{0,9}\Z")


def right_answers(value: Any) -> list[str]:
    """Return the answers that are right, as texts: of a list any one, of a worked answer what it comes to.

    A list may be written as JSON; an object has them as TriviaQA's (`value` and `aliases`) or SQuAD's (`text`) does.

    >>> right_answers("40 + 32 = 72\\n#### 72"), right_answers([0.5, "a half"]), right_answers(None)
    (['72'], ['0.5', 'a half'], [])
    >>> right_answers('["a", "b"]'), right_answers({"value": "a", "aliases": ["a", "b"]})
    (['a', 'b'], ['a', 'b'])

    Raises:
        Refused: it is something else.
    """
    texts = (_written(one).strip() for one in listed(value) if one is not None and one == one)  # NaN is not itself
    found = (worked[1].strip() if (worked := WORKED_OUT.search(text)) else text for text in texts if text)
    return list(dict.fromkeys(found))


def listed(value: Any) -> list[Any]:
    """Return the values that are right answers, as they are given.

    Raises:
        Refused: they are no texts and numbers.
    """
    values = value
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = None
        values = read if read and isinstance(read, list) and all(isinstance(one, str) for one in read) else value
    elif isinstance(value, Mapping):
        several = value.get("aliases") if "value" in value else value.get("text", value)
        values = [value["value"], *(several or ())] if "value" in value else several
    values = list(values) if isinstance(values, list | tuple) else [values]
    if any(isinstance(one, Mapping | list | tuple) for one in values):
        raise Refused(
            "answer must be text or a number, a list of them, or an object with value and aliases; given: "
            + shown(value)
        )
    return values


def strict_match(said: str, answer: Any) -> bool:
    """Return whether a text is a right answer and nothing else: the same text, or a number of the same value.

    >>> strict_match(" 1\\n", 1.0), strict_match("Cafe\\u0301", "Caf\\u00e9"), strict_match("It is 1", "1")
    (True, True, False)
    """
    text = _plain(said)
    return any(text == _plain(one) or _same_number(text, _plain(one)) for one in right_answers(answer))


def flexible_match(said: str, answer: Any) -> bool:
    """Return whether a text has a right answer in any form.

    Of an answer that is a number, the last number of the text is compared by value, and of some numbers the last ones.
    Of one that is a letter, the last letter that stands alone is, or the last that is called the answer, in its case;
    the article is none. Another must stand in the text as whole words, numbers by value and signs of formulas,
    without regard to case, other punctuation and space, and not as a part of a formula or of a number. What denies
    an answer (`not yes`) is not understood.

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
    """Return a text with composed letters, dashes, digits, fractions and signs of keyboards, and powers worked out."""
    text = HALVES.sub(lambda found: " " + unicodedata.normalize("NFKC", found[0]), text)
    text = RAISED.sub(lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text)
    text = unicodedata.normalize("NFC", text).translate(FULL_WIDTH).translate(SIGNS).strip()
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")  # cannot be seen
    text = FRACTION.sub(
        lambda found: f"{found[1] or found[2]}/{found[3] or found[4]}", re.sub(r"(?<=\d)(?=\\[dtc]?frac)", " ", text)
    )
    text = LATEX.sub(lambda found: WRITTEN.get(found[0].strip(), ""), SCIENTIFIC.sub(r"e\1", GROUPED.sub("", text)))
    text = re.sub(r"(?<=\d)\s*/\s*(?=\d)", "/", re.sub(r"(?<=\d)\s+%", "%", text))
    text = re.sub(r"-\s?([$€£¥₹₩₽฿])\s?(?=[\d.])", r"\1-", SQUARE.sub(r"\1^\2", text))
    text = SPACED.sub(lambda found: found[0].replace(" ", ""), POWER.sub(_raised, text))
    return re.sub(r"\b(\d{1,9})\s+(\d{1,9})/([1-9]\d{0,8})\b", _improper, text)


def _has(said: str, answer: str) -> bool:
    bare = answer.strip(AROUND).rstrip(".:")
    if NUMBERS.fullmatch(bare):
        wanted = list(_values(bare))
        found = list(_values(DECIMAL_COMMA.sub(" ", said) if len(wanted) == 1 else said))
        return found[-len(wanted) :] == wanted
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return _letter(said, bare.isupper()) == bare
    words, among = _words(answer), _words(said)
    if WITHOUT_SPACES.search(joined := "".join(words)):
        before = "(?<![0-9a-z\ue000-\ue0ff])" if joined[0].isascii() else ""  # 2 is no part of 12
        after = "(?![0-9a-z])" if joined[-1].isascii() else ""
        return bool(re.search(before + re.escape(joined) + after, "".join(among)))
    if not words:
        return answer in said and not answer.isascii()
    ends = [(start, start + len(words)) for start in range(len(among)) if among[start : start + len(words)] == words]
    return any(JOINS.isdisjoint(among[max(0, start - 1) : start] + among[end : end + 1]) for start, end in ends)


def _letter(said: str, is_upper: bool) -> str | None:
    """Return the letter that a text chooses, of capitals or of small ones."""
    letters = [one for one in CHOICE.finditer(said) if one[1].isupper() == is_upper]
    letters = [one for one in letters if not NO_CHOICE.match(said, one.start())]
    called_so = [one for one in letters if AS_ANSWER.search(said[max(0, one.start() - 30) : one.start()])]
    return (called_so or letters)[-1][1] if letters else None


def _same_number(one: str, other: str) -> bool:
    return bool(NUMBER.fullmatch(one) and NUMBER.fullmatch(other)) and list(_values(one)) == list(_values(other))


def _values(text: str) -> Iterator[Fraction]:
    return map(_value, NUMBER.findall(UNSAID.sub(" ", text)))


def _value(number: str) -> Fraction:
    above, _, below = number.replace(",", "").partition("/")
    return Fraction(above) / int(below or 1)


def _raised(power: "re.Match[str]") -> str:
    """Return 10^3 as 1000, and 10^-3 as 1/1000."""
    exponent = int(power[2] or power[3])
    return "1/" * (exponent < 0) + str(int(power[1]) ** abs(exponent))


def _improper(mixed: "re.Match[str]") -> str:
    """Return 1 1/2 as 3/2."""
    whole, above, below = (int(part) for part in mixed.groups())
    return f"{whole * below + above}/{below}"


def _words(text: str) -> list[str]:
    """Return the words of a text: letters with their marks, digits, and what is a part of names such as C++ and C#.

    Numbers are words by their value, and so are the signs of formulas.
    """
    text = re.sub(r"(?<=\d)(?=[nxyz](?![^\W_])| ?[√π])", "*", text)  # 2x
    text = re.sub(r"(\d ?[^\W\d_]{1,3})/(?=[^\W\d_])", rf"\1 {chr(KEPT + ord('/'))} ", text)  # 5 km/h
    text = OPERATOR.sub(lambda found: f" {chr(KEPT + ord(found[0].strip()))} ", text)
    text = SIGN.sub(f" {chr(KEPT + ord('~'))} ", text)
    text = re.sub(
        rf"(?<![A-Za-z\d])(?:{NUMBER.pattern})", lambda found: f" {_value(found[0])} ".replace("/", "o"), text
    )
    kept: list[str] = []
    text = unicodedata.normalize("NFC", text.casefold()) + " "
    for character, then in pairwise(text):
        category = unicodedata.category(character)
        named = character in "+#" and kept and (kept[-1] in "+#" or kept[-1].isalpha()) and not then.isalnum()
        if category[0] in "LMN" or named or category == "Co":
            kept.append(character)
        else:
            kept.append(f" {character} " if category == "Sm" and not character.isascii() else " ")
    return "".join(kept).split()
