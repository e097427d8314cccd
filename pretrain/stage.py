"""Pretraining as a kind of stage."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinds import Kind, MicroBatch, Stage, Work
from pretrain.pretrain_config import PretrainConfig, range_problems
from utils.runtime import computes_in_bf16, device
from utils.values import mistyped

if TYPE_CHECKING:
    from utils.limits import Clock

FEW = 300
"""Documents that tell how the run's tokenizer cuts a text."""


class Pretraining(Kind):
    """Random weights, trained on documents."""

    name = "pretrain"
    config_class = PretrainConfig
    layout = "documents"
    starts_from_nothing = True
    chats = False
    tasks = ("skills", "documents")
    figures = (
        "documents loss",
        "documents accuracy",
        "documents bits_per_byte",
        "skills strict",
    )
    headlines = ("documents bits_per_byte", "documents loss")

    def problems(self, config: PretrainConfig, extra: Any = None) -> list[str]:
        """Return every problem of a configuration."""
        return list(mistyped(config).values()) or list(range_problems(config))

    plain_problems = problems

    def load(self, config: PretrainConfig) -> tuple[dict[str, Any], None]:
        """Return the record of the documents, which stay on disk, as batches take them."""
        import pretrain
        from data.corpus.configured import record_of

        return record_of(pretrain.prepare(config), config.eval_samples), None

    def train(self, stage: Stage, stage_dir: Path, clock: "Clock") -> Path:
        """Pretrain; see `pretrain.loop`."""
        from pretrain.loop import pretrain  # torch and transformers load only when something is trained

        return pretrain(stage.config, stage_dir, clock)

    def stand_in(self, config: PretrainConfig) -> tuple[Any, Any]:
        """Return a tokenizer like that of the run, trained on a few documents, and the model that would read it."""
        import pretrain
        from pretrain import tokenizer as tokenizers

        if config.tokenizer_name is not None:
            tokenizer = tokenizers.load_tokenizer(config.tokenizer_name)
        else:
            texts = pretrain.prepare(config).training_texts(FEW)
            try:
                tokenizer = tokenizers.fast_tokenizer(tokenizers.train_sentencepiece(texts, config.vocab_size))
            except ValueError:  # they are too few for so many pieces
                tokenizer = tokenizers.byte_tokenizer()
        return tokenizer, self.model_config(replace(config, vocab_size=len(tokenizer)))

    def untrained(self, stage_dir: Path, seed: int) -> Any:
        """Return the random weights of `seed` in the shape of the model in `stage_dir`."""
        import pretrain

        return pretrain.untrained(stage_dir, seed)

    def trainer_args(self, config: PretrainConfig, extra: Any = None) -> PretrainConfig:
        """Return the configuration: its fields have transformers' names."""
        return config

    def micro_batch(self, config: PretrainConfig) -> MicroBatch:
        """Return how a step is made up."""
        return MicroBatch(config.per_device_train_batch_size, config.gradient_accumulation_steps)

    def with_micro_batch(self, config: PretrainConfig, batch: MicroBatch, extra: Any = None) -> PretrainConfig:
        """Return the configuration with its step made up so."""
        return replace(
            config,
            per_device_train_batch_size=batch.per_device_train_batch_size,
            gradient_accumulation_steps=batch.gradient_accumulation_steps,
        )

    def advice(self, config: PretrainConfig) -> str:
        """Return what would take less memory."""
        return "a shorter max_length, gradient_checkpointing=True, or a smaller model"

    def steps(self, args: PretrainConfig, rows: int | None, processes: int) -> int:
        """Return the steps that the recipe sets."""
        return args.max_steps

    def work(self, config: PretrainConfig, args: PretrainConfig, extra: Any = None) -> Work:
        """Return what a step computes: Muon for the matrices inside the layers, AdamW for the rest."""
        precision = config.mixed_precision or ("bf16" if device() != "cuda" or computes_in_bf16("cuda") else "fp16")
        autocast = {"bf16": "bfloat16", "fp16": "float16"}.get(precision)
        return Work(autocast=autocast, optim="muon", whole_logits=True)

    def is_here(self, config: PretrainConfig) -> bool:
        """Tell whether every part of the corpus is on this machine."""
        from data.corpus.configured import is_here

        return is_here(config)

    def model_config(self, config: PretrainConfig) -> Any:
        """Return the configuration of the Qwen3 that is made."""
        from transformers import AutoConfig

        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "tie_word_embeddings")
        return AutoConfig.for_model(
            "qwen3",
            vocab_size=config.vocab_size,
            num_key_value_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            **{name: getattr(config, name) for name in names},
        )


PRETRAIN = Pretraining()
