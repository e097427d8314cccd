"""A checkpoint is there whole or not at all, and what is damaged later is not taken for one."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from records import sealed
from records.sealed import MANIFEST, damage, newest_sound, partial, publish, seal, writing
from utils.errors import StageFailed


def write(stage_dir: Path, step: int, text: str = "weights") -> Path:
    """Seal a checkpoint of two files, one of them in a directory."""
    written = partial(stage_dir)
    (written / "model.safetensors").write_text(text)
    (written / "state").mkdir()
    (written / "state/optimizer.pt").write_text("moments")
    final = stage_dir / f"checkpoint-{step}"
    seal(written, final)
    return final


def silent(text: str) -> None:
    raise AssertionError(text)


def test_a_sealed_checkpoint_has_the_hash_of_each_file_and_is_sound(tmp_path: Path) -> None:
    final = write(tmp_path, 5)
    files = json.loads((final / MANIFEST).read_text())["files"]
    assert set(files) == {"model.safetensors", "state/optimizer.pt"}
    assert files["model.safetensors"]["size_bytes"] == 7
    assert newest_sound(tmp_path, silent) == final
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_steps_are_numbers_not_words(tmp_path: Path) -> None:
    write(tmp_path, 90)
    assert newest_sound(tmp_path, silent) == tmp_path / "checkpoint-90"
    write(tmp_path, 100)
    assert newest_sound(tmp_path, silent) == tmp_path / "checkpoint-100"


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 5, "of an attempt before")
    assert (write(tmp_path, 5, "new") / "model.safetensors").read_text() == "new"
    assert newest_sound(tmp_path, silent) == tmp_path / "checkpoint-5"


def cut(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_text("weigh")


def flip(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_text("wEights")


def lose(checkpoint: Path) -> None:
    (checkpoint / "state/optimizer.pt").unlink()


def tear_the_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text('{"files": {"model.saf')


def empty_the_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("[]")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (cut, "model.safetensors has 5 bytes of 7"),
        (flip, "the content of model.safetensors has changed"),
        (lose, "it has no state/optimizer.pt"),
        (tear_the_manifest, "is not valid JSON"),
        (empty_the_manifest, "list indices"),
    ],
)
def test_what_is_damaged_is_kept_aside_and_the_one_before_it_is_taken(
    harm: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    before, newest, said = write(tmp_path, 5), write(tmp_path, 10), list[str]()
    harm(newest)
    assert newest_sound(tmp_path, said.append) == before
    assert len(said) == 1
    assert said[0].startswith("checkpoint-10 is damaged, and kept as damaged-checkpoint-10: ")
    assert told in said[0]
    assert (tmp_path / "damaged-checkpoint-10").is_dir()
    assert newest_sound(tmp_path, silent) == before


def test_what_was_not_written_to_its_end_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    before = write(tmp_path, 5)
    (tmp_path / "checkpoint-10").mkdir()  # of another program: not sealed
    (partial(tmp_path) / "model.safetensors").write_text("hal")  # as a kill leaves it
    assert newest_sound(tmp_path, silent) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_all_damaged_is_none(tmp_path: Path) -> None:
    cut(write(tmp_path, 5))
    said: list[str] = []
    assert newest_sound(tmp_path, said.append) is None
    assert len(said) == 1


def test_a_name_out_of_the_checkpoint_reads_no_other_file_as_sound(tmp_path: Path) -> None:
    final = write(tmp_path, 5)
    manifest = json.loads((final / MANIFEST).read_text())
    manifest["files"]["../elsewhere"] = {"size_bytes": 1, "sha256": "0"}
    (final / MANIFEST).write_text(json.dumps(manifest))
    assert damage(final) == "it has no ../elsewhere"


def test_a_result_is_published_weights_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, moved = partial(tmp_path), list[str]()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (written / name).write_text(name)
    (tmp_path / "config.json").write_text("of an attempt before")
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    publish(written, tmp_path)
    assert moved == ["config.json", "tokenizer.json", "model.safetensors"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in moved}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 448 vs 342"),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_nothing_half_made(error: Exception, tmp_path: Path) -> None:
    before = write(tmp_path, 5)

    def fail() -> None:
        with writing("checkpoint-10", tmp_path):
            (partial(tmp_path) / "model.safetensors").write_text("half")
            raise error

    with pytest.raises(StageFailed, match=r"checkpoint-10 cannot be written: .*make room, and resume"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [before.name]


def test_a_result_with_a_folder_is_published_over_an_older_one(tmp_path: Path) -> None:
    for text in ("older", "newer"):
        written = partial(tmp_path)
        (written / "additional_chat_templates").mkdir()
        (written / "additional_chat_templates/tool_use.jinja").write_text(text)
        (written / "model.safetensors").write_text(text)
        publish(written, tmp_path)
    assert (tmp_path / "additional_chat_templates/tool_use.jinja").read_text() == "newer"
    assert not (tmp_path / ".partial").exists()


def test_an_error_of_another_kind_passes_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing("checkpoint-10", tmp_path):
        raise RuntimeError("shapes do not fit")


def test_the_disk_has_a_checkpoint_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(sealed, "_flush", lambda path: flushed.append(path.name))
    monkeypatch.setattr(sealed, "_sync", lambda path: flushed.append(path.name))
    write(tmp_path, 5)
    assert flushed == ["model.safetensors", "optimizer.pt", sealed.PARTIAL, tmp_path.name]
