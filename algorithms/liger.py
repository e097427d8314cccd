"""Liger's fused layers (RMSNorm, RoPE, SwiGLU) in the model of a stage: less memory, and the same mathematics."""

import sys
from collections import Counter
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from algorithms.arguments import given, training_device
from algorithms.config import TrainingConfig
from records.stage_log import StageLog
from utils.console import console, warn
from utils.errors import StageFailed


def with_liger(model: Any, config: TrainingConfig, stage_dir: Path) -> Any:
    """Return `model` with Liger's layers in place of its own, where the recipe and the device have it so.

    On a CUDA GPU it is the default, for the architectures that Liger knows; elsewhere Triton's kernels do not run,
    which is said if the recipe asked for them. What was replaced, and how often, is recorded in the stage's `config`.

    Raises:
        StageFailed: Liger knows the architecture, and yet replaced nothing.
    """
    if config.use_liger_kernel is False:
        return model
    if training_device(given(config)) != "cuda":
        if config.use_liger_kernel:
            warn("use_liger_kernel is off: Liger's kernels need a CUDA GPU")
        return model
    return replace_layers(model, stage_dir)


def replace_layers(model: Any, stage_dir: Path) -> Any:
    """Return `model` with Liger's layers, recorded in the stage's `config`, or as it is, if Liger does not know it.

    Raises:
        StageFailed: Liger knows the architecture, and yet replaced nothing.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        console().print(f"Liger has no layers for {kind}: the model keeps its own", markup=False)
        return model
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # without peft's wrapper
    library = sys.modules[type(whole).__module__]
    before = dict(vars(library))
    try:
        # No loss of Liger's: TRL projects to the vocabulary in chunks of its own.
        MODEL_TYPE_TO_APPLY_LIGER_FN[kind](model=whole, cross_entropy=False, fused_linear_cross_entropy=False)
        functions = {
            name: value
            for name, value in vars(library).items()
            if isinstance(value, FunctionType) and value is not before.get(name)
        }
    finally:
        # Liger also replaces names in transformers' module, so for every model of the process: only this one is meant.
        vars(library).update(before)
    for module in model.modules():
        _bind(module, functions)
    replaced = layers(model)
    if not replaced:
        raise StageFailed(
            f"Liger {_version()} replaced no layer of a {type(whole).__name__}: its kernels and this transformers do"
            " not fit together. use_liger_kernel=False trains without them."
        )
    log = StageLog(stage_dir)
    log.info(config=(log.read_info().get("config") or {}) | {"liger": replaced})
    return model


def knows(model_type: str) -> bool:
    """Tell whether Liger is installed and has layers for an architecture."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError:
        return False
    return model_type in MODEL_TYPE_TO_APPLY_LIGER_FN


def layers(model: Any) -> dict[str, int]:
    """Return how many modules of a model run Liger's code, by the name of the layer; attention counts as RoPE."""
    found: Counter[str] = Counter()
    for module in model.modules():
        function = getattr(module.forward, "__func__", module.forward)
        if _is_ligers(function):
            found[module._get_name()] += 1
        elif any(_is_ligers(function.__globals__.get(name)) for name in _names(function)):
            found["RoPE"] += 1
    return dict(found)


def _is_ligers(function: Any) -> bool:
    return str(getattr(function, "__module__", None)).startswith("liger_kernel")


def _names(function: Any) -> tuple[str, ...]:
    """Return the names that a function's own code looks up; none for what wraps another function."""
    return getattr(getattr(function, "__code__", None), "co_names", ())


def _bind(module: Any, functions: dict[str, FunctionType]) -> None:
    """Let a module's `forward` see `functions` by their names, where it uses them, in place of its library's."""
    forward = type(module).forward
    if functions.keys() & set(_names(forward)):
        names = forward.__globals__ | functions
        copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
        copy.__kwdefaults__ = forward.__kwdefaults__
        module.forward = MethodType(copy, module)


def _version() -> str:
    from importlib import metadata

    return metadata.version("liger-kernel")
