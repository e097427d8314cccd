"""The model that pretraining starts from: a Qwen3 of the configured shape, with random weights."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import dropout

from pretrain.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM


def random_model(config: PretrainConfig, tokenizer: "PreTrainedTokenizerBase", device: str) -> "Qwen3ForCausalLM":
    """Return a Qwen3 with weights drawn from `config.seed`, in float32.

    Qwen3 normalises queries and keys, which lets attention become sharp early; see docs/decisions.md for the figures.
    """
    from transformers import Qwen3Config

    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=config.attn_implementation or ("eager" if device == "cpu" else "sdpa"),
    )
    model = drawn(shape, config.seed)
    expected = parameter_count(config, len(tokenizer))
    assert model.num_parameters() == expected, (model.num_parameters(), expected)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.dropout:
        _add_dropout(model, config.dropout)
    return model.to(device)


def drawn(shape: "Qwen3Config", seed: int) -> "Qwen3ForCausalLM":
    """Return a Qwen3 of this shape with weights drawn from `seed`, which is left in torch's generator."""
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(shape)
    initialise(model)
    return model


@torch.no_grad()
def initialise(model: "Qwen3ForCausalLM") -> None:
    """Start from embeddings of unit variance and layers that add nothing yet.

    transformers draws every matrix with the same small deviation, so that what the first layers add drowns the tokens'
    identities, and copying is learned late. Same start as in modded-nanogpt (Jordan et al. 2024) and nanochat.
    """
    # A tied embedding is the head as well, whose scores have unit variance then.
    tied_deviation = model.config.hidden_size**-0.5
    model.model.embed_tokens.weight.normal_(0.0, tied_deviation if model.config.tie_word_embeddings else 1.0)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


def _add_dropout(model: "Qwen3ForCausalLM", rate: float) -> None:
    """Drop parts of what each layer adds, while training. A hook, since Qwen3 has no such dropout: none of it is saved.

    The place is that of GPT-2's residual dropout; an embedding is not dropped.
    """

    def dropped(module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):  # attention: what it adds, and its weights
            return (dropout(output[0], rate), *output[1:])
        return dropout(output, rate)

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(dropped)
        layer.mlp.register_forward_hook(dropped)


def parameter_count(config: PretrainConfig, vocab_size: int) -> int:
    """Return the number of parameters of the configured shape.

    Embedding and head, which may be one; in each layer four attention and three MLP matrices, two norms, and one norm
    each for the queries and keys of a head; the last norm.
    """
    width = config.hidden_size
    layer = 4 * width * width + 3 * width * config.intermediate_size
    norms = 2 * width + 2 * (width // config.num_attention_heads)
    embeddings = 1 if config.tie_word_embeddings else 2
    return embeddings * vocab_size * width + config.num_hidden_layers * (layer + norms) + width
