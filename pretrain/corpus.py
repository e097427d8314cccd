"""What a run trains and is measured on: packed rows of its documents, and the order in which steps see them."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from data import chat, sources
from pretrain import packing
from pretrain.config import PretrainConfig
from pretrain.record import Record
from pretrain.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerFast


class TrainRows:
    def __init__(self, rows: packing.Rows, config: PretrainConfig) -> None:
        self.rows, self.config = rows, config

    def __len__(self) -> int:
        return len(self.rows.input_ids)

    def batches(self, step: int, size: int, accelerator: "Accelerator"):
        rows = batch_rows(len(self), size, step, self.config.seed)
        mine = rows.chunk(accelerator.num_processes)[accelerator.process_index]
        for part in mine.split(self.config.per_device_train_batch_size):
            batch = packing.Rows(self.rows.input_ids[part], self.rows.document[part])
            yield batch, packing.labels_of(batch)

    def documents_of(self, step: int, size: int) -> list[str]:
        return [str(i) for i in batch_rows(len(self), size, step, self.config.seed).tolist()]


class HeldOut:
    def __init__(self, rows: packing.Rows, predicted_bytes: int) -> None:
        self.rows, self.predicted_bytes = rows, predicted_bytes

    def batches(self, size: int, accelerator: "Accelerator"):
        mine = torch.arange(len(self.rows.input_ids))[accelerator.process_index :: accelerator.num_processes]
        for part in mine.split(size):
            batch = packing.Rows(self.rows.input_ids[part], self.rows.document[part])
            yield batch, packing.labels_of(batch)


class Corpus(NamedTuple):
    """The packed documents of both sides, and what made them."""

    tokenizer: "PreTrainedTokenizerFast"
    train: TrainRows
    validation: HeldOut
    test: HeldOut | None


def load_corpus(config: PretrainConfig, stage_dir: Path, accelerator: "Accelerator", record: Record) -> Corpus:
    """Load the documents, train the tokenizer on the training side, and pack both sides."""
    data = sources.load_for(config, "pretrain")
    record.data(data.info)
    texts = list(data.train["text"])
    if accelerator.is_main_process:
        tokenizer = train_tokenizer(texts[: config.tokenizer_samples], config.vocab_size, stage_dir)
        tokenizer.chat_template = chat.CHAT_TEMPLATE
        tokenizer.save_pretrained(stage_dir)
    accelerator.wait_for_everyone()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stage_dir)

    def pack(documents: list[str]) -> packing.Rows:
        end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        ids = tokenizer(documents, add_special_tokens=False)["input_ids"]
        return packing.pack([[*each, end] for each in ids], config.max_length, tokenizer.pad_token_id)

    held = list(data.eval["text"])
    return Corpus(
        tokenizer,
        TrainRows(pack(texts), config),
        HeldOut(pack(held), sum(len(text.encode()) for text in held)),
        None,
    )


def batch_rows(row_count: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " B"]:
    """Return the rows of optimizer step `step`: a function of seed and step; each epoch is its own permutation."""
    wanted = range(step * batch_size, (step + 1) * batch_size)
    return torch.stack([_order(row_count, position // row_count, seed)[position % row_count] for position in wanted])


@lru_cache(maxsize=2)  # the epochs that one step can meet, unless it is longer than an epoch
def _order(row_count: int, epoch: int, seed: int) -> Int[Tensor, " N"]:
    return torch.randperm(row_count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
