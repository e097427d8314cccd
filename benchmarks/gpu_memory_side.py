"""One measured side of benchmarks/gpu_memory.py, in a process of its own: a stage of ours, or TRL's trainer alone.

    python benchmarks/gpu_memory_side.py JOB.json RESULT.json

A process of its own, because the peak is the process's, and so is what the allocator keeps.
"""

import importlib
import inspect
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
import recipes
from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig, arguments
from benchmarks import gpu_memory_inputs as inputs
from utils import runtime

QUICK_LENGTH = 96
LEARNING_RATE = 1e-3
"""So high that bfloat16 weights move under every optimizer: at a recipe's own rate and without stochastic rounding
they would not, and our stage would fail, as it should."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one side does."""

    recipe: str
    kind: str
    side: str
    """`ours`; `trl`, TRL's trainer with our arguments; `trl_defaults`, TRL's own for all but batch, precision."""
    changed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainingConfig and options of the trainer that differ from the recipe's, by name."""
    steps: int = 4
    warmup: int = 2
    """First steps that are not timed: kernels are compiled in them."""
    cap_bytes: int | None = None
    """Of the card, the CUDA context and other programs included."""
    cpu: bool = False
    quick: bool = False
    """A tiny model and short rows."""


@dataclass(frozen=True)
class Stage:
    """A stage of a recipe, on generated inputs."""

    kind: str
    config: TrainingConfig
    extra: GRPOExtraConfig | None


def noise(completions: list[Any], **_: Any) -> list[float]:
    """Return a number from 0 to 1 for each completion: a reward that costs nothing and differs within a group."""
    return [zlib.crc32(completion[0]["content"].encode()) / 2**32 for completion in completions]


def stage_of(job: Job, directory: Path) -> Stage:
    """Make the model and the rows of a job in `directory`, and return the recipe's stage on them."""
    recipe = recipes.load(job.recipe)
    config: TrainingConfig = recipe.configs[job.kind]
    extra = recipe.grpo_extra if job.kind == "grpo" else None
    steps = job.warmup + job.steps
    fields = {name: value for name, value in job.changed.items() if hasattr(config, name)}
    options = {name: value for name, value in job.changed.items() if not hasattr(config, name)}
    if job.cpu:
        options |= {"use_cpu": True}
        fields |= {"bf16": False}
    if job.quick:
        fields |= {} if job.kind == "grpo" else {"max_length": QUICK_LENGTH}
        extra = None if extra is None else replace(extra, max_completion_length=8)
    if extra is not None:
        models = [noise if not isinstance(one, StageOutput) else str(directory / "judge") for one in extra.rewards]
        extra = replace(extra, reward_func=models)
    config = replace(
        config,
        model_name=str(directory / "model"), dataset_name=str(directory / "rows"), revision=None, eval_split=None,
        max_samples=None, max_steps=steps, logging_steps=1, learning_rate=LEARNING_RATE,
        trainer_args={**config.trainer_args, "save_strategy": "no", **options}, **fields,
    )  # fmt: skip
    name, dtype = source_model(recipe.configs, job.kind), config.dtype or "float32"
    inputs.save_model(name, directory / "model", dtype, quick=job.quick)
    if extra is not None and str(directory / "judge") in extra.rewards:
        inputs.save_model(name, directory / "judge", dtype, quick=job.quick, scores=True)
    defaults = arguments.defaults(job.kind) | arguments.given(config, extra)
    rows = defaults["per_device_train_batch_size"] * defaults["gradient_accumulation_steps"] * steps
    rows *= 2 if job.kind == "sft" else 1  # several are packed into one
    length = defaults.get("max_length") or 2 * inputs.PROMPT_TOKENS
    inputs.save_rows(job.kind, directory / "rows", rows, QUICK_LENGTH if job.quick else length)
    return Stage(job.kind, config, extra)


def source_model(configs: Mapping[str, Any], kind: str) -> str:
    """Return the published model that a stage's chain of stages starts from."""
    name = configs[kind].model_name
    return source_model(configs, name.name) if isinstance(name, StageOutput) else str(name)


def ours(stage: Stage, directory: Path) -> None:
    """Run the stage as the pipeline does; out of memory, it does not start again with smaller micro-batches."""
    train = inspect.unwrap(importlib.import_module(f"algorithms.{stage.kind}").train)
    if stage.kind == "grpo":
        train(stage.config, directory, stage.extra)
    else:
        train(stage.config, directory)


def trl(stage: Stage, directory: Path) -> None:
    """Run TRL's trainer as its documentation shows, with our stage's arguments, and Liger by its flag."""
    config = stage.config
    options = arguments.resolve(config, stage.extra, directory)
    if stage.kind == "sft":
        options["assistant_only_loss"] = True
    uses_liger = config.use_liger_kernel is not False and arguments.training_device(options) == "cuda"
    _train(stage, options | ({"use_liger_kernel": True} if uses_liger else {}))


