"""What all kinds over TRL's trainers share: configuration, data, forecasts, and one stage trained from end to end."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from algorithms import arguments
from algorithms.config import GRPOExtraConfig, TrainingConfig
from kinds import Kind, MicroBatch, Stage, Work
from utils.runtime import device

if TYPE_CHECKING:
    from data.sources import StageData
    from utils.limits import Clock

WITHOUT_GRADIENTS = ("per_device_eval_batch_size", "precompute_ref_batch_size")
"""Rows of the passes over held-out rows, and of a reference over the data ahead of training."""

SAMPLED = ("sampled_skills strict", "sampled_skills pass@4")
EXACT = ("skills strict", "skills strict/*", *SAMPLED)
"""What a policy stage makes of a verifier's problems."""
FORGETTING = ("documents loss", "documents bits_per_byte")
"""What a policy stage has left of what pretraining learnt."""


class TrlKind(Kind):
    """A kind of stage that one of TRL's trainers trains. A kind of its own says what it does differently."""

    config_class = TrainingConfig
    trl_name: ClassVar[str]
    """What TRL's trainer and its configuration are called, without `Trainer` and `Config`."""
    bar: ClassVar[Mapping[str, str]]
    """The metrics beside the progress bar, TRL's key to the name shown."""
    sequences_per_row: ClassVar[int] = 1
    """2 for pairs, whose sides are two sequences."""
    length_field: ClassVar[str] = "max_length"
    """The option that limits the length of what is trained on."""
    leaves_out_long: ClassVar[bool] = False
    """It leaves out what is longer than the model reads, where others cut it."""
    keeps_adapters: ClassVar[bool] = True
    """Its adapter may be kept beside the frozen weights (`merge_adapter=False`), for a later stage to train on."""

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return the stage's trainer, and its data with what the trainer found out about them.

        Raises:
            StageFailed: most answers are longer than `max_length`.
        """
        from algorithms import supervision

        trainer = self.trainer_class()(**self.parts(stage, stage_dir, data))
        return trainer, supervision.inspect_pairs(trainer, data, stage_dir)

    def judge(self, history: list[dict[str, Any]]) -> None:
        """Look at what was logged, once while training and at its end; raise StageFailed for a hopeless stage."""

    def train(self, stage: Stage, stage_dir: Path, clock: "Clock") -> Path:
        """Build the trainer and train; see `Kind.train`."""
        from algorithms import training
        from data.sources import load_for

        trainer, data = self.build(stage, stage_dir, load_for(stage.config, self.name))
        return training.fit(trainer, stage.config, stage_dir, data, self, clock)

    def rehearse(self, stage: Stage, data: Any, tokenizer: Any, model_config: Any, *, stand_in: bool) -> None:
        """Build the trainer and let it make one step; see `Kind.rehearse`."""
        from algorithms.rehearsal import rehearse

        rehearse(self, stage, data, tokenizer, model_config, stand_in=stand_in)

    def parts(
        self, stage: Stage, stage_dir: Path, data: "StageData", tokenizer: Any = None, **defaults: Any
    ) -> dict[str, Any]:
        """Return what every trainer of TRL is built from: configuration, model, rows, tokenizer.

        `defaults` are ours, of options that the recipe leaves open.
        """
        from algorithms import liger, loading, supervision, training

        config = stage.config
        tokenizer = tokenizer or loading.tokenizer(config, data.train, gives_template=self.gives_template)
        data = supervision.as_read(tokenizer, data)
        settings = training.trl_config(self, config, stage_dir, stage.extra, **defaults)
        if self.has_reference and config.peft is None:  # beside an adapter it is the model with that one off
            settings.model_init_kwargs = loading.options(config)  # TRL loads the reference, by the model's name
        supervision.within_context(settings, config)
        model = loading.reward_model(config, tokenizer.pad_token_id) if self.scores else loading.language_model(config)
        return {
            "model": liger.with_liger(model, config, stage_dir),
            "args": settings,
            "train_dataset": data.train,
            "eval_dataset": training.eval_rows(settings, data),
            "processing_class": tokenizer,
        }

    has_reference: ClassVar[bool] = False
    """A reference model may stand beside the trained one."""

    def trainer_class(self) -> Any:
        """Return the trainer's class."""
        import trl

        return getattr(trl, f"{self.trl_name}Trainer")

    def args_class(self) -> Any:
        """Return the trainer's configuration class."""
        import trl

        return getattr(trl, f"{self.trl_name}Config")

    def defaults(self) -> dict[str, Any]:
        """Return TRL's own value of each option of the trainer."""
        return {field.name: field.default for field in fields(self.args_class())}

    def problems(self, config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> list[str]:
        """Return every problem of a configuration; what TRL alone knows is asked of TRL."""
        from algorithms import checks

        return checks.problems(self, config, extra)

    def plain_problems(self, config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> list[str]:
        """Return what is wrong with types and ranges."""
        from algorithms import checks

        return checks.plain_problems(config, extra)

    def problems_together(self, config: TrainingConfig, extra: GRPOExtraConfig | None) -> list[str]:
        """Return what is wrong with values that are right each by itself; TRL is asked besides."""
        return []

    def load(self, config: TrainingConfig) -> tuple[dict[str, Any], Any]:
        """Return the record of the stage's data, and the rows."""
        from data.sources import load_for

        rows = load_for(config, self.name)
        return rows.info, rows

    def trainer_args(self, config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> Any:
        """Return TRL's configuration of the stage."""
        return self.args_class()(**arguments.resolve(config, extra, Path("never-written")))

    def micro_batch(self, config: TrainingConfig) -> MicroBatch:
        """Return how a step is made up; what the recipe leaves open is TRL's default."""
        options = self.defaults() | arguments.given(config)
        return MicroBatch(options["per_device_train_batch_size"], options["gradient_accumulation_steps"])

    def with_micro_batch(
        self, config: TrainingConfig, batch: MicroBatch, extra: GRPOExtraConfig | None = None
    ) -> TrainingConfig:
        """Return the configuration with its step made up so.

        With fewer rows in a pass than the recipe has, passes without gradients take no more either.
        """
        rows, passes = batch.per_device_train_batch_size, batch.gradient_accumulation_steps
        options = dict(config.trainer_args)
        if rows < self.micro_batch(config).per_device_train_batch_size:
            group = extra.num_generations if extra else 1  # groups of held-out rows stay whole, as TRL wants them
            most = math.ceil(rows / group) * group
            options |= {name: min(options[name], most) for name in WITHOUT_GRADIENTS if options.get(name)}
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            options.pop(name, None)  # what stands there would win over the fields
        return replace(
            config, per_device_train_batch_size=rows, gradient_accumulation_steps=passes, trainer_args=options
        )

    def advice(self, config: TrainingConfig) -> str:
        """Return what would take less memory than one row at a time does now."""
        options = self.defaults() | arguments.given(config)
        length = options.get(self.length_field)
        ways = [f"a shorter {self.length_field}" + (f" (it is {length})" if length else "")]
        if not options.get("gradient_checkpointing"):
            ways.append("gradient_checkpointing=True")
        if "8bit" not in str(options.get("optim")):
            ways.append("an 8-bit optimizer (optim='adamw_torch_8bit')")
        if options["per_device_train_batch_size"] == 1:  # else passes without gradients were of one row, too
            own = {name: config.trainer_args.get(name) or 1 for name in WITHOUT_GRADIENTS}
            ways += [f"a smaller {name} (it is {rows})" for name, rows in own.items() if rows > 1]
        return ", ".join([*ways, "LoRA, or a smaller model"])

    def steps(self, args: Any, rows: int | None, processes: int) -> int | None:
        """Return the steps that the recipe sets, or what the Trainer makes of rows, batch and epochs.

        With packing, rows share sequences, and this is an upper bound.
        """
        if args.max_steps > 0:
            return int(args.max_steps)
        if rows is None:
            return None
        passes = max(math.ceil(self.passes_of_an_epoch(args, rows, processes) / args.gradient_accumulation_steps), 1)
        return math.ceil(args.num_train_epochs * passes)

    def passes_of_an_epoch(self, args: Any, rows: int, processes: int) -> int:
        """Return how many micro-batches a process makes of `rows`."""
        return math.ceil(math.ceil(rows / args.per_device_train_batch_size) / processes)

    def work(self, config: TrainingConfig, args: Any, extra: GRPOExtraConfig | None = None) -> Work:
        """Return what a step computes. A reference stands beside the policy, or reads all rows ahead."""
        ahead = self.has_reference and bool(getattr(args, "precompute_ref_log_probs", False))
        beside = self.has_reference and not ahead
        # without a GPU here, the resolved value tells of this CPU, not of the card that a plan is for
        bf16 = args.bf16 if device() == "cuda" else arguments.given(config, extra).get("bf16", True)
        return Work(
            dtype=config.dtype or ("bfloat16" if config.peft == "qlora" else "float32"),
            autocast="float16" if args.fp16 else "bfloat16" if bf16 else None,
            optim=str(getattr(args.optim, "value", args.optim)),
            sequences_per_row=self.sequences_per_row,
            reference=beside,
            reference_passes=float(beside),
            reference_ahead=ahead,
        )
