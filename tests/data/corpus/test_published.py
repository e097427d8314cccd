"""Data sets of the Hub, from caches and streams."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import config, load_dataset
from huggingface_hub import constants

from data import hub_rows
from data.corpus.corpus import prepare
from data.corpus.documents import Options
from tests.data.corpus.conftest import tales
from utils import hub
from utils.errors import Refused


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that leaves what an online load of a data set leaves in the cache of datasets."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "prepared")

    def leave(owner: str, name: str, splits: dict[str, list[dict[str, Any]]]) -> None:
        files = {}
        for split, rows in splits.items():
            files[split] = str(tmp_path / f"{split}.jsonl")
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "made"))
        prepared = Path(made["train"].cache_files[0]["filename"]).parent
        target = tmp_path / "prepared" / f"{owner}___{name}" / "default" / "0.0.0" / "c0ffee"
        shutil.copytree(prepared, target)
        for split in splits:
            (target / f"json-{split}.arrow").rename(target / f"{name}-{split}.arrow")
        info = json.loads((target / "dataset_info.json").read_text())
        (target / "dataset_info.json").write_text(json.dumps({**info, "config_name": "default", "dataset_name": name}))

    return leave


def test_tinystories_keeps_its_published_validation(on_hub: Callable[..., None]) -> None:
    on_hub(
        "roneneldan",
        "tiny_stories",
        {
            "train": [{"text": text} for text in tales(200)],
            "validation": [{"text": text} for text in tales(20, start=190)],
        },
    )
    corpus = prepare("tinystories")
    store = corpus.parts[0].store
    assert list(store.texts("validation").texts()) == tales(20, start=190)
    assert set(store.texts("train").texts()) < set(tales(190))
    assert store.meta["left_out"]["held_out"] == 10
    with pytest.raises(Refused, match="on this machine as c0ffee only"):
        prepare("tinystories", Options(revision="main"))


def test_hermes_is_rendered(on_hub: Callable[..., None]) -> None:
    rows = [
        {
            "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "<think>so</think>"}],
            "tools": "[]",
        }
        for text in tales(60)
    ]
    on_hub("interstellarninja", "hermes_reasoning_tool_use", {"train": rows})
    texts = list(prepare("hermes").parts[0].store.texts("train").texts())
    assert len(texts) > 40
    assert all(text.endswith("<|im_start|>assistant\n<think>so</think><|im_end|>\n") for text in texts)


def test_hub_data_that_are_not_here_are_refused(on_hub: Callable[..., None]) -> None:
    with pytest.raises(Refused, match=r"'owner/missing'.* is not on this machine.*--download"):
        prepare("owner/missing")


def test_large_hub_data_are_streamed_and_give_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for split, rows in {"train": tales(100), "test": tales(9, start=100)}.items():
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in rows))
    asked: list[bool] = []

    def load(name: str, *_: Any, streaming: bool = False, **__: Any) -> Any:
        asked.append(streaming)
        return load_dataset("json", data_files=files, streaming=streaming, cache_dir=str(tmp_path / "made"))

    builder = datasets.load_dataset_builder
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda *_, **__: builder("json", data_files=files, cache_dir=str(tmp_path))
    )
    found = []
    for streamed_bytes in (1 << 40, -1):
        monkeypatch.setattr(hub_rows, "STREAMED_BYTES", streamed_bytes)
        data = hub_rows.HubRows("owner/large", None, None)
        found.append({split: [row["text"] for row in data.each(rows)] for split, rows in data.splits().items()})
    assert found[0] == found[1] == {"train": tales(100), "test": tales(9, start=100)}
    assert asked[1] is True
