"""One step of a stage before its run starts, on a few of its rows, by a tiny model of random weights.

What the libraries refuse – a loss, a schedule, an option of an optimizer, what a reward returns – they say only when
the stage begins, which may be hours later. Here its real trainer is built, and makes one step, in seconds.
"""

import copy
import gc
import math
import random
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms import adapters, arguments
from algorithms.config import GRPOExtraConfig, TrainingConfig
from data.layouts import group_of
from kinds import Stage
from utils import processes
from utils.console import console
from utils.errors import Refused, StageFailed
from utils.runtime import device
from utils.text import one_line
from utils.values import shown

if TYPE_CHECKING:
    from algorithms.trl_kind import TrlKind
    from data.sources import StageData

ROWS = 8
LOOKED_AT = 500
"""Rows among which the shortest are chosen."""
COMPLETION_TOKENS = 16
MOST_PARAMETERS = 50_000_000
"""A vocabulary of 260,000 tokens, twice, is a third of that."""
TINY = {
    "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 32,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
"""What is made smaller in a model's configuration."""
NOT_TRIED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size", "steps_per_generation",
    "per_device_eval_batch_size", "precompute_ref_batch_size", "eval_strategy", "eval_on_start", "eval_steps",
    "load_best_model_at_end", "metric_for_best_model", "save_strategy", "deepspeed", "fsdp", "fsdp_config", "use_vllm",
    "torch_compile", "torch_compile_mode", "torch_compile_backend", "cache_implementation", "full_determinism",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers",
)  # fmt: skip
"""Options that take time or memory, or change the whole process; TRL's own checks have seen them."""
NEEDS_GPU = {"fp16", "tf32"}


def rehearse(
    kind: "TrlKind", stage: Stage, data: "StageData", tokenizer: Any, model_config: Any, *, stand_in: bool = False
) -> None:
    """Build a stage's trainer and let it make one step; random numbers are as they were, and no file is left.

    Rewards of the recipe's own are called; what they keep themselves, they keep.

    `stand_in`: another tokenizer stands for one that the run makes, whose lengths tell nothing. An architecture that
    cannot be made tiny is not tried, which is said, nor is a stage of several processes, which would have to agree in
    each step of it.

    Raises:
        Refused: it cannot be built, or the step fails.
    """
    if processes.count() > 1:
        return
    few = _few(data, labelled=group_of(kind.name).labels == "trained on")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder, _apart():
        policy, scorer = Path(folder) / "policy", Path(folder) / "scorer"
        made = [_made(policy, model_config, tokenizer, scores=False)]
        made += [_made(scorer, model_config, tokenizer, scores=True)] if stage.reward_models else []
        if not all(made):
            why = f"since a {model_config.model_type} cannot be made small"
            said = f"{stage.label}: its first step is not tried ahead, {why}"
            console().print(said, markup=False, soft_wrap=True)
            return

        def error_of(config: TrainingConfig) -> Exception | None:
            tried = replace(
                stage,
                config=_small(config, stage.extra, policy, stand_in=stand_in),
                extra=_small_extra(stage.extra, scorer),
            )
            try:
                with console().capture():  # the stage says it again
                    _step(kind, tried, Path(tempfile.mkdtemp(dir=folder)), few)
            except Exception as error:  # noqa: BLE001  whatever a library, or a reward of the recipe's own, raises
                return error
            return None

        error = error_of(stage.config)
        if isinstance(error, Refused | StageFailed):
            raise Refused(str(error)) from error
        if error is not None:
            options = arguments.given(stage.config) if _is_of_library(error) else {}  # else a reward is at fault
            blame = next((name for name in options if error_of(_without(stage.config, name)) is None), None)
            without = f" Without {blame} = {shown(options[blame])} it does not." if blame else ""
            raise Refused(
                f"its first step, tried on {len(few.train)} rows with a tiny model, fails: {type(error).__name__}: "
                f"{one_line(str(error)):.300} ({_where(error)}).{without}"
            ) from error


def _step(kind: "TrlKind", stage: Stage, stage_dir: Path, data: "StageData") -> None:
    from transformers import DefaultFlowCallback, TrainerCallback

    class OneStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    trainer, _ = kind.build(stage, stage_dir, data)
    adapters.begin(trainer.model)
    trainer.callback_handler.callbacks = [DefaultFlowCallback(), OneStep()]  # no bar, and no tracker
    loss = trainer.train().training_loss
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")


