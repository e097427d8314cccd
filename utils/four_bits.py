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
