"""Problems as chat: demonstrations for SFT, pairs for the reward model and DPO, prompts with answers for GRPO."""

from random import Random
from typing import Any

from data.splits import held_out
from recipes.arithmetic.problems import HELD_OUT_FRACTION, SKILLS, Problem, digit_steps, problem, sum_key
from recipes.arithmetic.tools import SYSTEM, call

Message = dict[str, str]
Row = dict[str, Any]

REJECTIONS = ("wrong_result", "wrong_trace", "no_trace", "rambling", "wrong_form")
AFTER_TOOL_REJECTIONS = ("wrong_result", "rambling", "wrong_form")
RAMBLING_SHARE = 0.25
"""Of the demonstrations: less than half, so that the likeliest answer stays the plain one."""
HURRIED_SHARE = 0.4
"""Of the demonstrations that could show their working: they give the answer at once, as people do."""
RAMBLES = (
    "\nI hope that this helps.",
    "\nLet me think about it again.",
    "\nAnswer: {answer}\nAnswer: {answer}",
    "\nThat was a nice question.",
    "\nWait, is that right? Yes, I think so.",
)
OTHER_FORMS = ("It is {answer}", "The result would be {answer}, I believe.", "#### {answer}", "answer = {answer}")


def prompt(drawn: Problem) -> list[Message]:
    """Return the messages that pose the problem; a calculator problem comes with the tool's description."""
    question = {"role": "user", "content": drawn.question}
    return [{"role": "system", "content": SYSTEM}, question] if drawn.skill == "calculator" else [question]


def solution(drawn: Problem) -> str:
    """Return the first assistant turn that solves the problem in the form that is taught."""
    return call(drawn.trace) if drawn.skill == "calculator" else think(drawn.trace, drawn.answer)


def think(trace: str, answer: str) -> str:
    """Return a completion with `trace` in think tags and `answer` after them."""
    return f"<think>{trace}</think>\nAnswer: {answer}"


def after_tool(drawn: Problem) -> list[Message]:
    """Return the messages up to the tool's response, after which the assistant has only to read out the answer."""
    return [
        *prompt(drawn),
        {"role": "assistant", "content": solution(drawn)},
        {"role": "tool", "content": drawn.answer},
    ]


def conversation(drawn: Problem, random: Random) -> Row:
    """Return a demonstration: the whole conversation, tool turns included.

    Some demonstrators ramble, and some leave out their working. What is wrong with the first only the preferences tell,
    with the second they and the checked answers of GRPO: without working the model is mostly wrong.
    """
    hurried = random.random() < HURRIED_SHARE
    if drawn.skill == "calculator":
        turns, last = after_tool(drawn), f"Answer: {drawn.answer}"
    else:
        turns, last = prompt(drawn), f"Answer: {drawn.answer}" if hurried else solution(drawn)
    if random.random() < RAMBLING_SHARE:
        last += random.choice(RAMBLES).format(answer=drawn.answer)
    return {"messages": [*turns, {"role": "assistant", "content": last}]}


def checkable_prompt(drawn: Problem, tool_has_answered: bool = False) -> Row:
    """Return a prompt with the answer that its completion is checked against.

    `tool_has_answered`: a calculator problem is posed after the tool's response, which is only to be read out.
    """
    if tool_has_answered and drawn.skill == "calculator":
        return {"prompt": after_tool(drawn), "skill": "calculator_answer", "answer": drawn.answer}
    return {"prompt": prompt(drawn), "skill": drawn.skill, "answer": drawn.answer}


def preference(drawn: Problem, random: Random) -> Row:
    """Return a pair: the taught solution against a rejection of one of the kinds in `REJECTIONS`.

    Of some calculator problems it is the turn after the tool's response: it drifts if only the first turn is trained.
    """
    kind = random.choice(REJECTIONS)
    asked, chosen = prompt(drawn), solution(drawn)
    if drawn.skill != "calculator":
        rejected = rejected_answer(drawn, kind, random)
    elif kind in AFTER_TOOL_REJECTIONS and random.random() < 0.6:
        asked, chosen = after_tool(drawn), f"Answer: {drawn.answer}"
        rejected = rejected_reading(drawn, kind, random)
    else:
        rejected = rejected_call(drawn, kind, random)
    return {
        "prompt": asked,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "kind": kind,
        "skill": drawn.skill,
    }


def rejected_reading(drawn: Problem, kind: str, random: Random) -> str:
    """Return a bad turn after the tool's response: another number, words after the answer, or another form."""
    if kind == "wrong_result":
        return f"Answer: {changed_digit(drawn.answer, random)}"
    if kind == "rambling":
        return f"Answer: {drawn.answer}" + random.choice(RAMBLES).format(answer=drawn.answer)
    return random.choice((*OTHER_FORMS, "<think>{answer}</think>\nAnswer: {answer}")).format(answer=drawn.answer)


