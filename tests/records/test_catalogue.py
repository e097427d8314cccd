"""Checkpoints are found by the names that people use, listed with what they can do, and refused with the next step."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from records.catalogue import LISTED_RUNS, catalogue, find_checkpoint
from records.run_directory import RunInfo
from utils.errors import Refused
from utils.files import write_json
from utils.locks import lock

OLD, NEW = "20260101_000000_aaaa", "20260102_000000_bbbb"
STAGES = {"pretrain": "base", "sft": "tiny-sft", "reward": "judge", "grpo": "tiny-grpo"}


def _model(directory: Path, *, template: bool = True, reward: bool = False) -> Path:
    """Write what a model's directory is known by; the weights are none."""
    directory.mkdir(parents=True)
    (directory / "model.safetensors").touch()
    kind = "Qwen3ForSequenceClassification" if reward else "Qwen3ForCausalLM"
    write_json(directory / "config.json", {"architectures": [kind]})
    write_json(directory / "tokenizer_config.json", {})
    if template:
        (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


def _run(runs_dir: Path, run_id: str, **status: str) -> Path:
    """Write a run whose stages have passed, apart from those of another `status`."""
    run_dir = runs_dir / run_id
    run_dir.mkdir(parents=True)
    statuses = dict.fromkeys(STAGES, "passed") | status
    entries = [{"name": kind, "output_dir": STAGES[kind], "status": statuses[kind]} for kind in STAGES]
    RunInfo(run_dir).set(status="running" if status else "passed", stages=entries)
    for kind, name in STAGES.items():
        if statuses[kind] == "passed":
            _model(run_dir / name, reward=kind == "reward")
        elif statuses[kind] != "pending":
            (run_dir / name).mkdir()
        if statuses[kind] != "pending":
            write_json(run_dir / name / "stage_info.json", {"name": kind, "status": statuses[kind]})
            _model(run_dir / name / "checkpoint-8", reward=kind == "reward")
    return run_dir


def test_a_record_that_leads_out_of_its_run_is_not_followed(runs_dir: Path, tmp_path: Path) -> None:
    entry = {"name": "sft", "output_dir": "../../copy", "status": "passed"}
    RunInfo(runs_dir / OLD).set(stages=[entry])
    for name in (OLD, f"{OLD}/sft"):
        with pytest.raises(Refused, match=r"output_dir is '\.\./\.\./copy', and must be a directory inside the run's"):
            find_checkpoint(name, runs_dir)
    assert f"  {OLD}  cannot be read" in catalogue(runs_dir)


@pytest.fixture(autouse=True)
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two runs, the newer one in its SFT stage, and a working directory with a copy of a model."""
    monkeypatch.chdir(tmp_path)
    _run(tmp_path / "runs", OLD)
    _run(tmp_path / "runs", NEW, sft="running", reward="pending", grpo="pending")
    _model(tmp_path / "copy", template=False)
    with lock(tmp_path / "runs" / NEW):
        yield tmp_path / "runs"


@pytest.mark.parametrize(
    ("given", "found", "chats"),
    [
        (OLD, f"{OLD}/tiny-grpo", True),
        (f"{OLD}/", f"{OLD}/tiny-grpo", True),
        (f"runs/{OLD}", f"{OLD}/tiny-grpo", True),
        (f"{OLD}/sft", f"{OLD}/tiny-sft", True),
        (f"{OLD}/tiny-sft", f"{OLD}/tiny-sft", True),
        (f"runs/{OLD}/tiny-sft/", f"{OLD}/tiny-sft", True),
        (f"runs/{OLD}/sft", f"{OLD}/tiny-sft", True),
        (f"{OLD}/pretrain", f"{OLD}/base", False),
        (f"{OLD}/sft/checkpoint-8", f"{OLD}/tiny-sft/checkpoint-8", True),
        (f"runs/{OLD}/tiny-sft/checkpoint-8", f"{OLD}/tiny-sft/checkpoint-8", True),
        (f"{OLD}/pretrain/checkpoint-8", f"{OLD}/base/checkpoint-8", False),
        ("latest", f"{NEW}/base", False),
        ("latest/pretrain", f"{NEW}/base", False),
        ("latest/grpo", f"{OLD}/tiny-grpo", True),
        (f"{NEW}/sft/checkpoint-8", f"{NEW}/tiny-sft/checkpoint-8", True),
        ("copy", "copy", False),
        ("./copy", "copy", False),
    ],
)
def test_a_checkpoint_is_found_by_name(given: str, found: str, chats: bool, runs_dir: Path) -> None:
    checkpoint = find_checkpoint(given, Path("runs"))
    assert checkpoint.name == found
    assert checkpoint.path.resolve() == (runs_dir / found if "/" in found else runs_dir.parent / found)
    assert checkpoint.chats == chats


def test_a_template_inside_tokenizer_config_counts(tmp_path: Path) -> None:
    write_json(tmp_path / "copy/tokenizer_config.json", {"chat_template": "{{ messages }}"})
    assert find_checkpoint("copy", Path("runs")).chats


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f"{OLD}/reward", f"{OLD}/judge is a reward model: it scores answers and writes none"),
        (f"{OLD}/reward", f"python chat.py .*{OLD}$"),
        (f"runs/{OLD}/judge/checkpoint-8", "is a reward model"),
        (f"{NEW}/grpo", r"has not begun its stage 'grpo'. It has: pretrain \(passed\), sft \(running\)"),
        (f"{OLD}/stf", "has no stage 'stf', did you mean 'sft'"),
        (f"{NEW}/sft", r"no config.json and no weights yet: its stage is running. Inside are: checkpoint-8"),
        (f"{OLD}/sft/checkpoint-9", "there is no .*checkpoint-9. Inside tiny-sft are: checkpoint-8"),
        ("runs", "is a directory without a model.\n(.|\n)*tiny-grpo"),
        ("20260101_000000_aaab", f"did you mean '{OLD}'(.|\n)*tiny-grpo"),
        ("20260101_000000_aaab/sft", f"did you mean '{OLD}/sft'"),
        ("lates", "did you mean 'latest'"),
        ("someone/somewhere", "no model of the Hub that is on this machine .HF_HUB_OFFLINE forbids the network"),
        ("../nowhere", "is no run in runs and no directory"),
    ],
)
def test_what_is_not_to_be_talked_to_is_refused_with_what_is(given: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        find_checkpoint(given, Path("runs"))


def test_a_run_before_its_first_policy_has_passed_is_refused(runs_dir: Path) -> None:
    run_dir = _run(runs_dir, "20260103_000000_cccc", pretrain="failed", sft="pending", grpo="pending")
    with pytest.raises(Refused, match=r"no stage to talk to.*pretrain \(failed\), sft \(pending\), reward \(passed\)"):
        find_checkpoint(run_dir.name, runs_dir)
    assert find_checkpoint("latest", runs_dir).name == f"{NEW}/base"


def test_without_runs_there_is_no_latest(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"there is no latest run\.\nThere are no runs in elsewhere"):
        find_checkpoint("latest", Path("elsewhere"))


def test_a_model_in_the_hubs_cache_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("utils.hub.local_model", lambda name, revision: tmp_path / "copy")
    checkpoint = find_checkpoint("owner/name", Path("runs"))
    assert (checkpoint.name, checkpoint.path) == ("owner/name", tmp_path / "copy")


def test_a_model_on_the_hub_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("utils.hub.local_model", lambda name, revision: None)
    monkeypatch.setattr("utils.hub.unreachable", lambda: None)
    monkeypatch.setattr("utils.hub.download_model", lambda name, revision: tmp_path / "copy")
    assert find_checkpoint("owner/name", Path("runs")).path == tmp_path / "copy"
    with pytest.raises(Refused, match="is no run"):  # the network is not asked about a mistyped run
        find_checkpoint("20260101_000000_aaab/sft", Path("runs"))


def test_the_catalogue_says_of_each_stage_what_it_can_do(runs_dir: Path) -> None:
    _model(runs_dir / "kept")
    lines = catalogue(runs_dir).splitlines()
    newer, older = lines.index(f"  {NEW}"), lines.index(f"  {OLD}")
    assert newer < older
    said = {line.split()[0]: line.split(maxsplit=2)[2] for line in lines[older + 1 : older + 5]}
    assert said == {
        "pretrain": "continues text, checkpoint-8",
        "sft": "chat, checkpoint-8",
        "reward": "scores answers, cannot be talked to, checkpoint-8",
        "grpo": "chat, checkpoint-8",
    }
    assert lines[newer + 2].split(maxsplit=2)[1:] == ["tiny-sft", "running, has no model yet, checkpoint-8"]
    assert lines[newer + 4].split(maxsplit=2)[1:] == ["tiny-grpo", "pending, has no model yet"]
    assert lines[-2] == f"  {runs_dir / 'kept'}"


def test_a_broken_record_hides_no_other_run(runs_dir: Path) -> None:
    broken = runs_dir / "20260104_000000_dddd"
    broken.mkdir()
    (broken / "run_info.json").write_text("{")
    assert "tiny-grpo" in catalogue(runs_dir)
    assert find_checkpoint("latest", runs_dir).name == f"{NEW}/base"
    with pytest.raises(Refused, match="is not valid JSON"):
        find_checkpoint(broken.name, runs_dir)


def test_of_many_runs_the_newest_are_listed(tmp_path: Path) -> None:
    record: dict[str, Any] = {"status": "passed", "stages": []}
    for number in range(LISTED_RUNS + 3):
        directory = tmp_path / "many" / f"2026010{number % 10}_00000{number // 10}_aaaa"
        directory.mkdir(parents=True)
        (directory / "run_info.json").write_text(json.dumps(record))
    lines = catalogue(tmp_path / "many").splitlines()
    assert len([line for line in lines if line.endswith("_aaaa")]) == LISTED_RUNS
    assert "  and 3 older ones" in lines


def test_a_killed_run_is_shown_as_interrupted_everywhere(runs_dir: Path) -> None:
    killed = _run(runs_dir, "20260105_000000_eeee", sft="running", reward="pending", grpo="pending")
    line = next(line for line in catalogue(runs_dir).splitlines() if "tiny-sft" in line)
    assert line.split(maxsplit=2)[2] == "interrupted, has no model, checkpoint-8"
    with pytest.raises(Refused, match=r"It has: pretrain \(passed\), sft \(interrupted\)"):
        find_checkpoint(f"{killed.name}/grpo", runs_dir)
    assert find_checkpoint(f"{killed.name}/sft/checkpoint-8", runs_dir).status == "interrupted"
    assert find_checkpoint(f"{NEW}/sft/checkpoint-8", runs_dir).status == "running"


@pytest.mark.parametrize(("status", "told"), [("failed", "failed"), ("running", "interrupted")])
def test_a_stage_that_has_stopped_is_refused_with_how_to_go_on(status: str, told: str, runs_dir: Path) -> None:
    stopped = _run(runs_dir, "20260105_000000_eeee", sft=status, reward="pending", grpo="pending")
    with pytest.raises(Refused) as refusal:
        find_checkpoint(f"{stopped.name}/sft", runs_dir)
    said = str(refusal.value)
    assert f"no config.json and no weights: its stage is {told}. Inside are: checkpoint-8\nContinue with:\n" in said
    assert said.endswith(f"run_all.py --resume {stopped.name}")


def test_pretraining_by_itself_that_has_stopped_is_refused_with_how_to_go_on(runs_dir: Path) -> None:
    (runs_dir / "own").mkdir()
    write_json(runs_dir / "own/stage_info.json", {"name": "pretrain", "status": "running"})
    with pytest.raises(
        Refused, match=r"weights: its stage is interrupted\nContinue with:\n.* -m pretrain --resume runs/own$"
    ):
        find_checkpoint("runs/own", runs_dir)
    with lock(runs_dir / "own"), pytest.raises(Refused, match=r"weights yet: its stage is running$"):
        find_checkpoint("runs/own", runs_dir)


@pytest.mark.parametrize("text", ['{"cut', "[1]"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "stage_info.json"])
def test_an_unreadable_file_costs_its_own_line_of_the_catalogue_alone(file: str, text: str, runs_dir: Path) -> None:
    before = catalogue(runs_dir).splitlines()
    (runs_dir / OLD / "tiny-sft" / file).write_text(text)
    after = catalogue(runs_dir).splitlines()
    changed = [line for line, old in zip(after, before, strict=True) if line != old]
    assert [line.split(maxsplit=2) for line in changed] == [["sft", "tiny-sft", "cannot be read"]]


def test_a_run_whose_record_is_unreadable_is_listed_as_such(runs_dir: Path) -> None:
    (runs_dir / OLD / "run_info.json").write_text("{")
    assert f"  {OLD}  cannot be read" in catalogue(runs_dir).splitlines()


def _labelled(runs_dir: Path, **kinds: str) -> str:
    """Write a passed run whose stages are these labels, each of its kind, in a directory named after the label."""
    run_id = "20260106_000000_ffff"
    (runs_dir / run_id).mkdir()
    entries = [{"name": label, "kind": kind, "output_dir": f"my-{label}"} for label, kind in kinds.items()]
    RunInfo(runs_dir / run_id).set(status="passed", stages=[entry | {"status": "passed"} for entry in entries])
    for entry in entries:
        _model(runs_dir / run_id / entry["output_dir"], reward=entry["kind"] in ("reward", "judging"))
        write_json(runs_dir / run_id / entry["output_dir"] / "stage_info.json", entry | {"status": "passed"})
    return run_id


def test_two_stages_of_one_kind_are_found_by_their_labels(runs_dir: Path) -> None:
    run_id = _labelled(runs_dir, start="pretrain", code="sft", tools="sft", judge="reward")
    for given, name in ((f"{run_id}/code", "my-code"), ("latest/tools", "my-tools"), ("latest", "my-tools")):
        assert find_checkpoint(given, runs_dir).name == f"{run_id}/{name}"
    assert not find_checkpoint(f"{run_id}/start", runs_dir).chats
    lines = [line.split(maxsplit=2) for line in catalogue(runs_dir).splitlines()[2:6]]
    assert [(line[0], line[2]) for line in lines] == [
        ("start", "continues text"), ("code", "chat"), ("tools", "chat"),
        ("judge", "scores answers, cannot be talked to"),
    ]  # fmt: skip


def test_a_stage_of_a_kind_that_is_not_known_here_is_known_by_its_files(runs_dir: Path) -> None:
    run_id = _labelled(runs_dir, sft="sft", mine="merging", theirs="judging")
    assert find_checkpoint("latest", runs_dir).name == f"{run_id}/my-mine"
    assert find_checkpoint(f"{run_id}/mine", runs_dir).chats
    assert "scores answers, cannot be talked to" in catalogue(runs_dir).splitlines()[4]


@pytest.mark.parametrize("record", ['{"status": "passed", "stages": null}', '{"status": "passed", "stages": ["sft"]}'])
def test_a_record_of_the_wrong_shape_hides_no_other_run(record: str, runs_dir: Path) -> None:
    (runs_dir / OLD / "run_info.json").write_text(record)
    assert find_checkpoint("latest", runs_dir).name == f"{NEW}/base"
    assert f"  {OLD}  cannot be read" in catalogue(runs_dir)
    with pytest.raises(Refused, match="is no sound record: stages"):
        find_checkpoint(OLD, runs_dir)
    with pytest.raises(Refused, match="did you mean"):
        find_checkpoint(f"{NEW[:-1]}c", runs_dir)
