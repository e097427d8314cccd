"""The report: one page that says what the run's files say, whatever stands in them, and loads nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evaluation.__main__ import main
from evaluation.report import REPORT_FILE, write_report
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.errors import Refused

WHOLE = dict.fromkeys(("pretrain", "sft", "reward", "dpo", "grpo"), "passed")
HOSTILE = "</style></svg><script>alert(1)</script>$x_{$ & \"quoted\" 'x' {{ 7*7 }} \x1b[31m"
MOST_BYTES = 500_000

MakeRun = Callable[..., Path]


def report(run_dir: Path) -> str:
    """Write the report of a run; return it, having looked at what holds for each."""
    assert len(write_report(run_dir)) <= 6
    text = (run_dir / REPORT_FILE).read_text(encoding="utf-8")
    page = ElementTree.fromstring(text)  # well-formed, or this raises
    assert len(text.encode()) < MOST_BYTES
    for element in page.iter():
        assert element.tag.rpartition("}")[2] not in (
            "script",
            "img",
            "link",
            "iframe",
            "object",
            "image",
            "foreignObject",
        )
        for name, value in element.attrib.items():
            attribute = name.rpartition("}")[2]
            assert not attribute.startswith(("src", "on")), (element.tag, name)
            assert attribute != "href" or value.startswith("#"), value
            assert all(one.startswith("#") for one in re.findall(r"url\(([^)]*)\)", value)), value
    assert "@import" not in text
    style = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    assert style
    assert not any("url(" in one and "url(#" not in one for one in style)
    return text


def words(text: str) -> str:
    """Return the text of a page as one reads it."""
    return " ".join("".join(ElementTree.fromstring(text).itertext()).split())


def test_the_report_of_a_run_that_passed_says_what_was_measured(make_run: MakeRun) -> None:
    page = words(report(make_run(**WHOLE)))
    assert "5 of 5 stages passed" in page
    assert "Better: sft (skills strict 0.000 → 0.800)" in page
    assert "Worse: dpo (skills strict 0.800 → 0.600); No evidence: reward" in page
    assert "Forgotten: documents bits_per_byte 0.400 → 0.900 by sft; skills strict 0.800 → 0.600 by dpo" in page
    assert "python run_all.py --recipe scratch_tiny --set sft.max_steps=3" in page
    assert "step 7: loss_spike made:prompts rose" in page
    for shown in ("documents bits_per_byte", "abababababababab", "efefefefefefefef", "1 min 11 s", "400"):
        assert shown in page


def test_the_summary_names_each_alarm_and_leads_to_it(make_run: MakeRun) -> None:
    run_dir = make_run(**WHOLE)
    StageLog(run_dir / "my-sft").alarm(9, "rising_loss", "it rose")
    text = report(run_dir)
    assert "6 alarms: pretrain loss_spike (step 7), sft loss_spike (step 7), sft rising_loss (step 9)" in words(text)
    led_to = re.findall(r'<a href="#([^"]*)">', text)
    assert led_to == re.findall(r'<li id="([^"]*)">', text)
    assert len(set(led_to)) == 6
    assert "6 alarms: pretrain loss_spike (step 7)" in write_report(run_dir)[-1]


def test_on_a_phone_a_row_is_a_block_that_names_its_columns(make_run: MakeRun) -> None:
    """So that nothing has to scroll sideways: every table of more columns than a curve's numbers is stacked."""
    page = ElementTree.fromstring(report(make_run(**WHOLE)))
    tables = [one for one in page.iter() if one.tag.rpartition("}")[2] == "table"]
    assert len(tables) == 4
    for table in tables:
        assert "stack" in table.attrib["class"].split()
        labels = [cell.attrib.get("data-label") for cell in table.iter() if cell.tag.rpartition("}")[2] == "td"]
        assert any(labels)
    assert "overflow-x" not in (page.text or "") + "".join(page.itertext())


def test_a_tiny_change_is_called_so_and_is_nothing_forgotten(make_run: MakeRun) -> None:
    run_dir = make_run(pretrain="passed", sft="passed")
    log = StageLog(run_dir / "my-sft")
    (strict, documents) = log.read_info()["evaluation"]
    tiny = documents | {"after": 0.404, "ci95": [0.003, 0.005]}
    log.info(evaluation=[strict | {"before": 0.8, "after": 0.805, "ci95": [0.001, 0.009]}, tiny])
    page = words(report(run_dir))
    assert "sft tiny gain" in page
    assert "Tiny gain: sft (skills strict 0.800 → 0.805)" in page
    assert "[+0.003, +0.005]tiny loss" in page
    assert "Forgotten" not in page
    assert "skills strictshare of answers that are exactly right; tiny below 0.01" in page


