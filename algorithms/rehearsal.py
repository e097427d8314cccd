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

from algorithms import arguments
from algorithms.config import GRPOExtraConfig, TrainingConfig
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
TINY = {
    "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 32,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
"""What is made smaller in a model's configuration."""
NOT_TRIED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size", "steps_per_generation",
    "per_device_eval_batch_size", "precompute_ref_batch_size", "eval_strategy", "eval_on_start", "eval_steps",
    "load_best_model_at_end", "metric_for_best_model", "save_strategy", "deepspeed", "fsdp", "fsdp_config", "use_vllm",
    "torch_compile", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers",
)  # fmt: skip
"""Options that take time, memory, or more than one process; TRL's own checks have seen them."""
NEEDS_GPU = {"fp16", "tf32"}


def rehearse(
    kind: "TrlKind", stage: Stage, data: "StageData", tokenizer: Any, model_config: Any, *, stand_in: bool = False
) -> None:
    """Build a stage's trainer and let it make one step; nothing of it is left, random numbers neither.

    `stand_in`: another tokenizer stands for one that the run makes, whose lengths tell nothing. An architecture that
    cannot be made tiny is not tried, which is said, nor is a stage of several processes, which would have to agree in
    each step of it.

    Raises:
        Refused: it cannot be built, or the step fails.
    """
    if processes.count() > 1:
        return
    few = _few(data)
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
            options = arguments.given(stage.config)
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
    changed: dict[str, Any] = {}
    if re.search("[48]bit|paged", str(arguments.given(config).get("optim"))):
        dropped |= {"optim", "optim_args"}
    if arguments.training_device(arguments.given(config)) == "cpu":
        dropped |= NEEDS_GPU
        changed |= {"attn_implementation": None, "use_liger_kernel": False, "peft": config.peft and "lora"}
    options = {name: value for name, value in config.trainer_args.items() if name not in dropped}
    changed |= {field.name: None for field in fields(config) if field.name in dropped}
    changed |= {"per_device_train_batch_size": extra.num_generations if extra else 2, "gradient_accumulation_steps": 1}
    if stand_in and "max_length" in arguments.given(config):
        options["max_length"] = None
    options["save_strategy"] = "no"
    return replace(config, model_name=str(model), revision=None, trainer_args=options, **changed)


def _small_extra(extra: GRPOExtraConfig | None, scorer: Path) -> GRPOExtraConfig | None:
    if extra is None:
        return None
    tokens = min(extra.max_completion_length, COMPLETION_TOKENS)
    small = replace(extra, preflight_prompts=0, dynamic_sampling=0, max_completion_length=tokens)
    return small.with_reward_models(lambda _: str(scorer))


def _few(data: "StageData") -> "StageData":
    """Return the shortest of the first rows, on both sides; of labelled ones some of each label."""
    from datasets import Dataset

    rows = data.train.select(range(min(len(data.train), LOOKED_AT)))
    listed = sorted(rows, key=lambda row: len(str(row)))
    if "label" in rows.column_names:
        sides = [[row for row in listed if row["label"] is label] for label in (True, False)]
        listed = [row for pair in zip(*sides, strict=False) for row in pair]
    few = Dataset.from_list(listed[:ROWS], features=rows.features)
    return replace(data, train=few, eval=few)


def _made(folder: Path, config: Any, tokenizer: Any, *, scores: bool) -> bool:
    """Save a tiny model of an architecture with its tokenizer; False if the architecture cannot be made so small."""
    import torch
    import transformers

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
    auto: Any = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    config.pad_token_id = tokenizer.pad_token_id
    if scores:
        config.num_labels = 1
    try:
        model = auto.from_config(config)
        model(input_ids=torch.zeros((1, 3), dtype=torch.long))
    except Exception:  # noqa: BLE001  its parts fit together in other sizes alone
        return False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return True


@contextmanager
def _apart() -> Iterator[None]:
    """Leave the random numbers of the process as they were; for what is tiny one thread is faster, and a small heap."""
    import numpy
    import torch

    plain, arrays, threads = random.getstate(), numpy.random.get_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()  # a trainer collects garbage, in all there is
    try:
        with torch.random.fork_rng(enabled=device() != "mps"):
            yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
        random.setstate(plain)
        numpy.random.set_state(arrays)


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
