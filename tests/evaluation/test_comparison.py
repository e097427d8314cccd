"""Runs side by side: real scores of small random models, in records as runs write them."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from data.made import rows
from evaluation.__main__ import main
from evaluation.before_and_after import evaluate_stage
from evaluation.comparison import Recorded, compared, flattened, paired
from evaluation.paired import paired_difference
from evaluation.sections import Section
from evaluation.table import difference, number
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, Preferences
from kinds import named
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.files import read_json, weights_sha256

SFT = named("sft")

A, B, OTHER = "20260101_000000_aaaa", "20260102_000000_bbbb", "20260103_000000_cccc"
DEMONSTRATIONS = Demonstrations(HeldOut(rows("conversations", "eval", 20)))
PAIRS = Preferences(HeldOut(rows("preferences", "eval", 20)))


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """Two runs of two stages, of which B's second is running; and a third on other examples."""
    directory = tmp_path_factory.mktemp("runs")
    start = make_model(tmp_path_factory.mktemp("start"), 9)
    other = Demonstrations(HeldOut(rows("conversations", "eval", 20, seed=5)))
    measured: dict[str, list[Task]] = {A: [DEMONSTRATIONS, PAIRS], B: [DEMONSTRATIONS, PAIRS], OTHER: [other]}
    for seed, (run_id, tasks) in enumerate(measured.items()):
        stage_dir = make_model(directory / run_id / "tiny", seed)
        results = evaluate_stage(SFT, start, stage_dir, tasks)
        config = {"learning_rate": 10.0**-seed, "dataset_name": "<script>alert(1)</script>[red]", "beta": None}
        StageLog(stage_dir).open(
            name="sft", status="passed", config=config | {"trainer": {"output_dir": f"/was/{run_id}/tiny"}},
            output={"path": str(stage_dir), "sha256": weights_sha256(stage_dir)}, evaluation=results,
            data={"name": "d", "fingerprint": "f", "train_rows": 3 + seed}, duration_s=10.0 + 10 * seed, tokens=100,
            steps=5, peak_memory_bytes=2**30,
        )  # fmt: skip
        stages = [{"name": "sft", "output_dir": "tiny", "status": "passed"}]
        stages.append({"name": "dpo", "output_dir": "tiny-dpo", "status": "pending" if seed else "failed"})
        RunInfo(directory / run_id).set(
            recipe="r", status="running" if seed else "failed", stages=stages, seed=seed,
            versions={"torch": "2", "trl": f"1.{seed}"}, configs={"dpo": {"beta": 0.1 * (seed + 1), "max_steps": 4}},
        )  # fmt: skip
    return directory


def _runs(runs_dir: Path, one: str, other: str) -> tuple[Recorded, Recorded]:
    return Recorded(RunInfo(runs_dir / one)), Recorded(RunInfo(runs_dir / other))


def _sections(runs_dir: Path, one: str = A, other: str = B) -> dict[str, Section]:
    found = compared([RunInfo(runs_dir / one), RunInfo(runs_dir / other)])
    return {section.title: section for section in found}


def test_the_interval_is_that_of_the_same_examples_of_both_runs(runs_dir: Path) -> None:
    scores = []
    for run_id in (A, B):
        weights = weights_sha256(runs_dir / run_id / "tiny")[:16]
        kept = read_json(runs_dir / run_id / "tiny" / "evaluation_scores.json")
        (mine,) = (value for key, value in kept.items() if key.startswith("preferences-") and f"@{weights}" in key)
        scores.append(mine["margin"])
    mean, low, high = paired_difference(*scores)
    found, why = paired(*_runs(runs_dir, A, B), "sft", "preferences", "margin")
    assert not why
    assert found["ci95"] == [low, high]
    assert found["after"] - found["before"] == pytest.approx(mean)
    assert (found["n"], found["before"]) == (20, pytest.approx(sum(scores[0]) / 20))
    (row,) = [row for row in _sections(runs_dir)["Results of sft, B against A"].rows if row[0] == "preferences margin"]
    assert row[2:5] == (number(found["before"]), number(found["after"]), difference(found))


