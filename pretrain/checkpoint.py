"""Checkpoints of pretraining: weights, optimizers, step and tokens, from which a run goes on to the same result."""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn

WEIGHTS, OPTIMIZERS, STATE = "model.safetensors", "optimizers.pt", "trainer_state.json"


def save_checkpoint(
    stage_dir: Path, step: int, tokens: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], keep: int
) -> Path:
    """Write `checkpoint-<step>`, under a temporary name until it is whole, and remove all but the newest `keep`."""
    final = stage_dir / f"checkpoint-{step}"
    partial = stage_dir / f".checkpoint-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_model(model, str(partial / WEIGHTS))
    torch.save([optimizer.state_dict() for optimizer in optimizers], partial / OPTIMIZERS)
    (partial / STATE).write_text(json.dumps({"global_step": step, "tokens": tokens}))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in checkpoints(stage_dir)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(stage_dir: Path) -> list[Path]:
    """Return the stage's whole checkpoints, oldest first."""
    found = [path for path in stage_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if (path / STATE).exists()), key=lambda path: int(path.name[11:]))


def load_checkpoint(directory: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, int]:
    """Restore model and optimizers in place; return the step after which they were saved, and the tokens seen."""
    load_model(model, str(directory / WEIGHTS))
    states = torch.load(directory / OPTIMIZERS, weights_only=True)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    trainer_state = json.loads((directory / STATE).read_text())
    return trainer_state["global_step"], trainer_state["tokens"]
