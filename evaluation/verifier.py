"""What a recipe brings to have every stage measured on its own problems: these, and what a right answer is."""

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any

from data.examples import Row, prompt_of
from kinds import KINDS, Config, named
from utils.errors import Refused, StageFailed
from utils.reward_values import verdict
from utils.values import mistyped, shown

FEW = 8
"""Problems whose references are judged before a run starts."""
Judge = Callable[[str, Row], Any]
"""Takes the text of an answer, without special tokens, and the row of its problem; True, or 1, where it is right, and
False, 0 or None where it is not."""


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Held-out problems, and functions that tell which answers to them are right.

    Every stage that makes a policy answers them before and after: `skills` holds the share of right answers, and
    `sampled_skills` pass@k; a reward model is asked to rank right answers above wrong ones (`verified_answers`).
    """

    problems: str | Sequence[Row] | Callable[[], Iterable[Row]]
    """Rows with `prompt`, text or messages, and whatever the functions read; or a function that returns them, or the
    data set whose held-out side holds them, as `dataset_name` of a GRPO stage."""
    strict: Judge
    """Whether an answer is right, in the form that is wanted."""
    flexible: Judge | None = None
    """Whether it is right in any form; without it, what `strict` says."""
    respond: Callable[[str, Row], str | None] | None = None
    """What a tool answers to the text, after which the model goes on, once; None where the text calls no tool. What is
    said then is judged with the row whose `prompt` goes on to the tool's answer."""
    group: str | None = None
    """The column that tells kinds of problems apart; each kind has its results besides those of all."""
    count: int = 200
    """Problems that are answered, from the first on."""
    max_new_tokens: int = 128
    """Longest answer, in tokens; no longer than what a stage of the run that samples allows its own completions."""
    dataset_config_name: str | None = None
    """Configuration of the data set that `problems` names."""
    eval_split: str | None = None
    """Its split that holds the problems; without it, the side that a stage on the same data holds out."""
    rewards: Sequence[Callable[..., Any]] = ()
    """Rewards of the recipe that say the same, and are not measured besides."""
    version: str | None = None
    """What scores are kept under, besides problems and tokens; without it, a hash of the functions' source."""

    def __post_init__(self) -> None:
        wrong = mistyped(self)
        for name in ("count", "max_new_tokens"):
            if name not in wrong and getattr(self, name) < 1:
                wrong[name] = f"{name} = {getattr(self, name)}: must be at least 1"
        if wrong:
            raise Refused(f"verifier: {'; '.join(wrong.values())}")

    @property
    def any_form(self) -> Judge:
        """`flexible`, or `strict` in its place."""
        return self.flexible or self.strict

    def verdict(self, form: str, text: str, row: Row) -> float:
        """Return 1 if an answer is right in the `form` strict or flexible, else 0.

        Raises:
            StageFailed: the function does not say whether it is.
        """
        function = self.any_form if form == "flexible" else self.strict
        named = getattr(function, "__name__", type(function).__name__)
        return verdict(function(text, row), f"verifier: {form}, the function {named},")

    @property
    def key(self) -> dict[str, str]:
        """What tells its scores from those of another verifier, beside the problems."""
        if self.version is None:
            sources = map(source_of, (self.strict, self.any_form, self.respond))
            return {"verifier": sha256("\n".join(sources).encode()).hexdigest()[:16]}
        return {"verifier": self.version} if self.version else {}

    def fingerprint(self, configs: Iterable[Config] = ()) -> str:
        """Return a hash of what decides its results: the functions' source, the problems and the tokens."""
        parts = [self.key, self.rows(configs), self.max_new_tokens, self.group]
        return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def rows(self, configs: Iterable[Config] = ()) -> list[Row]:
        """Return the problems, each with its `prompt` as messages.

        Of a data set that one of `configs`, those of the run's stages, trains on, they are of the side it holds out.

        Raises:
            Refused: they cannot be had, or ask nothing.
        """
        if isinstance(self.problems, str):
            rows = self._held_out(next((one for one in configs if one.dataset_name == self.problems), None))
        else:
            rows = self.problems() if callable(self.problems) else self.problems
        found = [_asking(row, place) for place, row in enumerate(islice(rows, self.count))]
        if not found:
            raise Refused("verifier: there are no problems")
        return found

    def _held_out(self, config: Config | None) -> Iterable[Row]:
        """Return the held-out side of the data that `problems` names, split as a stage with that `config` does."""
        from data.sources import load_once

        options: dict[str, Any] = {}
        if config is not None:
            options |= {
                "split": config.dataset_split,
                "config_name": config.dataset_config_name,
                "revision": config.dataset_revision,
                "eval_split": config.eval_split,
                "eval_fraction": config.eval_fraction,
                "max_dropped_fraction": config.max_dropped_fraction,
                "columns": tuple(config.columns.items()),
            }
        own = {"config_name": self.dataset_config_name, "eval_split": self.eval_split}
        options |= {name: value for name, value in own.items() if value is not None}
        kind = next(name for name in KINDS if named(name).layout == "prompts")
        return load_once(str(self.problems), kind, eval_samples=self.count, **options).eval

    def check(self, configs: Iterable[Config] = ()) -> None:
        """Judge answers, so that what the functions lack is told before anything is trained.

        To every problem an empty one; to the first few also its reference, and half of that, which some functions give
        half a point.

        Raises:
            Refused: the problems cannot be had, or a function fails.
        """
        from evaluation.samples import expected_of

        for place, row in enumerate(self.rows(configs)):
            if self.group is not None and self.group not in row:
                raise Refused(f"verifier: group = {self.group!r}: problem {place} has {', '.join(row)}.")
            reference = (place < FEW and expected_of(row)) or ""
            for answer in dict.fromkeys(("", reference, reference[: len(reference) // 2])):
                self._ask(answer, row, place)

    def _ask(self, answer: str, row: Row, place: int) -> None:
        said = shown(answer) if answer else "an empty answer"
        for name in ("strict", "flexible", "respond"):
            try:
                _ = self.verdict(name, answer, row) if name != "respond" else self.respond and self.respond(answer, row)
            except StageFailed as error:
                raise Refused(f"{error}. It was asked about {said} to problem {place}.") from None
            except Exception as error:
                raise Refused(
                    f"verifier: {name} fails on problem {place}, for {said}: {type(error).__name__}: "
                    f"{error}. The problem has {', '.join(row)}."
                ) from error

    def verified(self, completions: Sequence[Any], prompts: Sequence[Any] = (), **columns: Any) -> list[float]:
        """Return 1 for each completion that `strict` finds right, else 0: a reward for the kinds that sample."""
        count = len(completions)
        lists = {name: values for name, values in columns.items() if isinstance(values, list) and len(values) == count}
        rows = [{name: values[i] for name, values in {"prompt": prompts, **lists}.items()} for i in range(count)]
        texts = [one if isinstance(one, str) else "".join(turn["content"] or "" for turn in one) for one in completions]
        return [self.verdict("strict", text, row) for text, row in zip(texts, rows, strict=True)]


def _asking(row: Row, place: int) -> Row:
    asked = prompt_of(row) if isinstance(row, dict) else None
    if asked is None or not asked[0]:
        raise Refused(f"verifier: problem {place} has no prompt; given: {shown(row)}")
    prompt = [{"role": "user", "content": asked[0]}] if isinstance(asked[0], str) else list(asked[0])
    return {**row, "prompt": prompt}


def source_of(function: Any) -> str:
    """Return the source of a function, by which a change of it is noticed; of a partial, its arguments too."""
    if isinstance(function, partial):
        return f"{source_of(function.func)} {function.args} {function.keywords}"
    try:
        return inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):  # none, or one that was typed in at a prompt
        return getattr(function, "__name__", str(type(function)))
