"""How many tokens a stage reads of its rows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from transformers import LlamaConfig

from chain.lengths import Lengths
from chain.recipe import load
from chain.stages import stages_of
from data.sources import load_for
from tests.algorithms.conftest import base_dir, data_files, model_dir

__all__ = ["base_dir", "data_files", "model_dir"]  # fixtures
DEMO = load("scratch_tiny")
READ_ONCE = LlamaConfig(), "sdpa"
PLAIN = LlamaConfig(), "flash_attention_2"
"""Of a model whose batches stay padded."""


def test_a_batch_is_as_long_as_its_longest_row(base_dir: Path, model_dir: Path, data_files: dict[str, Path]) -> None:
    configs = {
        "sft": replace(DEMO.configs["sft"], model_name=str(base_dir), dataset_name=str(data_files["conversations"]))
    }
    (sft,) = stages_of(configs)
    rows = load_for(sft.config, "sft")
    lengths = Lengths([sft], {})
    each, padded = (lengths.of(sft, rows, size, *PLAIN) or 0 for size in (1, 32))
    assert 10 < each < padded < 60
    assert lengths.of(sft, None, 1, *PLAIN) is None, "documents are packed: every row is full"


def test_what_a_batch_holds_twice_is_read_once(base_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    turns = [
        [{"role": "user", "content": f"say {n} " * (1 + n % 9)}, {"role": "assistant", "content": str(n)}]
        for n in range(64)
    ]
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    configs = {"sft": replace(DEMO.configs["sft"], model_name=str(base_dir), dataset_name=str(data), columns={})}
    (sft,) = stages_of(configs)
    rows = load_for(sft.config, "sft")
    lengths = Lengths([sft], {})
    padded, read = (lengths.of(sft, rows, 32, *one) or 0 for one in (PLAIN, READ_ONCE))
    assert 10 < read < 0.9 * padded


def test_a_tokenizer_that_the_run_trains_is_stood_in_for() -> None:
    stages = stages_of(DEMO.configs, DEMO.grpo_extra, verifier=DEMO.verifier)
    lengths = Lengths(stages, {})
    found = {one.label: lengths.of(one, load_for(one.config, one.kind.name), 8, *PLAIN) for one in stages[1:]}
    assert all(length and 30 < length < 150 for length in found.values()), found
    assert len(lengths._stand_ins) == 1, "it is trained once"


def test_rows_that_a_template_refuses_have_no_length(
    base_dir: Path, data_files: dict[str, Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_dir, model)
    (model / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    configs = {
        "sft": replace(
            DEMO.configs["sft"], model_name=str(model), dataset_name=str(data_files["conversations"]), columns={}
        )
    }
    (sft,) = stages_of(configs)
    assert Lengths([sft], {}).of(sft, load_for(sft.config, "sft"), 4, *PLAIN) is None
