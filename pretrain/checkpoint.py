"""Checkpoints of pretraining: a model that `from_pretrained` loads, and what a run goes on from to the same result."""

import json
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from pretrain.optim import placed_like
from utils.errors import Refused
from utils.files import write_json
from utils.sealed import partial, seal, sealed, writing
from watching.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "trainer_state.json"


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done; the data are a function of it."""
    tokens: int = 0
    """Tokens seen."""
    best_step: int = 0
    """Step of the lowest held-out loss; 0 before the first evaluation."""
    best_loss: float | None = None
    rows_per_step: int = 0
    """Over all processes; other rows a step would be another run."""
    data: str = ""
    """The fingerprint of the documents; others would be another run too."""
    recent: list[float] = field(default_factory=list)
    """The last losses, in nats a token: what a jump is measured against."""


def refuse_other_data(stage_dir: Path, data: str) -> None:
    """Raise Refused if the newest checkpoint was trained on documents of another fingerprint than `data`."""
    for newest in sealed(stage_dir)[-1:]:
        try:
            began_with = json.loads((newest / STATE).read_text(encoding="utf-8")).get("data")
        except ValueError:
            return  # `load_checkpoint` says that it is damaged
        if began_with not in (None, data):
            raise Refused(
                f"{newest} was trained on other documents than the source holds now: put them back as they were, or "
                "start a new run."
            )


def weights_of(accelerator: "Accelerator", model: Any) -> dict[str, Tensor]:
    """Return the model's weights, whole; of tied ones the first name, since sharded ones come as two tensors."""
    own = {name for name, _ in accelerator.unwrap_model(model, keep_torch_compile=False).named_parameters()}
    return {name: weight for name, weight in accelerator.get_state_dict(model).items() if name in own}


def save_checkpoint(
    stage_dir: Path,
    position: Position,
    accelerator: "Accelerator",
    model: Any,
    optimizer: Any,
    tokenizer: "PreTrainedTokenizerBase",
    newest: int,
) -> Path:
    """Write `checkpoint-<step>`, sealed; keep the best and the `newest` newest.

    Every process takes part, since each may hold a part of the tensors; the first writes.

    Raises:
        StageFailed: it cannot be written, as on a full disk; the checkpoints before it are whole.
    """
    final = stage_dir / f"checkpoint-{position.step}"
    weights = weights_of(accelerator, model)
    training = {"optimizer": _gathered(optimizer.state_dict())}
    if accelerator.scaler is not None:
        training["scaler"] = accelerator.scaler.state_dict()
    if accelerator.is_main_process:
        with writing(final.name, stage_dir):
            written = partial(stage_dir)
            accelerator.unwrap_model(model, keep_torch_compile=False).save_pretrained(written, state_dict=weights)
            tokenizer.save_pretrained(written)
            torch.save(training, written / OPTIMIZER)
            write_json(written / STATE, {"global_step": position.step} | asdict(position))
            seal(written, final)
        for old in sealed(stage_dir)[:-newest]:
            if old.name != f"checkpoint-{position.best_step}":
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(directory: Path, accelerator: "Accelerator", model: Any, optimizer: Any) -> Position:
    """Restore model, optimizer and gradient scaler in place, and return how far the run had come.

    Raises:
        Refused: the checkpoint is of a model of another shape, or of another version.
        OutOfMemoryError: there is no memory for it.
    """
    try:
        position = Position(
            **{
                name: value
                for name, value in json.loads((directory / STATE).read_text()).items()
                if name != "global_step"
            }
        )
        load_weights(directory, accelerator, model)
        training = torch.load(directory / OPTIMIZER, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(_placed(training["optimizer"], optimizer.param_groups))
        if accelerator.scaler is not None and "scaler" in training:
            accelerator.scaler.load_state_dict(training["scaler"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise Refused(
            f"Cannot resume from {directory}: {reason}. Is it of this recipe and version? To start over, choose "
            "another output directory."
        ) from error
    return position


def load_weights(directory: Path, accelerator: "Accelerator", model: Any) -> None:
    """Restore the model's weights in place from a checkpoint."""
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    saved, own = load_file(directory / WEIGHTS), dict(plain.named_parameters())
    if set(saved) != set(own):
        raise ValueError(f"its tensors are not those of the model: {sorted(set(saved) ^ set(own))[:4]}")
    with torch.no_grad():
        for name, parameter in own.items():
            if saved[name].shape != parameter.shape:
                raise ValueError(f"{name} has shape {list(saved[name].shape)}, the model's {list(parameter.shape)}")
            parameter.copy_(placed_like(parameter, saved[name].to(parameter.device)))


def _gathered(state: Any) -> Any:
    """Return an optimizer's state with every tensor whole, whatever process holds its parts."""
    if isinstance(state, dict):
        return {key: _gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_gathered(value) for value in state]
    return state.full_tensor() if isinstance(state, DTensor) else state


def _placed(state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an optimizer's state with every tensor of a parameter's shape placed as the parameter is."""
    parameters = [parameter for group in groups for parameter in group["params"]]

    def place(parameter: Tensor, value: Any) -> Any:
        sharded = isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape
        return placed_like(parameter, value.to(parameter.device)) if sharded else value

    placed = {
        index: {name: place(parameters[index], value) for name, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    return {"state": placed, "param_groups": state["param_groups"]}
