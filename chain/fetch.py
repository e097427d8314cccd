"""What is settled before a run starts: can its models and data be had, and do they fit together."""

import sys
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from algorithms.config import is_reward_model
from chain.stages import reference
from kinds import Stage, StageOutput
from utils import hub
from utils.command_line import this_command
from utils.console import console
from utils.errors import Refused, refusal
from utils.files import base_of, tensor_shapes, weight_files

if TYPE_CHECKING:
    from data.sources import StageData

STEP_FAILED = "its step with a tiny model, tried ahead, failed"
"""What the record says of a stage that was started all the same."""


def refuse_absent(stages: Iterable[Stage]) -> None:
    """Raise Refused for models and data that the stages name as if they were on this disk, and that are not.

    It loads no library, so that it is told at once; `missing` asks for the others.
    """
    from data.corpus.mixture import parse  # not above: `data` may be hidden by a file beside a script
    from data.named import ON_HUB, refuse_unknown

    problems = []
    for stage in stages:
        documents = stage.kind.layout == "documents"
        try:
            for name, revision in stage.hub_models():
                if hub.is_path(name):
                    hub.local_model(name, revision)
            for name, _ in parse(stage.config.dataset_name) if documents else [(stage.config.dataset_name, 1.0)]:
                refuse_unknown(name, ON_HUB if documents else ())
        except Refused as error:
            problems.append(f"{stage.label}: {error}")
    if problems:
        raise refusal(problems)


def missing(stages: Sequence[Stage]) -> list[str]:
    """Return what cannot be had, of the models and data on the Hub that the stages name. Downloads nothing."""
    problems: list[str] = []
    absent: dict[str, Callable[[], Any]] = {}  # what is not on this machine, and how the Hub is asked about it
    for stage in stages:
        for name, revision in stage.hub_models():
            try:
                if hub.local_model(name, revision) is None:
                    absent[f"model {_revised(name, revision)}{hub.if_bare(name)}"] = partial(
                        hub.model_on_hub, name, revision
                    )
            except Refused as error:
                problems.append(f"{stage.label}: {error}")
        name, revision = stage.config.dataset_name, stage.config.dataset_revision
        if hub.is_dataset_id(name) and not hub.has_dataset(name):
            absent[f"data set {_revised(name, revision)}"] = partial(hub.dataset_on_hub, name, revision)
    reason = hub.unreachable() if absent else None
    if reason:
        return [*problems, f"{reason}, and these are not on this machine: {', '.join(absent)}. {_get_it()}"]
    with ThreadPoolExecutor() as pool:  # all at once: a Hub that does not answer costs the time of one
        problems += filter(None, pool.map(_problem, absent.values()))
    return list(dict.fromkeys(problems))


def _problem(look_up: Callable[[], Any]) -> str | None:
    try:
        look_up()
    except Refused as error:
        return str(error)
    return None


def _get_it() -> str:
    """Say how to get what is missing, by the command that was given where there is one."""
    if not hasattr(sys.modules["__main__"], "__file__"):  # a notebook or a prompt
        return hub.GET_IT
    words = [word for word in sys.argv[1:] if word not in ("--plan", "--check-data", "--download", "--force")]
    fetch_it = this_command(*words, "--download")
    return f"Where there is a network, fetch them once:\n  {fetch_it}\nWithout one, name local directories and files."


def _revised(name: str, revision: str | None) -> str:
    return repr(name) if revision is None else f"{name!r} (revision {revision})"


@dataclass(frozen=True)
class Fetched:
    """What the stages need, on this machine."""

    models: dict[tuple[str, str | None], Path]
    """The directory of each model that no stage makes, by its name in the recipe and its revision."""
    data: dict[str, dict[str, Any]]
    """`StageData.info` of each stage's data, by label."""
    forced: list[str] = field(default_factory=list)
    """Lines for the record: stages whose step with a tiny model failed, and which may start all the same."""

    def path_of(self, model: str | StageOutput, revision: str | None, outputs: Mapping[str, Path]) -> Path:
        """Return the directory of a model that a stage names; `outputs` are those of stages."""
        return outputs[model.name] if isinstance(model, StageOutput) else self.models[model, revision]


def fetch(
    stages: Sequence[Stage],
    outputs: Mapping[str, Path],
    *,
    check_data: bool = False,
    passed: Collection[str] = (),
    forced: Container[str] = (),
) -> Fetched:
    """Bring the stages' models and data to this machine, and read them: each stage's data in that stage's layout.

    `outputs` are directories of an earlier run's stages, `passed` the stages of a resumed run that have. With
    `check_data` every row is measured instead of the first, and of a model that is not here all comes but its weights.
    A stage in `forced` may start although its step with a tiny model fails, which is said.

    Raises:
        Refused: with everything that cannot be had, cannot be read, or does not fit together.
    """
    from algorithms import supervision

    problems = missing(stages)
    fetched = Fetched({}, {})
    readers: dict[str, Reader] = {}
    for stage in stages if not problems else ():
        try:
            for name, revision in stage.hub_models():
                found = hub.local_model(name, revision)
                fetched.models[name, revision] = directory = found or _download(name, revision, weights=not check_data)
                for file in weight_files(directory):
                    tensor_shapes(file)
            fetched.data[stage.label], rows = load_data(stage)
            with console().capture():  # the stage says it again
                reader = _reader(stage, rows, fetched, outputs, readers) if rows else None
            if rows and reader:
                readers[stage.label] = reader
                supervision.refuse_long(
                    stage, rows.train, reader.tokenizer, reader.max_tokens, reader.n_embeddings, every=check_data
                )
            if rows and stage.label not in passed:
                try:
                    _rehearse(stage, rows, reader, stages)
                except Refused as error:
                    if stage.label not in forced:
                        said = f"{str(error).rstrip('.')}. If this is wrong, --force starts the run all the same."
                        raise Refused(said) from error
                    console().print(f"{stage.label} may start all the same: {error}", markup=False, soft_wrap=True)
                    fetched.forced.append(f"{stage.label}: {STEP_FAILED}")
        except Refused as error:
            problems.append(f"{stage.label}: {error}")
    if problems:
        raise refusal(problems)
    return fetched


