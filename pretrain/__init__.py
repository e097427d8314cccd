"""Pretraining: text to base weights that `AutoModelForCausalLM.from_pretrained` loads as they are."""

from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.pretrain_config import PretrainConfig
from utils.errors import Refused

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

    from data.corpus.corpus import Corpus

__all__ = ["PretrainConfig", "prepare", "untrained"]


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


def untrained(stage_dir: Path, seed: int) -> "Qwen3ForCausalLM":
    """Return the model in `stage_dir` as its training began: the random weights of the stage's `seed`."""
    import torch
    from transformers import Qwen3Config

    from pretrain.model import drawn

    with torch.random.fork_rng():
        return drawn(Qwen3Config.from_pretrained(stage_dir, trust_remote_code=False), seed)
