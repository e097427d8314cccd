"""Where caches are: where the user has them, or in the one directory that .env names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = """
import json
import cache_config
import datasets, torch, transformers.utils.hub
from data.corpus.cache import root
from huggingface_hub import constants
print(json.dumps({name: str(place) for name, place in {
    "hub": constants.HF_HUB_CACHE, "token": constants.HF_TOKEN_PATH, "assets": constants.HF_ASSETS_CACHE,
    "xet": constants.HF_XET_CACHE, "datasets": datasets.config.HF_DATASETS_CACHE,
    "downloads": datasets.config.DOWNLOADED_DATASETS_PATH, "modules": transformers.utils.hub.HF_MODULES_CACHE,
    "torch": torch.hub.get_dir(), "sixgig": root(),
}.items()}))
"""


def places(directory: Path, **environment: str) -> dict[str, Path]:
    """Return where a process started in `directory`, whose home it is too, keeps what it downloads and prepares."""
    ours = ("HF_", "SIXGIG_", "TORCH", "XDG_", "TRITON_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", PLACES],
        cwd=directory,
        env=kept | {"HOME": str(directory), "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: Path(place) for name, place in json.loads(done.stdout).items()}


@pytest.mark.slow
def test_one_directory_in_env_holds_every_cache_and_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "disk/models"
    (tmp_path / ".env").write_text(f"HF_HOME={home}\n")
    found = places(tmp_path)
    assert {name: place for name, place in found.items() if not place.is_relative_to(home)} == {}
    assert {path.name for path in tmp_path.iterdir()} <= {".env", "disk"}


@pytest.mark.slow
def test_without_a_word_caches_are_where_each_library_has_them(tmp_path: Path) -> None:
    cache = tmp_path / ".cache"
    found = places(tmp_path)
    assert (found["hub"], found["datasets"]) == (cache / "huggingface/hub", cache / "huggingface/datasets")
    assert (found["torch"], found["sixgig"]) == (cache / "torch/hub", cache / "sixgig")


@pytest.mark.slow
def test_a_cache_that_the_user_has_set_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"HF_HOME={tmp_path / 'other'}\n")
    (tmp_path / "mine").mkdir()
    mine = {"HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets", "SIXGIG_CACHE": "sixgig"}
    found = places(tmp_path, **{name: str(tmp_path / "mine" / place) for name, place in mine.items()})
    for place in mine.values():
        assert found[place] == tmp_path / "mine" / place
    assert found["modules"] == tmp_path / "other/modules"