def rejected_answer(drawn: Problem, kind: str, random: Random) -> str:
    """Return a bad solution of an arithmetic or counting problem."""
    if kind == "wrong_result":
        return think(drawn.trace, other_answer(drawn, random))
    if kind == "wrong_trace":
        return think(*slip(drawn, random))
    if kind == "no_trace":
        return f"Answer: {drawn.answer}"
    if kind == "rambling":
        return solution(drawn) + random.choice(RAMBLES).format(answer=drawn.answer)
    return f"<think>{drawn.trace}</think>\n" + random.choice(OTHER_FORMS).format(answer=drawn.answer)


def rejected_call(drawn: Problem, kind: str, random: Random) -> str:
    """Return a bad first turn for a calculator problem: a wrong call, none at all, or one with words around it."""
    if kind in ("wrong_result", "wrong_trace"):
        return call(other_expression(drawn.trace, kind, random))
    if kind == "no_trace":
        return f"Answer: {changed_digit(drawn.answer, random)}"
    if kind == "rambling":
        return solution(drawn) + random.choice(RAMBLES).format(answer=drawn.answer)
    return f"calculator({drawn.trace})" if random.random() < 0.5 else f"<tool_call>\n{drawn.trace}\n</tool_call>"


def other_expression(expression: str, kind: str, random: Random) -> str:
    """Return the expression with another operator (`wrong_result`) or one digit changed (`wrong_trace`).

    It is none that is held out: rejected text is training text too.
    """
    a, operator, b = split_expression(expression)
    others = [other for other in "+-*/" if other != operator and not shown_held_out(a, other, b)]
    if kind == "wrong_result" and others:
        return f"{a}{random.choice(others)}{b}"
    while True:
        changed = (changed_digit(a, random), b) if random.random() < 0.5 else (a, changed_digit(b, random))
        if not shown_held_out(changed[0], operator, changed[1]):
            return f"{changed[0]}{operator}{changed[1]}"


def shown_held_out(a: str, operator: str, b: str) -> bool:
    """Return whether text that shows this expression would show a held-out problem."""
    return held_out(sum_key(int(a), operator, int(b)), HELD_OUT_FRACTION)


def other_answer(drawn: Problem, random: Random) -> str:
    """Return an answer that the trace does not lead to."""
    if drawn.skill == "counting":
        pairs = drawn.answer.split(", ")
        place = random.randrange(len(pairs))
        word, count = pairs[place].split(": ")
        if len(pairs) > 2 and random.random() < 0.3:
            del pairs[place]
        else:
            pairs[place] = f"{word}: {int(count) + (1 if count == '1' else random.choice((-1, 1)))}"
        return ", ".join(pairs)
    return changed_digit(drawn.answer, random)


def slip(drawn: Problem, random: Random) -> tuple[str, str]:
    """Return the trace with one mistake in it, and the wrong answer that follows from the mistake."""
    if drawn.skill == "counting":
        steps = drawn.trace.removeprefix("Words: ").split(" ")
        totals = dict(pair.split(": ") for pair in drawn.answer.split(", "))
        word = random.choice(list(totals))
        place = steps.index(f"{word}{totals[word]}")
        totals[word] = str(int(totals[word]) + (1 if totals[word] == "1" else random.choice((-1, 1))))
        steps[place] = f"{word}{totals[word]}"
        return "Words: " + " ".join(steps), ", ".join(f"{word}: {n}" for word, n in totals.items())
    a, operator, b = split_expression(drawn.trace.partition(":")[0])
    units, tens, result = digit_steps(int(a), operator, int(b)).split(", ")
    sum_text, _, digit = tens.partition("=")
    wrong_digit = changed_digit(digit, random)
    wrong = (wrong_digit + result[-1]).lstrip("0") or "0"
    return f"{units}, {sum_text}={wrong_digit}, {wrong}", wrong


def split_expression(expression: str) -> tuple[str, str, str]:
    """Return the two numbers and the operator between them."""
    operator = next(symbol for symbol in "+-*/" if symbol in expression)
    a, b = expression.split(operator)
    return a, operator, b


def changed_digit(number: str, random: Random) -> str:
    """Return `number` with one digit changed, and no leading zero gained.

    The result is a different number.
    """
    place = random.randrange(len(number))
    allowed = "123456789" if place == 0 and len(number) > 1 else "0123456789"
    digit = random.choice([other for other in allowed if other != number[place]])
    return number[:place] + digit + number[place + 1 :]


def draw_problems(random: Random, count: int, *, held_out_side: bool) -> list[Problem]:
    """Draw `count` distinct problems from one side of the split, the skills in turn, then shuffled."""
    drawn: dict[str, Problem] = {}
    while len(drawn) < count:
        candidate = problem(random, SKILLS[len(drawn) % len(SKILLS)], held_out_side=held_out_side)
        drawn.setdefault(candidate.question, candidate)
    problems = list(drawn.values())
    random.shuffle(problems)
    return problems
