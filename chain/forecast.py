"""What GPU memory a stage will take, from its configuration, and the micro-batch with which it keeps to a budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from algorithms import memory
from algorithms.config import TrainingConfig
from algorithms.memory import Adapter, Sampling, Settings
from algorithms.shapes import Shapes, shapes_of
from chain.stages import reference
from kinds import Stage, StageOutput
from utils import hub
from utils.errors import without_number
from utils.files import base_of
from utils.processes import count

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

LEAST_TOKENS = 128
"""The shortest `max_length` that is proposed."""

Sizes = Mapping[str, Mapping[str, Any]]
"""What a recipe records of what it names on the Hub: of a data set the rows of its splits, of a model the values of its
config.json. A plan takes it where there is neither the thing itself nor a network."""


@dataclass(frozen=True)
class Model:
    """A model that a stage starts from: its shapes, what of its configuration is known, and how."""

    config: Any
    """Its transformers configuration."""
    shapes: Shapes
    dtype: str | None
    """The type that its weights are saved in."""
    source: str
    """Where its configuration is from."""

    @property
    def number_bytes(self) -> int:
        """Of one number of its weights, as they are saved; a reward model that is asked for rewards is loaded so."""
        return NUMBER_BYTES.get(self.dtype or "float32", 4)


@dataclass(frozen=True)
class Forecast:
    """A stage's peak, by component, and the batch that it is of."""

    components: Mapping[str, int]
    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def peak_bytes(self) -> int:
        """Peak GPU memory in bytes, CUDA context included."""
        return sum(self.components.values())

    @property
    def reserved_bytes(self) -> int:
        """What torch reserves of the GPU, in bytes: the peak without the CUDA context."""
        return self.peak_bytes - self.components["context"]

    def record(self, budget_bytes: int | None) -> dict[str, Any]:
        """Return it as stage_info.json holds it."""
        return dict(self.components) | {
            "peak_bytes": self.peak_bytes,
            "reserved_bytes": self.reserved_bytes,
            "budget_bytes": budget_bytes,
            "per_device_train_batch_size": self.per_device_train_batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }


class Models:
    """The models that a run's stages start from, each described once."""

    def __init__(self, stages: Sequence[Stage], outputs: Mapping[str, Path], sizes: Sizes | None = None) -> None:
        self.stages = {stage.label: stage for stage in stages}
        self.outputs, self.sizes = outputs, sizes or {}
        self._known: dict[tuple[Any, ...], Model] = {}

    def of(self, stage: Stage) -> Model:
        """Return the model that a stage trains; see `described` for what it raises."""
        if stage.model is None:
            return _of_nothing(stage, scores=False)
        return self.described(stage.model, stage.config.revision, scores=stage.kind.scores)

    def described(self, model: str | StageOutput, revision: str | None, *, scores: bool) -> Model:
        """Return a model by its name in the recipe; `scores`: as a reward model.

        Raises:
            ValueError: its configuration cannot be had, or it has no list of layers.
        """
        dtype = None
        while isinstance(model, StageOutput) and model.name in self.stages:
            stage = self.stages[model.name]
            if stage.model is None:
                first = _of_nothing(stage, scores=scores)
                return replace(first, dtype=dtype or first.dtype)
            dtype = dtype or stage.config.dtype or "float32"
            model, revision = stage.model, stage.config.revision
        key = (model, revision, scores)
        if key not in self._known:
            try:
                config, source = self._config(model, revision)
                shapes = shapes_of(config, scores=scores)
            except (OSError, ImportError, LookupError) as error:  # what transformers raises besides ValueError
                reason = without_number(error).strip().partition("\n")[0]
                raise ValueError(f"the configuration of {reference(model)} cannot be loaded: {reason}") from error
            saved = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
            self._known[key] = Model(config, shapes, saved, source)
        found = self._known[key]
        return replace(found, dtype=dtype if dtype not in (None, "auto") else found.dtype)

    def _config(self, model: str | StageOutput, revision: str | None) -> tuple[Any, str]:
        from transformers import AutoConfig

        def read(path: Path) -> Any:  # of an adapter, that of its model
            return AutoConfig.from_pretrained(base_of(path) or path, trust_remote_code=False)

        if isinstance(model, StageOutput):
            return read(self.outputs[model.name]), "an earlier run"
        directory = hub.local_model(model, revision)
        if directory is not None:
            return read(directory), "this machine"
        recorded = dict(self.sizes.get(model, {}))
        if "model_type" in recorded:
            return AutoConfig.for_model(recorded.pop("model_type"), **recorded), "the recipe"
        return read(hub.model_config(model, revision)), "the Hub"


