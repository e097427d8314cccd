"""An adapter merged into the weights it was trained beside, and what that changed of what the model says."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms import loading, supervision
from algorithms.config import TrainingConfig
from data.sources import StageData
from records.stage_log import StageLog
from utils.console import console

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = 8  # held-out rows that the merged model is compared on
MAX_TOKENS = 256  # of each
LARGE = {"loss": 0.05, "score": 0.5}
"""Change that raises an alarm: of the mean loss, in nats a token; of any score. Two scores are the logits of a
preference, so 0.5 moves one by up to 12 points."""


def save_merged(
    model: Any, config: TrainingConfig, tokenizer: Any, data: StageData, stage_dir: Path, target: Path
) -> None:
    """Save the model in `target`, its adapter merged into weights of 16 or 32 bits; record what that changed.

    Weights in 4 bits are loaded again as they were before, on the CPU, since both may be more than a GPU holds. What
    the model says of held-out rows is compared: it was trained beside the quantised weights, and merging rounds.
    """
    rows = data.eval if len(data.eval) else data.train
    rows = rows.select(range(min(len(rows), EXAMPLES)))
    examples = [ids[:MAX_TOKENS] for row in rows for ids in supervision.shown(tokenizer, row)][:EXAMPLES]
    before = _said(model, examples)
    merged = (_unquantised(model, config) if config.peft == "qlora" else model).merge_and_unload()
    merged.to(merged.dtype)  # a reward model's head, which was trained in float32
    merged.config.use_cache = True
    merged.save_pretrained(target)
    _report(_difference(before, _said(merged, examples)), StageLog(stage_dir))


def _unquantised(model: Any, config: TrainingConfig) -> Any:
    """Return the adapter on the weights as they were before they were quantised, with the model's special tokens."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    lora = model.peft_config["default"]
    base = loading.unquantised(config, lora.base_model_name_or_path, lora.task_type)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(base.config.get_text_config(), name, getattr(model.config.get_text_config(), name))
    if getattr(model, "generation_config", None) is not None:
        base.generation_config = model.generation_config
    whole = get_peft_model(base, lora)
    weights = {name: weight.cpu() for name, weight in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(whole, weights)
    return whole


def _said(model: Any, examples: Sequence[list[int]]) -> "list[Tensor]":
    """Return, for each example, the log-probability of every token after the first, in nats; or its score."""
    import torch

    said = []
    model.eval()
    with torch.no_grad():
        for ids in examples:
            row = torch.tensor([ids], device=model.device)
            logits = model(input_ids=row, use_cache=False).logits.float()
            if logits.dim() == 2:  # one score an example, not a logit a token
                said.append(logits[0].cpu())
            elif len(ids) > 1:
                said.append(logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])[:, 0].cpu())
    return said


def _difference(before: "Sequence[Tensor]", after: "Sequence[Tensor]") -> dict[str, Any]:
    """Return `{metric, examples, before, after, largest}`: means, and the largest difference of a single value."""
    import torch

    scores = all(len(values) == 1 for values in before)
    earlier, later = torch.cat(list(before)), torch.cat(list(after))
    sign = 1 if scores else -1
    return {
        "metric": "score" if scores else "loss",
        "examples": len(before),
        "before": sign * earlier.mean().item(),
        "after": sign * later.mean().item(),
        "largest": (later - earlier).abs().max().item(),
    }


def _report(difference: dict[str, Any], log: StageLog) -> None:
    log.info(merge=difference)
    metric, before, after, largest = (difference[key] for key in ("metric", "before", "after", "largest"))
    said = (
        f"the adapter is merged: mean {metric} of {difference['examples']} held-out examples {before:.4f} before,"
        f" {after:.4f} after; the largest difference of one value is {largest:.2g}"
    )
    console().print(said, markup=False)
    change = abs(after - before) if metric == "loss" else largest
    if not change <= LARGE[metric]:
        log.alarm(
            0,
            "merge_differs",
            f"{said}. The merged model is not the one that was trained: use peft='lora', dtype='float32', or keep the"
            " adapter with merge_adapter=False",
        )
