"""The same optimizer step in more and smaller passes: what a memory budget and a recovery rely on."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from algorithms import GRPOExtraConfig, TrainingConfig
from algorithms.grpo import GRPO

Configure = Callable[..., TrainingConfig]

SPLITS = [(8, 1), (2, 4), (1, 8)]


def _trainer(kind: str, model_dir: Path, rows: Dataset, out: Path, batch: int, passes: int, **options: Any) -> Any:
    import trl

    torch.manual_seed(0)
    auto: Any = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    model = auto.from_pretrained(model_dir, dtype=torch.float64, **({"num_labels": 1} if kind == "reward" else {}))
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model.config.pad_token_id = tokenizer.pad_token_id
    name = {"sft": "SFT", "reward": "Reward", "dpo": "DPO"}[kind]
    settings = getattr(trl, f"{name}Config")(
        output_dir=str(out), per_device_train_batch_size=batch, gradient_accumulation_steps=passes, max_steps=1,
        bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none", max_grad_norm=0, optim="sgd",
        learning_rate=1.0, lr_scheduler_type="constant", save_strategy="no", disable_tqdm=True,
        **options,
    )  # fmt: skip
    trainer: Any = getattr(trl, f"{name}Trainer")
    return trainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)


def _rows(kind: str) -> Dataset:
    """Return eight rows of quite different lengths."""
    words = "red green blue one two three up down".split()
    asks = [[{"role": "user", "content": f"say {word}"}] for word in words]
    says = [[{"role": "assistant", "content": " ".join(words[: index + 1])}] for index in range(8)]
    if kind == "sft":
        return Dataset.from_list([{"prompt": ask, "completion": say} for ask, say in zip(asks, says, strict=True)])
    pairs = zip(asks, says, reversed(says), strict=True)
    return Dataset.from_list([{"prompt": ask, "chosen": good, "rejected": bad} for ask, good, bad in pairs])


def _step(kind: str, model_dir: Path, out: Path, batch: int, passes: int, **options: Any) -> dict[str, torch.Tensor]:
    """Return what one step of plain gradient descent at rate 1 subtracts from each weight: the gradient itself."""
    trainer = _trainer(kind, model_dir, _rows(kind), out, batch, passes, **options)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    return {name: before[name] - weight.detach() for name, weight in trainer.model.named_parameters()}


def _differences(kind: str, model_dir: Path, out: Path, **options: Any) -> Iterator[float]:
    """Yield, for each split of eight rows but the first, the largest difference relative to the largest gradient."""
    whole = _step(kind, model_dir, out, *SPLITS[0], **options)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 1e-4, "a gradient of nearly zero would equal any other"
    for split in islice(SPLITS, 1, None):
        got = _step(kind, model_dir, out, *split, **options)
        yield max(float((got[name] - gradient).abs().max()) for name, gradient in whole.items()) / largest


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_8_by_1_and_2_by_4_and_1_by_8_give_the_same_gradient(kind: str, model_dir: Path, tmp_path: Path) -> None:
    assert max(_differences(kind, model_dir, tmp_path)) < 1e-4


def test_an_sft_term_of_dpo_weighs_tokens_otherwise_in_smaller_passes(model_dir: Path, tmp_path: Path) -> None:
    """TRL's `sft` loss of DPO is a mean over the tokens of a pass, so a step is a mean of means."""
    options = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    assert max(_differences("dpo", model_dir, tmp_path, **options)) > 1e-3


@pytest.mark.parametrize(("rows", "passes"), [(16, 1), (4, 4), (2, 8)])
def test_grpo_samples_whole_groups_at_once_whatever_the_micro_batch(
    rows: int, passes: int, configure: Configure
) -> None:
    config = configure("grpo", per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    made = GRPO.trainer_args(config, GRPOExtraConfig(num_generations=4))
    assert (made.generation_batch_size, made.steps_per_generation) == (16, passes)
    assert made.generation_batch_size % made.num_generations == 0
