"""Pretraining text of the arithmetic world: prose, the skills written down, and talk in the chat's tags.

The skills occur as a textbook would print them, never as a chat in which a problem is asked and answered: that is what
fine-tuning is for. The chat's tags occur around small talk, because a token never seen in pretraining stays untrained.
"""

import json
from random import Random

from recipes.arithmetic.problems import Problem, Skill, phrase, problem, tally
from recipes.arithmetic.tools import SYSTEM
from recipes.arithmetic.words import ACTS, ADJECTIVES, COUNTED, NAMES, PLACES, THINGS, TIMES, VERBS, WEATHER

SENSELESS = (*COUNTED, *NAMES, *THINGS, *PLACES, *ADJECTIVES)


def prose(random: Random) -> str:
    """Return a short story of 2 to 5 sentences about one or two people."""
    name, other = random.sample(NAMES, 2)
    sentences = [_opening(random, name)]
    for _ in range(random.randint(1, 4)):
        thing, more = random.sample(THINGS, 2)
        act, other_act = random.sample(ACTS, 2)
        sentences.append(
            random.choice(
                (
                    f"{name} {act} the {random.choice(ADJECTIVES)} {thing} of {other}.",
                    f"{name} {act} {thing} and {other} {other_act} {more}.",
                    f"At {random.choice(TIMES)} {other} {act} some {random.choice(ADJECTIVES)} {thing}.",
                    f'"Where are the {thing}?" asked {other}. "In the {random.choice(PLACES)}," said {name}.',
                    f"The {thing} were {random.choice(ADJECTIVES)}, but the {more} were {random.choice(ADJECTIVES)}.",
                    f"{other} likes {thing} more than {more}.",
                    f'"Answer me, {other}!" said {name}. "Where are my {thing}?"',
                )
            )
        )
    return " ".join(sentences)


def _opening(random: Random, name: str) -> str:
    past, present = random.choice(VERBS)
    place, weather, time = random.choice(PLACES), random.choice(WEATHER), random.choice(TIMES)
    return random.choice(
        (
            f"One {weather} {time} {name} {past} to the {place}.",
            f"{name} {past} to the {place}.",
            f"It was {weather}, so {name} {past} to the {place}.",
            f"Every {time} {name} {present} to the {place}.",
        )
    )


def worked(random: Random, skill: Skill) -> str:
    """Return one problem with its working, as a textbook prints it."""
    drawn = problem(random, skill)
    if skill == "calculator":
        return _tool_note(random, drawn)
    trace, answer = drawn.trace, drawn.answer
    return random.choice(
        (
            f"Question: {drawn.question}\nWorking: {trace}\nResult: {answer}",
            f"{drawn.question}\n{trace}\nSo: {answer}",
            f"Exercise. {drawn.question} Solution. {trace}. In short: {answer}",
            f"{drawn.question} ({trace}) gives: {answer}",
        )
    )


def _tool_note(random: Random, drawn: Problem) -> str:
    request = json.dumps({"name": "calculator", "arguments": {"expression": drawn.trace}})
    return random.choice(
        (
            f"Q: {drawn.question}\nFor the calculator: {request}\nIt says {drawn.answer}\nResult: {drawn.answer}",
            f"{drawn.question} Type {drawn.trace} to get {drawn.answer}.",
            f"{drawn.question}\n{request}\n{drawn.answer}\nSo: {drawn.answer}",
        )
    )


def drill(random: Random) -> str:
    """Return the small steps that the skills are made of: copied words and numbers, running counts, digit sums."""
    kind = random.random()
    if kind < 0.25:
        line = _mixed_line(random)
        head = random.choice(("Copy: ", "Again: ", "Line: "))
        return "\n".join([head + line] * random.randint(3, 6))
    if kind < 0.80:
        distinct = random.sample(COUNTED, random.randint(3, 6))
        trace, totals = tally(random.choices(distinct, k=random.randint(10, 20)))
        return f"Tally: {trace} Total: {totals}"
    return "Sums: " + ", ".join(_digit_sum(random) for _ in range(random.randint(6, 12)))


def _digit_sum(random: Random) -> str:
    """Return one step of a digit-by-digit sum, as in a trace: `4+7=11`, `3+5+1=9`, `11-7=4`."""
    a, b = random.randint(0, 9), random.randint(0, 9)
    if random.random() < 0.5:
        return f"{a + b}-{b}={a}"
    return f"{a}+{b}={a + b}" if random.random() < 0.7 else f"{a}+{b}+1={a + b + 1}"


def _mixed_line(random: Random) -> str:
    """Return words or numbers without any sense, of which nothing but a copy can be predicted."""
    kind = random.random()
    if kind < 0.2:
        return " ".join(phrase(random))
    if kind < 0.7:
        return " ".join(random.sample(SENSELESS, random.randint(5, 14)))
    items = [random.choice(COUNTED) if random.random() < 0.4 else str(random.randint(2, 9999)) for _ in range(8)]
    return " ".join(items[: random.randint(3, 8)])


def chat(random: Random) -> str:
    """Return small talk in the chat's tags, sometimes with a thought or another tool than the calculator."""
    name, place, thing = random.choice(NAMES), random.choice(PLACES), random.choice(THINGS)
    weather = random.choice(WEATHER)
    kind = random.random()
    if kind < 0.5:
        line = _mixed_line(random)
        turns = [("user", f"{random.choice(('Repeat', 'Say', 'Write'))}: {line}"), ("assistant", line)]
    elif kind < 0.6:
        turns = [
            ("user", f"Hello, I am {name}. I am going to the {place}."),
            ("assistant", f"Hello {name}, say hello to the {place} and bring {thing}."),
        ]
    elif kind < 0.8:
        turns = [
            ("user", f"{name} likes {random.choice(ADJECTIVES)} {thing}. Where is {name}?"),
            ("assistant", f"<think>{name} likes the {place}.</think>\nPerhaps in the {place}."),
        ]
    else:
        request = json.dumps({"name": "weather", "arguments": {"place": place}})
        turns = [
            ("system", SYSTEM.replace("calculator", "weather").replace("expression", "place")),
            ("user", f"How is the weather at the {place}?"),
            ("assistant", f"<tool_call>\n{request}\n</tool_call>"),
            ("user", f"<tool_response>\n{weather}\n</tool_response>"),
            ("assistant", f"It is {weather} at the {place}."),
        ]
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def document(random: Random) -> str:
    """Return one document of a kind drawn by weight."""
    kind = random.random()
    if kind < 0.10:
        return prose(random)
    if kind < 0.25:
        return chat(random)
    if kind < 0.55:
        return drill(random)
    return worked(random, random.choices(("arithmetic", "counting", "calculator"), weights=(5, 4, 3))[0])
