"""What a stage's TRL trainer is told: from our configuration to TRL's."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from algorithms.config import GRPOExtraConfig, TrainingConfig
from utils.runtime import computes_in_bf16, device

NOT_FOR_THE_TRAINER = frozenset(
    "model_name output_dir dataset_name stage revision dataset_revision dataset_config_name dataset_split eval_split"
    " columns eval_fraction eval_samples max_samples max_dropped_fraction dtype attn_implementation use_liger_kernel"
    " peft peft_args merge_adapter max_skipped_steps gates on_fail trainer_args".split()
)
"""Fields that choose the model or the data, or change the model; all others have a namesake in TRL's configs."""

BF16_OPTIM, BF16_OPTIM_ARGS = "adamw_torch_8bit", "bf16_stochastic_round=True"
"""What updates bfloat16 weights unless the recipe says otherwise: 8-bit states, and no small update rounded away."""

SMALL_RATE = 1e-4
"""AdamW moves a weight by about the learning rate a step. Below half the spacing of bfloat16, which is 2**-8 to 2**-7
of the value, plain rounding undoes the move: at this rate that of each weight of 2**-5 = 0.031 or more."""

NO_CODE = "code that comes with a model is never run"
NO_PICKLE = "weights are read from safetensors alone, which cannot run code"
NO_TOKEN = "a token belongs in the environment, as HF_TOKEN (see .env.example): a recipe's values are recorded"
NOT_SENT = "nothing is sent to the Hub: upload the stage's directory when it has passed"

OURS = {
    "output_dir": "it is the stage's directory",
    "resume_from_checkpoint": "a stage resumes from the newest checkpoint in its directory",
    "report_to": "the environment variable REPORT_TO names the trackers",
    "disable_tqdm": "progress is shown by the run's console",
    "sync_ref_model": "no checkpoint holds a reference that moves, so no resumed stage would be the same",
    "trust_remote_code": NO_CODE,
    "hub_token": NO_TOKEN,
    "push_to_hub": NOT_SENT,
    "hub_model_id": NOT_SENT,
    "hub_strategy": NOT_SENT,
    "hub_private_repo": NOT_SENT,
    "hub_always_push": NOT_SENT,
    "hub_revision": NOT_SENT,
    "log_completions_hub_repo": NOT_SENT,
    "save_only_model": "a checkpoint without the optimizer's state cannot be gone on from to the same result",
    "ignore_data_skip": "a stage that goes on would see the first rows again",
    "logging_nan_inf_filter": "a loss that is not a number must be seen, since it ends the stage",
}
"""Options that a recipe cannot set, with the reason."""

OURS_IN_LOADING = {
    "trust_remote_code": NO_CODE,
    "use_safetensors": NO_PICKLE,
    "weights_only": NO_PICKLE,
    "token": NO_TOKEN,
}
"""Options of loading a model (`model_init_kwargs`) that a recipe cannot set, with the reason."""


def trainer_fields(config: TrainingConfig) -> dict[str, Any]:
    """Return the trainer's options that have a field of their own and are set."""
    names = [field.name for field in fields(config) if field.name not in NOT_FOR_THE_TRAINER]
    return {name: value for name in names if (value := getattr(config, name)) is not None}


def extra_fields(extra: GRPOExtraConfig | None) -> dict[str, Any]:
    """Return the options of sampling that have a field of their own and are set."""
    if extra is None:
        return {}
    values = {"num_generations": extra.num_generations, "max_completion_length": extra.max_completion_length}
    weights = extra.reward_weights
    return values if weights is None else values | {"reward_weights": [float(weight) for weight in weights]}


def given(config: TrainingConfig, extra: GRPOExtraConfig | None = None) -> dict[str, Any]:
    """Return every option of the trainer that the recipe sets, wherever it sets it."""
    return trainer_fields(config) | extra_fields(extra) | dict(config.trainer_args)


def resolve(config: TrainingConfig, extra: GRPOExtraConfig | None, stage_dir: Path) -> dict[str, Any]:
    """Return the arguments of the stage's TRL config: the recipe's, and what the machine and the run decide."""
    options = given(config, extra)
    options.pop("model_init_kwargs", None)  # the stage loads the model itself, with these
    target = training_device(options)
    if target == "cpu":
        options["use_cpu"] = True
    if "bf16" not in options and not options.get("fp16") and not computes_in_bf16(target):
        options["bf16"] = False
        if target == "cuda":  # before Ampere; the gradient scaler takes no weights in 16 bits, but adapters in float32
            options.setdefault("fp16", config.dtype not in ("float16", "bfloat16") or config.peft is not None)
    batch_size = options.get("per_device_train_batch_size")
    if batch_size is not None and batch_size % (extra.num_generations if extra else 1) == 0:
        options.setdefault("per_device_eval_batch_size", batch_size)  # evaluation must not need more than training
    if has_bf16_weights(config):
        options.setdefault("optim", BF16_OPTIM)
        if options["optim"] == BF16_OPTIM:
            options.setdefault("optim_args", BF16_OPTIM_ARGS)
    return options | {"output_dir": str(stage_dir), "disable_tqdm": True, "logging_nan_inf_filter": False}


def training_device(options: dict[str, Any]) -> str:
    """Return where a trainer with these options trains: "cuda", "mps" or "cpu"."""
    return "cpu" if options.get("use_cpu") else device()


def has_bf16_weights(config: TrainingConfig) -> bool:
    """Tell whether the weights that a stage trains are bfloat16: all of them, since adapters are kept in float32."""
    return config.dtype == "bfloat16" and config.peft is None


def rounding_problem(config: TrainingConfig, args: Any) -> str | None:
    """Return what is wrong with training bfloat16 weights by `args`, TRL's configuration; None if nothing is."""
    optim, rate = str(getattr(args.optim, "value", args.optim)), float(args.learning_rate)
    keeps_small_updates = "bf16_stochastic_round=True" in str(args.optim_args)
    if not has_bf16_weights(config) or keeps_small_updates or rate >= SMALL_RATE:
        return None
    return (
        f"optim={optim!r} rounds most updates of bfloat16 weights away at learning_rate={rate:g}:"
        f" leave optim out (it is {BF16_OPTIM} with {BF16_OPTIM_ARGS}), or use dtype='float32'"
    )
