"""What a recipe needs, stage by stage: input, rows, steps, memory, disk. Trains nothing, writes no file."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from algorithms import memory
from algorithms.sampling_kind import PROMPT_TOKENS
from chain import forecast, timing
from chain.disk import TEXT_BYTES, Disk, of_run, of_stage, steps_of
from chain.fetch import load_data, missing
from chain.forecast import Forecast, Models, Sizes, gib, trainer_args
from chain.lengths import Lengths
from chain.stage_gates import tasks_of
from chain.stages import shown
from kinds import Stage, StageOutput
from records.run_directory import usable
from utils import hub
from utils.console import console, duration
from utils.errors import Refused, refusal
from utils.files import tensor_shapes, weight_files
from utils.runtime import device, machine_bytes, memory_bytes

if TYPE_CHECKING:
    from data.sources import StageData
    from evaluation.task import Task
    from evaluation.verifier import Verifier

TYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Needs:
    """What one stage needs. None: not known before its data or its model are on this machine."""

    stage: Stage
    train_rows: int | None
    eval_rows: int | None
    steps: int | None
    parameters: int | None
    disk: Disk | None
    """Its output, checkpoints and records."""
    download_bytes: int | None
    """Of the models and data that are not on this machine, those that no earlier stage has needed."""
    memory: Forecast | None = None
    """Its peak on a GPU: with the micro-batch that fits the budget, or the recipe's where none does."""
    tokens: int | None = None
    """Of a step at most, padding included."""
    seconds: float | None = None
    """Of its passes and sampling, timed on this machine; what is not in it, chain.timing says."""
    untimed: str | None = None
    """Why they were not timed."""
    stated: Sequence[tuple[str, str]] = ()
    """The model or data that are not on this machine, each with who states its size: the recipe or the Hub."""
    notes: Sequence[str] = field(default_factory=list)
    """What there is to say of it: a changed micro-batch, what would make it fit, why something is not known."""


def plan(
    stages: Sequence[Stage],
    outputs: Mapping[str, Path],
    *,
    check_data: bool = False,
    budget_bytes: int | None = None,
    sizes: Sizes | None = None,
    verifier: "Verifier | None" = None,
) -> list[Needs]:
    """Return what each stage needs. `outputs` are directories of an earlier run's stages.

    Data on the Hub are not downloaded, only asked for their size, unless `check_data`: then every row is read. Of a
    model that is not here the configuration alone is fetched. `sizes` are what the recipe records of both, for where
    the Hub cannot be asked. `budget_bytes` is what there is of GPU memory, `verifier` what every stage is measured by.

    Raises:
        Refused: with everything that cannot be had or cannot be read.
    """
    problems = missing(stages)
    unreachable = hub.unreachable() if problems and not check_data else None
    if unreachable:  # then what the recipe records has to do
        problems = [problem for problem in problems if not problem.startswith(unreachable)]
    there = not problems and (check_data or _all_here(stages, verifier))
    known = _Known(
        outputs=outputs,
        models=Models(stages, outputs, sizes),
        lengths=Lengths(stages, outputs),
        tasks={} if problems else tasks_of(stages, verifier),
        all_here=there,
        check_data=check_data,
        unreachable=unreachable,
        budget_bytes=budget_bytes,
    )
    needs: list[Needs] = []
    for stage in stages if not problems else ():
        try:
            needs.append(_needs(stage, known))
        except Refused as error:
            problems.append(f"{stage.label}: {error}")
    if problems:
        raise refusal(problems)
    return needs


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the needs of the stages are told by; the last two fields hold what the stages before have needed."""

    outputs: Mapping[str, Path]
    models: Models
    lengths: Lengths
    tasks: "Mapping[str, Sequence[Task]]"
    all_here: bool
    check_data: bool
    unreachable: str | None
    budget_bytes: int | None
    parameters: dict[str, int | None] = field(default_factory=dict)
    downloads: set[tuple[str, str | None]] = field(default_factory=set)

    def stated_by(self, source: str) -> str:
        """Return who states a size, as it is told."""
        why = f" ({self.unreachable})" if self.unreachable and source == "the recipe" else ""
        return f"{source} states{why}"


def _needs(stage: Stage, known: _Known) -> Needs:
    offline, models = known.unreachable is not None, known.models
    download_bytes = None if offline else _download_bytes(stage, known.downloads)
    train_rows, eval_rows, source, rows = _rows(stage, known.check_data, offline, models.sizes)
    peak, notes = _memory(stage, models, known.budget_bytes)
    shapes = None if peak is None else models.of(stage).shapes
    number = _parameters(stage, known.parameters, known.outputs, offline)
    number = known.parameters[stage.label] = shapes.parameters if number is None and shapes else number
    stated = [(stage.config.dataset_name, known.stated_by(source))] if source else []
    if peak is not None and isinstance(stage.model, str) and (its := models.of(stage).source) != "this machine":
        stated.append((stage.model, known.stated_by(its)))
    steps = steps_of(stage, train_rows)
    measured = _measured(stage, known.tasks[stage.label], known.all_here)
    elsewhere = known.budget_bytes is not None and device() == "cpu"
    timed = _seconds(stage, models, peak, steps, train_rows, known.lengths, rows) if not elsewhere else None
    seconds, untimed = timed or (None, "no GPU is here")
    return Needs(
        stage,
        train_rows,
        eval_rows,
        steps,
        number,
        of_stage(stage, steps, number, models if shapes else None, measured),
        download_bytes,
        memory=peak,
        tokens=_tokens(stage, models),
        seconds=seconds,
        untimed=untimed,
        stated=stated,
        notes=notes,
    )


def _memory(stage: Stage, models: Models, budget_bytes: int | None) -> tuple[Forecast | None, list[str]]:
    """Return a stage's forecast, and what there is to say of it."""
    try:
        fitting = forecast.fit(stage, models, budget_bytes)
        if fitting is None:
            assert budget_bytes is not None, "without a budget every stage fits"
            return forecast.forecast(stage, models), [forecast.refusal_of(stage, models, budget_bytes)]
        return fitting[1], forecast.changes(stage, fitting[1], models)
    except ValueError as error:
        return None, [f"{stage.label}: its memory cannot be forecast: {error}"]


