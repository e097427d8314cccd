"""The pretraining loop: from text and random weights to a directory that `from_pretrained` loads."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from data import chat, sources
from pretrain import checkpoint, packing
from pretrain.config import PretrainConfig
from pretrain.model import random_model
from pretrain.optim import learning_rate_factor, make_optimizers
from pretrain.tokenizer import train_tokenizer
from utils import trackers
from utils.console import console, progress
from utils.errors import StageFailed
from utils.runtime import computes_in_bf16, peak_memory_bytes
from utils.runtime import device as find_device
from utils.stage_log import StageLog

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM


class Corpus(NamedTuple):
    """The packed documents of both sides, and what made them."""

    tokenizer: "PreTrainedTokenizerFast"
    train: packing.Rows
    held_out: packing.Rows


def pretrain(config: PretrainConfig, stage_dir: Path) -> Path:
    """Train from random weights, or from the newest checkpoint in `stage_dir`; return `stage_dir` with the result.

    Raises:
        StageFailed: the loss or the gradient became NaN or infinite.
    """
    log, device = StageLog(stage_dir), find_device()
    autocast = _autocast(config, device)
    corpus = load_corpus(config, stage_dir, log)
    model = random_model(config, corpus.tokenizer, device)
    optimizers = make_optimizers(
        model,
        muon_learning_rate=config.muon_learning_rate,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        weight_decay=config.weight_decay,
    )
    first_step, tokens = _resume(stage_dir, model, optimizers, log)

    model.train()
    labels = packing.labels_of(corpus.train)
    log.event("TRAIN_START", f"{config.max_steps} steps, {model.num_parameters()} parameters, on {device}")
    with progress("pretrain", config.max_steps) as bar, trackers.recording(stage_dir, config, model) as record:
        for step in range(first_step, config.max_steps):
            rows = batch_rows(len(labels), config.per_device_train_batch_size, step, config.seed)
            batch = packing.Rows(corpus.train.input_ids[rows], corpus.train.document[rows])
            with autocast():
                loss = mean_loss(model, batch, labels[rows], device)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            factor = learning_rate_factor(
                step,
                max_steps=config.max_steps,
                warmup_steps=config.warmup_steps,
                decay_fraction=config.decay_fraction,
            )
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
                optimizer.step()
                optimizer.zero_grad()
            tokens += int((batch.document > 0).sum())

            done, last = step + 1, step + 1 == config.max_steps
            metrics = {"loss": loss.item(), "grad_norm": grad_norm.item()}
            evaluated = done % config.eval_steps == 0 or last
            if evaluated:
                metrics["eval_loss"] = evaluate(model, corpus.held_out, config, autocast, device)
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise StageFailed(f"the {name} of step {done} is {value}: lower muon_learning_rate.")
            if done % config.save_steps == 0 and not last:
                path = checkpoint.save_checkpoint(stage_dir, done, tokens, model, optimizers, config.save_total_limit)
                log.event("CHECKPOINT", path.name)
            if done % config.logging_steps == 0 or evaluated:
                metrics |= {"learning_rate": config.learning_rate * factor, "num_tokens": tokens}
                epoch = done * config.per_device_train_batch_size / len(labels)
                log.metrics(done, epoch, metrics)
                record(done, metrics | {"epoch": epoch})
                bar.update(done, loss=metrics["loss"])

    save(model, corpus.tokenizer, stage_dir)
    log.event("TRAIN_END", f"step {config.max_steps}")
    log.info(steps=config.max_steps, tokens=tokens, peak_memory_bytes=peak_memory_bytes())
    return stage_dir


def load_corpus(config: PretrainConfig, stage_dir: Path, log: StageLog) -> Corpus:
    """Load the documents, train the tokenizer on the training side, and pack both sides."""
    data = sources.load_for(config, "pretrain")
    log.info(data=data.info)
    texts = list(data.train["text"])
    console().print(f"pretrain: training a tokenizer, packing {len(texts)} documents")
    tokenizer = train_tokenizer(texts[: config.tokenizer_samples], config.vocab_size, stage_dir)
    tokenizer.chat_template = chat.CHAT_TEMPLATE

    def pack(documents: list[str]) -> packing.Rows:
        end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        ids = tokenizer(documents, add_special_tokens=False)["input_ids"]
        return packing.pack([[*each, end] for each in ids], config.max_length, tokenizer.pad_token_id)

    return Corpus(tokenizer, pack(texts), pack(list(data.eval["text"])))


def batch_rows(row_count: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " B"]:
    """Return the rows of optimizer step `step`: a function of seed and step; each epoch is its own permutation."""
    wanted = range(step * batch_size, (step + 1) * batch_size)
    return torch.stack([_order(row_count, position // row_count, seed)[position % row_count] for position in wanted])


@lru_cache(maxsize=2)  # the epochs that one step can meet, unless it is longer than an epoch
def _order(row_count: int, epoch: int, seed: int) -> Int[Tensor, " N"]:
    return torch.randperm(row_count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def mean_loss(
    model: "Qwen3ForCausalLM", rows: packing.Rows, labels: Int[Tensor, "B T"], device: str
) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of the labelled tokens, in nats; documents do not see each other."""
    logits = model(
        input_ids=rows.input_ids.to(device),
        attention_mask=_additive(packing.attention_mask(rows.document)).to(device),
        position_ids=packing.positions_of(rows.document).to(device),
        use_cache=False,
    ).logits
    return cross_entropy(logits.float().flatten(0, 1), labels.to(device).flatten(), ignore_index=packing.IGNORED)


def _additive(allowed: Tensor) -> Tensor:
    # Padding attends to itself, so that no row of scores is empty: softmax over nothing is NaN.
    return torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)


@torch.no_grad()
def evaluate(
    model: "Qwen3ForCausalLM",
    rows: packing.Rows,
    config: PretrainConfig,
    autocast: Callable[[], AbstractContextManager[None]],
    device: str,
) -> float:
    """Return the mean loss on the held-out rows, in nats a token; the model returns to training mode."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(rows.input_ids), config.per_device_train_batch_size):
        part = packing.Rows(*(tensor[start : start + config.per_device_train_batch_size] for tensor in rows))
        labels = packing.labels_of(part)
        predicted = int((labels != packing.IGNORED).sum())
        with autocast():
            total += mean_loss(model, part, labels, device).item() * predicted
        count += predicted
    model.train()
    return total / count


def save(model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast", stage_dir: Path) -> None:
    """Save model and tokenizer as transformers expects them."""
    model.eval()
    model.generation_config.use_cache = True
    model.save_pretrained(stage_dir)
    tokenizer.save_pretrained(stage_dir)


def _resume(
    stage_dir: Path, model: "Qwen3ForCausalLM", optimizers: list[torch.optim.Optimizer], log: StageLog
) -> tuple[int, int]:
    """Restore the newest checkpoint, if there is one, and return the steps already done and the tokens seen in them."""
    found = checkpoint.checkpoints(stage_dir)
    step, tokens = checkpoint.load_checkpoint(found[-1], model, optimizers) if found else (0, 0)
    log.cut_back(step)
    if found:
        log.event("RESUME", found[-1].name)
    return step, tokens


def _autocast(config: PretrainConfig, device: str) -> Callable[[], AbstractContextManager[None]]:
    """Return the context of the forward passes: bfloat16 where it was asked for, or is native to the device."""
    enabled = computes_in_bf16(device) if config.bf16 is None else config.bf16
    return lambda: torch.autocast(device, torch.bfloat16, enabled=enabled)
