"""Problems of the arithmetic world: a question, the trace that solves it, and an answer that can be checked.

Three skills. `arithmetic`: a word problem of one sum within 99, solved digit by digit. `counting`: how often
each word of a phrase occurs, solved by a running count. `calculator`: sums too large for the model's head, for which it
calls a tool. A problem whose key hashes into the held-out eighth is never shown in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

from data.splits import held_out
from recipes.arithmetic.words import COUNTED, NAMES, THINGS

Skill = Literal["arithmetic", "counting", "calculator"]
SKILLS: tuple[Skill, ...] = ("arithmetic", "counting", "calculator")
HELD_OUT_FRACTION = 1 / 8


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem with its solution."""

    skill: Skill
    key: str
    """What is asked, without its wording: `34+57`, `cat cat red`. Commuted sums share a key, reordered words too."""
    question: str
    trace: str
    """The steps to the answer; for `calculator` the expression to compute."""
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether the problem belongs to the held-out side."""
        return held_out(self.key, HELD_OUT_FRACTION)


def sum_key(a: int, operator: str, b: int) -> str:
    """Return the key of `a operator b`; `57+34` and `34+57` share one."""
    low, high = sorted((a, b))
    return f"{low}{operator}{high}" if operator in "+*" else f"{a}{operator}{b}"


def digit_steps(a: int, operator: str, b: int) -> str:
    """Return `a operator b` worked from the units to the tens, for 0 <= a, b, result <= 99.

    >>> digit_steps(34, "+", 57)
    '34+57: 4+7=11, 3+5+1=9, 91'
    >>> digit_steps(81, "-", 57)
    '81-57: 11-7=4, 7-5=2, 24'
    """
    (a_tens, a_units), (b_tens, b_units) = divmod(a, 10), divmod(b, 10)
    if operator == "+":
        units = a_units + b_units
        carry = "+1" if units > 9 else ""
        tens = a_tens + b_tens + (units > 9)
        return f"{a}+{b}: {a_units}+{b_units}={units}, {a_tens}+{b_tens}{carry}={tens}, {a + b}"
    if a_units < b_units:
        a_units, a_tens = a_units + 10, a_tens - 1
    return f"{a}-{b}: {a_units}-{b_units}={a_units - b_units}, {a_tens}-{b_tens}={a_tens - b_tens}, {a - b}"


GAINS = (
    "{name} buys {n} more.",
    "{name} finds {n} more.",
    "{other} gives {name} {n} more.",
    "Then {n} more arrive.",
    "{name} adds {n}.",
)
LOSSES = (
    "{name} sells {n}.",
    "{name} loses {n}.",
    "{name} gives {other} {n}.",
    "Then {n} are taken away.",
    "{n} of them break.",
)
STARTS = (
    "{name} has {n} {thing}.",
    "There are {n} {thing} on the table of {name}.",
    "{name} starts with {n} {thing}.",
    "{name} keeps {n} {thing} in a box.",
)
ASKS = (
    "How many {thing} are there now?",
    "How many {thing} does {name} have now?",
    "How many are left in the end?",
    "What is the number of {thing} now?",
)


def arithmetic(random: Random) -> Problem:
    """Return a word problem of one sum or difference whose numbers all lie within 0 to 99."""
    name, other = random.sample(NAMES, 2)
    thing = random.choice(THINGS)
    start, operator = random.randint(11, 89), random.choice("+-")
    n = random.randint(2, 99 - start if operator == "+" else start)
    sentences = (
        random.choice(STARTS).format(name=name, n=start, thing=thing),
        random.choice(GAINS if operator == "+" else LOSSES).format(name=name, other=other, n=n),
        random.choice(ASKS).format(name=name, thing=thing),
    )
    return Problem(
        skill="arithmetic",
        key=sum_key(start, operator, n),
        question=" ".join(sentences),
        trace=digit_steps(start, operator, n),
        answer=str(start + n if operator == "+" else start - n),
    )


COUNT_ASKS = (
    "Count each word: {phrase}",
    "How often does each word occur? {phrase}",
    "Tell me the number of times each word appears: {phrase}",
    "Give the count of every distinct word in: {phrase}",
)


def phrase(random: Random) -> list[str]:
    """Return 3 to 7 words, 2 to 4 of them distinct, in which no two neighbours occur together a second time.

    So each word's successor is known from the two words before it, and a running count can follow the phrase.
    """
    while True:
        distinct = random.sample(COUNTED, random.randint(2, 4))
        words = distinct + random.choices(distinct, k=random.randint(1, 3))
        random.shuffle(words)
        pairs = list(pairwise(words))
        if len(set(pairs)) == len(pairs) and all(first != second for first, second in pairs):
            return words


def tally(words: Sequence[str]) -> tuple[str, str]:
    """Return the running count of `words`, and the totals in order of first occurrence.

    >>> tally(["hello", "world", "hello"])
    ('hello1 world1 hello2', 'hello: 2, world: 1')
    """
    totals: dict[str, int] = {}
    steps = []
    for word in words:
        totals[word] = totals.get(word, 0) + 1
        steps.append(f"{word}{totals[word]}")
    return " ".join(steps), ", ".join(f"{word}: {n}" for word, n in totals.items())


def counting(random: Random) -> Problem:
    """Return a phrase whose distinct words are to be counted."""
    words = phrase(random)
    trace, answer = tally(words)
    return Problem(
        skill="counting",
        key=" ".join(sorted(words)),
        question=random.choice(COUNT_ASKS).format(phrase=" ".join(words)),
        trace=f"Words: {trace}",
        answer=answer,
    )


CALCULATOR_ASKS = {
    "+": (
        "{name} has {a} {thing} and {other} has {b}. How many do they have together?",
        "What is {a} plus {b}?",
        "A shop with {a} {thing} receives {b} more. How many {thing} is that?",
    ),
    "-": (
        "{name} has {a} {thing} and sells {b}. How many are left?",
        "What is {a} minus {b}?",
        "Of {a} {thing}, {b} are broken. How many are whole?",
    ),
    "*": (
        "{name} has {a} boxes with {b} {thing} each. How many {thing} is that?",
        "What is {a} times {b}?",
        "Each of {a} shops sells {b} {thing}. How many {thing} are sold?",
    ),
    "/": (
        "{name} shares {a} {thing} among {b} friends. How many does each one get?",
        "What is {a} divided by {b}?",
        "{a} {thing} go into {b} boxes of the same size. How many are in each box?",
    ),
}


def calculator(random: Random) -> Problem:
    """Return a sum, difference, product or quotient that is too large for the digit steps of `arithmetic`."""
    operator = random.choice("+-*/")
    if operator in "+-":
        b, a = sorted(random.sample(range(100, 3000), 2))
        result = a + b if operator == "+" else a - b
        a, b = random.choice(((a, b), (b, a))) if operator == "+" else (a, b)
    else:
        a, b = random.randint(12, 400), random.randint(12, 60)
        result = a * b
        if operator == "/":
            a, result = result, a
    name, other = random.sample(NAMES, 2)
    question = random.choice(CALCULATOR_ASKS[operator])
    return Problem(
        skill="calculator",
        key=sum_key(a, operator, b),
        question=question.format(name=name, other=other, thing=random.choice(THINGS), a=a, b=b),
        trace=f"{a}{operator}{b}",
        answer=str(result),
    )


MAKERS = {"arithmetic": arithmetic, "counting": counting, "calculator": calculator}


def problem(random: Random, skill: Skill, *, held_out_side: bool = False) -> Problem:
    """Draw a problem of `skill` from one side of the split, by drawing until one belongs there."""
    while True:
        drawn = MAKERS[skill](random)
        if drawn.held_out == held_out_side:
            return drawn
