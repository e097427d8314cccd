"""Rewards for the kinds that sample: the built-in functions by name, a recipe's own callables, and reward models.

A reward function has TRL's convention: it takes `prompts, completions, completion_ids` and every column of the data as
lists, one item a completion, and returns one number each, or None where it has nothing to say.
"""

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pkgutil import resolve_name
from typing import Any

from algorithms.config import GRPOExtraConfig, RewardSource
from kinds import StageOutput
from utils.errors import Refused, did_you_mean
from utils.files import user_path
from utils.matching import flexible_match, right_answers, strict_match
from utils.reward_values import reward_numbers

Completion = str | Sequence[dict[str, Any]]
RewardFunction = Callable[..., Sequence[float | None]]

SUPPLIED = frozenset("prompts completions completion_ids trainer_state log_extra log_metric environments".split())
"""What TRL passes to every reward function; its other parameters are columns of the data."""
NO_PLACE = (
    "takes no `**_`: it is given prompts, completions, completion_ids, every column of the data and more by name, and "
    "those that it does not read must have a place"
)


def text_of(completion: Completion) -> str:
    """Return the text of a completion, which is a string, or messages if the prompt is a conversation."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] or "" for message in completion)


def verifying(function: RewardFunction) -> RewardFunction:
    """Mark a reward as one that verifies answers: that it rises is no sign that the policy only pleases it."""
    setattr(function, "verifies", True)  # noqa: B010  mypy knows of no such attribute
    return function


@verifying
def exact_match(completions: Sequence[Completion], answer: Sequence[Any], **_: Any) -> list[float | None]:
    """Return 1 where the completion, less its `<think>` block and outer blanks, is `answer`; else 0.

    Numbers are compared by value, of a list any answer is right, and of GSM8K's worked answers what they come to. Where
    the row has no answer, None.

    >>> exact_match(["<think>3+4</think> 7", "It is 7"], answer=["7", "7"])
    [1.0, 0.0]
    """
    return _matched(strict_match, completions, answer)


def answer_match(completions: Sequence[Completion], answer: Sequence[Any], **_: Any) -> list[float | None]:
    """Return 1 where the completion, less its `<think>` block, has `answer` in any form; else 0. See `exact_match`.

    Of a number the last one of the completion counts, so that worked answers may be rewarded.

    >>> answer_match(["<think>3+4</think> It is 7.", "7 is it, not 8", "4 + 3 = 7\\n#### 7"], answer=["7"] * 3)
    [1.0, 0.0, 1.0]
    """
    return _matched(flexible_match, completions, answer)


def _matched(
    match: Callable[[str, Any], bool], completions: Sequence[Completion], answer: Sequence[Any]
) -> list[float | None]:
    said = (text_of(completion).rpartition("</think>")[2] for completion in completions)
    return [float(match(one, right)) if right_answers(right) else None for one, right in zip(said, answer, strict=True)]


def _accuracy() -> RewardFunction:
    from trl.rewards import accuracy_reward

    @functools.wraps(accuracy_reward)
    def of_text(completions: Any, solution: Sequence[object], **rest: Any) -> Any:
        return accuracy_reward(completions, [_written_out(one) for one in solution], **rest)

    return verifying(of_text)


def _written_out(value: object) -> str:
    """Return a solution as text that the maths check reads: a float in digits, not as 1e-05."""
    return f"{Decimal(repr(value)):f}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _think_format() -> RewardFunction:
    from trl.rewards import think_format_reward

    return think_format_reward


BUILT_IN: dict[str, Callable[[], RewardFunction]] = {
    "accuracy": _accuracy,
    "think_format": _think_format,
    "exact_match": lambda: exact_match,
    "answer_match": lambda: answer_match,
    "made_strict": lambda: resolve_name("recipes.arithmetic:made_strict"),
    "made_flexible": lambda: resolve_name("recipes.arithmetic:made_flexible"),
}
"""Each built-in reward by its name; called, it gives the function, which is imported only then."""


def name_of(function: Callable[..., Any]) -> str:
    """Return a reward function's name, by which TRL logs it and its measurement is recorded."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _is_directory(name: str) -> bool:
    try:
        return user_path(name).is_dir()
    except Refused:  # it can be no path
        return False


