"""Whether a completion answers a problem: `strict` wants the form that was taught, `flexible` the right answer."""

import re

from recipes.arithmetic.tools import call, called_expression, respond

NUMBER = re.compile(r"\d+")
COUNT = re.compile(r"([a-z]+)\s*[:=]\s*(\d+)")
STRICT = re.compile(r"<think>[^<>]+</think>\nAnswer: ([^\n]+)")


def counts(text: str) -> dict[str, int]:
    """Return the `word: n` pairs of `text`; of a word that occurs twice, the last.

    >>> counts("hello: 2, world: 1")
    {'hello': 2, 'world': 1}
    """
    return {word: int(n) for word, n in COUNT.findall(text)}


def strict(completion: str, skill: str, answer: str) -> bool:
    """Return whether `completion` is a trace and the right answer, or for `calculator` a right call, and nothing else.

    `skill` is `arithmetic`, `counting`, `calculator` (the turn that calls) or `calculator_answer` (the turn that reads
    the tool's response). A count may list the words in any order.
    """
    if skill == "calculator":
        expression = called_expression(completion)
        return expression is not None and completion == call(expression) and _computes(expression, answer)
    if skill == "calculator_answer":
        return completion == f"Answer: {answer}"
    match = STRICT.fullmatch(completion)
    if match is None:
        return False
    if skill == "counting":
        given = match[1].split(", ")
        return sorted(given) == sorted(answer.split(", "))
    return match[1] == answer


def flexible(completion: str, skill: str, answer: str) -> bool:
    """Return whether `completion` ends with the right answer, in whatever form."""
    if skill == "calculator":
        return respond(completion) == answer
    said = completion.rpartition("</think>")[2]
    if skill == "counting":
        return counts(said) == counts(answer)
    numbers = NUMBER.findall(said)
    return bool(numbers) and numbers[-1] == answer


def _computes(expression: str, answer: str) -> bool:
    """Return whether the calculator's value of `expression` is `answer`."""
    return respond(call(expression)) == answer
