"""Tasks of a user's own, from a .jsonl file: questions with an answer, or with choices of which one is right.

    {"prompt": ..., "answer": "42"}                                 exact match of what the model says
    {"prompt": ..., "choices": [" Paris", " Rome"], "answer": 0}    which choice the model finds likeliest

An answer is text or a number, or a list of which each is right (also as `answers`); that of choices the place of the
right one from 0, its letter, or its text.
A prompt of plain text is continued as it is, with `context` or `input` below it, and so are its choices, which
therefore begin with a space where one is wanted. A prompt of messages, or one beside `system`, `history` or `tools`,
goes through the model's chat template, and a choice is then the whole turn, its end too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data.chat import encode
from data.converters import BELOW, SYSTEM, question, tools_of
from data.examples import Example, Row, common_prefix_length, completion
from data.messages import Malformed, out_of_order
from evaluation.scored_model import ScoredModel, fingerprint
from evaluation.skills import Skills
from evaluation.task import HeldOut, Scores, Task
from evaluation.tasks import likelihoods_of
from evaluation.verifier import Verifier
from utils.errors import Refused
from utils.matching import flexible_match, listed, right_answers, strict_match
from utils.text import one_line

TOLD = 5
"""Faulty rows that a refusal shows."""

MATCHES = Verifier(
    problems=(),
    strict=lambda text, row: strict_match(text, row["answer"]),
    flexible=lambda text, row: flexible_match(text, row["answer"]),
)


@dataclass(frozen=True)
class Questions(Skills):
    """Greedy answers to questions (rows with `prompt, answer`), compared with the one that is right."""

    verifier: Verifier = field(default=MATCHES, kw_only=True)
    title: str = field(default="questions", kw_only=True)
    name: ClassVar[str] = "questions"
    version: ClassVar[int] = 4


@dataclass(frozen=True)
class Choices(Task):
    """Choices (rows with `prompt, choices, answer`, the place of the right one from 0): is it the likeliest?"""

    title: str = field(default="choices", kw_only=True)
    name: ClassVar[str] = "choices"
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_per_byte")

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `accuracy` by the likelihood of each choice, `accuracy_per_byte` by that for each UTF-8 byte of it.

        The first is for choices of like length; of others it prefers the short ones, which the second makes up for. Of
        equal choices the first is taken. None where a choice is longer than the model can take.
        """
        rows = self.held_out.rows
        for row in rows:
            checkpoint.need_template(row["prompt"])
        examples = [choice_example(checkpoint.tokenizer, row, choice) for row in rows for choice in row["choices"]]
        found = iter(likelihoods_of(checkpoint, examples))
        scores: Scores = {"accuracy": [], "accuracy_per_byte": []}
        for row in rows:
            of_row = [next(found) for _ in row["choices"]]
            sizes = {"accuracy": [1] * len(of_row), "accuracy_per_byte": [len(one.encode()) for one in row["choices"]]}
            for metric, size in sizes.items():
                losses = [one.nll / by for one, by in zip(of_row, size, strict=True)]
                whole = all(one.tokens for one in of_row)
                scores[metric].append(float(losses.index(min(losses)) == row["answer"]) if whole else None)
        return scores


def choice_example(tokenizer: Any, row: Row, choice: str) -> Example:
    """Return a row's prompt with a choice, which is scored; of a conversation the end of the turn is too."""
    if not isinstance(row["prompt"], str):
        return completion(tokenizer, row["prompt"], [{"role": "assistant", "content": choice}], row.get("tools"))
    ids = encode(tokenizer, row["prompt"] + choice)
    if ids[-1:] == [tokenizer.eos_token_id]:  # which some tokenizers add, and no choice says
        ids = ids[:-1]
    start = max(1, common_prefix_length(encode(tokenizer, row["prompt"]), ids))
    return Example(ids, [index >= start for index in range(len(ids))])