def test_what_n_counts_is_said_where_it_is_not_the_stages_held_out_rows(make_run: MakeRun) -> None:
    """In the fixture a stage holds 3 rows out, and 100 are measured."""
    assert "n of skills: the verifier's problems, the same for every stage" in words(report(make_run(**WHOLE)))


def test_what_pretraining_began_with_heads_the_ledger(make_run: MakeRun) -> None:
    run_dir = make_run(**WHOLE)
    log = StageLog(run_dir / "my-pretrain")
    log.info(evaluation=[{**log.read_info()["evaluation"][0], "before": 3.7, "ci95": [-3.5, -3.1]}])
    assert "measurerandom weightsafter pretrainafter sft" in words(report(run_dir))


def test_text_from_outside_is_text_in_the_page(make_run: MakeRun) -> None:
    run_dir = make_run(**WHOLE | {"grpo": "failed"}, status="failed", text=HOSTILE)
    lines = (run_dir / "my-sft/samples.jsonl").read_text(encoding="utf-8").splitlines()
    said = json.loads(lines[0]) | {"prompt": HOSTILE, "expected": HOSTILE}
    said["after"]["text"] = HOSTILE
    for stage in ("pretrain", "sft", "dpo"):
        (run_dir / f"my-{stage}/samples.jsonl").write_text(json.dumps(said), encoding="utf-8")
    record = json.loads((run_dir / "run_info.json").read_text(encoding="utf-8"))
    (run_dir / "run_info.json").write_text(json.dumps(record | {"recipe": HOSTILE}), encoding="utf-8")
    page = report(run_dir)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "{{ 7*7 }}" in page
    assert words(page).count("<script>alert(1)</script>") > 8  # prompt, answers, data, faults, alarms, error, recipe


def test_a_failed_a_running_and_a_pending_stage_are_shown_as_such(make_run: MakeRun) -> None:
    page = report(make_run("failed", pretrain="passed", sft="failed", dpo="pending"))
    assert "1 of 3 stages passed; sft failed: made:prompts went wrong" in words(page)
    for how in ("failed", "pending", "not-compared"):
        assert f'class="box is-{how}"' in page


def test_a_run_that_was_killed_is_interrupted_and_one_under_way_is_running(make_run: MakeRun) -> None:
    from utils.locks import lock

    run_dir = make_run("running", pretrain="passed", sft="running")
    assert 'class="box is-interrupted"' in report(run_dir)
    with lock(run_dir):
        assert 'class="box is-running"' in report(run_dir)


def test_an_empty_and_a_half_written_run_have_a_report_and_a_broken_one_is_refused(make_run: MakeRun) -> None:
    run_dir = make_run(**WHOLE)
    (run_dir / "my-sft/stage_info.json").unlink()
    (run_dir / "my-pretrain/training_metrics.jsonl").write_text('{"step": 1, "loss": "x"}\n{"st', encoding="utf-8")
    (run_dir / "run_info.json").unlink()
    assert "pretrain" in words(report(run_dir))
    (run_dir / "my-dpo/stage_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(Refused, match=r"my-dpo/stage_info\.json is not valid JSON"):
        report(run_dir)
    empty = run_dir.with_name("20260131_101501_aaaa")
    empty.mkdir()
    assert "no start was recorded · seed not recorded" in words(report(empty))
    assert "no stage has begun" in words(report(empty))


def test_a_stage_of_which_nothing_is_written_is_pending(make_run: MakeRun) -> None:
    assert 'class="box is-pending"' in report(make_run("running", pretrain="pending"))


def test_a_stage_directory_outside_the_run_is_not_read(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run(**WHOLE)
    record = json.loads((run_dir / "run_info.json").read_text(encoding="utf-8"))
    record["stages"][0]["output_dir"] = "../elsewhere"
    (run_dir / "run_info.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(Refused, match=r"output_dir is '../elsewhere', and must be a directory inside the run's"):
        report(run_dir)


def test_the_gates_and_the_energy_are_shown_where_they_are_recorded(make_run: MakeRun) -> None:
    run_dir = make_run(**WHOLE)
    assert "Gates" not in words(report(run_dir))
    file = run_dir / "my-sft/stage_info.json"
    gate = {
        "metric": "skills strict", "rule": "not_below_input", "value": 0.02, "n": 210, "before": 0.9380952,
        "after": 0.85, "bounds95": [-0.1213, -0.0551], "decision": "worse", "failed": True,
    }  # fmt: skip
    unmeasured = {"metric": "rewards brief", "rule": "at_least", "value": 1, "reason": "no prompts", "failed": True}
    unmeasured["decision"] = "not measured"
    energy = {"energy_j": 7200, "energy_from": ["CPU package", "GPU"]}
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"gates": [gate, unmeasured]} | energy),
        encoding="utf-8",
    )
    page = words(report(run_dir))
    assert (
        "skills strict, not_below_input 0.02: lost, FAILED (0.938 → 0.850 of 210; difference -0.121 to -0.055)" in page
    )
    assert "rewards brief, at_least 1: not measured, FAILED (no prompts)" in page
    assert "2.00 Wh" in page
    assert "Energy is what the counters of CPU package and GPU say, other programs included." in page


