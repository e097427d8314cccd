"""What is wrong with the LoRA or QLoRA of a stage's configuration, found before anything starts."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_type_hints

from algorithms.config import TrainingConfig
from utils.errors import did_you_mean
from utils.values import shown, type_problem

if TYPE_CHECKING:
    from algorithms.trl_kind import TrlKind

CHANGES_THE_BASE = "it changes the frozen weights, which the merge and later stages load as they were"
OURS = {
    "task_type": "the stage decides it",
    "peft_type": "it is LoRA",
    "inference_mode": "a stage trains its adapter",
    "base_model_name_or_path": "it is model_name",
    "auto_mapping": "peft fills it in",
    "peft_version": "peft fills it in",
    "layer_replication": CHANGES_THE_BASE,
    "loftq_config": CHANGES_THE_BASE,
    "corda_config": CHANGES_THE_BASE,
    "lora_ga_config": CHANGES_THE_BASE,
    "eva_config": "its passes over the data are not made here",
    "trainable_token_indices": "TRL reads the embeddings past the adapter",
    "alora_invocation_tokens": "such an adapter cannot be merged",
}
"""Options of LoraConfig that a recipe cannot set, with the reason."""

EMBEDDINGS = ("embed_tokens", "lm_head")
INITIAL = (True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the frozen weights as they are and need no data."""


def problems(kind: "TrlKind", config: TrainingConfig) -> list[str]:
    """Return what is wrong with `peft`, `peft_args` and `merge_adapter`, whose types are right; one line each."""
    if config.peft is None:
        unread = [f"peft_args = {shown(dict(config.peft_args))}"] if config.peft_args else []
        unread += [] if config.merge_adapter else ["merge_adapter = False"]
        return [f"{one}: nothing reads it without peft: set peft='lora' or 'qlora', or leave it out" for one in unread]
    found = list(_options(config))
    if config.peft == "qlora" and find_spec("bitsandbytes") is None:
        found.append("peft = 'qlora': needs bitsandbytes, which is not installed (it is for Linux): use peft='lora'")
    if not kind.keeps_adapters and not config.merge_adapter:
        found.append("merge_adapter = False: no stage trains a reward model on, so it is merged: leave it out")
    loading = config.trainer_args.get("model_init_kwargs")
    if isinstance(loading, dict) and "quantization_config" in loading:
        found.append("trainer_args: model_init_kwargs: quantization_config cannot be set: peft='qlora' quantises")
    return found or _refused_by_peft(config)


def _options(config: TrainingConfig) -> Iterator[str]:
    from peft import LoraConfig

    hints = get_type_hints(LoraConfig)
    for name, value in config.peft_args.items():
        if name in OURS:
            yield f"peft_args: {name} cannot be set: {OURS[name]}"
        elif name not in hints:
            yield f"peft_args: {name!r} is no option of peft's LoraConfig{did_you_mean(name, hints)}"
        elif name == "init_lora_weights":
            if value not in INITIAL:
                yield f"peft_args: {name} = {shown(value)}: must be one of {', '.join(map(repr, INITIAL))}"
        elif problem := type_problem(name, value, hints[name]):
            yield f"peft_args: {problem}"
        elif problem := _out_of_range(name, value):
            yield f"peft_args: {name} = {shown(value)}: {problem}"


def _out_of_range(name: str, value: Any) -> str | None:
    if name == "r" and value < 1:
        return "must be 1 or more"
    if name == "lora_alpha" and value <= 0:
        return "must be above 0"
    if name == "lora_dropout" and not 0 <= value < 1:
        return "must be 0 or more and below 1"
    if name == "bias" and value != "none":
        return "must be 'none': the model's own biases would stay changed with the adapter off, where the reference is"
    if name in ("target_modules", "modules_to_save") and any(one in (value or ()) for one in EMBEDDINGS):
        return f"must hold none of {', '.join(EMBEDDINGS)}: they may be one tensor, and TRL reads it past the adapter"
    return None


def _refused_by_peft(config: TrainingConfig) -> list[str]:
    """What only peft's own validation knows: combinations of options."""
    from algorithms import adapters

    try:
        adapters.lora_config(config, adapters.POLICY)
    except (ValueError, TypeError, ImportError) as error:
        return [f"peft_args: {' '.join(str(error).split())}"]
    return []