def own_task(file: Path, max_new_tokens: int) -> Task:
    """Return the task in a .jsonl file, named after it; its version is a hash of its rows.

    Raises:
        Refused: the file cannot be read, or rows of it are no questions or choices; says which rows.
    """
    from data.local_files import READERS

    if not file.is_file():
        raise Refused(f"{file} is no file: --tasks takes the names of tasks, and .jsonl files of your own.")
    raw = list(READERS[".jsonl"](file))
    if not raw:
        raise Refused(f"{file} has no rows: each line is a JSON object with prompt and answer.")
    kind = "choices" if "choices" in raw[0] else "questions"
    problems, rows = [], []
    for number, row in enumerate(raw, 1):
        try:
            rows.append(_checked(row, kind))
        except (Malformed, Refused) as error:
            problems.append(f"- row {number}: {one_line(str(error)):.200}")
    if problems:
        more = [f"- and {len(problems) - TOLD} more"] if len(problems) > TOLD else []
        lines = "\n".join(problems[:TOLD] + more)
        raise Refused(f"{file}: {len(problems)} of {len(raw)} rows cannot be used as {kind}:\n{lines}")
    held_out = HeldOut(rows)
    return (
        Choices(held_out, title=file.name)
        if kind == "choices"
        else Questions(held_out, max_new_tokens, title=file.name)
    )


def version_of(task: "Questions | Choices") -> str:
    """Return the version of a task of one's own: of the way it is scored, and a hash of its rows."""
    return f"{task.version}-{fingerprint(task.held_out.rows)[:8]}"


def _checked(row: Row, kind: str) -> dict[str, Any]:
    """Return a row as its task takes it.

    Raises:
        Malformed: it lacks something, has it in another form, or says what has no place.
    """
    answer, answers, choices = row.get("answer"), row.get("answers"), row.get("choices")
    if kind == "questions":
        if choices is not None:
            raise Malformed("it has choices, while the first row has none: put them into a file of their own")
        if answers is not None and not set(right_answers(answer)) <= set(right_answers(answers)):
            raise Malformed(
                f"answer is none of answers: {answer!r:.40} and {answers!r:.80}; give one of the two columns"
            )
        answer = answer if answers is None else answers
        given = listed(answer)
        if not given or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in given):
            raise Malformed(f"answer must be text or a number, or a list of them; given: {answer!r}")
        if not all(map(right_answers, given)):
            raise Malformed(f"an answer is empty; given: {answer!r}")
        return {**_asked(row), "answer": answer}
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise Malformed(f"choices must be a list of two texts or more; given: {choices!r}")
    if answers is not None:
        raise Malformed(f"of choices one is right, and answer says which; given: answers = {answers!r}")
    return {**_asked(row, choices), "choices": choices, "answer": _place(answer, choices)}


def _asked(row: Row, choices: Sequence[str] = ()) -> Row:
    """Return what a row asks: text, or where it has a system text, tools or earlier rounds too, a conversation.

    Raises:
        Malformed: it asks nothing, or what it says has no place.
    """
    from data.layouts import RENDERED, rendered_turn

    column = "question" if row.get("prompt") is None else "prompt"
    prompt = row.get(column)
    if not isinstance(prompt, str | list) or not prompt:
        raise Malformed(f"prompt, or question, must be text or a list of messages; given: {prompt!r}")
    below = [name for name in BELOW if row.get(name)]
    is_talk = any(str(row.get(name) or "").strip() not in ("", "[]") for name in ("tools", "history", *SYSTEM))
    if isinstance(prompt, str) and not is_talk:
        if wrong := [name for name in below if not isinstance(row[name], str)]:
            raise Malformed(f"{wrong[0]} must be text; given: {row[wrong[0]]!r}")
        return {"prompt": "\n\n".join([prompt, *(row[name] for name in below if row[name].strip())])}
    if below and isinstance(prompt, list):
        raise Malformed(f"messages have no place for `{below[0]}`: put it into a turn")
    turns = question(row, column, *BELOW)
    if (wrong_turn := out_of_order(turns)) or turns[-1]["role"] == "assistant":
        raise Malformed(wrong_turn or "prompt ends with a turn of the assistant, which is what is asked for")
    if text := rendered_turn({"prompt": [*turns, *({"role": "assistant", "content": one} for one in choices)]}):
        raise Malformed(f"{RENDERED}; given: {text!r}")
    return {"prompt": turns, **tools_of(row, turns)}


def _place(answer: object, choices: list[str]) -> int:
    """Return the place of the right choice, which may be given by its text or its letter."""
    texts, letters = [choice.strip() for choice in choices], "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    if isinstance(answer, str) and texts.count(answer.strip()) == 1:
        return texts.index(answer.strip())
    if isinstance(answer, str) and len(letter := answer.strip(" ().").upper()) == 1 and letter in letters:
        return letters.index(letter)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise Malformed(
            f"answer must be the place of the right choice, 0 to {len(choices) - 1}, its letter, {letters[0]} to "
            f"{letters[-1]}, or its text; given: {answer!r}"
        )
    return answer
