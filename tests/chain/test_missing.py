"""What a recipe needs and cannot get is said within seconds, with what to do, and leaves nothing behind."""

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import run_all
from chain import recipe as recipes
from chain.fetch import missing
from chain.stages import stages_of
from tests import hub_repositories, loopback_hub
from utils import hub
from utils.errors import Refused

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "smollm2_135m"
DATA = ("trl-lib/Capybara", "trl-lib/ultrafeedback_binarized", "trl-lib/DeepMath-103K")
(MODEL,) = hub_repositories.models_of(RECIPE)


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; nothing has been downloaded, and the network is not forbidden."""
    from datasets import config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache/hub"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache/datasets")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def described(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback_hub.Hub]:
    """A Hub that describes what the recipe names; a description is all that is asked for before anything is fetched."""
    from huggingface_hub import constants

    for name in (f"models/{MODEL}", *(f"datasets/{data}" for data in DATA)):
        (empty_caches / "repositories" / name).mkdir(parents=True)
    with loopback_hub.serving(empty_caches / "repositories") as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        yield served


def problems() -> str:
    recipe = recipes.load(RECIPE)
    return "\n".join(missing(stages_of(recipe.configs, recipe.grpo_extra)))


def test_what_the_hub_has_is_no_problem_and_is_not_fetched_yet(described: loopback_hub.Hub) -> None:
    assert problems() == ""
    assert not [path for path in described.asked if "/resolve/" in path]


def test_a_gated_model_and_a_gated_data_set_are_said_with_their_pages(described: loopback_hub.Hub) -> None:
    described.gated |= {MODEL, DATA[0]}
    said = problems()
    assert f"model {MODEL!r} is gated: accept its terms at https://huggingface.co/{MODEL} and set HF_TOKEN" in said
    assert f"data set {DATA[0]!r} is gated: accept its terms at https://huggingface.co/datasets/{DATA[0]} and" in said


def test_a_model_whose_weights_are_pickles_is_refused_before_anything_is_fetched(described: loopback_hub.Hub) -> None:
    for name in ("config.json", "pytorch_model.bin"):
        (described.root / "models" / MODEL / name).write_bytes(b"{}")
    said = problems()
    assert f"model {MODEL!r} has no *.safetensors on the Hub. {hub.PICKLES}" in said
    assert "https://huggingface.co/spaces/safetensors/convert" in said
    with pytest.raises(Refused, match="pickles"):
        hub.download_model(MODEL, None)
    assert not [path for path in described.asked if "/resolve/" in path]


def test_what_is_misspelt_or_private_is_said_for_each(described: loopback_hub.Hub) -> None:
    (described.root / "models" / MODEL).rmdir()
    (described.root / "datasets" / DATA[2]).rmdir()
    said = problems().splitlines()
    assert [line.partition(" is not on the Hub, or private: check its spelling")[0] for line in said] == [
        f"model {MODEL!r}",
        f"data set {DATA[2]!r}",
    ]


def test_a_hub_that_fails_is_said_with_its_answer(described: loopback_hub.Hub) -> None:
    described.broken.add(DATA[1])
    assert f"data set {DATA[1]!r} cannot be had from the Hub: Server error '500" in problems()


def test_a_hub_that_describes_nothing_is_given_up_for_all_at_once(described: loopback_hub.Hub) -> None:
    described.silent |= {MODEL, *DATA}
    began = time.monotonic()
    said = problems()
    assert time.monotonic() - began < hub.TIMEOUT_S + 2
    assert said.count("cannot be had from the Hub: timed out") == 4


def test_without_a_network_the_command_that_fetches_is_named_and_nothing_is_made(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    words = ["--recipe", RECIPE, "--set", "sft.max_steps=1"]
    monkeypatch.setattr(sys, "argv", ["run_all.py", *words])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "run_all.py", raising=False)  # a test's worker has none
    assert run_all.main(words) == 2
    said = capsys.readouterr().err
    assert "the Hugging Face Hub cannot be reached" in said
    for name in (MODEL, *DATA):
        assert repr(name) in said
    assert f"{shlex.join(words)} --download\n" in said
    assert not list(empty_caches.iterdir())


def refused(directory: Path, **environment: str) -> str:
    """Return what the command line says that refuses the recipe."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), "--recipe", RECIPE],
        cwd=directory,
        env=hub_repositories.environment(directory / "home", **environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    return done.stderr


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a server that lets connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_hub_that_never_answers_costs_one_wait(
    deaf: str, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ten seconds from the start, the rest is for Python and its libraries."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", deaf)
    began = time.monotonic()
    assert "the Hugging Face Hub cannot be reached: timed out" in problems()
    assert time.monotonic() - began < hub.TIMEOUT_S + 1


@pytest.mark.slow
def test_a_hub_that_never_answers_is_said_with_the_command_that_fetches(deaf: str, tmp_path: Path) -> None:
    said = refused(tmp_path, HF_ENDPOINT=deaf)
    assert "the Hugging Face Hub cannot be reached: timed out" in said
    assert f"run_all.py --recipe {RECIPE} --download" in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
