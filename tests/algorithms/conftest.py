"""A tiny model with a chat template, and rows that it can be trained on in a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig
from kinds import named

WORDS = "red green blue one two three up down left right".split()


def _save_model(directory: Path, template: str | None) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of some ten thousand parameters, with the project's chat template."""
    from data.chat import CHAT_TEMPLATE

    return _save_model(tmp_path_factory.mktemp("model") / "tiny", CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without a chat template."""
    return _save_model(tmp_path_factory.mktemp("base") / "tiny", None)


@pytest.fixture(scope="session")
def data_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of rows for each layout that a kind over TRL trains on."""
    directory = tmp_path_factory.mktemp("data")
    asks = [f"say {first} {second}" for first in WORDS for second in WORDS]
    user = [[{"role": "user", "content": ask}] for ask in asks]
    says = [[{"role": "assistant", "content": ask[4:]}] for ask in asks]
    wrong = [[{"role": "assistant", "content": "no " * (1 + index % 5)}] for index in range(len(asks))]
    rows: dict[str, list[dict[str, Any]]] = {
        "conversations": [{"messages": prompt + answer} for prompt, answer in zip(user, says, strict=True)],
        "pairs": [
            {"prompt": prompt, "chosen": good, "rejected": bad}
            for prompt, good, bad in zip(user, says, wrong, strict=True)
        ],
        "prompts": [
            {"prompt": prompt, "answer": answer[0]["content"]} for prompt, answer in zip(user, says, strict=True)
        ],
        "labelled": [
            {"prompt": prompt, "completion": answer, "label": good}
            for prompt, *sides in zip(user, says, wrong, strict=True)
            for answer, good in zip(sides, (True, False), strict=True)
        ],
    }
    files = {}
    for layout, some in rows.items():
        files[layout] = directory / f"{layout}.jsonl"
        files[layout].write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return files


@pytest.fixture
def configure(model_dir: Path, data_files: dict[str, Path]) -> Callable[..., TrainingConfig]:
    """Return a function that makes the configuration of a short, fast stage."""

    def make(kind: str, **fields: Any) -> TrainingConfig:
        quick: dict[str, Any] = {
            "model_name": str(model_dir), "output_dir": kind, "dataset_name": str(data_files[named(kind).layout]),
            "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1, "bf16": False,
            "gradient_checkpointing": False,
        }  # fmt: skip
        return TrainingConfig(**(quick | fields))

    return make


@pytest.fixture
def stage_dir(tmp_path: Path) -> Path:
    """An empty directory for a stage."""
    directory = tmp_path / "stage"
    directory.mkdir()
    return directory
