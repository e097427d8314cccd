"""What a run trains and is measured on: batches of packed rows, and the tokenizer that made them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from data.corpus.batches import HeldOut, Training, held_out, training
from data.corpus.configured import corpus_for, record_of
from data.corpus.corpus import Corpus
from data.corpus.rows import Batch
from pretrain.checkpoint import refuse_other_data
from pretrain.packing import labels_of
from pretrain.pretrain_config import PretrainConfig
from pretrain.tokenizer import copy_tokenizer, load_tokenizer, trained_tokenizer
from records.stage_log import StageLog
from utils.console import console

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

Labelled = tuple[Batch, Int[Tensor, "B T"]]


@dataclass(frozen=True)
class Tokens:
    """The packed rows of a run, for one of its processes."""

    data: str
    """The fingerprint of the documents."""
    tokenizer: "PreTrainedTokenizerBase"
    train: Training
    validation: list[HeldOut]
    test: list[HeldOut]
    rows: int
    """Rows in one forward and backward pass."""
    process: int
    processes: int

    def step(self, step: int, rows_per_step: int) -> list[Labelled]:
        """Return the batches of this process in optimizer step `step`, from 0."""
        whole = self.train.batch(step, rows_per_step, self.process, self.processes)
        parts = zip(*(tensor.split(self.rows) for tensor in whole), strict=True)
        return [(batch, labels_of(batch)) for batch in (Batch(*part) for part in parts)]

    def held_out(self, parts: Sequence[HeldOut]) -> Iterator[Labelled]:
        """Yield the batches of this process of all held-out rows: in every process as many, the last may be padding.

        Under FSDP2 each forward pass gathers weights from all processes, so that one pass more would wait for ever.
        """
        for part in parts:
            mine = range(self.process, len(part.rows), self.processes)
            most = math.ceil(len(part.rows) / self.processes)
            for start in range(0, most, self.rows):
                rows = list(mine[start : start + self.rows])
                batch = part.rows.batch(rows) if rows else part.rows.padding()
                yield batch, labels_of(batch)

    def documents(self, step: int, rows_per_step: int) -> list[str]:
        """Return the beginnings of the documents that step `step` trains on, over all processes."""
        batch = self.train.batch(step, rows_per_step)
        texts = []
        for ids, document in zip(*batch, strict=True):
            for number in range(1, int(document.max()) + 1):
                text = self.tokenizer.decode(ids[document == number][:SHOWN_TOKENS])
                texts.append(repr(text[:SHOWN_CHARACTERS]))
        beyond = len(texts) - SHOWN_DOCUMENTS
        return texts if beyond <= 0 else [*texts[:SHOWN_DOCUMENTS], f"and {beyond} more"]


SHOWN_DOCUMENTS, SHOWN_TOKENS, SHOWN_CHARACTERS = 16, 20, 50


def load_corpus(config: PretrainConfig, stage_dir: Path, accelerator: "Accelerator", log: StageLog) -> Tokens:
    """Read and split the documents, train or load the tokenizer, and pack; what an earlier run made is found again."""
    corpus = corpus_for(config)  # several processes make it once: a file lock sees to that, and has no time limit
    record = record_of(corpus, config.eval_samples)
    data = str(record["fingerprint"])
    refuse_other_data(stage_dir, data)
    log.info(data=record)
    for line in corpus.lines():
        console().print(line, markup=False)
    with accelerator.main_process_first():
        tokenizer = _tokenizer(config, corpus, stage_dir)
    validation, test = (
        held_out(corpus, tokenizer, config.max_length, split, config.eval_samples) for split in ("validation", "test")
    )
    train = training(corpus, tokenizer, config.max_length, config.seed)
    rows, process, processes = (
        config.per_device_train_batch_size, accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip
    return Tokens(data, tokenizer, train, validation, test, rows, process, processes)


def _tokenizer(config: PretrainConfig, corpus: Corpus, stage_dir: Path) -> "PreTrainedTokenizerBase":
    """Return the run's tokenizer, which lies in `stage_dir` once it is trained; the first process trains it."""
    if config.tokenizer_name is not None:
        return load_tokenizer(config.tokenizer_name)
    if not (stage_dir / "tokenizer.json").exists():
        copy_tokenizer(trained_tokenizer(config, corpus), stage_dir)
    return load_tokenizer(str(stage_dir))
