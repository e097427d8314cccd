"""What the data path of pretraining costs: shards to batches against what a model consumes, and tokenising.

    python benchmarks/data_path.py --text FILE --megabytes 100 --hidden-size 128 --layers 4

Documents are generated from the paragraphs of FILE. They are read, split and tokenised, by a tokenizer trained on them
or the one in --tokenizer, in a fresh cache; then batches are made without a model, and a model of the given shape runs
forward and backward over the same batches. Without optimizer, checkpoints and evaluation a model consumes more tokens
than it does in training, so the ratio is the least one.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cache_config  # noqa: F401  before any Hugging Face library is imported
from data.corpus.batches import Training, training
from data.corpus.corpus import prepare
from data.corpus.shards import tokenised
from data.local_files import read_path
from pretrain import PretrainConfig
from utils.quiet import quiet_libraries
from utils.runtime import device, peak_memory_bytes, reset_peak_memory

MODEL_TOKENS = 40_000
"""Tokens that the model is timed on, at least."""
BATCHES_S = 3.0
"""How long batches are made, in seconds."""


class Cost(NamedTuple):
    """What one piece of work took."""

    seconds: float
    cores: float
    """CPU time over wall time."""
    peak_bytes: int


def cost_of(work: Callable[[], object]) -> Cost:
    """Do `work`, and return what it took."""
    reset_peak_memory()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Cost(wall_s, cpu_s / wall_s, peak_memory_bytes())


def generate(text: Path, megabytes: float, directory: Path) -> Path:
    """Write documents of one to eight paragraphs of `text` in random order, none like another, and return the file."""
    paragraphs = read_path(text, "train")["text"][:]
    random, size, number = Random(0), 0, 0
    target = directory / "generated.txt"
    with target.open("w", encoding="utf-8") as out:
        while size < megabytes * 1e6:
            number += 1
            chosen = "\n".join(random.choices(paragraphs, k=random.randint(1, 8)))
            size += out.write(f"{number}. {chosen}\n\n")
    return target


def batches_a_second(batches: Training, batch_size: int) -> float:
    """Return how many tokens a second the data path gives, padding not counted."""
    tokens = step = 0
    started = time.perf_counter()
    while time.perf_counter() - started < BATCHES_S:
        tokens += int((batches.batch(step, batch_size).document > 0).sum())
        step += 1
    return tokens / (time.perf_counter() - started)


def consumed_a_second(batches: Training, batch_size: int, config: PretrainConfig, tokenizer: Any) -> float:
    """Return how many tokens a second a model goes through forward and backward."""
    import torch
    from torch.nn.functional import cross_entropy

    from pretrain.model import random_model
    from utils.runtime import computes_in_bf16

    where = device()
    model = random_model(config, tokenizer, where)
    tokens, step, started = 0, -2, 0.0  # two steps to warm up
    while tokens < MODEL_TOKENS:
        if step == 0:
            started = time.perf_counter()
        batch = batches.batch(max(step, 0), batch_size)
        ids = batch.input_ids.to(where)
        with torch.autocast(where, torch.bfloat16, enabled=computes_in_bf16(where)):
            logits = model(input_ids=ids, use_cache=False).logits
        cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()).backward()
        model.zero_grad()
        tokens += int((batch.document > 0).sum()) if step >= 0 else 0
        step += 1
    if where == "cuda":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - started)


def measure(args: argparse.Namespace, directory: Path) -> None:
    """Measure all, and print it."""
    from transformers import AutoTokenizer

    from pretrain.tokenizer import train_tokenizer

    source = str(generate(args.text, args.megabytes, directory))
    reading = cost_of(lambda: prepare(source))
    corpus = prepare(source)
    print(f"read, split and store {args.megabytes:g} MB: {said(reading)}")
    if args.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    else:
        tokenizer = train_tokenizer(corpus.training_texts(5_000), args.vocab_size, directory)
    part = corpus.parts[0]
    tokenising = cost_of(lambda: tokenised(part.store, "train", tokenizer, part.train))
    packing = cost_of(lambda: training(corpus, tokenizer, args.row_length, seed=0))
    train_mb = part.store.meta["splits"]["train"]["bytes"] / 1e6
    print(f"tokenise {train_mb:.1f} MB ({args.megabytes:g} MB less what is held out): {said(tokenising)}")
    batches = training(corpus, tokenizer, args.row_length, seed=0)
    print(f"pack {batches.parts[0].tokens:,} tokens into {len(batches):,} rows of {args.row_length}: {said(packing)}")
    given = batches_a_second(batches, args.batch_size)
    print(f"shards to batches of {args.batch_size} rows: {given:,.0f} tokens/s")
    config = PretrainConfig(
        output_dir="model",
        dataset_name=source,
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size or args.hidden_size * 8 // 3,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_length=args.row_length,
        max_position_embeddings=args.row_length,
    )
    consumed = consumed_a_second(batches, args.batch_size, config, tokenizer)
    shape = f"{args.layers} layers of width {args.hidden_size}"
    print(f"a model of {shape}, forward and backward on {device()}: {consumed:,.0f} tokens/s")
    print(f"the data path is {given / consumed:,.0f} times as fast")


def said(cost: Cost) -> str:
    """Return a cost as text."""
    return f"{cost.seconds:.1f} s, {cost.cores:.2f} cores, peak of memory {cost.peak_bytes / 1e9:.2f} GB"


def main() -> None:
    """Measure in a cache that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a .txt file, whose paragraphs the text is made of")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of text to generate (100)")
    parser.add_argument("--tokenizer", help="directory of a tokenizer; without one, it is trained on the text")
    parser.add_argument("--vocab-size", type=int, default=4096, help="of the tokenizer that is trained (4096)")
    parser.add_argument("--row-length", type=int, default=256, help="tokens in a row (256)")
    parser.add_argument("--batch-size", type=int, default=16, help="rows in a batch (16)")
    parser.add_argument("--hidden-size", type=int, default=128, help="width of the model (128)")
    parser.add_argument("--intermediate-size", type=int, help="width of its MLP (8/3 of the model's)")
    parser.add_argument("--layers", type=int, default=4, help="its layers (4)")
    parser.add_argument("--heads", type=int, default=4, help="its attention heads (4)")
    args = parser.parse_args()
    if args.megabytes <= 0 or not args.text.is_file():
        parser.error(f"--megabytes is above 0, and --text a file: {args.megabytes:g}, {args.text}")
    with tempfile.TemporaryDirectory() as name, quiet_libraries(None):
        os.environ["SIXGIG_CACHE"] = str(Path(name) / "cache")
        measure(args, Path(name))


if __name__ == "__main__":
    main()
