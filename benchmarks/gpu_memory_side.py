"""One measured side of benchmarks/gpu_memory.py, in a process of its own: a stage of ours, or TRL's trainer alone.

    python benchmarks/gpu_memory_side.py JOB.json RESULT.json

A process of its own, because the peak is the process's, and so is what the allocator keeps.
"""

import fcntl
import json
import os
import statistics
import subprocess
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
from algorithms import StageOutput, TrainingConfig, arguments
from benchmarks import gpu_memory_inputs as inputs
from chain import recipe as recipes
from kinds import Stage, named
from utils import runtime
from utils.limits import Clock

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
    gate: str | None = None
    """A directory that sides share which run at once: see Gate. None runs alone."""


class Gate:
    """Where sides meet that run at once: all are warm before one is timed, and then one computes at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._turn = (directory / "turn").open("w")

    def reach(self, name: str) -> None:
        """Say that this side has come so far, and wait until the benchmark says that all have."""
        (self.directory / f"{name}-{os.getpid()}").touch()
        while not (self.directory / name).exists():
            time.sleep(0.05)

    def enter(self) -> None:
        """Wait for the turn."""
        time.sleep(0.05)  # flock is not fair: who has just left would be the next
        fcntl.flock(self._turn, fcntl.LOCK_EX)

    def leave(self) -> None:
        """Give the turn to another side."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)


def noise(completions: list[Any], **_: Any) -> list[float]:
    """Return a number from 0 to 1 for each completion: a reward that costs nothing and differs within a group."""
    return [zlib.crc32(completion[0]["content"].encode()) / 2**32 for completion in completions]


def stage_of(job: Job, directory: Path) -> Stage:
    """Make the model and the rows of a job in `directory`, and return the recipe's stage on them."""
    recipe = recipes.load(job.recipe)
    config: TrainingConfig = recipe.configs[job.kind]
    kind: Any = named(job.kind)
    extra = recipe.grpo_extra if kind.samples else None
    steps = job.warmup + job.steps
    fields = {name: value for name, value in job.changed.items() if hasattr(config, name)}
    options = {name: value for name, value in job.changed.items() if not hasattr(config, name)}
    if job.cpu:
        options |= {"use_cpu": True}
        fields |= {"bf16": False}
    if job.quick:
        fields |= {} if kind.samples else {"max_length": QUICK_LENGTH}
        extra = None if extra is None else replace(extra, max_completion_length=8)
    name, dtype = source_model(recipe.configs, job.kind), fields.get("dtype", config.dtype) or "float32"
    if extra is not None:
        rewards: list[Any] = [
            str(model(job, directory, name, dtype, scores=True)) if isinstance(one, StageOutput) else noise
            for one in extra.rewards
        ]
        extra = replace(extra, reward_func=rewards)
    config = replace(
        config,
        model_name=str(model(job, directory, name, dtype)), dataset_name=str(directory / "rows"), revision=None,
        eval_split=None, max_samples=None, max_steps=steps, logging_steps=1, learning_rate=LEARNING_RATE,
        trainer_args={**config.trainer_args, "save_strategy": "no", **options}, **fields,
    )  # fmt: skip
    defaults = kind.defaults() | arguments.given(config, extra)
    rows = defaults["per_device_train_batch_size"] * defaults["gradient_accumulation_steps"] * steps
    rows *= 2 if kind.layout == "conversations" else 1  # several are packed into one
    length = defaults.get("max_length") or 2 * inputs.PROMPT_TOKENS
    inputs.save_rows(job.kind, directory / "rows", rows, QUICK_LENGTH if job.quick else length)
    return Stage(job.kind, kind, config, extra)