def _of_nothing(stage: Stage, *, scores: bool) -> Model:
    """Return the model that a stage which starts from nothing makes; its tokenizer may give fewer pieces."""
    config = stage.kind.model_config(stage.config)
    return Model(config, shapes_of(config, scores=scores), "float32", "the recipe")


def trainer_args(stage: Stage) -> Any:
    """Return what a stage will train with."""
    return stage.kind.trainer_args(stage.config, stage.extra)


def forecast(stage: Stage, models: Models) -> Forecast:
    """Return a stage's peak on a GPU. Without one here, a card that computes in bfloat16 (Ampere or newer) is meant.

    Raises:
        ValueError: it cannot be forecast, with the reason.
    """
    model = models.of(stage)
    args = trainer_args(stage)
    components = memory.peak(model.shapes, settings(stage, args, model, models))
    return Forecast(components, args.per_device_train_batch_size, args.gradient_accumulation_steps)


def settings(stage: Stage, args: Any, model: Model, models: Models) -> Settings:
    """Return what of a stage's arguments decides its memory.

    Raises:
        ValueError: nothing limits the length of its rows, or the size of a reward model is not known.
    """
    from algorithms import liger

    config, work = stage.config, stage.kind.work(stage.config, args, stage.extra)
    weight = model.number_bytes if work.dtype == "auto" else NUMBER_BYTES.get(work.dtype, 4)
    adapter = _adapter(config, model.shapes) if stage.model else None
    sampling, tokens = None, getattr(args, "max_length", None)
    if work.prompt_and_completion_tokens is not None:
        prompt, completion = work.prompt_and_completion_tokens
        sampling = Sampling(  # a generation batch is of all processes
            sequences=args.generation_batch_size // count(), prompt_tokens=prompt, completion_tokens=completion,
            group=args.num_generations,
        )  # fmt: skip
        tokens = prompt + completion
    if tokens is None:
        raise ValueError("max_length is not set, so nothing limits the length of its rows")
    judges = [models.described(one, None, scores=True) for one in stage.reward_models]
    return Settings(
        sequences=args.per_device_train_batch_size * work.sequences_per_row,
        tokens=tokens,
        weight_bytes=weight,
        compute_bytes=2 if work.autocast else weight,
        accumulates=args.gradient_accumulation_steps > 1,
        gradient_checkpointing=args.gradient_checkpointing,
        optim=work.optim,
        attention=config.attn_implementation or "sdpa",
        liger=getattr(config, "use_liger_kernel", False) is not False and liger.knows(model.config.model_type),
        padding_free=bool(getattr(args, "packing", False) or getattr(args, "padding_free", False)),
        has_logits=not stage.kind.scores,
        whole_logits=work.whole_logits,
        adapter=adapter,
        sampling=sampling,
        reference=adapter is None and work.reference,
        reward_models_bytes=sum(judge.shapes.parameters * judge.number_bytes for judge in judges),
        reward_weight_bytes=max((judge.number_bytes for judge in judges), default=4),
    )


def _adapter(config: TrainingConfig, shapes: Shapes) -> Adapter | None:
    if config.peft is None:
        return None
    from algorithms.adapters import DEFAULTS

    options = DEFAULTS | dict(config.peft_args)
    modules = options["target_modules"]
    linear = [weight.name for weight in shapes.weights if weight.role == "linear"]
    if modules != "all-linear":
        wanted = (modules,) if isinstance(modules, str) else tuple(modules)
        linear = [name for name in linear if name.removesuffix(".weight").endswith(wanted)]
    return Adapter(r=int(options["r"]), targets=tuple(linear), quantised=config.peft == "qlora")