def test_the_energy_of_a_run_is_told_only_where_that_of_every_stage_is_known(make_run: MakeRun) -> None:
    run_dir = make_run(pretrain="passed", sft="passed", dpo="pending")
    assert " Wh" not in report(run_dir)
    StageLog(run_dir / "my-pretrain").info(energy_j=3600.0)
    assert "1.00 Wh" in words(report(run_dir))
    assert "and 1.00 Wh" not in words(report(run_dir))
    StageLog(run_dir / "my-sft").info(energy_j=7200.0)
    assert "Passed after 2 min 22 s and 3.00 Wh: 2 of 3 stages passed" in words(report(run_dir))


def test_two_reports_of_one_run_are_the_same(make_run: MakeRun) -> None:
    run_dir = make_run(**WHOLE)
    first = report(run_dir)
    (run_dir / "my-sft/training_metrics.jsonl").touch()
    assert report(run_dir) == first


def test_the_command_takes_an_id_and_the_newest_run(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(**WHOLE)
    for name in (run_dir.name, "latest"):
        (run_dir / REPORT_FILE).unlink(missing_ok=True)
        assert main(["report", name, "--runs-dir", str(run_dir.parent)]) == 0
        assert f"Report: {run_dir / REPORT_FILE}" in capsys.readouterr().out
        assert (run_dir / REPORT_FILE).exists()


@pytest.mark.parametrize("name", ["20260131_101500_k3x8", "../runs", "latest"])
def test_a_run_that_is_not_there_is_refused(
    name: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_dir = tmp_path / "none" if name == "latest" else make_run(**WHOLE).parent
    assert main(["report", name, "--runs-dir", str(runs_dir)]) == 2
    assert "no run" in capsys.readouterr().err


def test_stages_are_shown_by_label_and_judged_by_their_kind(make_run: MakeRun) -> None:
    labels = {"start": "pretrain", "code": "sft", "tools": "sft", "judge": "reward", "mine": "merging"}
    run_dir = make_run(kinds=labels, **dict.fromkeys(labels, "passed"))
    page = words(report(run_dir))
    assert "Better: code (skills strict 0.000 → 0.800), tools (skills strict 0.000 → 0.800)" in page
    assert "No evidence: judge (pairs accuracy 0.500 → 0.490)" in page
    assert "after startafter codeafter tools" in page.replace("after mine", "")  # a judge is no policy
    assert "mine not compared" in page  # a kind that is not known here has no headline, and all of its figures
    assert "skills strict1000.000 → 0.800" in page


def test_the_input_of_another_run_is_told_with_that_run(make_run: MakeRun) -> None:
    run_dir = make_run(sft="passed")
    RunInfo(run_dir).set(from_run="20260101_000000_aaaa")
    assert "from pretrain of run 20260101_000000_aaaa" in words(report(run_dir))


def test_a_long_reason_of_a_failure_is_cut_between_words_in_the_summary(make_run: MakeRun) -> None:
    run_dir = make_run("failed", sft="failed")
    StageLog(run_dir / "my-sft").info(error="because " * 99)
    said = write_report(run_dir)[0]
    assert said.startswith("Failed after 1 min 11 s: 0 of 1 stage passed; sft failed: because because")
    assert said.endswith("because …")


def test_each_stage_says_what_it_starts_from(make_run: MakeRun) -> None:
    run_dir = make_run("failed", pretrain="passed", sft="failed", dpo="pending")
    StageLog(run_dir / "my-sft").info(reward_models={"owner/judge": "ab"})
    page = words(report(run_dir))
    for line in (
        "from random weights",
        "from pretrain; judged by owner/judge",
        "from sft",
    ):
        assert line in page
