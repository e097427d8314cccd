"""LoRA and QLoRA: what peft and bitsandbytes are told, and the adapter that a stage trains beside frozen weights."""

from pathlib import Path
from typing import Any

from algorithms import arguments
from algorithms.config import TrainingConfig
from utils.console import console
from utils.errors import Refused, StageFailed
from utils.four_bits import nf4
from utils.runtime import computes_in_bf16

DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
"""Our values of what the recipe leaves open; the reasons stand in docs/decisions.md."""

POLICY, REWARD_MODEL = "CAUSAL_LM", "SEQ_CLS"
"""peft's types of task. With the second, a reward model's new head is trained whole and saved beside the adapter."""


def lora_config(config: TrainingConfig, task_type: str) -> Any:
    """Return peft's configuration of a stage's new adapter, which stays frozen until `begin`."""
    from peft import LoraConfig

    return LoraConfig(**(DEFAULTS | dict(config.peft_args)), task_type=task_type, inference_mode=True)


def compute_dtype(config: TrainingConfig) -> str:
    """Return the type that a QLoRA stage computes in: bfloat16 where the device has it natively."""
    target = arguments.training_device(arguments.given(config))
    if computes_in_bf16(target):
        return "bfloat16"
    return "float16" if target == "cuda" else "float32"


def frozen_dtype(config: TrainingConfig, saved: str | None) -> str:
    """Return the type that the weights beside an adapter are loaded in: the recipe's, but what the device computes in.

    `saved` is the type that they are saved in, None if it is not known. On a GPU before Ampere bfloat16 is emulated;
    float16 is as small, and what autocast computes in there.
    """
    asked = config.dtype or (compute_dtype(config) if config.peft == "qlora" else "float32")
    is_bfloat16 = (saved if asked == "auto" else asked) == "bfloat16"
    return "float16" if is_bfloat16 and compute_dtype(config) == "float16" else asked


def quantization(config: TrainingConfig) -> dict[str, Any]:
    """Return what `from_pretrained` takes so that the weights of a QLoRA stage are in 4 bits; nothing for others."""
    if config.peft != "qlora":
        return {}
    on_cpu = arguments.training_device(arguments.given(config)) == "cpu"
    return {"quantization_config": nf4(compute_dtype(config))} | ({"device_map": {"": "cpu"}} if on_cpu else {})


def attach(model: Any, config: TrainingConfig, task_type: str, kept: Path | None) -> Any:
    """Return the model with the adapter that the stage trains: a new one, from `config.seed`, or the one in `kept`.

    It is in float32 whatever the type of the model, a reward model's new head too: AdamW's small steps would round away
    in 16 bits.

    Raises:
        Refused: `peft_args` ask for another adapter than the one in `kept`.
        StageFailed: that one lacks weights.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(config.seed)
    base = str(Path(model.name_or_path).resolve())  # the adapter may be loaded from another working directory
    if kept is None:
        adapted = get_peft_model(model, lora_config(config, task_type))
    else:
        own = LoraConfig.from_pretrained(kept)
        _refuse_other(config, own, kept)
        own.task_type = task_type
        adapted = get_peft_model(model, own)
        _load(adapted, kept)
        console().print(f"going on with the adapter in {kept}: r={own.r}, lora_alpha={own.lora_alpha}", markup=False)
    adapted.peft_config["default"].base_model_name_or_path = base
    if task_type == REWARD_MODEL:
        _train_head_in_float32(adapted.get_base_model().score.modules_to_save["default"])
    return adapted


def _train_head_in_float32(head: Any) -> None:
    """Train a new head in float32 as the adapter is, whatever the type of what it reads: peft leaves it as it was."""
    head.float()
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(module.weight.dtype),))


def _refuse_other(config: TrainingConfig, own: Any, kept: Path) -> None:
    asked = dict(config.peft_args)
    modules = asked.pop("target_modules", None)
    other = [
        f"{name} = {value!r}, not {getattr(own, name)!r}"
        for name, value in asked.items()
        if getattr(own, name) != value
    ]
    there = {name.rpartition(".")[2] for name in own.target_modules}
    if isinstance(modules, list | tuple) and {name.rpartition(".")[2] for name in modules} != there:
        other.append(f"target_modules = {modules!r}, not {sorted(there)}")
    if other:
        raise Refused(
            f"peft_args ask for another adapter than the one in {kept}, which this stage trains on:"
            f" {'; '.join(other)}. Leave them out, or let the stage before merge its adapter (merge_adapter=True)."
        )


def _load(adapted: Any, kept: Path) -> None:
    """Load the weights in `kept`; a reward model's new head, which is in no adapter of a policy, stays as it is."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    there, wanted = load_file(kept / "adapter_model.safetensors"), get_peft_model_state_dict(adapted)
    lacking = sorted(name for name in wanted.keys() - there.keys() if not name.endswith("score.weight"))
    if lacking:
        raise StageFailed(
            f"the adapter in {kept} lacks {len(lacking)} of its weights, such as {lacking[0]}: is it whole?"
        )
    set_peft_model_state_dict(adapted, wanted | there)


def begin(model: Any) -> None:
    """Make the adapter trainable, once TRL has built its trainer; of a model without one nothing changes.

    It was frozen until then because TRL casts what is trainable beside quantised weights to bfloat16. And TRL keeps a
    copy of an adapter that it is given as the reference of DPO and GRPO; one that begins at zero needs none, since the
    model with the adapter off is the reference.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return
    model.set_adapter("default")
    copies = [weight for name, weight in model.named_parameters() if ".lora_B.ref." in name]
    if copies and not any(weight.any() for weight in copies):
        model.delete_adapter("ref")


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return the number of trainable parameters and of all, one for each weight whatever its type."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()  # which knows how many a byte of 4-bit weights holds
        return int(trainable), int(total)
    numbers = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(number for number, trained in numbers if trained), sum(number for number, _ in numbers)
