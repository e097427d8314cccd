"""What a pretraining run is: the model's shape, its tokenizer, its data and its optimization."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from utils.values import with_known_fields

COMPILED_STEPS = 5000
"""Steps from which compiling pays on a GPU: it takes a minute at the start (docs/decisions.md)."""

MAY_BE_0 = ("weight_decay", "warmup_steps", "decay_fraction", "dropout", "seed")


@with_known_fields
@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretraining of a Qwen3 from random weights; names as in transformers where they have one."""

    output_dir: str
    """Directory of the stage within the run directory."""
    dataset_name: str
    """Local file or folder, Hub id, `tinystories`, `hermes`, `made:documents`, or some with their weights:
    `tinystories:0.7,notes/:0.3`."""
    dataset_config_name: str | None = None
    """The data set's configuration on the Hub."""
    dataset_revision: str | None = None
    """Commit, tag or branch of the data set on the Hub."""
    stage: str | None = None
    """Kind of the stage. None: its label in the recipe is the name of its kind."""
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Columns of the data by the name that pretraining has for them: `{"text": "content"}`; None leaves one out."""
    document_separator: str | None = None
    """What sets documents apart within a text; None is blank lines in .txt files, or lines of <|endoftext|>."""
    data_fraction: float = 1.0
    """Share of the training documents to use, chosen by a hash of the document."""
    max_samples: int | None = None
    """Documents of made data to train on; None takes the generator's own number. Other data have data_fraction."""
    eval_samples: int = 256
    """Held-out documents to evaluate on, at most. One in ten is held out by its hash, where no split is published."""

    tokenizer_name: str | None = None
    """Directory or Hub id of the tokenizer, or `bytes` for one token a byte; None trains one for the run."""
    vocab_size: int = 1024
    """Pieces of the tokenizer that is trained for the run."""
    tokenizer_samples: int = 5_000
    """Documents that the tokenizer is trained on, at most."""
    hidden_size: int = 128
    """Width of the residual stream."""
    intermediate_size: int = 336
    """Width of the gated MLP."""
    num_hidden_layers: int = 4
    """Decoder layers."""
    num_attention_heads: int = 4
    """Attention heads of a layer."""
    max_position_embeddings: int = 512
    """Longest sequence that any stage may show the model, in tokens."""
    tie_word_embeddings: bool = False
    """One matrix for embedding and head: fewer parameters where the vocabulary is large for the width."""
    dropout: float = 0.0
    """Share of what attention and MLP add that is dropped in training; for text that is seen many times."""
    attn_implementation: str | None = None
    """transformers' attention; None is eager on a CPU, where it is fastest for small models, else sdpa."""

    max_length: int = 128
    """Row length in tokens: whole documents are packed into it, longer ones in pieces of that length."""
    max_steps: int = 600
    """Optimizer steps; the data are repeated when they run out."""
    per_device_train_batch_size: int = 16
    """Rows in one forward and backward pass of a process."""
    gradient_accumulation_steps: int = 1
    """Passes of a process in a step; a step has these × rows × processes."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass rather than keep them."""
    torch_compile: bool | None = None
    """Compile the model; None on a GPU, if the run has so many steps that it pays: COMPILED_STEPS."""
    muon_learning_rate: float = 0.02
    """Peak rate of Muon, for the hidden matrices; the orthogonal update has a root mean square near 1/sqrt(width)."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW for head and norms."""
    embedding_learning_rate: float = 0.1
    """Peak rate of AdamW for the embedding, whose entries start with unit variance."""
    weight_decay: float = 0.0
    """Decoupled weight decay of both optimizers."""
    warmup_steps: int = 20
    """Steps of linear warmup."""
    decay_fraction: float = 0.4
    """Share of the steps, at the end, over which the rate falls linearly to zero."""
    max_grad_norm: float = 1.0
    """Gradient norm above which the gradient is scaled down."""
    mixed_precision: str | None = None
    """`bf16`, `fp16` or `no`: what the forward pass computes in; None is bf16 where that is native, else fp16 on a GPU.

    Weights and optimizer states are float32 throughout."""
    logging_steps: int = 10
    """Steps between two logged lines."""
    eval_steps: int = 100
    """Steps between two evaluations on the held-out documents; the last step is always one. The best is kept."""
    save_steps: int = 100
    """Steps between two checkpoints."""
    save_total_limit: int = 1
    """Newest checkpoints kept, beside the best."""
    gates: Sequence[Mapping[str, Any]] = ()
    """What the measurement of a recipe's stage must show, such as `{"metric": "documents loss", "at_most": 2.0}`."""
    on_fail: str = "stop"
    """What a failed gate does; pretraining has no input to go on with, so it can only stop."""
    seed: int = 42
    """Of the weights, the order of the data, and made data."""

    def compiles(self, device: str) -> bool:
        """Tell whether the model is compiled on a device ("cuda", "mps" or "cpu")."""
        if self.torch_compile is None:
            return device == "cuda" and self.max_steps >= COMPILED_STEPS
        return self.torch_compile


def range_problems(config: PretrainConfig) -> Iterator[str]:
    """Yield what is out of range in a configuration whose values have the right types."""
    for name, value in asdict(config).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name not in MAY_BE_0):
            yield f"{name} = {value!r}: must be {'0 or more' if name in MAY_BE_0 else 'above 0'}"
        elif (name.endswith("_fraction") or name == "dropout") and value > 1:
            yield f"{name} = {value!r}: must be at most 1"
    if config.num_attention_heads > 0 and config.hidden_size % (2 * config.num_attention_heads):
        yield f"hidden_size = {config.hidden_size}: must be a multiple of 2 × num_attention_heads, for RoPE"
    if config.max_samples is not None and not config.dataset_name.startswith("made:"):
        yield f"max_samples = {config.max_samples}: is for made data; of other data, data_fraction takes a part"
    if config.max_length == 1:
        yield "max_length = 1: must be at least 2, since a single token predicts nothing"
    if config.dropout == 1:
        yield "dropout = 1: must be below 1, which drops everything"
    if config.attn_implementation not in (None, "eager", "sdpa"):
        yield (
            f"attn_implementation = {config.attn_implementation!r}: must be 'eager', 'sdpa' or None, which keep packed "
            "documents apart by a mask"
        )
    if config.mixed_precision not in (None, "no", "bf16", "fp16"):
        yield f"mixed_precision = {config.mixed_precision!r}: must be 'bf16', 'fp16', 'no' or None"
    longest = config.max_position_embeddings
    if config.max_length > longest:
        yield f"max_length = {config.max_length}: must be at most max_position_embeddings = {longest}"
