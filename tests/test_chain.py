"""The whole chain, shrunken, in one run of the command line; every test states an effect of it, or a file it left."""

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from evaluation.__main__ import main as evaluation_main
from run_all import main
from utils.files import weights_sha256

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    "pretrain": "tiny-base",
    "sft": "tiny-sft",
    "reward": "tiny-reward",
    "dpo": "tiny-dpo",
    "grpo": "tiny-grpo",
}
INPUT_OF = {"sft": "pretrain", "reward": "sft", "dpo": "sft", "grpo": "dpo"}
LINEAGES = {
    "pretrain": ["pretrain"], "sft": ["pretrain", "sft"], "reward": ["pretrain", "sft", "reward"],
    "dpo": ["pretrain", "sft", "dpo"], "grpo": ["pretrain", "sft", "dpo", "reward", "grpo"],
}  # fmt: skip
STEPS = {"pretrain": 250, "sft": 40, "reward": 15, "dpo": 4, "grpo": 2}
SHRUNKEN = [f"{stage}.max_steps={steps}" for stage, steps in STEPS.items()] + [
    "pretrain.num_hidden_layers=3", "pretrain.max_samples=6000", "pretrain.tokenizer_samples=2000",
    "pretrain.save_steps=100", "pretrain.eval_steps=50", "sft.save_steps=20", "sft.per_device_train_batch_size=16",
    "reward.max_samples=500", "reward.save_steps=10", "reward.per_device_train_batch_size=16",
    "dpo.max_samples=128", "dpo.save_steps=2",
    "grpo.max_samples=32", "grpo.save_steps=1", "grpo.logging_steps=1", "grpo.per_device_train_batch_size=32",
    "grpo.max_completion_length=40",
    "grpo.reward_weights=[1.0, 0.1]",
]  # fmt: skip
FEW = ["reward.max_steps=2", "reward.max_samples=64", "reward.eval_samples=20"]
EVENT = re.compile(r"(\S+) \| (STAGE_START|TRAIN_START|CHECKPOINT|RESUME|ALARM|TRAIN_END|GATE|STAGE_FAILED) \| .+")


class Run:
    """The shrunken recipe in a process of its own, on one core, so that two runs share a small machine."""

    def __init__(self, runs_dir: Path, *flags: str) -> None:
        self.runs_dir, self.printed = runs_dir, runs_dir.parent / f"printed-{len(flags)}.txt"
        self.others = set(runs_dir.iterdir()) if runs_dir.exists() else set()
        values = [word for value in SHRUNKEN for word in ("--set", value)]
        command = [sys.executable, str(ROOT / "run_all.py"), "--recipe", "scratch_tiny", *values, *flags]
        with self.printed.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [*command, "--runs-dir", str(runs_dir)],
                cwd=runs_dir.parent,
                env=os.environ | {"OMP_NUM_THREADS": "1", "SIXGIG_CACHE": str(runs_dir.parent / "cache")},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def directory(self) -> Path:
        """Return the directory of the run, which must have passed."""
        assert self.process.wait() == 0, self.printed.read_text(encoding="utf-8")
        (made,) = set(self.runs_dir.iterdir()) - self.others
        return made