def _all_here(stages: Sequence[Stage], verifier: "Verifier | None") -> bool:
    """Tell whether all that a run is measured on is on this machine."""
    problems = getattr(verifier, "problems", None)
    if isinstance(problems, str) and hub.is_dataset_id(problems) and not hub.has_dataset(problems):
        return False
    return all(stage.kind.is_here(stage.config) for stage in stages)


def _measured(stage: Stage, tasks: "Sequence[Task]", all_here: bool) -> int:
    """Return the bytes of a stage's scores and samples at most: by their rows, or by as many as the stage may have."""
    unread = [{"prompt": "-" * PROMPT_TOKENS * TEXT_BYTES}] * stage.config.eval_samples
    return sum(task.most_bytes(task.held_out.rows if all_here else unread) for task in tasks)


def _seconds(
    stage: Stage,
    models: Models,
    peak: Forecast | None,
    steps: int | None,
    number: int | None,
    lengths: Lengths,
    rows: "StageData | None",
) -> tuple[float | None, str | None]:
    """Return what a stage's passes take, with the micro-batch of its forecast; or why that is not known."""
    if steps is None:
        return None, "how many steps it has is not known"
    if peak is not None:
        stage = forecast.with_micro_batch(stage, peak.per_device_train_batch_size)
    try:
        console().print(f"{stage.label}: timing its passes", markup=False)
        batch_size = trainer_args(stage).per_device_train_batch_size
        length = None
        if device() == "cpu":
            attention = forecast.settings(stage, trainer_args(stage), models.of(stage), models).attention
            length = lengths.of(stage, rows, batch_size, models.of(stage).config, attention)
        return timing.seconds(stage, models, steps, number, length), None
    except ValueError as error:
        return None, str(error)


def _tokens(stage: Stage, models: Models) -> int | None:
    """Return the tokens of a step at most: rows of full length, of pairs both sides."""
    if stage.kind.starts_from_nothing:
        return None
    try:
        args = trainer_args(stage)
        of_a_pass = forecast.settings(stage, args, models.of(stage), models)
    except ValueError:
        return None
    return of_a_pass.sequences * of_a_pass.tokens * args.gradient_accumulation_steps


