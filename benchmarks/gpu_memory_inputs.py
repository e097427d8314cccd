"""What benchmarks/gpu_memory.py measures on, without a download: random weights and rows of true sizes.

Pairs are as long as their stage lets them be, so that each step has the recipe's largest shape. Conversations are from
a quarter of that to the whole, or packing would have nothing to pack. Rows are letters, and a letter is one token: what
they say does not matter to memory or time, the size of the model's vocabulary does.
"""

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.runtime import free_memory

Row = dict[str, Any]

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
    },
    "Qwen/Qwen2.5-1.5B": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
        "max_position_embeddings": 131_072,
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "HuggingFaceTB/SmolLM3-3B": {
        "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128_256, "tie_word_embeddings": True,
        "max_position_embeddings": 65_536,
    },
}  # fmt: skip
"""From the config.json of each model, as published."""

QUICK = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 512,
}  # fmt: skip
"""Replaces a shape where only the script is tried."""

PROMPT_TOKENS = 256
"""Of a prompt of GRPO, and at most of a pair: TRL sets them no limit of their own."""


def model_config(name: str, *, quick: bool) -> Any:
    """Return the transformers configuration of a model in `SHAPES`."""
    from transformers import AutoConfig

    shape = SHAPES[name] | (QUICK if quick else {})
    return AutoConfig.for_model(**shape, eos_token_id=0, pad_token_id=1, bos_token_id=None)


def save_model(name: str, directory: Path, dtype: str, *, quick: bool, scores: bool = False) -> None:
    """Save random weights of the model's shape, as a reward model if it `scores`, and a tokenizer of letters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = model_config(name, quick=quick)
    auto: Any = AutoModelForCausalLM
    if scores:
        auto, config.num_labels = AutoModelForSequenceClassification, 1
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # many times faster than a CPU draws 3B
        auto.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(directory)
    free_memory()
    tokenizer().save_pretrained(directory)


def tokenizer() -> Any:
    """Return a tokenizer of bytes with the project's chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from data.chat import CHAT_TEMPLATE

    pieces = ["<|im_end|>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>")
    made.chat_template = CHAT_TEMPLATE
    return made


def save_rows(kind: str, directory: Path, number: int, length: int) -> None:
    """Write `number` training rows and a few held-out ones, of at most `length` tokens; see above."""
    directory.mkdir()
    random.seed(0)
    for side, rows in (("train", number), ("test", 4)):
        lines = [json.dumps(row) for row in _rows(kind, rows, length)]
        (directory / f"{side}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(kind: str, number: int, length: int) -> Iterator[Row]:
    encoder = tokenizer()
    prompt_tokens = min(PROMPT_TOKENS, length // (2 if kind == "grpo" else 8))
    for index in range(number):
        prompt = [{"role": "user", "content": ""}]
        prompt[0]["content"] = _letters(prompt_tokens - _tokens(encoder, prompt, answered=False))
        if kind == "grpo":
            yield {"prompt": prompt}
            continue
        whole = random.randint(length // 4, length) if kind == "sft" and index else length
        room = whole - _tokens(encoder, [*prompt, {"role": "assistant", "content": ""}], answered=True)
        answers = [[{"role": "assistant", "content": _letters(room)}] for _ in range(2)]
        if kind == "sft":
            yield {"messages": prompt + answers[0]}
        else:
            yield {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def _tokens(encoder: Any, messages: list[dict[str, str]], *, answered: bool) -> int:
    return len(encoder.apply_chat_template(messages, add_generation_prompt=not answered, return_dict=False))


def _letters(number: int) -> str:
    return "".join(random.choices(string.ascii_lowercase, k=max(1, number)))
