"""The small random Llama that the measurements are tested with, and one that runs out of memory."""

from tests.evaluation.conftest import (
    checkpoint,
    make_model,
    model_dir,
    open_checkpoint,
    short_of_memory,
    tokenizer_dir,
)

__all__ = ["checkpoint", "make_model", "model_dir", "open_checkpoint", "short_of_memory", "tokenizer_dir"]