def _download(name: str, revision: str | None, weights: bool) -> Path:
    console().print(f"downloading {name}" + ("" if weights else " without its weights"), markup=False)
    return hub.download_model(name, revision, weights=weights)


def load_data(stage: Stage) -> tuple[dict[str, Any], "StageData | None"]:
    """Return what the stage's record tells of its data, and its rows as its trainer will see them.

    Documents to pretrain on stay on disk, as batches take them: of them there are no rows, None.
    """
    console().print(f"{stage.label}: preparing {stage.config.dataset_name}", markup=False, soft_wrap=True)
    return stage.kind.load(stage.config)


class Reader(NamedTuple):
    """How a stage's model reads text, after the stage as while it trains."""

    tokenizer: Any
    max_tokens: int | None
    """The most that it can read at once, where its configuration tells."""
    n_embeddings: int | None
    """How many tokens it has an embedding for, where its configuration tells."""
    model_config: Any


def _rehearse(stage: Stage, rows: "StageData", reader: Reader | None, stages: Sequence[Stage]) -> None:
    """Let a stage make a step with a tiny model; of one that the run makes from nothing something stands for it."""
    first = next((one for one in stages if one.kind.starts_from_nothing), None)
    if reader is not None:
        stage.kind.rehearse(stage, rows, reader.tokenizer, reader.model_config, stand_in=False)
    elif first is not None and (instead := first.kind.stand_in(first.config)):
        stage.kind.rehearse(stage, rows, *instead, stand_in=True)


def _reader(
    stage: Stage, rows: "StageData", fetched: Fetched, outputs: Mapping[str, Path], earlier: Mapping[str, Reader]
) -> Reader | None:
    """Return how the stage's model reads, `earlier` being that of the stages before; None where only training tells.

    Raises:
        Refused: what the stage would refuse later: a model without the template that its rows need, or whose template
            leaves their tools out, or without a token to pad with; a reward without its column; a reward model that
            gives no score.
    """
    from trl import is_conversational

    from algorithms import loading

    if stage.extra is not None:
        _judge_rewards(stage, rows, fetched)
    gives = stage.kind.gives_template
    assert stage.model is not None, "documents are no rows"
    if isinstance(stage.model, StageOutput) and stage.model.name not in outputs:
        reader = earlier.get(stage.model.name)
        if reader is not None:
            if is_conversational(rows.train[0]) and reader.tokenizer.chat_template is None and not gives:
                raise Refused(
                    f"{reference(stage.model)} will have no chat template, which this stage needs: train it on"
                    " conversations (`messages`, or a `prompt` and `completion` of messages), which gives it one"
                )
            loading.fit_to(rows.train, reader.tokenizer, gives_template=gives)
        return reader
    path = fetched.path_of(stage.model, stage.config.revision, outputs)
    config = replace(stage.config, model_name=str(path), revision=None)
    loading.adapter_of(config)
    with _unloadable(path):
        model_config = _config(path)
        known = getattr(model_config.get_text_config(), "vocab_size", None)
        tokenizer = loading.tokenizer(config, rows.train, gives_template=gives)
        return Reader(tokenizer, loading.context_of(model_config), known, model_config)


def _judge_rewards(stage: Stage, rows: "StageData", fetched: Fetched) -> None:
    from transformers import AutoTokenizer

    from algorithms import rewards

    assert stage.extra is not None
    functions = [rewards.load(one)[0] for one in stage.extra.rewards if not is_reward_model(one)]
    lacking = rewards.missing_columns(functions, rows.train)
    if lacking:
        raise Refused("; ".join(lacking))
    for name in stage.reward_models:
        if isinstance(name, str):
            path = fetched.models[name, None]
            with _unloadable(path):
                rewards.refuse_unfit(
                    name, _config(path).num_labels, AutoTokenizer.from_pretrained(path, trust_remote_code=False)
                )


def _config(path: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base_of(path) or path, trust_remote_code=False)


@contextmanager
def _unloadable(path: Path) -> Iterator[None]:
    """Turn what transformers raises at a model's configuration or tokenizer into a refusal."""
    try:
        yield
    except Refused:
        raise
    except (OSError, ValueError, LookupError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Refused(f"{path}: its configuration or tokenizer cannot be loaded: {reason}") from error
