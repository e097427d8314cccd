"""Thumbs up and down: what is wanted becomes likelier than what is not, in every layout, from whatever order."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig, check, loading
from tests.train_stage import train, trainer_of
from utils.errors import Refused, StageFailed

Configure = Callable[..., TrainingConfig]
WORDS = "red green blue one two three up down left right".split()


def rows() -> list[dict[str, Any]]:
    """All thumbs up before all thumbs down, as a file that was written in two goes."""
    asks = [([{"role": "user", "content": f"say {a} {b}"}], f"{a} {b}") for a in WORDS for b in WORDS]
    wanted = [
        {"prompt": ask, "completion": [{"role": "assistant", "content": said}], "label": True} for ask, said in asks
    ]
    unwanted = [
        {"prompt": ask, "completion": [{"role": "assistant", "content": "no no no"}], "label": False} for ask, _ in asks
    ]
    return wanted + unwanted


def write(directory: Path, some: list[dict[str, Any]]) -> str:
    file = directory / "thumbs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return str(file)


@pytest.fixture
def thumbs(configure: Configure, tmp_path: Path) -> Configure:
    def make(some: list[dict[str, Any]] | None = None, **fields: Any) -> TrainingConfig:
        return configure("kto", dataset_name=write(tmp_path, rows() if some is None else some), **fields)

    return make


def metrics(stage_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage_dir / "training_metrics.jsonl").read_text().splitlines()]


def test_what_is_wanted_becomes_likelier_than_what_is_not(thumbs: Configure, stage_dir: Path) -> None:
    train("kto", thumbs(max_steps=20, learning_rate=5e-3, per_device_train_batch_size=8), stage_dir)
    first, *_, last = metrics(stage_dir)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=0.05)  # of the reference, which it starts as
    assert last["rewards/margins"] > 0.5
    assert last["loss"] < first["loss"]


def test_rows_that_are_sorted_by_label_are_shuffled_once_by_the_seed(thumbs: Configure, tmp_path: Path) -> None:
    def labels(name: str, seed: int) -> list[bool]:
        trainer, _ = trainer_of("kto", thumbs(seed=seed), tmp_path / name)
        return list(trainer.train_dataset["label"])

    one, same, other = labels("one", 1), labels("same", 1), labels("other", 2)
    assert one == same != other
    assert len(set(one[:16])) == 2


@pytest.mark.parametrize("layout", ["messages", "conversations", "pairs"])
def test_every_layout_gives_the_same_rows(layout: str, thumbs: Configure, tmp_path: Path) -> None:
    def in_layout(row: dict[str, Any], against: dict[str, Any]) -> dict[str, Any]:
        turns = row["prompt"] + row["completion"]
        if layout == "messages":
            return {"messages": turns, "label": row["label"]}
        if layout == "conversations":
            names = {"user": "human", "assistant": "gpt"}
            told = [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]
            return {"conversations": told, "label": row["label"]}
        return {"prompt": row["prompt"], "chosen": row["completion"], "rejected": against["completion"]}

    def prepared(some: list[dict[str, Any]], name: str) -> set[tuple[str, bool]]:
        trainer, _ = trainer_of("kto", thumbs(some), tmp_path / name)
        decode = trainer.processing_class.decode
        return {(decode(row["prompt_ids"] + row["completion_ids"]), row["label"]) for row in trainer.train_dataset}

    plain = rows()
    half = len(plain) // 2
    others = plain[half:] + plain[:half]
    some = [in_layout(row, against) for row, against in zip(plain, others, strict=True)]
    assert prepared(some[:half] if layout == "pairs" else some, "layout") == prepared(plain, "plain")


def test_thumbs_of_one_kind_alone_are_refused(thumbs: Configure, stage_dir: Path) -> None:
    with pytest.raises(Refused, match="label"):
        train("kto", thumbs(rows()[:100]), stage_dir)


def test_a_pass_of_one_row_is_refused_before_the_start(thumbs: Configure) -> None:
    (problem,) = check("kto", thumbs(per_device_train_batch_size=1))
    assert "per_device_train_batch_size = 1: must be 2 or more" in problem
    assert check("kto", thumbs(per_device_train_batch_size=1, trainer_args={"loss_type": "apo_zero_unpaired"})) == []


def test_out_of_memory_goes_down_to_two_rows_and_no_further(
    thumbs: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load = loading.language_model

    def too_large(config: TrainingConfig) -> Any:
        import torch

        seen.append(config.per_device_train_batch_size or 0)
        model = load(config)

        def embed(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        model.get_input_embeddings().register_forward_pre_hook(embed)
        return model

    monkeypatch.setattr(loading, "language_model", too_large)
    with pytest.raises(StageFailed, match="with 2 rows at a time"):
        train("kto", thumbs(per_device_train_batch_size=8), stage_dir)
    assert seen == [8, 4, 2]


@pytest.mark.shared
def test_published_thumbs_train(shared: Path, thumbs: Configure, stage_dir: Path) -> None:
    published = str(shared / "fixtures/data/preference/lf_kto_en_100.json")
    config = replace(thumbs(max_length=16_384), dataset_name=published)  # the tiny tokenizer is of bytes
    trainer, data = trainer_of("kto", config, stage_dir)
    assert data.info["train_rows"] > 80
    assert set(trainer.train_dataset["label"]) == {True, False}


def test_what_the_loss_cannot_have_is_refused(thumbs: Configure) -> None:
    (loss,) = check("kto", thumbs(trainer_args={"loss_type": "bco"}))
    assert "loss_type = 'bco': must be one of kto, apo_zero_unpaired" in loss
    (order,) = check("kto", thumbs(trainer_args={"train_sampling_strategy": "random"}))
    assert "train_sampling_strategy = 'random': must be sequential" in order
