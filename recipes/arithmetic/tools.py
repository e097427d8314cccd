"""The arithmetic world's one tool: a calculator, and how a completion calls it."""

import json
import re

CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
EXPRESSION = re.compile(r"(\d{1,9})([-+*/])(\d{1,9})")

TOOL = {"name": "calculator", "parameters": {"expression": "string"}}
SYSTEM = f"<tools>\n{json.dumps(TOOL)}\n</tools>"


def call(expression: str) -> str:
    """Return the completion that asks the calculator for `expression`.

    >>> print(call("348*27"))
    <tool_call>
    {"name": "calculator", "arguments": {"expression": "348*27"}}
    </tool_call>
    """
    arguments = {"name": "calculator", "arguments": {"expression": expression}}
    return f"<tool_call>\n{json.dumps(arguments)}\n</tool_call>"


def calculate(expression: str) -> str | None:
    """Return the value of one sum, difference, product or whole quotient; None where it is not one of these.

    >>> calculate("348*27"), calculate("7/2"), calculate("import os")
    ('9396', None, None)
    """
    match = EXPRESSION.fullmatch(expression.replace(" ", ""))
    if match is None:
        return None
    a, operator, b = int(match[1]), match[2], int(match[3])
    if operator == "/":
        return str(a // b) if b and a % b == 0 else None
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


def called_expression(completion: str) -> str | None:
    """Return the expression of the first calculator call in `completion`; None without a well-formed call."""
    match = CALL.search(completion)
    if match is None:
        return None
    try:
        request = json.loads(match[1])
    except ValueError:
        return None
    if not isinstance(request, dict) or request.get("name") != "calculator":
        return None
    arguments = request.get("arguments")
    expression = arguments.get("expression") if isinstance(arguments, dict) else None
    return expression if isinstance(expression, str) else None


def respond(completion: str) -> str | None:
    """Run the calculator call in `completion` and return what the tool says; None when nothing valid was called."""
    expression = called_expression(completion)
    return None if expression is None else calculate(expression)