def test_other_examples_have_no_interval_and_the_reason_is_said(runs_dir: Path) -> None:
    runs = _runs(runs_dir, A, OTHER)
    found, why = paired(*runs, "sft", "demonstrations", "loss")
    assert found["ci95"] is None
    assert why == "measured with other examples"
    ends = [run.results("sft")["demonstrations", "loss"]["after"] for run in runs]
    assert [found["before"], found["after"]] == ends
    assert paired(*runs, "sft", "preferences", "margin")[1] == "not measured in both"


def test_losses_of_two_tokenizers_are_not_compared_but_choices_are(runs_dir: Path) -> None:
    one, other = _runs(runs_dir, A, B)
    other.scores = {"sft": {f"{key[:-4]}beef": value for key, value in other.scores["sft"].items()}}
    assert "another tokenizer" in paired(one, other, "sft", "demonstrations", "loss")[1]
    assert paired(one, other, "sft", "preferences", "accuracy")[0]["ci95"] is not None


def test_what_differs_is_listed_and_what_is_the_same_is_not(runs_dir: Path) -> None:
    sections = _sections(runs_dir)
    rows = [row[:4] if "weights" not in row[1] else row[:2] for row in sections["What differs"].rows]
    assert rows == [
        ("run", "versions.trl", "1.0", "1.1"),
        ("run", "seed", "0", "1"),
        ("sft", "learning_rate", "1.0", "0.1"),  # the run's own directory, in output_dir, is no difference
        ("sft", "data.train_rows", "3", "4"),
        ("sft", "weights.output"),
        ("dpo", "beta", "0.1", "0.2"),
    ]
    assert ("sft", "time", "10.0 s", "20.0 s", "2.00") in sections["Cost, B against A"].rows


def test_results_stand_before_settings_and_each_setting_once(tmp_path: Path) -> None:
    """Whether recipe or trainer say it, of whichever stages, for however many runs."""
    infos = []
    for place, run_id in enumerate((A, B, OTHER)):
        infos.append(RunInfo(tmp_path / run_id))
        stages = [{"name": name, "output_dir": name, "status": "passed"} for name in ("sft", "dpo")]
        for stage in stages:
            config = {"seed": place, "max_steps": 4, "trainer_args": {"warmup_steps": place}, "gates": []}
            config["trainer"] = {"seed": place, "max_steps": 4 + place, "warmup_steps": place}
            (tmp_path / run_id / stage["name"]).mkdir(parents=True)
            code = {"code": {f"{name}.py": str(place) for name in "abcdefghij"}}
            data = {"name": "d", "eval_rows": 3}
            StageLog(tmp_path / run_id / stage["name"]).open(config=config, data=data, **stage)
        infos[-1].set(recipe="r", status="passed", stages=stages, seed=place, **code)
    runs, *_, settings = compared(infos)
    assert runs.title == f"A is {A}, B is {B}, C is {OTHER}"
    assert settings.title == "What differs"
    assert settings.rows == [
        ("run, sft, dpo", "seed", "0", "1", "2"),
        ("sft, dpo", "max_steps", "4", "5", "6"),
        ("sft, dpo", "warmup_steps", "0", "1", "2"),
    ]
    assert settings.note == ("sixgig's own code differs in a.py, b.py, c.py, d.py, e.py, f.py, g.py, h.py and 2 more")


def test_settings_are_what_the_recipes_say_where_a_stage_has_not_begun(runs_dir: Path, tmp_path: Path) -> None:
    for run_id, begun in ((A, True), (B, False)):
        info = RunInfo(tmp_path / run_id)
        (tmp_path / run_id / "sft").mkdir(parents=True)
        stages = [{"name": "sft", "output_dir": "sft", "status": "passed" if begun else "pending"}]
        info.set(recipe="r", status="failed", stages=stages, configs={"sft": {"max_steps": 4, "beta": 0.1}})
        if begun:
            config = {"max_steps": 4, "beta": 0.2, "trainer": {"max_steps": 9}}
            StageLog(tmp_path / run_id / "sft").open(config=config, **stages[0])
    assert compared([RunInfo(tmp_path / run_id) for run_id in (A, B)])[-1].rows == [("sft", "beta", "0.2", "0.1")]