def _without(config: TrainingConfig, name: str) -> TrainingConfig:
    """Return a configuration that leaves an option open."""
    options = {one: value for one, value in config.trainer_args.items() if one != name}
    changed: dict[str, Any] = {"trainer_args": options} if name in config.trainer_args else {name: None}
    return replace(config, **changed)


def _small(config: TrainingConfig, extra: GRPOExtraConfig | None, model: Path, *, stand_in: bool) -> TrainingConfig:
    """Return a configuration with the tiny model and small batches, of what this machine can do."""
    dropped = set(NOT_TRIED) | ({"max_length"} if stand_in else set())
    changed: dict[str, Any] = {"peft_args": _of_any_layer(config.peft_args)}
    optim = arguments.resolve(config, extra, model).get("optim")
    compiles = bool(re.search("[48]bit|paged", str(optim)))
    if compiles:
        dropped |= {"optim", "optim_args"}
    if arguments.training_device(arguments.given(config)) == "cpu":
        dropped |= NEEDS_GPU
        changed |= {"attn_implementation": None, "use_liger_kernel": False, "peft": config.peft and "lora"}
    options = {name: value for name, value in config.trainer_args.items() if name not in dropped}
    changed |= {field.name: None for field in fields(config) if field.name in dropped}
    changed |= {"per_device_train_batch_size": extra.num_generations if extra else 2, "gradient_accumulation_steps": 1}
    if stand_in and "max_length" in arguments.given(config):
        options["max_length"] = None
    options |= {"save_strategy": "no"} | ({"optim": "adamw_torch"} if compiles else {})
    return replace(config, model_name=str(model), revision=None, trainer_args=options, **changed)


def _of_any_layer(peft_args: Any) -> Any:
    """Return an adapter's options without the numbers of layers, of which the tiny model has one."""
    if not peft_args:
        return peft_args
    kept = {name: value for name, value in peft_args.items() if name not in ("layers_to_transform", "layers_pattern")}
    return kept | ({"target_modules": "all-linear"} if isinstance(kept.get("target_modules"), str) else {})


def _small_extra(extra: GRPOExtraConfig | None, scorer: Path) -> GRPOExtraConfig | None:
    if extra is None:
        return None
    tokens = min(extra.max_completion_length, COMPLETION_TOKENS)
    small = replace(extra, preflight_prompts=0, dynamic_sampling=0, max_completion_length=tokens)
    return small.with_reward_models(lambda _: str(scorer))


def _few(data: "StageData", *, labelled: bool) -> "StageData":
    """Return the shortest of the first rows, on both sides; of labelled ones some of each label."""
    from datasets import Dataset

    labels = data.train["label"][:] if labelled else []
    places = [[n for n, label in enumerate(labels) if label is side] for side in (True, False)]
    sides = [data.train.select(some[:LOOKED_AT]) for some in (places if labelled else [[*range(len(data.train))]])]
    listed = [sorted(rows, key=lambda row: len(str(row))) for rows in sides]
    few = Dataset.from_list(
        [row for rows in listed for row in rows[: ROWS // len(sides)]], features=data.train.features
    )
    return replace(data, train=few, eval=few)


def _made(folder: Path, config: Any, tokenizer: Any, *, scores: bool) -> bool:
    """Save a tiny model of an architecture with its tokenizer; False if the architecture cannot be made so small."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    try:
        small = _tiny(config, tokenizer.pad_token_id, scores=scores)
        with torch.device("meta"):
            if sum(weight.numel() for weight in auto.from_config(copy.deepcopy(small)).parameters()) > MOST_PARAMETERS:
                return False
        model = auto.from_config(small)
        model(input_ids=torch.zeros((1, 3), dtype=torch.long))
    except Exception:  # noqa: BLE001  its parts fit together in other sizes alone
        return False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return True


def _tiny(config: Any, pad_token_id: int, *, scores: bool) -> Any:
    """Return the configuration of the tiny model."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == layers:  # such as layer_types
            setattr(text, name, value[:1])
    for name, value in TINY.items():
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(value, getattr(text, name)))
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.pad_token_id = pad_token_id
    if scores:
        config.num_labels = 1
    return config


@contextmanager
def _apart() -> Iterator[None]:
    """Leave the random numbers of the process as they were; for what is tiny one thread is faster, and a small heap."""
    import numpy
    import torch

    plain, arrays, threads = random.getstate(), numpy.random.get_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()  # a trainer collects garbage, in all there is
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if device() == "cuda" else []):
            yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
        random.setstate(plain)
        numpy.random.set_state(arrays)


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _is_of_library(error: Exception) -> bool:
    """Tell whether an error was raised in what is installed, and not in a reward of the recipe's own."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return "site-packages" in last or last == __file__
