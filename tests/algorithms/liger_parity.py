"""A small model with and without Liger's layers: the largest differences of its logits and gradients.

    TRITON_INTERPRET=1 python tests/algorithms/liger_parity.py qwen2

runs the kernels on a CPU in Triton's interpreter and prints the differences as JSON. Two things are mended for that, in
this process alone: Triton 3.7.1's interpreter passes a float on as it is where a kernel expects a scalar tensor, and it
knows `rsqrt` of Triton's own, not that of CUDA's library, which Liger's RMSNorm imports.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cache_config  # noqa: F401  before any Hugging Face library is imported

ARCHITECTURES = ("llama", "qwen2", "smollm3")
"""Those of the recipes: SmolLM2, Qwen2.5 and SmolLM3."""
LAYERS = 2


def small_model(architecture: str, **shape: int) -> Any:
    """Return a model of the architecture with random weights, two query heads to a key."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    given = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, **shape,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **given), attn_implementation="sdpa")
    for name, weight in model.named_parameters():
        if "norm" in name:  # not all ones, or a norm that forgot its weight would pass
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model


def differences(architecture: str, device: str, stage_dir: Path, **shape: int) -> dict[str, float]:
    """Return the largest difference of the logits, and of the gradients, in shares of the largest of each."""
    import torch

    from algorithms import liger

    model = small_model(architecture, **shape).to(device)
    input_ids = torch.randint(1, model.config.vocab_size, (2, 9), device=device)
    positions = torch.arange(9, device=device).expand(2, -1)
    found = []
    for _ in range(2):
        model.zero_grad()
        output = model(input_ids=input_ids, position_ids=positions, labels=input_ids)
        output.loss.backward()
        gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        found.append((output.logits.detach(), gradients))
        if len(found) == 1:
            liger.replace_layers(model, stage_dir)
    (logits, gradients), (its_logits, its_gradients) = found
    return {
        "logits": float((logits - its_logits).abs().max() / logits.abs().max()),
        "gradients": float((gradients - its_gradients).abs().max() / gradients.abs().max()),
        "layers": sum(liger.layers(model).values()),
    }


def _mend_the_interpreter() -> None:
    import liger_kernel.ops.rms_norm as rms_norm
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert: Any = interpreter._implicit_cvt

    def with_floats(value: Any) -> Any:
        if isinstance(value, float):
            return tl.tensor(interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)
        return convert(value)

    interpreter._implicit_cvt = with_floats
    rms_norm.rsqrt = lambda value: tl.math.rsqrt(value)  # looked up when called: the interpreter replaces it by then


if __name__ == "__main__":
    import tempfile

    _mend_the_interpreter()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(differences(sys.argv[1], "cpu", Path(directory))))
