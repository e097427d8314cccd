"""A small random Llama with the made world's tokenizer, saved as a stage saves it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.checkpoint import ScoreCache, ScoredModel, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made world's tokenizer, with the project's chat template."""
    from data.chat import CHAT_TEMPLATE
    from data.made import rows
    from pretrain.tokenizer import train_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer([row["text"] for row in rows("documents", "train", 300)], 512, directory)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def make_model(tokenizer_dir: Path) -> Callable[..., Path]:
    """Return a function that saves a random Llama, or a reward model, with the tokenizer; one seed, one model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    def make(directory: Path, seed: int = 0, *, reward: bool = False, template: bool = True) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        if not template:
            tokenizer.chat_template = None
        config = LlamaConfig(
            vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.3, num_labels=1 if reward else 2,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = (LlamaForSequenceClassification if reward else LlamaForCausalLM)(config)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """The random Llama of seed 0. Not to be written to."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def open_checkpoint(tmp_path: Path) -> Callable[..., ScoredModel]:
    """Return a function that opens a checkpoint, whose scores are kept apart from its weights."""

    def open_(directory: Path, **options: Any) -> ScoredModel:
        return ScoredModel(directory, load_tokenizer(directory), ScoreCache(tmp_path), **options)

    return open_


@pytest.fixture
def checkpoint(model_dir: Path, open_checkpoint: Callable[..., ScoredModel]) -> ScoredModel:
    """The random Llama."""
    return open_checkpoint(model_dir)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Return a function after which a model runs out of memory with more than `most_rows` rows, from call `since` on.

    It returns the list of the rows of each call.
    """
    import torch

    def limit(model: Any, most_rows: int, since: int = 0) -> list[int]:
        seen: list[int] = []
        forward = model.forward

        @functools.wraps(forward)
        def limited(*args: Any, **named: Any) -> Any:
            seen.append(len(named["input_ids"]))
            if seen[-1] > most_rows and len(seen) > since:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(*args, **named)

        monkeypatch.setattr(model, "forward", limited)
        return seen

    return limit