class Runs(NamedTuple):
    """What the tests look at."""

    whole: Path
    again: Path
    """Pretraining and SFT once more."""
    reward: Path
    """The reward stage alone, a few steps from the SFT of `again`, in whose directory of runs it lies."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    places = [tmp_path_factory.mktemp(name) / "runs" for name in ("whole", "again")]
    started = [Run(places[0]), Run(places[1], "--stages", "pretrain,sft")]
    try:
        again = started[1].directory()
        few = [word for value in FEW for word in ("--set", value)]
        started.append(Run(places[1], "--stages", "reward", "--from", again.name, *few))
        yield Runs(started[0].directory(), again, started[2].directory())
    finally:
        for run in started:
            run.process.kill()
            run.process.wait()


@pytest.fixture(scope="module")
def run_dir(runs: Runs) -> Path:
    return runs.whole


def _strict_json(text: str) -> dict[str, Any]:
    """Return a JSON object that holds no NaN, which JSON does not know."""
    return dict(json.loads(text, parse_constant=pytest.fail))


def _info(run_dir: Path, stage: str) -> dict[str, Any]:
    return _strict_json((run_dir / STAGES[stage] / "stage_info.json").read_text(encoding="utf-8"))


def _metrics(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    lines = (run_dir / STAGES[stage] / "training_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [_strict_json(line) for line in lines]


def _result(run_dir: Path, stage: str, task: str, metric: str) -> dict[str, Any]:
    (found,) = [
        result for result in _info(run_dir, stage)["evaluation"] if (result["task"], result["metric"]) == (task, metric)
    ]
    return dict(found)


def _weights(stage_dir: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(stage_dir / "model.safetensors")


def test_a_run_writes_no_more_than_its_plan_says_and_not_much_less(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIXGIG_CACHE", str(run_dir.parents[1] / "cache"))
    assert main(["--test", "--plan", *(word for value in SHRUNKEN for word in ("--set", value))]) == 0
    said = re.search(r"Disk: at most ([\d.]+) MiB", capsys.readouterr().out)
    assert said is not None
    written = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()) / 2**20
    assert written <= float(said[1]) <= 1.5 * written


def test_the_run_and_every_stage_passed_in_the_recipes_order(run_dir: Path) -> None:
    record = _strict_json((run_dir / "run_info.json").read_text(encoding="utf-8"))
    assert (record["run_id"], record["recipe"], record["status"]) == (run_dir.name, "scratch_tiny", "passed")
    stages = record["stages"]
    assert [(entry["name"], entry["output_dir"], entry["status"]) for entry in stages] == [
        (stage, output_dir, "passed") for stage, output_dir in STAGES.items()
    ]
    begun = [datetime.fromisoformat(entry["started_at"]) for entry in stages]
    assert begun == sorted(begun)
    assert datetime.fromisoformat(record["started_at"]) <= begun[0]
    assert begun[-1] <= datetime.fromisoformat(record["finished_at"])
    assert all(entry["duration_s"] > 0 for entry in stages)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_every_file_of_the_contract(stage: str, run_dir: Path) -> None:
    stage_dir = run_dir / STAGES[stage]
    wanted = (
        "stage_info.json training.log console_output.log training_events.log training_metrics.jsonl"
        " config.json model.safetensors tokenizer.json chat_template.jinja"
    )
    assert {path.name for path in stage_dir.iterdir() if path.is_file()} >= set(wanted.split())
    assert list((stage_dir / "logs").rglob("events.out.tfevents.*"))
    assert list(stage_dir.glob("checkpoint-*/trainer_state.json"))
    assert not list(stage_dir.glob("training_args.bin"))
    info = _info(run_dir, stage)
    assert (info["name"], info["status"], info["steps"]) == (stage, "passed", STEPS[stage])
    assert min(info["tokens"], info["duration_s"], info["peak_memory_bytes"]) > 0
    assert info["config"]["max_steps"] == STEPS[stage]
    assert info["data"]["train_rows"] > 0


def test_the_docs_list_the_files_of_a_run_directory(run_dir: Path) -> None:
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"^## The run directory\n.*?```text\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    shown = {depth: set(re.findall(rf"^ {{{depth}}}(\S+)", listing, re.MULTILINE)) for depth in (2, 4)}
    directories = {f"{name}/" for name in STAGES.values()}
    assert {_shown(path) for path in run_dir.iterdir()} == directories | shown[2]
    stage_dir = run_dir / "tiny-sft"
    of_the_model = {path.name for path in next(stage_dir.glob("checkpoint-*")).iterdir()} - {"config.json"}
    assert {_shown(path) for path in stage_dir.iterdir()} - of_the_model == shown[4]


def _shown(path: Path) -> str:
    return re.sub(r"-\d+$", "-N", path.name) + "/" * path.is_dir()


def test_the_console_log_is_what_was_printed_without_control_codes(run_dir: Path) -> None:
    said = (run_dir.parents[1] / "printed-0.txt").read_text(encoding="utf-8")
    log = (run_dir / "console_output.log").read_text(encoding="utf-8")
    assert "\x1b" not in said + log
    assert "\r" not in said + log
    slow = ("loading libraries", "pretrain: preparing made:documents", "pretrain: training a tokenizer")
    for text in slow:
        assert text in said
    for text in (run_dir.name, slow[-1], *(f"{stage} passed in" for stage in STAGES), "Held-out results"):
        assert text in said
        assert text in log
    for noise in ("MISSING", "UNEXPECTED", "DeprecationWarning", "FutureWarning", "UserWarning", "Traceback"):
        assert noise not in said


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_card_is_read_by_the_hubs_library_and_its_code_loads_the_model(stage: str, run_dir: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(run_dir / STAGES[stage] / "README.md")
    assert card.data.pipeline_tag == ("text-classification" if stage == "reward" else "text-generation")
    recorded = _info(run_dir, stage)
    assert recorded["output"]["sha256"] in card.text
    lineage = re.findall(rf"^- stage (\w+) of run {run_dir.name}:", card.text.replace(r"\_", "_"), re.MULTILINE)
    assert lineage == LINEAGES[stage]
    figures = {(one.dataset_type, one.metric_type): one.metric_value for one in card.data.eval_results or []}
    for result in recorded["evaluation"]:
        if "/" not in result["metric"] and result["after"] is not None:
            assert figures[result["task"], result["metric"]] == result["after"]
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.DOTALL | re.MULTILINE)
    with contextlib.chdir(run_dir / STAGES[stage]), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue()


def test_a_run_is_compared_with_another_of_the_same_seed(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (runs.whole, runs.again):
        (tmp_path / run.name).symlink_to(run)
    assert evaluation_main(["compare", runs.whole.name, runs.again.name, "--runs-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "What differs: nothing" in said
    lines = re.findall(r"^ *documents loss .*$", said, re.MULTILINE)
    assert len(lines) == 2  # of both stages
    assert all("+0.000 [+0.000, +0.000]" in line for line in lines)


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_are_json_lines_with_each_step_once(stage: str, run_dir: Path) -> None:
    logged = _metrics(run_dir, stage)
    steps = [line["step"] for line in logged]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS[stage]
    times = [datetime.fromisoformat(line["timestamp"]) for line in logged]
    assert times == sorted(times)
    for line in logged:
        assert math.isfinite(line["loss"])
        assert line["epoch"] > 0
    assert all(line["grad_norm"] > 0 for line in logged)


@pytest.mark.parametrize("stage", STAGES)
def test_events_tell_a_stage_from_start_to_end_in_order(stage: str, run_dir: Path) -> None:
    text = (run_dir / STAGES[stage] / "training_events.log").read_text(encoding="utf-8")
    events = [EVENT.fullmatch(line) for line in text.splitlines()]
    assert all(events), text
    kinds = [event[2] for event in events if event]
    judged = kinds.index("TRAIN_END") + 1
    assert kinds[:2] == ["STAGE_START", "TRAIN_START"]
    assert "CHECKPOINT" in kinds[2:judged]
    assert set(kinds[2 : judged - 1]) <= {"CHECKPOINT", "ALARM"}
    assert set(kinds[judged:]) <= {"GATE", "ALARM"}
    times = [datetime.fromisoformat(event[1]) for event in events if event]
    assert times == sorted(times)


@pytest.mark.parametrize("stage", INPUT_OF)
def test_a_stage_starts_from_the_bytes_that_its_input_wrote(stage: str, run_dir: Path) -> None:
    source, info = INPUT_OF[stage], _info(run_dir, stage)
    written = _info(run_dir, source)["output"]
    assert info["input"] == {"ref": f'StageOutput("{source}")', "path": written["path"], "sha256": written["sha256"]}
    assert written["path"] == str(run_dir / STAGES[source])
    assert written["sha256"] == weights_sha256(run_dir / STAGES[source])
    assert info["output"]["sha256"] != info["input"]["sha256"]


def test_pretraining_has_no_input(run_dir: Path) -> None:
    assert _info(run_dir, "pretrain")["input"] is None


@pytest.mark.parametrize("stage", INPUT_OF)
def test_a_stage_moves_every_matrix_of_its_input(stage: str, run_dir: Path) -> None:
    before, after = (_weights(run_dir / STAGES[name]) for name in (INPUT_OF[stage], stage))
    shared = before.keys() & after.keys()
    assert len(shared) >= len(before) - 1  # a reward model has a head of its own in place of the language model's
    for name in shared:
        moved = (before[name] != after[name]).float().mean().item()
        assert moved > (0.5 if "layers" in name and before[name].ndim == 2 else 0), (name, moved)


def test_pretraining_moves_the_matrices_that_start_at_zero(run_dir: Path) -> None:
    weights = _weights(run_dir / STAGES["pretrain"])
    outputs = {name: weight for name, weight in weights.items() if name.endswith(("o_proj.weight", "down_proj.weight"))}
    assert len(outputs) == 2 * 3
    assert all(weight.ne(0).float().mean().item() > 0.5 for weight in outputs.values())


def test_pretraining_lowers_the_held_out_loss(run_dir: Path) -> None:
    logged = _metrics(run_dir, "pretrain")
    held_out = {line["step"]: line["eval_loss"] for line in logged if "eval_loss" in line}
    assert list(held_out) == [50, 100, 150, 200, 250]
    assert held_out[250] < held_out[50] < math.log(1024)  # a guess among all of the vocabulary costs log(1024)
    assert held_out[250] < 0.6 * held_out[50]
    assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]
    after = _result(run_dir, "pretrain", "documents", "loss")
    assert math.log(1024) < after["before"] < math.log(1024) + 1  # random weights are no better than a guess
    assert after["ci95"][1] < 0
    assert 0 < after["after"] < 0.6 * held_out[50]


def test_sft_lowers_the_loss_of_held_out_demonstrations(run_dir: Path) -> None:
    loss = _result(run_dir, "sft", "demonstrations", "loss")
    assert loss["after"] < 0.5 * loss["before"]
    assert loss["ci95"][1] < 0
    accuracy = _result(run_dir, "sft", "demonstrations", "accuracy")
    assert accuracy["after"] > accuracy["before"]
    assert accuracy["ci95"][0] > 0


def test_sft_raises_the_rate_of_answers_that_stop(run_dir: Path) -> None:
    stopped = _result(run_dir, "sft", "skills", "stop_rate")
    assert stopped["after"] > stopped["before"]
    assert stopped["ci95"][0] > 0


def test_sft_raises_exact_match_on_problems_it_has_never_seen(run_dir: Path) -> None:
    right = _result(run_dir, "sft", "skills", "strict")
    assert right["n"] == 210
    assert right["before"] <= 0.02
    assert right["ci95"][0] > 0


def test_the_reward_model_ranks_held_out_pairs_better_than_its_untrained_head(run_dir: Path) -> None:
    for metric in ("accuracy", "margin"):
        ranked = _result(run_dir, "reward", "pairs", metric)
        assert ranked["after"] > ranked["before"]
        assert ranked["ci95"][0] > 0
    assert _result(run_dir, "reward", "pairs", "accuracy")["after"] > 0.6


def test_the_reward_model_is_asked_about_the_sampled_answers_of_its_policy(run_dir: Path) -> None:
    """So short an SFT may have none right among them, which is then the reason for no figure."""
    ranked = _result(run_dir, "reward", "verified_answers", "auc")
    if ranked["n"] == 0:
        assert "nothing to rank" in ranked["reason"]
        assert _result(run_dir, "sft", "sampled_skills", "pass@4")["after"] == 0
    else:
        assert ranked["n"] == 192
        assert ranked["ci95"] is not None


def test_the_record_tells_how_long_measuring_took(run_dir: Path) -> None:
    for stage in STAGES:
        info = _info(run_dir, stage)
        assert 0 < info["evaluation_s"] < info["duration_s"]


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_what_a_policy_stage_forgets_is_measured_on_the_documents_of_pretraining(stage: str, run_dir: Path) -> None:
    """The figure before SFT is the one that pretraining ended with."""
    loss = _result(run_dir, stage, "documents", "loss")
    assert loss["n"] == _result(run_dir, "pretrain", "documents", "loss")["n"]
    assert loss["ci95"] is not None
    if stage == "sft":
        assert loss["before"] == _result(run_dir, "pretrain", "documents", "loss")["after"] < loss["after"]


def test_dpo_widens_the_margin_of_held_out_pairs(run_dir: Path) -> None:
    margin = _result(run_dir, "dpo", "preferences", "margin")
    assert margin["after"] > margin["before"]
    assert margin["ci95"][0] > 0
    sides = {side: _result(run_dir, "dpo", "preferences", f"{side}_logp") for side in ("chosen", "rejected")}
    for when in ("before", "after"):
        assert margin[when] == pytest.approx(sides["chosen"][when] - sides["rejected"][when], rel=1e-6)


def test_grpo_weighs_a_verifiable_reward_and_the_reward_model_whose_scores_vary(run_dir: Path) -> None:
    logged = _metrics(run_dir, "grpo")
    assert len(logged) == STEPS["grpo"]
    for line in logged:
        assert line["reward_std"] > 0
        assert line["frac_reward_zero_std"] < 1
        assert line["rewards/tiny-reward/std"] > 0
        parts = line["rewards/made_strict/mean"] + 0.1 * line["rewards/tiny-reward/mean"]
        assert line["reward"] == pytest.approx(parts, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("stage", INPUT_OF)
def test_before_is_what_the_input_scored_after(stage: str, run_dir: Path) -> None:
    results = _info(run_dir, stage)["evaluation"]
    assert results
    inputs = {
        (result["task"], result["metric"]): result["after"]
        for result in _info(run_dir, INPUT_OF[stage])["evaluation"]
        if result["task"] != "reward_model"  # it judges answers that are sampled anew
    }
    for result in results:
        if (result["task"], result["metric"]) in inputs:
            assert result["before"] == inputs[result["task"], result["metric"]]
        if result["metric"] == "perplexity" or "reason" in result:
            continue  # e to the power of the loss, which has the interval; or nothing to compare
        low, high = result["ci95"]
        assert low <= result["after"] - result["before"] <= high
        assert result["n"] > 0


def test_the_same_seed_gives_the_same_weights_bit_for_bit(runs: Runs) -> None:
    whole, again, _ = runs
    assert whole != again
    for stage in ("pretrain", "sft"):
        assert _info(again, stage)["output"]["sha256"] == _info(whole, stage)["output"]["sha256"]
        assert weights_sha256(again / STAGES[stage]) == weights_sha256(whole / STAGES[stage])


def test_one_stage_runs_alone_from_an_earlier_runs_output(runs: Runs) -> None:
    record = _strict_json((runs.reward / "run_info.json").read_text(encoding="utf-8"))
    assert [(entry["name"], entry["status"]) for entry in record["stages"]] == [("reward", "passed")]
    assert [path.name for path in runs.reward.iterdir() if path.is_dir()] == ["tiny-reward"]
    info = _info(runs.reward, "reward")
    written = _info(runs.again, "sft")["output"]
    assert info["input"] == {"ref": 'StageOutput("sft")', "path": written["path"], "sha256": written["sha256"]}
    assert info["steps"] == 2  # of two values for one field the last holds


def test_the_report_shows_every_stage_and_answers_to_prompts_of_each_policy(run_dir: Path) -> None:
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000
    page = ElementTree.fromstring(text)
    of = {"x": "http://www.w3.org/1999/xhtml"}
    headings = ["".join(one.itertext()) for one in page.iterfind(".//x:h3", of)]
    for stage in STAGES:
        assert stage in headings  # its curves
    prompts = page.findall(".//x:p[@class='prompt']", of)
    assert len(prompts) == 5
    panels = page.findall(".//x:div[@class='panels answers']", of)
    answered = [["".join(one.itertext()).split()[0] for one in panel.iterfind(".//x:h3", of)] for panel in panels]
    assert answered == 5 * [[stage for stage in STAGES if stage != "reward"]]
    result = _result(run_dir, "sft", "skills", "strict")
    assert f"{result['before']:.3f} → {result['after']:.3f}" in text


def test_a_stage_whose_input_has_not_run_is_refused_and_nothing_is_created(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grpo = ["--recipe", "scratch_tiny", "--stages", "grpo"]
    assert main([*grpo, "--runs-dir", str(tmp_path / "new")]) == 2
    assert "has not run: add dpo to --stages" in " ".join(capsys.readouterr().err.split())
    runs_dir = runs.again.parent
    before = sorted(runs_dir.iterdir())
    assert main([*grpo, "--from", runs.again.name, "--runs-dir", str(runs_dir)]) == 2
    assert "that run has: pretrain, sft" in " ".join(capsys.readouterr().err.split())
    assert sorted(runs_dir.iterdir()) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("named", [True, False])
def test_a_finished_run_has_nothing_to_resume(named: bool, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    run_id = run_dir.name if named else "latest"
    assert main(["--resume", run_id, "--runs-dir", str(run_dir.parent)]) == 2
    assert "there is nothing to resume" in " ".join(capsys.readouterr().err.split())
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == files
