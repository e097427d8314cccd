"""What GPU memory a stage will take, from its configuration, and the micro-batch with which it keeps to a budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from algorithms import memory
from algorithms.config import StageOutput, TrainingConfig
from algorithms.memory import Adapter, Sampling, Settings
from algorithms.shapes import Shapes, shapes_of
from chain.stages import Stage
from utils import hub
from utils.errors import Refused

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

PROMPT_TOKENS = 256
"""What a prompt of GRPO is taken for, since TRL sets it no limit."""

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


@dataclass(frozen=True)
class Forecast:
    """A stage's peak, by component, and the batch that it is of."""

    components: Mapping[str, int]
    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def peak_bytes(self) -> int:
        """Of the GPU, the CUDA context included."""
        return sum(self.components.values())

    def record(self, budget_bytes: int | None) -> dict[str, Any]:
        """Return it as stage_info.json holds it."""
        return dict(self.components) | {
            "peak_bytes": self.peak_bytes,
            "budget_bytes": budget_bytes,
            "per_device_train_batch_size": self.per_device_train_batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }


class Models:
    """The models that a run's stages start from, each described once."""

    def __init__(self, stages: Sequence[Stage], outputs: Mapping[str, Path], sizes: Sizes | None = None) -> None:
        self.stages = {stage.kind: stage for stage in stages}
        self.outputs, self.sizes = outputs, sizes or {}
        self._known: dict[tuple[Any, ...], Model] = {}

    def of(self, stage: Stage) -> Model:
        """Return the model that a stage trains; see `described` for what it raises."""
        if stage.model is None:
            return _of_pretraining(stage.config, scores=False)
        return self.described(stage.model, stage.config.revision, scores=stage.kind == "reward")

    def described(self, model: str | StageOutput, revision: str | None, *, scores: bool) -> Model:
        """Return a model by its name in the recipe; `scores`: as a reward model.

        Raises:
            ValueError: its configuration cannot be had, or no formula is for its layers.
        """
        dtype = None
        while isinstance(model, StageOutput) and model.name in self.stages:
            stage = self.stages[model.name]
            if stage.model is None:
                made = _of_pretraining(stage.config, scores=scores)
                return replace(made, dtype=dtype or made.dtype)
            dtype = dtype or stage.config.dtype or "float32"
            model, revision = stage.model, stage.config.revision
        key = (model, revision, scores)
        if key not in self._known:
            config, source = self._config(model, revision)
            saved = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
            self._known[key] = Model(config, shapes_of(config, scores=scores), saved, source)
        found = self._known[key]
        return replace(found, dtype=dtype if dtype not in (None, "auto") else found.dtype)

    def _config(self, model: str | StageOutput, revision: str | None) -> tuple[Any, str]:
        from transformers import AutoConfig

        if isinstance(model, StageOutput):
            return AutoConfig.from_pretrained(self.outputs[model.name], trust_remote_code=False), "an earlier run"
        directory = hub.local_model(model, revision)
        if directory is not None:
            return AutoConfig.from_pretrained(directory, trust_remote_code=False), "this machine"
        recorded = dict(self.sizes.get(model, {}))
        if "model_type" in recorded:
            return AutoConfig.for_model(recorded.pop("model_type"), **recorded), "the recipe"
        try:
            return AutoConfig.from_pretrained(hub.model_config(model, revision), trust_remote_code=False), "the Hub"
        except Refused as error:
            raise ValueError(str(error)) from error


def _of_pretraining(config: Any, *, scores: bool) -> Model:
    """Return the model that a pretraining stage makes; its tokenizer may give fewer pieces."""
    from transformers import AutoConfig

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "tie_word_embeddings")
    heads = config.num_attention_heads
    made = AutoConfig.for_model(
        "qwen3",
        vocab_size=config.vocab_size,
        num_key_value_heads=heads,
        head_dim=config.hidden_size // heads,
        **{name: getattr(config, name) for name in names},
    )
    return Model(made, shapes_of(made, scores=scores), "float32", "the recipe")


def trainer_args(stage: Stage) -> Any:
    """Return the TRL config that a stage will train with."""
    from algorithms import arguments

    return arguments.config_class(stage.kind)(**arguments.resolve(stage.config, stage.extra, Path("never-written")))


def forecast(stage: Stage, models: Models) -> Forecast:
    """Return a stage's peak on a GPU. Without one here, a card that computes in bfloat16 (Ampere or newer) is meant.

    Raises:
        ValueError: it cannot be forecast, with the reason.
    """
    args, model = trainer_args(stage), models.of(stage)
    components = memory.peak(model.shapes, settings(stage, args, model, models))
    return Forecast(components, args.per_device_train_batch_size, args.gradient_accumulation_steps)


