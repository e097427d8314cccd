"""Shapes and settings that go together, by name: `python -m pretrain --preset NAME`.

"Compute-optimal" is 20 tokens a parameter (Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models"), and
`max_steps` is what that takes, but for `tiny`. Memory is that of weights, gradients and optimizer states in float32, 12
bytes a parameter under Muon and 16 under AdamW. Activations come on top, of which the logits are the most: about 21
bytes for each token of a pass and piece of the vocabulary, activations included (agentic-30m's shape, measured on a
CPU). `per_device_train_batch_size` keeps them near 2 GB.
"""

from typing import Any

from pretrain.pretrain_config import PretrainConfig
from utils.errors import Refused, did_you_mean

_LARGER: dict[str, Any] = {  # what a longer run on real text wants, against the demo's
    "tokenizer_samples": 20_000, "eval_samples": 2_000, "warmup_steps": 200, "weight_decay": 0.01,
    "eval_steps": 500, "save_steps": 500, "logging_steps": 10,
}  # fmt: skip
_LONG: dict[str, Any] = _LARGER | {  # rows of 1024 tokens
    "max_length": 1024, "max_position_embeddings": 1024, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 16, "tie_word_embeddings": True,
}  # fmt: skip

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "The embedded recipe's: 1.04 M parameters, 21 M tokens, 14 MB. Minutes on two cores.",
        {"max_steps": 1000},
    ),
    "small": (
        "For a laptop and some megabytes of text of one's own: 6.84 M parameters, 137 M tokens, 91 MB.",
        _LARGER | {
            "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6,
            "max_length": 256, "per_device_train_batch_size": 16, "max_steps": 33_421,
        },
    ),
    # 384 wide, 6 layers, 8 heads, a context of 512, and the tokenizer of SmolLM, whose 49,152 pieces are two thirds of
    # the parameters; so embedding and head are one.
    "agentic-30m": (
        "Conversations with tools at a small size: 29.50 M parameters, 590 M tokens, 429 MB.",
        _LARGER | {
            "tokenizer_name": "HuggingFaceTB/SmolLM-135M", "hidden_size": 384, "intermediate_size": 1024,
            "num_hidden_layers": 6, "num_attention_heads": 8, "tie_word_embeddings": True,
            "max_length": 512, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 24,
            "max_steps": 12_003,
        },
    ),
    # Eight hours for these tokens are 28,000 a second, or 6.7 TFLOPS.
    "night-6gb": (
        "For a night on a card with 6 GB: 40.02 M parameters, 800 M tokens, 514 MB.",
        _LONG | {
            "vocab_size": 16_384, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 10,
            "num_attention_heads": 8, "max_steps": 12_214,
        },
    ),
    "medium": (
        "For a larger card: 54.74 M parameters, 1,095 M tokens, 724 MB.",
        _LONG | {
            "vocab_size": 32_768, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_steps": 16_704,
        },
    ),
    "large": (
        "GPT-2's small size, for days on one card or hours on several: 110.12 M parameters, 2,202 M tokens, 1,422 MB.",
        _LONG | {
            "vocab_size": 32_768, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 12, "gradient_accumulation_steps": 32, "max_steps": 16_803,
        },
    ),
}  # fmt: skip
"""What each is for, and its fields."""


def preset(name: str, **given: Any) -> PretrainConfig:
    """Return the preset of this name with the given fields.

    Raises:
        Refused: there is none.
    """
    if name not in PRESETS:
        raise Refused(f"there is no preset {name!r}{did_you_mean(name, PRESETS) or '.'} Presets: {', '.join(PRESETS)}")
    return PretrainConfig(**PRESETS[name][1] | given)
