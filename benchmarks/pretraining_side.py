"""One measured side of benchmarks/pretraining.py, in a process of its own: our loop, or transformers' Trainer.

    python benchmarks/pretraining_side.py JOB.json RESULT.json

A process of its own, because the two sides set up accelerate, threads and the allocator each in its way, and neither
may profit from what the other has warmed up.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from pretrain import PretrainConfig

DIVERGED = float("inf")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one side does."""

    side: str
    """`ours` or `trainer`."""
    config: Mapping[str, Any]
    """Fields of PretrainConfig: data, tokenizer, shape, rows, steps and seed of both sides, and all else of ours."""
    optimizer: str = "muon"
    """`muon` is the product's. `adamw` is the Trainer's own; in our loop it is AdamW for all parameters, whose rate for
    the matrices is the configured `muon_learning_rate`, which with `adamw_one_rate` is that of all."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainingArguments."""
    own_start: bool = False
    """Whether the Trainer starts from the initialisation of transformers, rather than from ours."""
    attention_dropout: float = 0.0
    """Of the Trainer's model: the one dropout that transformers gives a Qwen3."""
    keep_memory: bool = True
    """Whether the Trainer's process gets the allocator settings that ours always has."""
    bare: bool = False
    """Whether our loop runs without evaluation, logging and checkpoints."""
    warmup: int = 5
    """First steps that are not timed."""
    score: bool = False
    """Whether the result is measured on the held-out documents."""


class Watch:
    """How long steps and other parts of a run take; it wraps functions, and changes nothing of what they do."""

    def __init__(self, job: Job) -> None:
        self.last, self.warmup = int(job.config["max_steps"]), job.warmup
        self.ends: list[float] = []
        """When each step was done, in seconds."""
        self.tokens: list[int] = []
        """Tokens seen by then, padding not counted."""
        self.seconds: dict[str, list[float]] = {}
        """Of each other part, what its calls took."""
        self.losses: list[tuple[int, float]] = []
        """Held-out losses, and the steps after which they were measured."""

    def step_done(self, tokens: int) -> None:
        """Note the end of a step."""
        if len(self.ends) + 1 in (self.warmup, self.last):  # a GPU works on after the call that started it
            _synchronise()
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, each call of which is timed as `part`."""
        taken = self.seconds.setdefault(part, [])

        def call(*given: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*given, **options)
            finally:
                _synchronise()
                taken.append(time.perf_counter() - started)

        return call

    def result(self) -> dict[str, Any]:
        """Return the figures of the steps after the warm-up, and the seconds of each part over the whole run."""
        first = self.warmup - 1
        seconds, tokens = self.ends[-1] - self.ends[first], self.tokens[-1] - self.tokens[first]
        of_steps = [end - start for start, end in zip(self.ends[first:-1], self.ends[first + 1 :], strict=True)]
        optimizer = self.seconds.get("optimizer", [])[self.warmup :]
        return {
            "steps": len(self.ends),
            "tokens": self.tokens[-1],
            "tokens_per_s": tokens / seconds,
            "step_ms": statistics.median(of_steps) * 1e3,
            "optimizer_ms": statistics.median(optimizer) * 1e3 if optimizer else None,
            "seconds": {part: sum(taken) for part, taken in self.seconds.items()},
            "eval_losses": self.losses,
        }


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ours(job: Job, directory: Path) -> dict[str, Any]:
    """Train as `python -m pretrain` does, and return the figures."""
    from pretrain import loop
    from pretrain.__main__ import train
    from pretrain.record import Record
    from utils.errors import StageFailed

    watch = Watch(job)
    # What follows replaces functions of the product, so that it needs no options that only a benchmark would use.
    its_loop: Any = loop
    run: Any = loop.Run
    record: Any = Record
    one_step, evaluate, make_optimizer = run._step, run.evaluate, its_loop.make_optimizer

    def step(self: loop.Run) -> dict[str, float]:
        metrics: dict[str, float] = one_step(self)
        watch.step_done(int(metrics["num_tokens"]))
        return metrics

    def evaluated(self: loop.Run, parts: Any) -> dict[str, float]:
        if job.bare:  # each time better than before, so that the last step's weights are the result
            return {"eval_loss": -float(self.position.step)}
        if parts is self.tokens.test:
            return dict(watch.timed("test", evaluate)(self, parts))
        metrics: dict[str, float] = watch.timed("evaluate", evaluate)(self, parts)
        watch.losses.append((self.position.step, metrics["eval_loss"]))
        return metrics

    def optimizer(model: Any, **rates: float) -> Any:
        if job.optimizer == "adamw_one_rate":
            rates |= dict.fromkeys(("learning_rate", "embedding_learning_rate"), rates["muon_learning_rate"])
        made = make_optimizer(model, **rates) if job.optimizer == "muon" else adamw_alone(model, **rates)
        made.step = watch.timed("optimizer", made.step)
        return made

    run._step, run.evaluate, its_loop.make_optimizer = step, evaluated, optimizer
    run._save_checkpoint = watch.timed("save", _nothing if job.bare else run._save_checkpoint)
    run.train, run.finish = watch.timed("train", run.train), watch.timed("finish", run.finish)
    record.metrics = watch.timed("log", _nothing if job.bare else record.metrics)
    try:
        train(PretrainConfig(**job.config), directory)
    except StageFailed as error:  # a rate that is too high is a result too
        return {"failed": str(error), "eval_losses": [(0, DIVERGED)]}
    return watch.result()


def _nothing(*_: Any) -> None:
    """Do what a run without evaluation, logging and checkpoints does instead."""


def adamw_alone(model: Any, **rates: float) -> Any:
    """Return AdamW over the groups of our optimizer, the matrices at `muon_learning_rate`.

    Same betas, and the fused implementation, which is the Trainer's default and the fastest.
    """
    import torch

    from pretrain.optim import make_optimizer

    groups = [{"params": each["params"], "lr": each["lr"]} for each in make_optimizer(model, **rates).param_groups]
    made = torch.optim.AdamW(groups, weight_decay=rates["weight_decay"], betas=(0.9, 0.95), fused=True)
    for group in made.param_groups:
        group["initial_lr"] = group["lr"]
    return made


def trainer(job: Job, directory: Path) -> dict[str, Any]:
    """Train with transformers' Trainer on concatenated and chunked documents, and return the figures."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    from data.corpus.configured import corpus_for
    from pretrain.model import random_model
    from pretrain.optim import make_optimizer
    from pretrain.tokenizer import load_tokenizer
    from utils.runtime import device, keep_freed_memory

    if job.keep_memory:
        keep_freed_memory()
    config, watch = PretrainConfig(**job.config), Watch(job)
    tokenizer, corpus = load_tokenizer(str(config.tokenizer_name)), corpus_for(config)
    model = random_model(config, tokenizer, device())
    model.config.attention_dropout = job.attention_dropout
    if job.own_start:
        torch.manual_seed(config.seed)
        model = type(model)(model.config)
    tokens_per_step = config.per_device_train_batch_size * config.max_length

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step_done((len(watch.ends) + 1) * tokens_per_step)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, float], **_: Any) -> None:
            watch.losses.append((state.global_step, metrics["eval_loss"]))

    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        seed=config.seed,
        use_cpu=device() == "cpu",
        **job.arguments,
    )
    own = None
    if job.optimizer == "muon":
        own = make_optimizer(
            model,
            muon_learning_rate=config.muon_learning_rate,
            learning_rate=config.learning_rate,
            embedding_learning_rate=config.embedding_learning_rate,
            weight_decay=config.weight_decay,
        )
    train_blocks = blocks(corpus, tokenizer, "train", config.max_length)
    held_out_blocks = blocks(corpus, tokenizer, "validation", config.max_length)
    made = Trainer(
        model,
        arguments,
        data_collator=default_data_collator,
        train_dataset=train_blocks,
        eval_dataset=held_out_blocks,
        callbacks=[Steps()],
        optimizers=(own, None),
    )
    watch.timed("train", made.train)()
    made.save_model(str(directory))
    tokenizer.save_pretrained(directory)
    return watch.result()


