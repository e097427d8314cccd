"""Pretraining: text to base weights that `AutoModelForCausalLM.from_pretrained` loads as they are."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import PretrainConfig
from utils.errors import Refused
from watching.out_of_memory import Batch, train_within_memory

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

    from data.corpus import Corpus

__all__ = ["PretrainConfig", "prepare", "train", "untrained"]


def prepare(config: PretrainConfig) -> "Corpus":
    """Read and split the documents, and see that the tokenizer is there: what can be refused before anything starts.

    Raises:
        Refused: one of them cannot be had.
    """
    from data.corpus.configured import corpus_for
    from utils.runtime import device

    if config.mixed_precision == "fp16" and device() != "cuda":
        raise Refused(
            "mixed_precision = 'fp16': needs a CUDA GPU; leave it out, and what this machine can do is taken."
        )
    if config.tokenizer_name is not None:
        from pretrain.tokenizer import load_tokenizer

        load_tokenizer(config.tokenizer_name)
    return corpus_for(config)


def train(config: PretrainConfig, stage_dir: Path) -> Path:
    """Pretrain as `config` says into `stage_dir`, which then holds model and tokenizer, and return it.

    Raises:
        StageFailed: the loss or the gradient became NaN or infinite, or memory ran out with one row at a time.
    """
    from pretrain.loop import pretrain  # torch and transformers load only when something is trained

    def attempt(batch: Batch) -> Path:
        rows, passes = batch.per_device_train_batch_size, batch.gradient_accumulation_steps
        smaller = replace(config, per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
        return pretrain(smaller, stage_dir)

    batch = Batch(config.per_device_train_batch_size, config.gradient_accumulation_steps)
    return train_within_memory(attempt, batch, stage_dir, ADVICE)


def untrained(stage_dir: Path, seed: int) -> "Qwen3ForCausalLM":
    """Return the model in `stage_dir` as its training began: the random weights of the stage's `seed`."""
    import torch
    from transformers import Qwen3Config

    from pretrain.model import drawn

    with torch.random.fork_rng():
        return drawn(Qwen3Config.from_pretrained(stage_dir, trust_remote_code=False), seed)


ADVICE = "a shorter max_length, gradient_checkpointing=True, or a smaller model"