def memory_lines(needs: Sequence[Needs], budget_bytes: int | None) -> Iterator[Table | str]:
    """Yield the table of each stage's peak by component, and what there is to say of the stages."""
    stages = [need for need in needs if need.memory is not None]
    if stages and budget_bytes is None:
        yield f"Memory: about {gib(_resident(stages))}, of {gib(machine_bytes())} here"
    elif stages:
        title = f"Forecast peak of GPU memory in MiB, of {_mib(budget_bytes or 0)}"
        table = Table(title=title, title_justify="left", pad_edge=False)
        table.add_column("", no_wrap=True)
        for need in stages:
            table.add_column(need.stage.label, justify="right", no_wrap=True)
        peaks = [need.memory for need in stages if need.memory is not None]
        for name in memory.COMPONENTS:
            if any(peak.components[name] for peak in peaks):
                table.add_row(name.replace("_", " "), *(_mib(peak.components[name]) for peak in peaks))
        table.add_section()
        table.add_row("peak", *(_mib(peak.peak_bytes) for peak in peaks), style="bold")
        batches = (f"{peak.per_device_train_batch_size} × {peak.gradient_accumulation_steps}" for peak in peaks)
        table.add_row("micro-batch × accumulation", *batches)
        table.add_row("tokens a step, at most", *(_count(need.tokens) for need in stages))
        yield table
        if budget_bytes is not None and max(peak.peak_bytes for peak in peaks) <= budget_bytes:
            yield f"Every stage whose memory is forecast fits in {gib(budget_bytes)}"
    for need in needs:
        yield from need.notes
    if sampling := [need.stage.label for need in stages if need.stage.kind.samples]:
        yield f"{', '.join(sampling)}: TRL does not limit prompt length; the forecast assumes {PROMPT_TOKENS} tokens"
    for source in dict.fromkeys(source for need in needs for _, source in need.stated):
        names = dict.fromkeys(name for need in needs for name, its in need.stated if its == source)
        yield f"Not on this machine, so as {source}: {', '.join(names)}"
    timed = [(need.stage.label, need.seconds) for need in needs if need.seconds is not None]
    if timed:
        each = ", ".join(f"{label} {duration(seconds)}" for label, seconds in timed)
        whole = f", together {duration(sum(seconds for _, seconds in timed))}" if len(timed) > 1 else ""
        bound = "about" if device() == "cpu" else "at most (every row full)"
        yield f"Time of the passes, {bound}: {each}{whole}; optimizer and evaluations besides"
    for reason in dict.fromkeys(need.untimed for need in needs if need.untimed):
        labels = ", ".join(need.stage.label for need in needs if need.untimed == reason)
        yield f"Time not measured: {labels}: {reason}"


def _resident(needs: Sequence[Needs]) -> int:
    """Return the memory of a process that runs these stages on a CPU: the libraries, and the largest stage."""
    stages = [need.memory.reserved_bytes for need in needs if need.memory is not None]
    return memory_bytes() + max(stages)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f}"