def blocks(corpus: Any, tokenizer: Any, split: str, length: int) -> Any:
    """Return a split as transformers' run_clm.py makes it: all documents in a row, cut into blocks of `length`."""
    from datasets import Dataset

    from data.corpus.shards import tokenised

    (part,) = corpus.parts
    tokens = tokenised(part.store, split, tokenizer).tokens.values
    ids = tokens[: len(tokens) // length * length].reshape(-1, length).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def scores(config: PretrainConfig, directory: Path) -> dict[str, float]:
    """Return the bits per byte of the saved model on the documents of validation and test, by our evaluation."""
    from data.corpus.configured import corpus_for
    from evaluation.checkpoint import ScoreCache, ScoredModel, load_tokenizer
    from evaluation.task import HeldOut
    from evaluation.tasks import LanguageModelling

    (part,) = corpus_for(config).parts
    checkpoint, found = ScoredModel(directory, load_tokenizer(directory), ScoreCache(directory)), {}
    for split in ("validation", "test"):
        task = LanguageModelling(HeldOut([{"text": text} for text in part.store.texts(split).texts()]))
        values = [value for value in task.scores(checkpoint)["bits_per_byte"] if value is not None]
        found[f"{split}_bits_per_byte"] = statistics.fmean(values)
    return found


def main() -> None:
    """Do one job, and write its result."""
    import torch

    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "model"
        result = {"ours": ours, "trainer": trainer}[job.side](job, directory)
        result |= {"threads": torch.get_num_threads()}
        if job.score:
            failed = {"validation_bits_per_byte": DIVERGED, "test_bits_per_byte": DIVERGED}
            result |= failed if "failed" in result else scores(PretrainConfig(**job.config), directory)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