def trl_defaults(stage: Stage, directory: Path) -> None:
    """Run TRL's trainer with its own defaults; rows, lengths, types of weights and autocast are the recipe's."""
    kept = (
        "per_device_train_batch_size gradient_accumulation_steps max_length max_steps bf16 use_cpu logging_steps"
        " save_strategy num_generations max_completion_length output_dir disable_tqdm"
    ).split()
    options = arguments.resolve(stage.config, stage.extra, directory)
    _train(stage, {name: value for name, value in options.items() if name in kept})


def _train(stage: Stage, options: dict[str, Any]) -> None:
    import torch
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    config, source = stage.config, str(stage.config.model_name)
    auto: Any = AutoModelForSequenceClassification if stage.kind == "reward" else AutoModelForCausalLM
    head = {"num_labels": 1} if stage.kind == "reward" else {}
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = auto.from_pretrained(source, dtype=getattr(torch, config.dtype or "float32"), **head)
    model.config.pad_token_id = tokenizer.pad_token_id
    given: dict[str, Any] = {
        "model": model,
        "args": arguments.config_class(stage.kind)(**options, report_to="none"),
        "train_dataset": load_dataset("json", data_files=f"{config.dataset_name}/train.jsonl", split="train"),
        "processing_class": tokenizer,
    }
    if config.peft:
        from peft import LoraConfig

        assert config.peft == "lora", "TRL's side of QLoRA would need its quantised loading: it is not measured"
        task = "SEQ_CLS" if stage.kind == "reward" else "CAUSAL_LM"
        given["peft_config"] = LoraConfig(task_type=task, **config.peft_args)
    if stage.extra is not None:
        given["reward_funcs"] = list(stage.extra.rewards)
    trainer = {"sft": "SFTTrainer", "reward": "RewardTrainer", "dpo": "DPOTrainer", "grpo": "GRPOTrainer"}[stage.kind]
    getattr(trl, trainer)(**given).train()


SIDES: dict[str, Callable[[Stage, Path], None]] = {"ours": ours, "trl": trl, "trl_defaults": trl_defaults}


class Meter:
    """What the steps of a training take: time, tokens, and the memory that the device says is in use."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.used_bytes = 0

    def look(self) -> None:
        """Take the device's own figure, of all programs and the CUDA context."""
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            self.used_bytes = max(self.used_bytes, total - free)

    def result(self, job: Job) -> dict[str, Any]:
        """Return the figures of the timed steps, and the peaks."""
        first = job.warmup - 1
        of_steps = [end - start for start, end in zip(self.ends[first:-1], self.ends[first + 1 :], strict=True)]
        return {
            "step_s": statistics.median(of_steps),
            "tokens_per_s": (self.tokens[-1] - self.tokens[first]) / (self.ends[-1] - self.ends[first]),
            "reserved_bytes": runtime.peak_memory_bytes(),
            "used_bytes": self.used_bytes or None,
            "steps": len(self.ends),
        }


def measured(job: Job, stage: Stage, directory: Path) -> dict[str, Any]:
    """Run a side, and return its figures, or that it ran out of memory."""
    import torch
    from transformers import Trainer, TrainerCallback

    from utils.out_of_memory import is_out_of_memory

    meter = Meter()

    class Steps(TrainerCallback):
        def on_substep_end(self, *_: Any, **__: Any) -> None:
            meter.look()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "num_tokens" in logs and len(meter.ends) < state.global_step:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                meter.ends.append(time.perf_counter())
                meter.tokens.append(int(logs["num_tokens"]))
                meter.look()

    original: Any = Trainer.train

    def train(self: Any, *given: Any, **options: Any) -> Any:
        self.add_callback(Steps())
        return original(self, *given, **options)

    patched: Any = Trainer
    patched.train = train
    try:
        SIDES[job.side](stage, directory)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"failed": "out of memory", "message": str(error).partition("\n")[0], "steps": len(meter.ends)}
    return meter.result(job)


def cap(cap_bytes: int | None) -> None:
    """Let torch reserve what is left of the cap beside the CUDA context and other programs."""
    import torch

    if cap_bytes is None or not torch.cuda.is_available():
        return
    torch.zeros(1, device="cuda")  # makes the context
    free, total = torch.cuda.mem_get_info()
    left = cap_bytes - (total - free - torch.cuda.memory_reserved())
    torch.cuda.set_per_process_memory_fraction(min(1.0, left / total))


def main() -> None:
    """Do one job, and write its result."""
    import torch

    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stage_dir = directory / "stage"
        stage_dir.mkdir()
        stage = stage_of(job, directory)
        cap(job.cap_bytes)
        runtime.reset_peak_memory()
        with torch.compiler.set_stance("force_eager" if job.cpu else "default"):  # to try the script, not to measure
            result = measured(job, stage, stage_dir)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