def plan_lines(title: str, needs: Sequence[Needs], runs_dir: Path) -> list[Table | str]:
    """Return the plan as a table, with the disk that the run takes and the disk there is.

    A path would be folded in it, and could not be copied: its last part stands there, the whole on a line below.
    """
    paths: dict[str, None] = {}

    def short(name: str) -> str:
        if not hub.is_path(name):
            return name
        paths[name] = None
        return f"…/{Path(name).name}"

    table = Table(title=escape(title), title_justify="left", caption_justify="left", pad_edge=False)
    for column in ("stage", "starts from", "data"):
        table.add_column(column, overflow="fold")
    for column in ("train rows", "held out", "steps", "parameters", "disk"):
        table.add_column(column, justify="right", no_wrap=True)
    for need in needs:
        table.add_row(
            need.stage.label,
            escape(short(shown(need.stage.model))),
            escape(short(need.stage.config.dataset_name)),
            *(_count(number) for number in (need.train_rows, need.eval_rows, need.steps, need.parameters)),
            _size(need.disk and need.disk.kept),
        )
    downloads = [need.download_bytes for need in needs]
    disks = [need.disk for need in needs]
    total = sum(filter(None, downloads)) + of_run(filter(None, disks))
    bound = "at least" if None in [*downloads, *disks] else "at most"
    free = shutil.disk_usage(usable(runs_dir)).free
    table.caption = f"Disk: {bound} {_size(total)}, of {_size(free)} free" + (" – TOO LITTLE" if total > free else "")
    if any(size != 0 for size in downloads):
        table.caption += f"; {_size(None if None in downloads else sum(filter(None, downloads)))} of it is downloaded"
    return [table, *(f"…/{Path(path).name}: {path}" for path in paths)]


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "?"
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def _rows(
    stage: Stage, check_data: bool, offline: bool, recorded: Sizes
) -> "tuple[int | None, int | None, str | None, StageData | None]":
    """Return how many rows there are to train on and held out, who states that (the Hub, the recipe), and the rows.

    If they were read, nobody need state it.
    """
    config = stage.config
    if check_data or stage.kind.is_here(config):
        info, read = load_data(stage)
        return info["train_rows"], info["eval_rows"], None, read
    if stage.kind.starts_from_nothing:
        return None, None, None, None
    if offline:
        sizes = {split: int(rows) for split, rows in recorded.get(config.dataset_name, {}).items()}
    else:
        sizes = hub.split_sizes(config.dataset_name, config.dataset_config_name, config.dataset_revision)
    rows = sizes.get(config.dataset_split)
    if rows is None:
        return None, None, None, None
    if config.eval_split is not None:
        held_out = sizes.get(config.eval_split)
    else:
        held_out = round(rows * config.eval_fraction)
        rows -= held_out
    measured_on = None if held_out is None else min(held_out, config.eval_samples)
    return min(rows, config.max_samples or rows), measured_on, "the recipe" if offline else "the Hub", None


def _parameters(
    stage: Stage, so_far: Mapping[str, int | None], outputs: Mapping[str, Path], offline: bool
) -> int | None:
    """Return the number of weights: of the stage's input, or of the model that pretraining makes."""
    model = stage.model
    if model is None:
        return None  # its shapes tell
    if isinstance(model, StageOutput):
        directory = outputs.get(model.name)
        if model.name in so_far or directory is None:  # neither: that stage itself is refused
            return so_far.get(model.name)
        return _count_weights(directory)
    directory = hub.local_model(model, stage.config.revision)
    if directory is not None:
        return _count_weights(directory)
    if offline:
        return None
    described = hub.model_on_hub(model, stage.config.revision).safetensors
    return None if described is None else int(described.total)


def _count_weights(directory: Path) -> int:
    """Return the number of weights by the headers of the safetensors files."""
    total = 0
    for path in weight_files(directory):
        total += sum(map(math.prod, tensor_shapes(path).values()))
    return total


def _download_bytes(stage: Stage, so_far: set[tuple[str, str | None]]) -> int | None:
    """Return the size of what is downloaded for a stage and is not in `so_far`, to which it is added."""
    sizes: list[int | None] = []
    for model in set(stage.hub_models()) - so_far:
        if hub.local_model(*model) is None:
            so_far.add(model)
            sizes.append(_weights_bytes(hub.model_on_hub(*model).safetensors))
    name = stage.config.dataset_name
    data = (f"data {name} {stage.config.dataset_config_name}", stage.config.dataset_revision)
    if data not in so_far and hub.is_dataset_id(name) and not hub.has_dataset(name):
        so_far.add(data)
        sizes.append(_data_bytes(stage))
    return None if None in sizes else sum(filter(None, sizes))


def _weights_bytes(described: Any) -> int | None:
    """Return the size of a model's weights by the Hub's description of its safetensors files."""
    if described is None or not described.parameters.keys() <= TYPE_BYTES.keys():
        return None
    return sum(number * TYPE_BYTES[kind] for kind, number in described.parameters.items())


def _data_bytes(stage: Stage) -> int | None:
    """Return the size of a data set on the Hub, as published and as prepared, where its description tells."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    config = stage.config
    try:
        info = load_dataset_builder(
            config.dataset_name, config.dataset_config_name, revision=config.dataset_revision
        ).info
    except (OSError, ValueError, DatasetsError):
        return None  # whoever asks for its rows says why
    return info.download_size + info.dataset_size if info.download_size and info.dataset_size else None