def model(job: Job, directory: Path, name: str, dtype: str, *, scores: bool = False) -> Path:
    """Return where a model of random weights is saved: sides that run at once share it."""
    shared = Path(job.gate or directory)
    place = shared / f"{name.replace('/', '--')}-{dtype}{'-scores' if scores else ''}"
    with (shared / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            partial = place.with_name(f"{place.name}.partial")
            inputs.save_model(name, partial, dtype, quick=job.quick, scores=scores)
            partial.rename(place)
    return place


def source_model(configs: Mapping[str, Any], kind: str) -> str:
    """Return the published model that a stage's chain of stages starts from."""
    name = configs[kind].model_name
    return source_model(configs, name.name) if isinstance(name, StageOutput) else str(name)


def ours(stage: Stage, directory: Path) -> None:
    """Run the stage as the pipeline does; out of memory, it does not start again with smaller micro-batches."""
    stage.kind.train(stage, directory, Clock())


def trl(stage: Stage, directory: Path) -> None:
    """Run TRL's trainer as its documentation shows, with our stage's arguments, and Liger by its flag."""
    config = stage.config
    options = arguments.resolve(config, stage.extra, directory)
    if stage.kind.layout == "conversations":
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
    kind: Any = stage.kind
    auto: Any = AutoModelForSequenceClassification if kind.scores else AutoModelForCausalLM
    head = {"num_labels": 1} if kind.scores else {}
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = auto.from_pretrained(source, dtype=getattr(torch, config.dtype or "float32"), **head)
    model.config.pad_token_id = tokenizer.pad_token_id
    given: dict[str, Any] = {
        "model": model,
        "args": kind.args_class()(**options, report_to="none"),
        "train_dataset": load_dataset("json", data_files=f"{config.dataset_name}/train.jsonl", split="train"),
        "processing_class": tokenizer,
    }
    if config.peft:
        from peft import LoraConfig

        assert config.peft == "lora", "TRL's side of QLoRA would need its quantised loading: it is not measured"
        task = "SEQ_CLS" if kind.scores else "CAUSAL_LM"
        given["peft_config"] = LoraConfig(task_type=task, **config.peft_args)
    if stage.extra is not None:
        given["reward_funcs"] = list(stage.extra.rewards)
    getattr(trl, f"{kind.trl_name}Trainer")(**given).train()


SIDES: dict[str, Callable[[Stage, Path], None]] = {"ours": ours, "trl": trl, "trl_defaults": trl_defaults}


class Meter:
    """What the steps of a training take: time, tokens, and the memory that the device says is in use."""

    def __init__(self, job: Job, result_file: Path) -> None:
        self.job = job
        self.result_file = result_file
        self.gate = None if job.gate is None else Gate(Path(job.gate))
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        """Of each step after the first."""
        self.used_bytes: int | None = None
        self._began = 0.0

    def look(self) -> None:
        """Take the device's own figure, of all programs and the CUDA context; among other sides it tells nothing."""
        import torch

        if torch.cuda.is_available() and self.gate is None:
            free, total = torch.cuda.mem_get_info()
            self.used_bytes = max(self.used_bytes or 0, total - free)

    def step(self, tokens: int) -> None:
        """Take the end of a step, which is the begin of the next; among other sides, wait for the turn between them."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.tokens:
            self.seconds.append(time.perf_counter() - self._began)
        self.tokens.append(tokens)
        self.look()
        done, last = len(self.tokens), self.job.warmup + self.job.steps
        if self.gate is not None and self.job.warmup < done:
            self.gate.leave()
        if done in (self.job.warmup, last):
            self.write()
        if self.gate is not None and self.job.warmup <= done and self.job.steps:
            if done in (self.job.warmup, last):
                self.gate.reach("warm" if done < last else "timed")
            if done < last:
                self.gate.enter()
        if done == last:
            raise Measured
        self._began = time.perf_counter()

    def write(self) -> None:
        """Write the figures so far, so that a benchmark that is stopped has them."""
        if self.gate is not None:
            held = own_bytes()
            self.used_bytes = held and held + runtime.peak_memory_bytes() - runtime.memory_bytes()
        partial = self.result_file.with_suffix(".partial")
        partial.write_text(json.dumps(self.result()), encoding="utf-8")
        partial.rename(self.result_file)

    def result(self) -> dict[str, Any]:
        """Return the figures of the timed steps, and the peaks."""
        timed = self.seconds[self.job.warmup - 1 :]
        tokens = self.tokens[-1] - self.tokens[self.job.warmup - 1]
        return {
            "step_s": statistics.median(timed) if timed else None,
            "tokens_per_s": tokens / sum(timed) if timed else None,
            "seconds": timed,
            "reserved_bytes": runtime.peak_memory_bytes(),
            "used_bytes": self.used_bytes,
            "steps": len(self.tokens),
        }


class Measured(BaseException):
    """All steps are done; what a stage does after them is not measured. No Exception: a stage handles those."""


def own_bytes() -> int | None:
    """Return what this process holds of the GPU, context included, by nvidia-smi; None where it does not tell."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        held = {int(pid): int(mib) << 20 for pid, mib in (line.split(",") for line in lines)}
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return held.get(os.getpid())


def measure(job: Job, stage: Stage, directory: Path, result_file: Path) -> None:
    """Run a side, and write its figures, or that it ran out of memory."""
    from transformers import Trainer, TrainerCallback

    from watching.out_of_memory import is_out_of_memory

    meter = Meter(job, result_file)

    class Steps(TrainerCallback):
        def on_substep_end(self, *_: Any, **__: Any) -> None:
            meter.look()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "num_tokens" in logs and len(meter.tokens) < state.global_step:
                meter.step(int(logs["num_tokens"]))

    original: Any = Trainer.train

    def train(self: Any, *given: Any, **options: Any) -> Any:
        self.add_callback(Steps())
        return original(self, *given, **options)

    patched: Any = Trainer
    patched.train = train
    try:
        SIDES[job.side](stage, directory)
    except Measured:
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failed = {"failed": "out of memory", "message": str(error).partition("\n")[0], "steps": len(meter.tokens)}
        result_file.write_text(json.dumps(failed), encoding="utf-8")
        return
    raise RuntimeError(f"the training ended after {len(meter.tokens)} of {job.warmup + job.steps} steps")


def cap(job: Job) -> None:
    """Let torch reserve what is left of the cap beside the CUDA context and, where it runs alone, other programs."""
    import torch

    from algorithms.memory import CONTEXT_BYTES

    if job.cap_bytes is None or not torch.cuda.is_available():
        return
    torch.zeros(1, device="cuda")  # makes the context
    free, total = torch.cuda.mem_get_info()
    others = CONTEXT_BYTES if job.gate is not None else total - free - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (job.cap_bytes - others) / total))


def main() -> None:
    """Do one job, and write its result."""
    import torch

    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stage_dir = directory / "stage"
        stage_dir.mkdir()
        stage = stage_of(job, directory)
        cap(job)
        runtime.reset_peak_memory()
        with torch.compiler.set_stance("force_eager" if job.cpu else "default"):  # to try the script, not to measure
            measure(job, stage, stage_dir, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