def problems(extra: GRPOExtraConfig) -> list[str]:
    """Return what is wrong with the rewards and their weights, without loading a model."""
    found = []
    if not extra.rewards:
        found.append("reward_func is empty: name at least one reward")
    for source in extra.rewards:
        if isinstance(source, str) and source not in BUILT_IN and "/" not in source and not _is_directory(source):
            near = did_you_mean(source, BUILT_IN) or "."
            found.append(
                f"reward_func {source!r:.100} is no built-in reward{near} Built in: {', '.join(BUILT_IN)}. Also "
                "allowed: a callable, StageOutput(name), a reward model's directory, a Hub id"
            )
    found += [
        f"reward_func {one.__name__} is a class: give an object of it, {one.__name__}(), or a function"
        for one in extra.rewards
        if isinstance(one, type)
    ]
    functions = [load(one)[0] for one in extra.rewards if callable(one) or one in BUILT_IN]
    found += [
        f"reward_func has {count} functions of the name {name!r}, by which they are logged and measured: define each "
        "under a name of its own, or set its __name__"
        for name, count in Counter(map(name_of, functions)).items()
        if count > 1
    ]
    found += [
        f"reward_func {name_of(one)} {problem}" for one in functions if (problem := _place_problem(one)) is not None
    ]
    weights = extra.reward_weights
    if weights is not None and len(weights) != len(extra.rewards):
        found.append(f"reward_weights has {len(weights)} numbers for {len(extra.rewards)} rewards: give one for each")
    return found


def _place_problem(function: Callable[..., Any]) -> str | None:
    """Return why a reward function cannot be given everything by name; None if it can."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a function that is not Python's
        return "has no parameters that can be read: write `def NAME(completions, **_)` that calls it"
    kinds = [one.kind for one in parameters]
    if only := [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY and one.default is one.empty]:
        return f"takes {', '.join(only)} by its place alone, and is given everything by name: leave out the `/`"
    return None if inspect.Parameter.VAR_KEYWORD in kinds else NO_PLACE


def load(source: RewardSource) -> tuple[Any, Any]:
    """Return a reward as TRL takes it: a function and None, or a reward model and its tokenizer."""
    assert not isinstance(source, StageOutput), f"{source} must have become a directory by now"
    if not isinstance(source, str):
        return source, None
    return (BUILT_IN[source](), None) if source in BUILT_IN else reward_model(source)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reward function that fails the stage where it does not return a finite number, or None, each.

    A reward model stays as it is.
    """
    if hasattr(function, "state_dict"):
        return function
    from trl.trainer.utils import is_async_callable

    name = name_of(function)

    def count(given: tuple[Any, ...], named: dict[str, Any]) -> int:
        return len(named["completions"] if "completions" in named else given[0])

    async def later(*given: Any, **named: Any) -> Any:
        return reward_numbers(await function(*given, **named), name, count(given, named))

    def now(*given: Any, **named: Any) -> Any:
        return reward_numbers(function(*given, **named), name, count(given, named))

    wrapped = functools.update_wrapper(later if is_async_callable(function) else now, function)
    wrapped.__name__ = name
    return wrapped


def reward_model(path: str) -> tuple[Any, Any]:
    """Return a reward model in the type it was saved in, and its tokenizer, so that padding changes no score.

    The score is read at the last token that is not padding: padding stands on the right and has a token of its own.

    Raises:
        Refused: it does not give one score, lacks weights, or its tokenizer has no chat template or no padding token.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right", trust_remote_code=False)
    model, found = AutoModelForSequenceClassification.from_pretrained(
        path, dtype="auto", output_loading_info=True, use_safetensors=True, trust_remote_code=False
    )
    refuse_unfit(path, model.config.num_labels, tokenizer, found["missing_keys"])
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), tokenizer


def refuse_unfit(path: str, num_labels: int, tokenizer: Any, missing: Iterable[str] = ()) -> None:
    """Raise Refused if a model does not give one score, or its tokenizer has no chat template or no padding token.

    `missing` are the names of weights that its checkpoint lacks.
    """
    lacks = [f"it lacks {', '.join(sorted(missing))}, which would be random"] if missing else []
    if num_labels != 1:
        lacks.append(f"it gives {num_labels} scores instead of 1")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        lacks.append("its tokenizer has no padding token apart from the end-of-sequence token")
    if tokenizer.chat_template is None:
        lacks.append("its tokenizer has no chat template")
    if lacks:
        raise Refused(f"{path} cannot be a reward model here: {'; '.join(lacks)}. Train one with a `reward` stage.")


def missing_columns(functions: Iterable[Any], rows: Any) -> list[str]:
    """Return a line for each reward function that needs a column which the rows lack, or of which none has a value."""
    columns = rows.column_names
    found = []
    for function in functions:
        if hasattr(function, "state_dict"):  # a reward model reads the text alone
            continue
        lacking = [name for name in _columns_of(function) if name not in columns]
        if lacking:
            found.append(
                f"the reward {name_of(function)} needs {', '.join(lacking)}; the data has {', '.join(columns)}"
            )
        empty = [name for name in _columns_of(function) if name in columns and all(map(_is_nothing, rows[name]))]
        if empty:
            found.append(f"the reward {name_of(function)} needs {', '.join(empty)}, of which no row has a value")
    return found


def _is_nothing(value: Any) -> bool:
    """Tell whether a value is null, not a number, or a text, list or object with nothing in it."""
    return (
        value is None or value != value or (isinstance(value, str | list | dict) and not (value and str(value).strip()))
    )


def _columns_of(function: Callable[..., Any]) -> list[str]:
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in plain and p.default is p.empty and p.name not in SUPPLIED]
