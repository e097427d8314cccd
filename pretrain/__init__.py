"""Pretraining: text to base weights that `AutoModelForCausalLM.from_pretrained` loads as they are."""

from pathlib import Path

from pretrain.config import PretrainConfig

__all__ = ["PretrainConfig", "train"]


def train(config: PretrainConfig, stage_dir: Path) -> Path:
    """Pretrain as `config` says into `stage_dir`, which then holds model and tokenizer, and return it.

    Raises:
        StageFailed: the loss or the gradient became NaN or infinite.
    """
    from pretrain.loop import pretrain  # torch and transformers load only when something is trained

    return pretrain(config, stage_dir)