def settings(stage: Stage, args: Any, model: Model, models: Models) -> Settings:
    """Return what of a stage's arguments decides its memory.

    Raises:
        ValueError: nothing limits the length of its rows, or the size of a reward model is not known.
    """
    config, rows = stage.config, args.per_device_train_batch_size
    weight, compute = _number_bytes(stage, args, model)
    adapter = _adapter(config, model.shapes)
    sampling, tokens = None, getattr(args, "max_length", None)
    if stage.kind == "grpo":
        sampling = Sampling(
            sequences=args.generation_batch_size,
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=args.max_completion_length,
        )
        tokens = PROMPT_TOKENS + args.max_completion_length
    if tokens is None:
        raise ValueError("max_length is not set, so nothing limits the length of its rows")
    with_reference = {"dpo": not getattr(args, "precompute_ref_log_probs", False), "grpo": getattr(args, "beta", 0) > 0}
    return Settings(
        sequences=rows * (2 if stage.kind in ("reward", "dpo") else 1),
        tokens=tokens,
        weight_bytes=weight,
        compute_bytes=compute,
        accumulates=args.gradient_accumulation_steps > 1,
        gradient_checkpointing=args.gradient_checkpointing,
        optim=str(getattr(args.optim, "value", args.optim)),
        attention=config.attn_implementation or "sdpa",
        liger=bool(args.use_liger_kernel),
        padding_free=bool(getattr(args, "packing", False) or getattr(args, "padding_free", False)),
        has_logits=stage.kind != "reward",
        adapter=adapter,
        sampling=sampling,
        reference=adapter is None and with_reference.get(stage.kind, False),
        reward_models_bytes=sum(_judge_bytes(one, models) for one in stage.reward_models),
    )


def _number_bytes(stage: Stage, args: Any, model: Model) -> tuple[int, int]:
    """Return the size of one number of the weights, and of what the matrix products give."""
    from algorithms import arguments
    from utils.runtime import device

    chosen = stage.config.dtype or ("bfloat16" if stage.config.peft == "qlora" else "float32")
    weight = NUMBER_BYTES.get(model.dtype or "float32" if chosen == "auto" else chosen, 4)
    given = arguments.given(stage.config, stage.extra)
    # without a GPU here, the resolved value tells of this CPU, not of the card that the plan is for
    autocast = args.fp16 or (args.bf16 if device() == "cuda" else given.get("bf16", True))
    return weight, 2 if autocast else weight


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


def _judge_bytes(reward_model: str | StageOutput, models: Models) -> int:
    """Return the size of a reward model, which is loaded in the type that it is saved in."""
    model = models.described(reward_model, None, scores=True)
    return model.shapes.parameters * NUMBER_BYTES.get(model.dtype or "float32", 4)


