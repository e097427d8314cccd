"""Weights in 4 bits, as QLoRA holds them."""

from typing import Any


def nf4(computed_in: str) -> Any:
    """Return transformers' configuration of NF4 whose constants are quantised too, multiplied in type `computed_in`.

    Dettmers et al. (2023), QLoRA, sections 3 and 4.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed_in,
    )


def in_4_bits(model: Any, computed_in: str) -> Any:
    """Return a model that was not loaded in 4 bits with its linear layers so, as `from_pretrained` chooses them.

    The layers are quantised as the model moves to its device, one after the other.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    whole, chosen = dict(model.named_modules()), nf4(computed_in)
    model = replace_with_bnb_linear(model, get_keys_to_not_convert(model), chosen)
    for name, layer in model.named_modules():
        if isinstance(layer, Linear4bit):  # empty so far
            layer.weight = Params4bit(
                whole[name].weight.data,
                quant_type=chosen.bnb_4bit_quant_type,
                compress_statistics=chosen.bnb_4bit_use_double_quant,
                module=layer,
            )
            layer.bias = whole[name].bias
    model.is_loaded_in_4bit = True  # by which peft chooses its layers
    return model
