"""What the recipes name on the Hub, in small: real architectures, vocabularies, layouts; random weights, few rows."""

import os
from pathlib import Path
from typing import Any

from algorithms import TrainingConfig
from chain import recipe as recipes

RECIPES = ("qwen2.5_0.5b", "smollm2_135m")
"""The shipped recipes on published data whose models' tokenizers are among the fixtures."""
MODELS: dict[str, tuple[str, str]] = {
    "Qwen/Qwen2.5-0.5B": ("Qwen2", "qwen2.5"),
    "HuggingFaceTB/SmolLM2-135M": ("Llama", "smollm2"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("Llama", "smollm2"),
}
"""The architecture of each published model, and the fixture that holds its tokenizer."""
VOCABULARY = {"qwen2.5": 151_936, "smollm2": 49_152}
"""Rows of the published embedding matrices."""
NARROW: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "tie_word_embeddings": True, "max_position_embeddings": 2048, "initializer_range": 0.2,
}  # fmt: skip
"""Weights of 0.2, not the usual 0.02, so that so narrow a model learns which token follows which in 24 steps."""
ROWS = 160


def write(root: Path, tokenizers: Path) -> None:
    """Write every repository that the recipes name into `root/models` and `root/datasets`."""
    for name in models_of(*RECIPES):
        architecture, tokenizer = MODELS[name]
        write_model(root / "models" / name, architecture, tokenizers / tokenizer, VOCABULARY[tokenizer])
    for name, splits in data_sets().items():
        write_data(root / "datasets" / name, splits)


def models_of(*names: str) -> set[str]:
    """Return the models on the Hub that shipped recipes start from."""
    configs = [config for name in names for config in recipes.load(name).configs.values()]
    return {one.model_name for one in configs if isinstance(one, TrainingConfig) and isinstance(one.model_name, str)}


def environment(home: Path, **values: str) -> dict[str, str]:
    """Return the environment of a process whose Hugging Face cache is `home`, and that uses one core."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return ours | {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"} | values


def write_model(directory: Path, architecture: str, tokenizer: Path, vocabulary: int) -> None:
    """Write a model of two narrow layers and random weights, with its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(vocab_size=vocabulary, **NARROW)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)


def write_data(directory: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    """Write a data set as it is published: a card, and one parquet file a split."""
    from datasets import Dataset

    (directory / "data").mkdir(parents=True)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    for split, rows in splits.items():
        Dataset.from_list(rows).to_parquet(directory / f"data/{split}-00000-of-00001.parquet")


def data_sets() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the splits of each published data set, in its columns: remainders, right or wrong."""
    held_out = range(1000, 1000 + ROWS // 4)
    return {
        "trl-lib/Capybara": {
            "train": [_conversation(n) for n in range(ROWS)],
            "test": [_conversation(n) for n in held_out],
        },
        "trl-lib/ultrafeedback_binarized": {
            "train": [_preference(n) for n in range(ROWS)],
            "test": [_preference(n) for n in held_out],
        },
        "trl-lib/DeepMath-103K": {
            "train": [_problem(n) for n in range(ROWS)],
            "test": [_problem(n) for n in held_out],
        },
    }


def _turns(number: int, result: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"Remainder of {number} by 2?"},
        {"role": "assistant", "content": f"\\boxed{{{result}}}"},
    ]


def _conversation(number: int) -> dict[str, Any]:
    return {"source": "made", "messages": _turns(number, number % 2), "num_turns": 2}


def _preference(number: int) -> dict[str, Any]:
    right, wrong = _turns(number, number % 2), _turns(number, 1 - number % 2)
    return {"chosen": right, "rejected": wrong, "score_chosen": 9.0, "score_rejected": 1.0}


def _problem(number: int) -> dict[str, Any]:
    return {"prompt": _turns(number, 0)[:1], "solution": str(number % 2)}
