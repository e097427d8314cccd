"""What is settled before a run starts: can its models and data be had, and do they fit together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.config import StageOutput
from chain.stages import Stage, is_reward_model
from utils import hub
from utils.console import console
from utils.errors import Refused

if TYPE_CHECKING:
    from data.sources import StageData


def missing(stages: Sequence[Stage]) -> list[str]:
    """Return what cannot be had, of the models and data on the Hub that the stages name. Downloads nothing."""
    problems: list[str] = []
    absent: dict[str, Callable[[], Any]] = {}  # what is not on this machine, and how the Hub is asked about it
    for stage in stages:
        for name, revision in stage.hub_models():
            try:
                if hub.local_model(name, revision) is None:
                    absent[f"model {_revised(name, revision)}"] = partial(hub.model_on_hub, name, revision)
            except Refused as error:
                problems.append(f"{stage.kind}: {error}")
        name, revision = stage.config.dataset_name, stage.config.dataset_revision
        if hub.is_dataset_id(name) and not hub.has_dataset(name):
            absent[f"data set {_revised(name, revision)}"] = partial(hub.dataset_on_hub, name, revision)
    reason = hub.unreachable() if absent else None
    if reason:
        return [*problems, f"{reason}, and these are not on this machine: {', '.join(absent)}. {hub.GET_IT}"]
    for look_up in absent.values():
        try:
            look_up()
        except Refused as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _revised(name: str, revision: str | None) -> str:
    return repr(name) if revision is None else f"{name!r} (revision {revision})"


@dataclass(frozen=True)
class Fetched:
    """What the stages need, on this machine."""

    models: dict[tuple[str, str | None], Path]
    """The directory of each model that no stage makes, by its name in the recipe and its revision."""
    data: dict[str, dict[str, Any]]
    """`StageData.info` of each stage's data, by kind."""

    def path_of(self, model: str | StageOutput, revision: str | None, outputs: Mapping[str, Path]) -> Path:
        """Return the directory of a model that a stage names; `outputs` are those of stages."""
        return outputs[model.name] if isinstance(model, StageOutput) else self.models[model, revision]


def fetch(stages: Sequence[Stage]) -> Fetched:
    """Bring the stages' models and data to this machine, and read them: each stage's data in that stage's layout.

    Raises:
        Refused: with everything that cannot be had, cannot be read, or does not fit together.
    """
    problems = missing(stages)
    models: dict[tuple[str, str | None], Path] = {}
    data: dict[str, dict[str, Any]] = {}
    if not problems:
        for stage in stages:
            try:
                for name, revision in stage.hub_models():
                    models[name, revision] = hub.local_model(name, revision) or _download(name, revision)
                if hub.is_dataset_id(stage.config.dataset_name):
                    console().print(f"reading {stage.config.dataset_name}", markup=False)
                rows = load_data(stage)
                data[stage.kind] = rows.info
                _fit_together(stage, rows, models)
            except Refused as error:
                problems.append(f"{stage.kind}: {error}")
    if problems:
        raise Refused("\n".join(["the run cannot start:", *(f"- {problem}" for problem in dict.fromkeys(problems))]))
    return Fetched(models, data)


def _download(name: str, revision: str | None) -> Path:
    console().print(f"downloading {name}", markup=False)
    return hub.download_model(name, revision)


def load_data(stage: Stage) -> "StageData":
    """Return the stage's rows as its trainer will see them."""
    from data.sources import load

    config = stage.config
    return load(
        config.dataset_name,
        stage.kind,
        split=config.dataset_split,
        config_name=config.dataset_config_name,
        revision=config.dataset_revision,
        eval_split=config.eval_split,
        eval_fraction=config.eval_fraction,
        eval_samples=config.eval_samples,
        max_samples=config.max_samples,
        seed=config.seed,
    )


def _fit_together(stage: Stage, rows: "StageData", models: Mapping[tuple[str, str | None], Path]) -> None:
    """Refuse now what the stage would refuse later: a model without the chat template, a reward without its column."""
    if isinstance(stage.model, str) and stage.kind != "sft":  # SFT gives a template to a model that has none
        from algorithms.loading import tokenizer

        config = replace(stage.config, model_name=str(models[stage.model, stage.config.revision]), revision=None)
        tokenizer(config, rows.train[0])
    if stage.extra is not None:
        from algorithms import rewards

        functions = [rewards.load(one)[0] for one in stage.extra.rewards if not is_reward_model(one)]
        lacking = rewards.missing_columns(functions, rows.train.column_names)
        if lacking:
            raise Refused("; ".join(lacking))
