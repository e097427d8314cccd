"""Trainers that read each token once train as TRL's padded batches do, in every kind."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms import GRPOExtraConfig, TrainingConfig, overrides
from tests.train_stage import KINDS, train

Configure = Callable[..., TrainingConfig]


def starts_late(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between completions."""
    return [float(completion[0]["content"][:1].lower() > "m") for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=starts_late, num_generations=4, max_completion_length=6, preflight_prompts=0)


def write_rows(layout: str, path: Path) -> str:
    """Write rows of natural lengths, with prompts that are longer than their answers."""
    rows: list[dict[str, Any]] = []
    for index in range(64):
        prompt = [{"role": "user", "content": f"say {index} " + "and then say " * (index % 7)}]
        good, bad = ([{"role": "assistant", "content": text}] for text in (f"{index} " * (1 + index % 5), "no"))
        of_layout: dict[str, list[dict[str, Any]]] = {
            "conversations": [{"messages": prompt + good}],
            "pairs": [{"prompt": prompt, "chosen": good, "rejected": bad}],
            "prompts": [{"prompt": prompt, "answer": "x"}],
            "labelled": [{"prompt": prompt, "completion": side, "label": side is good} for side in (good, bad)],
        }
        rows += of_layout[layout]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_padded_batches(
    kind: str, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    from kinds import named

    forward = LlamaModel.forward
    read: list[int] = []

    def counted(model: Any, *given: Any, **named: Any) -> Any:
        ids = given[0] if given else named["input_ids"]
        if torch.is_grad_enabled():
            read.append(ids.numel())
        return forward(model, *given, **named)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    rows = write_rows(named(kind).layout, tmp_path / "rows.jsonl")
    config = configure(kind, dataset_name=rows, per_device_train_batch_size=16, learning_rate=1e-5)
    found: dict[str, tuple[list[dict[str, float]], int]] = {}
    for way in ("once", "padded"):
        (tmp_path / way).mkdir()
        if way == "padded":
            monkeypatch.setattr(overrides, "each_token_once", lambda trainer: nullcontext())
        read.clear()
        directory = train(kind, config, tmp_path / way, EXTRA)
        lines = (directory / "training_metrics.jsonl").read_text().splitlines()
        found[way] = [json.loads(line) for line in lines], sum(read)
    (once, fewer), (padded, tokens) = found["once"], found["padded"]
    assert fewer < 0.9 * tokens
    assert len(once) == len(padded) == 3
    for ours, its in zip(once, padded, strict=True):
        assert ours["loss"] == pytest.approx(its["loss"], rel=1e-4, abs=1e-6)
        assert ours["grad_norm"] == pytest.approx(its["grad_norm"], rel=1e-3, abs=1e-6)


def test_trl_is_as_it_was_afterwards(configure: Configure, stage_dir: Path) -> None:
    """Its forecast of memory runs under fake tensors, whose labels cannot be counted."""
    from trl.trainer import utils

    asks = utils._use_triton
    train("sft", configure("sft"), stage_dir)
    assert utils._use_triton is asks
    assert not asks(torch.device("cpu"))


def test_trl_asks_for_triton_where_it_leaves_out_what_has_no_label() -> None:
    import inspect

    from trl.trainer import utils

    source = inspect.getsource(utils)
    assert source.count("_use_triton(") == 1
    assert "compact = _use_triton(hidden_states.device)" in source
    assert "hidden_states[mask] if compact else" in source
