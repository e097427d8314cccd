"""Data that are published: enwik8's download and its cuts, data sets of the Hub from caches and streams."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import pytest
from datasets import config, load_dataset
from huggingface_hub import constants

from data.corpus import enwik8, hub_data, prepare
from data.corpus.documents import Options
from tests.data.corpus.conftest import tales
from utils import hub
from utils.errors import Refused

CONTENT = ("<mediawiki>\n" + "".join(f"  <page>\n    {text} naïve – 中\r\n  </page>\n" for text in tales(400))).encode()


@pytest.fixture
def archive(tmp_path: Path) -> enwik8.Published:
    """A small archive as the published one is, and what is known of it."""
    path = tmp_path / "served" / "enwik8.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("enwik8", CONTENT)
    return enwik8.Published(path.as_uri(), len(CONTENT), hashlib.sha1(CONTENT).hexdigest())


def test_the_published_size_and_sum_of_enwik8() -> None:
    assert (enwik8.ENWIK8.size_bytes, len(enwik8.ENWIK8.sha1)) == (100_000_000, 40)


def test_enwik8_is_cut_by_position_and_no_byte_is_lost(archive: enwik8.Published) -> None:
    pages = {split: list(found) for split, found in enwik8.documents(archive).items()}
    joined = {split: "".join(found).encode() for split, found in pages.items()}
    assert joined["train"] + joined["validation"] + joined["test"] == CONTENT
    assert 0 <= len(joined["train"]) - len(CONTENT) * 90 // 100 <= 3
    assert 0 <= len(CONTENT) * 5 // 100 + 1 - len(joined["test"]) <= 3
    assert pages["train"][1] == f"  <page>\n    {tales(1)[0]} naïve – 中\r\n  </page>\n"


def test_a_cut_inside_a_character_moves_behind_it() -> None:
    text = "ab中d".encode()
    assert [enwik8._whole(text, cut) for cut in range(7)] == [0, 1, 2, 5, 5, 5, 6]


def test_enwik8_is_a_source_like_others(archive: enwik8.Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enwik8, "ENWIK8", archive)
    store = prepare("enwik8").parts[0].store
    assert sum(split["bytes"] for split in store.meta["splits"].values()) == len(CONTENT)


def test_the_download_is_kept(archive: enwik8.Published) -> None:
    enwik8.file(archive)
    Path(archive.url.removeprefix("file://")).unlink()
    assert enwik8.file(archive).read_bytes() == CONTENT


def test_a_server_gives_the_archive(archive: enwik8.Published, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/enwik8.zip"
    try:
        found = enwik8.file(enwik8.Published(url, archive.size_bytes, archive.sha1)).read_bytes()
    finally:
        server.shutdown()
        server.server_close()
    assert found == CONTENT


def test_an_archive_put_there_by_hand_is_taken(archive: enwik8.Published, cache_root: Path) -> None:
    (cache_root / "downloads").mkdir(parents=True)
    shutil.copy(archive.url.removeprefix("file://"), cache_root / "downloads" / "enwik8.zip")
    unreachable = enwik8.Published("http://127.0.0.1:9/enwik8.zip", archive.size_bytes, archive.sha1)
    assert enwik8.file(unreachable).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha1": "0" * 40}, "the archive is not the published one"),
        ({"size_bytes": 7}, "where 7 and"),
        ({"url": "http://127.0.0.1:9/enwik8.zip"}, r"cannot be downloaded: .*Put the archive there by hand as"),
        ({"url": Path(__file__).as_uri()}, "is not the archive of"),
    ],
)
def test_what_is_not_enwik8_is_refused_and_leaves_nothing(
    archive: enwik8.Published, cache_root: Path, change: dict[str, Any], message: str
) -> None:
    known = {"url": archive.url, "size_bytes": archive.size_bytes, "sha1": archive.sha1}
    with pytest.raises(Refused, match=message):
        enwik8.file(enwik8.Published(**{**known, **change}))
    assert not [path for path in cache_root.rglob("*") if path.is_file()]


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
        monkeypatch.setattr(hub_data, "STREAMED_BYTES", streamed_bytes)
        data = hub_data.find("owner/large", None, None)
        found.append({split: list(documents) for split, documents in data.open().items()})
    assert found[0] == found[1] == {"train": tales(100), "test": tales(9, start=100)}
    assert asked[1] is True