def with_micro_batch(stage: Stage, rows: int) -> Stage:
    """Return the stage with `rows` in each pass and as many in a step as before; GRPO samples as many at once."""
    from algorithms.recovery import batch_of, with_batch

    batch = batch_of(stage.kind, stage.config)
    passes = batch.per_device_train_batch_size * batch.gradient_accumulation_steps // rows
    smaller = replace(batch, per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    return replace(stage, config=with_batch(stage.kind, stage.config, smaller, stage.extra))


def micro_batches(stage: Stage) -> Iterator[Stage]:
    """Yield the stage with every micro-batch that gives the recipe's step, the recipe's own first, then smaller ones.

    None is larger than the recipe's: what it leaves free may be wanted for something else.
    """
    args = trainer_args(stage)
    rows = args.per_device_train_batch_size
    yield stage
    yield from (with_micro_batch(stage, fewer) for fewer in range(rows - 1, 0, -1) if rows % fewer == 0)


def fit(stage: Stage, models: Models, budget_bytes: int | None) -> tuple[Stage, Forecast] | None:
    """Return the stage with the largest micro-batch whose forecast keeps to the budget, and that forecast.

    None: no micro-batch does.

    Raises:
        ValueError: its memory cannot be forecast.
    """
    for candidate in micro_batches(stage):
        found = forecast(candidate, models)
        if budget_bytes is None or found.peak_bytes <= budget_bytes:
            return candidate, found
    return None


def changes(stage: Stage, found: Forecast) -> list[str]:
    """Say in one line what a forecast's batch changes of the recipe's; nothing if it is the recipe's."""
    args = trainer_args(stage)
    was = (args.per_device_train_batch_size, args.gradient_accumulation_steps)
    now = (found.per_device_train_batch_size, found.gradient_accumulation_steps)
    if was == now:
        return []
    losses = getattr(args, "loss_type", ())
    by_pass = {"sft", "bnpo"} & set((losses,) if isinstance(losses, str) else losses)
    same = "a step is the same"
    if by_pass:
        same = f"the loss {by_pass.pop()!r} is a mean over the tokens of a pass, so that passes weigh alike"
    return [
        f"{stage.kind}: {now[0]} × {now[1]} instead of {was[0]} × {was[1]} (per_device_train_batch_size × "
        f"gradient_accumulation_steps) keeps to the memory budget; {same}"
    ]


def smallest(stage: Stage, models: Models) -> Forecast:
    """Return the forecast of one row at a time."""
    *_, last = micro_batches(stage)
    return forecast(last, models)


def remedy(stage: Stage, models: Models, budget_bytes: int) -> str | None:
    """Return what makes a stage fit that does not fit, as `--set` takes it: the first that does by the forecast."""
    for changes in _remedies(stage):
        config = stage.config
        options = dict(config.trainer_args)
        known = {name: value for name, value in changes.items() if hasattr(config, name)}
        options |= {name: value for name, value in changes.items() if name not in known and name != _COMPLETION}
        changed = replace(stage, config=replace(config, **known, trainer_args=options))
        if stage.extra and _COMPLETION in changes:
            changed = replace(changed, extra=replace(stage.extra, max_completion_length=changes[_COMPLETION]))
        if fit(changed, models, budget_bytes) is not None:
            named = ((name if name in known or name == _COMPLETION else f"trainer_args.{name}", value)
                     for name, value in changes.items())  # fmt: skip
            return " ".join(f"--set {stage.kind}.{name}={value}" for name, value in named)
    return None


_COMPLETION = "max_completion_length"


def _remedies(stage: Stage) -> Iterator[dict[str, Any]]:
    """Yield changes, from the least to the most: each is tried with the recipe's values for all else."""
    args = trainer_args(stage)
    checkpointing = {} if args.gradient_checkpointing else {"gradient_checkpointing": True}
    if checkpointing:
        yield checkpointing
    in_16_bits: dict[str, Any] = {"dtype": "bfloat16", "optim": "adamw_torch_8bit"}
    rounding = {"optim_args": "bf16_stochastic_round=True"}  # plain bfloat16 rounds small steps away
    ways: list[dict[str, Any]] = [checkpointing]
    if not lacks_bf16() and stage.config.peft is None:
        ways.append(checkpointing | in_16_bits | rounding)
    ways += [checkpointing | {"dtype": "float32" if lacks_bf16() else "bfloat16", "peft": "lora"}]
    ways += [checkpointing | {"peft": "qlora"}]
    yield from ways[1:]
    name, tokens = (
        (_COMPLETION, args.max_completion_length) if stage.kind == "grpo" else ("max_length", args.max_length)
    )
    while (tokens := tokens // 2) >= LEAST_TOKENS:
        yield from (way | {name: tokens} for way in ways)


def lacks_bf16() -> bool:
    """Tell whether there is a GPU here that does not compute in bfloat16: all before Ampere."""
    from utils.runtime import computes_in_bf16, device

    return device() == "cuda" and not computes_in_bf16("cuda")


WITHOUT_BF16 = (
    "this GPU does not compute in bfloat16, so training all weights needs them in float32, and that does not fit: LoRA"
)
"""What is said of a card before Ampere: fp16 weights cannot be trained with a GradScaler, bf16 ones are emulated."""


def refusal_of(stage: Stage, models: Models, budget_bytes: int) -> str:
    """Say that a stage does not fit, by how much, and what would make it."""
    least, change = smallest(stage, models), remedy(stage, models, budget_bytes)
    said = (
        f"{stage.kind} does not fit in {gib(budget_bytes)}: with one row at a time its forecast is "
        f"{gib(least.peak_bytes)} (weights {gib(least.components['weights'])}, gradients "
        f"{gib(least.components['gradients'])}, optimizer {gib(least.components['optimizer'])})"
    )
    if lacks_bf16():
        said += f". {WITHOUT_BF16}"
    return (
        f"{said}. It fits with {change}" if change else f"{said}. Nothing that is tried makes it fit: a smaller model"
    )


def gib(size_bytes: int) -> str:
    """Return a size as it is told.

    >>> gib(6 * 2**30)
    '6.00 GiB'
    """
    return f"{size_bytes / 2**30:.2f} GiB"