def test_what_one_run_alone_measured_is_named_below(runs_dir: Path) -> None:
    section = _sections(runs_dir, A, OTHER)["Results of sft, B against A"]
    assert {row[0].partition(" ")[0] for row in section.rows} == {"demonstrations"}
    assert "Measured in A alone: preferences accuracy, preferences margin" in section.note


def test_runs_that_failed_or_were_stopped_are_compared_as_far_as_they_went(runs_dir: Path) -> None:
    stages = {row[0]: row[1:] for row in _sections(runs_dir)[f"A is {A}, B is {B}"].rows}
    assert stages["status"] == ("failed", "interrupted")  # "running", without the lock of a process
    assert stages["stage dpo"] == ("failed", "pending")


def test_nested_values_get_dotted_names() -> None:
    assert flattened({"a": {"b": 1, "c": {}}, "d": [{"e": 1}]}) == {"a.b": 1, "a.c": {}, "d": [{"e": 1}]}


class Tags(HTMLParser):
    """Collects the tags of a page, and whatever would make it load or do something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_is_one_file_without_script_in_which_values_are_text(runs_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    info = runs_dir / OTHER / "tiny" / "stage_info.json"
    before = info.read_text()
    changed = json.loads(before)
    changed["config"]["dataset_name"] = "<img src=x onerror=alert(2)>"
    info.write_text(json.dumps(changed))
    try:
        assert main(["compare", A, B, OTHER, "--runs-dir", str(runs_dir), "--html", str(file)]) == 0
    finally:
        info.write_text(before)
    text, found = file.read_text(encoding="utf-8"), Tags()
    found.feed(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[red]" in text
    assert not found.tags & {"script", "img", "link", "iframe"}
    assert not any(name.startswith(("on", "src", "href", "style")) for name in found.attributes)
    ElementTree.fromstring(text)  # well-formed, or this raises
    assert 'data-label="B − A, 95 %"' in text  # on a phone each row is a block that names its columns
    assert not re.search(r"https?:(?!//www\.w3\.org/1999/xhtml)|url\(|@import", text)
    assert f"A is {A}, B is {B}, C is {OTHER}" in text


def test_the_console_shows_markup_as_it_was_written(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = RunInfo(runs_dir / B)
    recipe = info.read()["recipe"]
    info.set(recipe="[bold]x[/nothing]\x1b[2J")
    try:
        assert main(["compare", A, B, "--runs-dir", str(runs_dir)]) == 0
    finally:
        info.set(recipe=recipe)
    said = capsys.readouterr().out
    assert "[bold]x[/nothing]" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [([A], "two different runs"), ([A, A], "two different runs"), ([A, "20260102_000000_bbbc"], "did you mean")],
)
def test_what_is_no_pair_of_runs_is_refused(
    words: list[str], said: str, runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words, "--runs-dir", str(runs_dir), "--html", str(tmp_path / "new.html")]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_overwritten(
    runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    for file in (mine, tmp_path / "no" / "such.html"):
        assert main(["compare", A, B, "--runs-dir", str(runs_dir), "--html", str(file)]) == 2
        assert "--html" in capsys.readouterr().err
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("stage", "record", "said"),
    [
        (
            {"name": "sft", "output_dir": "tiny", "status": "failed"},
            "[]",
            "stage_info.json is no sound record: it is [], and must be an object",
        ),
        ({"name": "sft", "output_dir": "tiny", "status": "failed"}, "{", "stage_info.json is not valid JSON"),
        ({"name": "sft", "output_dir": "tiny"}, "{}", "stages[0] has no status"),
        (
            {"name": "sft", "output_dir": "tiny", "status": "passed"},
            '{"evaluation": [1]}',
            "evaluation[0] is 1, and must be",
        ),
    ],
)
def test_a_record_that_is_none_is_refused_by_name(
    stage: dict[str, str],
    record: str,
    said: str,
    runs_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "20260104_000000_dddd"
    (run_dir / "tiny").mkdir(parents=True)
    RunInfo(run_dir).set(status="failed", stages=[stage])
    (run_dir / "tiny" / "stage_info.json").write_text(record)
    (tmp_path / A).symlink_to(runs_dir / A)
    assert main(["compare", A, run_dir.name, "--runs-dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