def with_micro_batch(stage: Stage, rows: int) -> Stage:
    """Return the stage with `rows` in each pass and as many in a step as before; as many are sampled at once."""
    batch = stage.kind.micro_batch(stage.config)
    passes = batch.per_device_train_batch_size * batch.gradient_accumulation_steps // rows
    smaller = replace(batch, per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    return replace(stage, config=stage.kind.with_micro_batch(stage.config, smaller, stage.extra))


def micro_batches(stage: Stage) -> Iterator[Stage]:
    """Yield the stage with every micro-batch that gives the recipe's step, the recipe's own first, then smaller ones.

    None is larger than the recipe's: what it leaves free may be wanted for something else.
    """
    rows = trainer_args(stage).per_device_train_batch_size
    yield stage
    smaller = range(rows - 1, stage.kind.least_rows(stage.config) - 1, -1)
    yield from (with_micro_batch(stage, fewer) for fewer in smaller if rows % fewer == 0)


def fit(stage: Stage, models: Models, budget_bytes: int | None) -> tuple[Stage, Forecast] | None:
    """Return the stage with the largest micro-batch whose forecast keeps to the budget, and that forecast.

    None: no micro-batch does, or the weights would have to be of another type; see `needs_float32`.

    Raises:
        ValueError: its memory cannot be forecast.
    """
    if needs_float32(stage, models):
        return None
    for candidate in micro_batches(stage):
        found = forecast(candidate, models)
        if budget_bytes is None or found.peak_bytes <= budget_bytes:
            return candidate, found
    return None


def changes(stage: Stage, found: Forecast, models: Models) -> list[str]:
    """Say what is not as the recipe has it, a line each: a forecast's batch, and what the GPU here makes different."""
    return [*_other_type(stage, models), *_other_batch(stage, found)]


def _other_type(stage: Stage, models: Models) -> list[str]:
    if not stage.model or stage.config.peft is None or not lacks_bf16() or not _is_bfloat16(stage, models):
        return []
    return [f"{stage.label}: this GPU does not compute in bfloat16: the frozen weights are loaded in float16"]


def _other_batch(stage: Stage, found: Forecast) -> list[str]:
    args = trainer_args(stage)
    was = (args.per_device_train_batch_size, args.gradient_accumulation_steps)
    now = (found.per_device_train_batch_size, found.gradient_accumulation_steps)
    if was == now:
        return []
    same = "; ".join(_by_pass(args)) or "a step is the same"
    return [
        f"{stage.label}: {now[0]} × {now[1]} instead of {was[0]} × {was[1]} (per_device_train_batch_size × "
        f"gradient_accumulation_steps) keeps to the memory budget; {same}"
    ]


_MEAN = "is a mean over the tokens of a pass, so that passes weigh alike"
_SORTED = "sorts the pairs of a pass, so that fewer are compared"
LOSSES_BY_PASS = {
    "sft": _MEAN,
    "bnpo": _MEAN,
    "aot": _SORTED,
    "aot_unpaired": _SORTED,
    "kto": "estimates a divergence from the rows of a pass, of which there are fewer",
}
"""Values of TRL's `loss_type` whose loss depends on the rows of a pass, and how."""


def _by_pass(args: Any) -> Iterator[str]:
    """Say what of a step depends on the passes that it is made of."""
    losses = getattr(args, "loss_type", ())
    for loss in (losses,) if isinstance(losses, str) else losses:
        if loss in LOSSES_BY_PASS:
            yield f"the loss {loss!r} {LOSSES_BY_PASS[loss]}"
    if getattr(args, "entropy_coef", 0) or getattr(args, "use_adaptive_entropy", False):
        yield "the entropy's bonus is a mean over the tokens of a pass, so that passes weigh alike"
    if getattr(args, "top_entropy_quantile", 1) < 1:
        yield "top_entropy_quantile is taken of the tokens of a pass, so that others are left out"


def smallest(stage: Stage, models: Models) -> Forecast:
    """Return the forecast of one row at a time."""
    *_, last = micro_batches(stage)
    return forecast(last, models)


def remedy(stage: Stage, models: Models, budget_bytes: int) -> str | None:
    """Return what makes a stage fit that does not fit, as `--set` takes it: the first that does by the forecast."""
    for changes in _remedies(stage):
        config = stage.config
        given = getattr(config, "trainer_args", {})
        changes = {name: value for name, value in changes.items() if getattr(config, name, given.get(name)) != value}
        known = {name: value for name, value in changes.items() if hasattr(config, name)}
        others = {name: value for name, value in changes.items() if name not in known and name != _COMPLETION}
        options = {"trainer_args": {**config.trainer_args, **others}} if others else {}
        changed = replace(stage, config=replace(config, **known, **options))
        if stage.extra and _COMPLETION in changes:
            changed = replace(changed, extra=replace(stage.extra, max_completion_length=changes[_COMPLETION]))
        if not needs_float32(changed, models) and smallest(changed, models).peak_bytes <= budget_bytes:
            named = ((name if name in known or name == _COMPLETION else f"trainer_args.{name}", value)
                     for name, value in changes.items())  # fmt: skip
            return " ".join(f"--set {stage.label}.{name}={value}" for name, value in named)
    return None


_COMPLETION = "max_completion_length"


def _remedies(stage: Stage) -> Iterator[dict[str, Any]]:
    """Yield changes, from the least to the most: each is tried with the recipe's values for all else."""
    args = trainer_args(stage)
    checkpointing = {} if args.gradient_checkpointing else {"gradient_checkpointing": True}
    if checkpointing:
        yield checkpointing
    others = [] if not stage.model else [checkpointing | way for way in _smaller_weights(stage)]
    yield from others
    ways = [checkpointing, *others]
    name = _COMPLETION if stage.kind.samples else "max_length"
    tokens = getattr(args, name)
    while (tokens := tokens // 2) >= LEAST_TOKENS:
        yield from (way | {name: tokens} for way in ways)


def _smaller_weights(stage: Stage) -> Iterator[dict[str, Any]]:
    if stage.config.peft is None and lacks_bf16():
        yield {"dtype": "float32"}
    elif stage.config.peft is None:  # plain bfloat16 rounds small steps away
        yield {"dtype": "bfloat16", "optim": "adamw_torch_8bit", "optim_args": "bf16_stochastic_round=True"}
    # before Ampere, float32 first: its range cannot be left, that of float16 can
    for dtype in ("float32", "float16") if lacks_bf16() else ("bfloat16",):
        yield {"dtype": dtype, "peft": "lora"}
    yield {"peft": "qlora"}


def lacks_bf16() -> bool:
    """Tell whether there is a GPU here that does not compute in bfloat16: all before Ampere."""
    from utils.runtime import computes_in_bf16, device

    return device() == "cuda" and not computes_in_bf16("cuda")


def needs_float32(stage: Stage, models: Models) -> bool:
    """Tell whether a stage trains all weights in bfloat16 on a GPU that does not compute in it.

    There bfloat16 is emulated, and what is fast, float16 under autocast with scaled losses, is for float32 weights.
    """
    if not stage.model or stage.config.peft is not None or not lacks_bf16():
        return False
    return _is_bfloat16(stage, models)


def _is_bfloat16(stage: Stage, models: Models) -> bool:
    """Tell whether a stage's weights are in bfloat16 as its recipe has it."""
    dtype = stage.config.dtype
    return (models.of(stage).dtype if dtype == "auto" else dtype) == "bfloat16"


def refusal_of(stage: Stage, models: Models, budget_bytes: int) -> str:
    """Say that a stage does not fit, by how much, and what would make it."""
    why, change = "", remedy(stage, models, budget_bytes)
    if needs_float32(stage, models):
        why = "this GPU does not compute in bfloat16, so all weights have to be trained in float32; "
        stage = replace(stage, config=replace(stage.config, dtype="float32"))
    least = smallest(stage, models)
    rows = "one row" if least.per_device_train_batch_size == 1 else f"{least.per_device_train_batch_size} rows"
    said = (
        f"{stage.label} does not fit in {gib(budget_bytes)}{' as it is' if why else ''}: {why}with {rows} at a time"
        f" its forecast is {gib(least.peak_bytes)} (weights {gib(least.components['weights'])}, gradients"
        f" {gib(least.components['gradients'])}, optimizer {gib(least.components['optimizer'])})"
    )
    return (
        f"{said}. It fits with {change}" if change else f"{said}. Nothing that is tried makes it fit: a smaller model"
    )


def gib(size_bytes: int) -> str:
    """Return a size as it is told.

    >>> gib(6 * 2**30)
    '6.00 GiB'
    """
    return f"{size_bytes / 2**30:.2f} GiB"
