"""Which tokens of a pair DPO moves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig
from data.layouts import to_layout, unpaired
from data.local_files import from_rows
from tests.train_stage import train, trainer_of

Configure = Callable[..., TrainingConfig]


def turns(*contents: str, **more: Any) -> list[dict[str, Any]]:
    """Turns of the assistant and the user, the assistant's first; `more` is said of the first."""
    roles = ("assistant", "user")
    found: list[dict[str, Any]] = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return [found[0] | more, *found[1:]]


@pytest.fixture
def pairs(configure: Configure, tmp_path: Path) -> TrainingConfig:
    """A stage on pairs that part before the last turn."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"say {n}"}],
            "chosen": turns("red", "and more", "blue blue"),
            "rejected": turns("green", "why", "no"),
        }
        for n in range(30)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return configure("dpo", dataset_name=str(tmp_path / "pairs.jsonl"), eval_fraction=0.2)


def moved(trainer: Any) -> list[str]:
    batch = next(iter(trainer.get_train_dataloader()))
    return [
        trainer.processing_class.decode(ids[mask == 1])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]


@pytest.mark.parametrize("options", [{}, {"precompute_ref_log_probs": True}])
def test_only_the_assistants_turns_are_moved(options: dict[str, Any], pairs: TrainingConfig, stage_dir: Path) -> None:
    pairs.trainer_args.update(options)  # type: ignore[attr-defined]
    trainer, _ = trainer_of("dpo", pairs, stage_dir)
    found = moved(trainer)
    assert set(found) == {"red<|im_end|>blue blue<|im_end|>", "green<|im_end|>no<|im_end|>"}
    assert trainer.model.config.pad_token_id == trainer.processing_class.pad_token_id


def test_such_a_stage_trains_and_goes_on(pairs: TrainingConfig, stage_dir: Path) -> None:
    assert (train("dpo", pairs, stage_dir) / "model.safetensors").is_file()


def test_a_mask_is_cut_where_the_tokens_are(pairs: TrainingConfig, stage_dir: Path) -> None:
    trainer, _ = trainer_of("dpo", pairs, stage_dir)
    columns = ["prompt_ids", "chosen_ids", "rejected_ids", "chosen_scored", "rejected_scored"]
    rows = [{column: row[column] for column in columns} for row in trainer.train_dataset.select(range(4))]
    whole = trainer.data_collator(rows)["completion_mask"]
    trainer.data_collator.max_length = short = whole.shape[1] * 2 // 3
    cut = trainer.data_collator(rows)["completion_mask"]
    assert 0 < cut.sum() < whole.sum()
    assert cut.tolist() == whole[:, :short].tolist()


def test_of_one_turn_pairs_nothing_is_changed(configure: Configure, stage_dir: Path) -> None:
    trainer, _ = trainer_of("dpo", configure("dpo"), stage_dir)
    assert type(trainer.data_collator).__module__.startswith("trl.")


def test_kto_takes_the_last_turn_for_the_answer() -> None:
    prompt = [{"role": "user", "content": "say"}]
    row = {"prompt": prompt, "chosen": turns("red", "more", "blue"), "rejected": turns("no")}
    up, down = unpaired(to_layout(from_rows([row], "rows"), "kto"))
    assert (up["prompt"], up["completion"]) == ([*prompt, *turns("red", "more")], turns("blue"))
    assert (down["prompt"], down["completion"]) == (prompt, turns("no"))
