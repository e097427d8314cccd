"""Models and data of the Hub, without a network."""

import re
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx2
import pytest
import torch
from huggingface_hub import errors

from utils import hub
from utils.errors import Refused


def test_offline_mode_is_said_at_once() -> None:
    started = time.monotonic()
    assert hub.unreachable() == "HF_HUB_OFFLINE forbids the network"
    assert time.monotonic() - started < 1


def test_a_hub_that_does_not_answer_is_said_within_seconds_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    started = time.monotonic()
    assert "cannot be reached" in (hub.unreachable() or "")
    assert time.monotonic() - started < hub.TIMEOUT_S + 5
    assert constants.HF_HUB_OFFLINE is True


def test_a_model_is_found_by_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Refused, match="is no model's directory"):
        hub.local_model(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert hub.local_model(str(tmp_path), None) == tmp_path


def test_a_directory_of_pickles_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForSequenceClassification

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=16, num_labels=1, **size))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"has no \*\.safetensors\. Its weights are pickles") as refused:
        hub.local_model(str(tmp_path), None)
    command = str(refused.value).splitlines()[-1]
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert hub.local_model(str(tmp_path), None) == tmp_path
    assert torch.equal(load_file(tmp_path / "model.safetensors")["score.weight"], model.score.weight)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", "~/nowhere"])
def test_what_can_only_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="there is no directory"):
        hub.local_model(name, None)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(Refused, match=r"model\.safetensors is a file: name the directory"):
        hub.local_model(str(tmp_path / "model.safetensors"), None)


def test_only_a_name_without_an_owner_is_said_to_be_hardly_one_of_the_hub() -> None:
    assert "no directory here has this name; a Hub id is owner/name" in hub.if_bare("nosuchmodel")
    assert hub.if_bare("owner/name") == ""


def test_a_name_that_is_no_hub_id_is_refused() -> None:
    with pytest.raises(Refused, match="neither a directory nor a Hub id"):
        hub.local_model("not a model!", None)


def test_a_model_that_was_never_downloaded_is_not_here() -> None:
    assert hub.local_model("no-such-owner/no-such-model", None) is None


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot that `download_model` leaves of owner/tiny, whose repository has files that it does not fetch."""
    from huggingface_hub import constants
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    fetched = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in fetched:
        (snapshot / name).write_bytes(b"{}")
    listed = {name: TreeCacheEntry(size=2, blob_id="0" * 40) for name in [*fetched, "README.md", "model.onnx"]}
    write_tree_cache(str(repository), COMMIT, listed)
    assert (repository / "trees" / f"{COMMIT}.json").is_file()
    return snapshot


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_downloaded_model_is_here_without_the_files_that_are_not_fetched(
    downloaded: Path, revision: str | None
) -> None:
    assert hub.local_model("owner/tiny", revision) == downloaded


def test_a_model_that_lacks_a_shard_is_not_here(downloaded: Path) -> None:
    (downloaded / "model-00002-of-00002.safetensors").unlink()
    assert hub.local_model("owner/tiny", None) is None


@pytest.mark.parametrize(
    ("name", "is_hub"),
    [
        ("trl-lib/Capybara", True),
        ("owner/name-v1.5", True),
        ("gsm8k", False),
        ("conversations", False),
        ("made:prompts", False),
        ("rows.jsonl", False),
        ("./rows", False),
        ("~/rows", False),
        ("a/b/c", False),
        ("data/rows.csv", False),
    ],
)
def test_what_reads_as_a_data_set_of_the_hub(name: str, is_hub: bool) -> None:
    assert hub.is_dataset_id(name) is is_hub


def test_a_directory_is_no_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trl-lib/Capybara").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.is_dataset_id("trl-lib/Capybara")


@pytest.mark.parametrize(
    ("name", "prepared"),
    [("trl-lib/Capybara", "trl-lib___capybara"), ("trl-lib/DeepMath-103K", "trl-lib___deep_math-103_k")],
)
def test_a_data_set_that_was_prepared_is_here(
    name: str, prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    assert not hub.has_dataset(name)
    (tmp_path / prepared / "default").mkdir(parents=True)
    assert hub.has_dataset(name)


def answering(code: int) -> HTTPServer:
    """Return a server on this machine that answers each request to its `server_port` with `code`."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(code)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_any_answer_of_the_hub_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server = answering(501)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as an earlier probe may have left it
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert hub.unreachable() is None
    assert constants.HF_HUB_OFFLINE is False
    server.shutdown()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.GatedRepoError, "model 'a/b' is gated: accept its terms at https://huggingface.co/a/b"),
        (errors.RevisionNotFoundError, "model 'a/b' has no revision 'v2'"),
        (errors.RepositoryNotFoundError, "model 'a/b' is not on the Hub, or private"),
        (errors.HfHubHTTPError, "model 'a/b' cannot be had from the Hub: "),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(error: type[errors.HfHubHTTPError], said: str) -> None:
    response = httpx2.Response(404, request=httpx2.Request("GET", "http://127.0.0.1"))
    with pytest.raises(Refused, match=re.escape(said)), hub._said_plainly("model", "a/b", "v2"):
        raise error("no", response=response)


@pytest.mark.parametrize("terminal", [True, False])
def test_downloads_show_their_progress_on_a_terminal_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.utils
    import huggingface_hub.utils

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    libraries = (huggingface_hub.utils, datasets.utils)
    for library in libraries:
        library.disable_progress_bars()
    with hub.bars():
        assert [library.are_progress_bars_disabled() for library in libraries] == [not terminal] * 2
    assert [library.are_progress_bars_disabled() for library in libraries] == [True] * 2
