"""Rows longer than the model reads, and tokens that it does not know, in every kind of stage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from algorithms import GRPOExtraConfig, TrainingConfig
from chain.fetch import fetch
from chain.stages import stages_of
from records.stage_log import StageLog
from tests.train_stage import KINDS, train, trainer_of
from utils.errors import Refused, StageFailed

Configure = Callable[..., TrainingConfig]
READS = 64


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between most completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=6, preflight_prompts=0)


@pytest.fixture(scope="module")
def learned(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with learned positions: one more, and an index is out of range."""
    directory = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=READS, n_embd=16, n_layer=1, n_head=2, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def some_long(file: Path, directory: Path) -> str:
    """Write the rows of a file anew, every fifth of them with a long question."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[::5]:
        turn = (row.get("messages") or row["prompt"])[0]
        turn["content"] += " red" * READS
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(directory / "rows.jsonl")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_longer_than_the_model_reads_is_said_and_left_out_or_cut(
    kind: str, configure: Configure, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = configure(kind)
    rows = some_long(Path(given.dataset_name), tmp_path)
    config = configure(kind, model_name=str(learned), dataset_name=rows, eval_fraction=0.2, max_steps=8)
    extra = EXTRA if kind in ("grpo", "rloo") else None
    fetch(stages_of({kind: config}, extra), {})
    said = " ".join(capsys.readouterr().out.split())
    assert f"are longer than the {READS} tokens that the model reads" in said
    assert said.endswith("They are cut") == (kind in ("sft", "dpo", "kto"))
    (tmp_path / "stage").mkdir()
    train(kind, config, tmp_path / "stage", extra)
    info = StageLog(tmp_path / "stage").read_info()
    assert info["steps"] == 8
    assert sum(info["data"]["lost_to_max_length"].values()) > 0


def test_a_recipes_max_length_beyond_the_model_is_lowered(
    configure: Configure, stage_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _ = trainer_of("sft", configure("sft", max_length=5000), stage_dir)
    assert trainer.args.max_length == 4096  # of rotary positions, which would go on in silence
    assert "max_length becomes 4096" in capsys.readouterr().out


def test_prompts_that_all_leave_no_room_fail_the_stage(configure: Configure, learned: Path, stage_dir: Path) -> None:
    config = configure("grpo", model_name=str(learned))
    extra = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=READS)
    with pytest.raises(StageFailed, match="all rows are left out: the prompt and a completion of 64 tokens"):
        trainer_of("grpo", config, stage_dir, extra)


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_tokens_without_an_embedding_are_refused_before_the_run(
    kind: str, configure: Configure, learned: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(learned)
    tokenizer.add_tokens(["<step>"])
    GPT2LMHeadModel.from_pretrained(learned).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = configure(kind, model_name=str(tmp_path / "model"))
    extra = EXTRA if kind == "grpo" else None
    fetch(stages_of({kind: config}, extra), {})  # rows that use none
    text = Path(config.dataset_name).read_text().replace("say red", "say <step>")
    (tmp_path / "rows.jsonl").write_text(text)
    config = configure(kind, model_name=str(tmp_path / "model"), dataset_name=str(tmp_path / "rows.jsonl"))
    with pytest.raises(Refused, match=rf"none for '<step>' \({len(tokenizer) - 1}\).*resize_token_embeddings"):
        fetch(stages_of({kind: config}, extra), {})
