"""The run: its directory and record, what it refuses, how it fails, stops and goes on. Stages are stand-ins here."""

import errno
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline
from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain.record import reward_model_of
from kinds import Stage
from pipeline import Interrupted, Refused, StageFailed, run_pipeline
from pretrain import PretrainConfig
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils import secrets
from utils.files import weights_sha256
from utils.limits import Clock
from utils.locks import lock

RUN_INFO_KEYS = set(
    "run_id recipe argv from_run seed values limits verifier configs data status started_at finished_at stages versions"
    " git_commit code processes hardware".split()
)  # fmt: skip
STAGE_INFO_KEYS = set(
    "name kind status config input output data steps tokens duration_s peak_memory_bytes evaluation alarms".split()
)
TEMPLATE = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
RESULT = {"task": "t", "metric": "m", "n": 1, "before": 0.0, "after": 1.0, "ci95": [0.5, 1.5]}

Configs = dict[str, Any]


def _save_weights(directory: Path, value: float) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"weight": numpy.full(3, value, "float32")}, directory / "model.safetensors")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a directory of its own, which holds one model and one data file."""
    shutil.copytree(tokenizer_dir, tmp_path / "model")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300} | shape))
    _save_weights(tmp_path / "model", 1.0)
    rows = [{"prompt": f"What is {n}+{n}?", "completion": f" {2 * n}"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = [{"prompt": f"What is {n}+{n}?", "chosen": f" {2 * n}", "rejected": " 0"} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Stages:
    """Stand-ins for the stages: each appends its name to its input's weights, unless told to do something else."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.instead: dict[str, Callable[[], None]] = {}

    def train(self, stage: Stage, stage_dir: Path, clock: Clock) -> Path:
        """Take the place of the training."""
        self.trained.append(stage.label)
        if stage.label in self.instead:
            self.instead.pop(stage.label)()
        before = Path(stage.config.model_name, "model.safetensors").read_bytes()
        (stage_dir / "model.safetensors").write_bytes(before + b" " + stage.label.encode())
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(stage.config.model_name, name), stage_dir)
        return stage_dir


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Replace training and evaluation by stand-ins."""
    made = Stages()
    monkeypatch.setattr("chain.run_stage.train_within_memory", made.train)
    monkeypatch.setattr("evaluation.evaluate_stage", lambda *_, **__: [RESULT])
    return made


def _configs() -> Configs:
    return {
        "sft": TrainingConfig(model_name="model", output_dir="my-sft", dataset_name="rows.jsonl", eval_fraction=0.2),
        "dpo": TrainingConfig(
            model_name=StageOutput("sft"), output_dir="my-dpo", dataset_name="pairs.jsonl", eval_fraction=0.2
        ),
    }


def _fail(error: BaseException) -> Callable[[], None]:
    def instead() -> None:
        raise error

    return instead


def _info(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(), parse_constant=pytest.fail))


def _only_run(runs_dir: str = "runs") -> Path:
    (run,) = Path(runs_dir).resolve().iterdir()
    return run


def test_a_run_that_passes_leaves_every_file_and_key(stages: Stages) -> None:
    run = run_pipeline(_configs())
    assert re.fullmatch(r"\d{8}_\d{6}_[a-z0-9]{4}", run.name)
    assert run == Path("runs").resolve() / run.name
    info = _info(run / "run_info.json")
    assert set(info) == RUN_INFO_KEYS
    assert (info["status"], info["seed"], info["argv"]) == ("passed", 42, sys.argv)
    assert [(entry["name"], entry["status"], entry["output_dir"]) for entry in info["stages"]] == [
        ("sft", "passed", "my-sft"),
        ("dpo", "passed", "my-dpo"),
    ]
    for name in ("my-sft", "my-dpo"):
        files = {path.name for path in (run / name).iterdir()}
        wanted = (
            "stage_info.json training.log console_output.log training_events.log training_metrics.jsonl logs".split()
        )
        assert set(wanted) <= files
        stage = _info(run / name / "stage_info.json")
        assert set(stage) >= STAGE_INFO_KEYS
        assert (stage["status"], stage["evaluation"]) == ("passed", [RESULT])
        assert 0 <= stage["evaluation_s"] < stage["duration_s"]
        assert stage["config"]["dataset_name"] in ("rows.jsonl", "pairs.jsonl")
    console = (run / "console_output.log").read_text()
    assert "\x1b" not in console
    where, talk = console.splitlines()[-2:]
    assert where == f"The model of stage dpo: runs/{run.name}/my-dpo"
    assert talk.endswith(f"chat.py runs/{run.name}/my-dpo")
    for text in (run.name, "rows.jsonl", "starts from  output of stage sft", "sft passed", "Held-out results"):
        assert text in console


def test_each_stage_records_the_energy_that_was_counted_meanwhile(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_j = 0.0

    def use(joules: float) -> Callable[[], None]:
        def instead() -> None:
            nonlocal used_j
            used_j += joules

        return instead

    monkeypatch.setattr("watching.energy.gpu_joules", lambda: used_j)
    stages.instead = {"sft": use(3.0), "dpo": use(98.0)}
    run = run_pipeline(_configs())
    infos = [_info(run / name / "stage_info.json") for name in ("my-sft", "my-dpo")]
    assert [info["energy_j"] for info in infos] == [3.0, 98.0]
    assert infos[0]["energy_from"] == ["GPU"]
    assert " and 0.03 Wh: 2 of 2 stages passed" in (run / "report.html").read_text(encoding="utf-8")


def test_each_stage_starts_from_the_bytes_that_its_input_wrote(stages: Stages) -> None:
    run = run_pipeline(_configs())
    sft, dpo = (_info(run / name / "stage_info.json") for name in ("my-sft", "my-dpo"))
    first = Path("model/model.safetensors").read_bytes()
    assert (run / "my-dpo" / "model.safetensors").read_bytes() == first + b" sft dpo"
    assert sft["input"] == {
        "ref": "model",
        "path": str(Path("model").resolve()),
        "sha256": weights_sha256(Path("model")),
    }
    written = {name: sft["output"][name] for name in ("path", "sha256")}
    assert dpo["input"] == {"ref": 'StageOutput("sft")', **written}
    assert dpo["config"]["model_name"] == 'StageOutput("sft")'


def test_what_the_caller_passes_is_not_changed(stages: Stages) -> None:
    configs, extra = _configs(), GRPOExtraConfig(reward_func="exact_match")
    with pytest.raises(Refused, match="nothing reads it"):
        run_pipeline(configs, extra)
    run_pipeline(configs)
    run_pipeline(configs)
    assert configs == _configs()
    assert len(list(Path("runs").iterdir())) == 2


def test_a_failed_stage_is_recorded_and_later_ones_do_not_run(stages: Stages) -> None:
    stages.instead["sft"] = _fail(StageFailed("training changed no weight"))
    with pytest.raises(StageFailed, match="stage sft failed: training changed no weight"):
        run_pipeline(_configs())
    run = _only_run()
    info = _info(run / "run_info.json")
    assert info["status"] == "failed"
    assert info["finished_at"]
    assert [entry["status"] for entry in info["stages"]] == ["failed", "pending"]
    stage = _info(run / "my-sft" / "stage_info.json")
    assert set(stage) >= STAGE_INFO_KEYS
    assert (stage["status"], stage["error"]) == ("failed", "training changed no weight")
    assert "| STAGE_FAILED | training changed no weight" in (run / "my-sft" / "training_events.log").read_text()
    for log in (run / "console_output.log", run / "my-sft" / "console_output.log"):
        assert "training changed no weight" in log.read_text()
    assert not (run / "my-dpo").exists()


def test_an_unforeseen_error_fails_the_stage_and_leaves_its_traceback(stages: Stages) -> None:
    stages.instead["dpo"] = _fail(ZeroDivisionError("by zero"))
    with pytest.raises(StageFailed, match="ZeroDivisionError: by zero"):
        run_pipeline(_configs())
    run = _only_run()
    assert "Traceback" in (run / "my-dpo" / "training.log").read_text()
    assert [entry["status"] for entry in _info(run / "run_info.json")["stages"]] == ["passed", "failed"]


@pytest.mark.parametrize(
    ("ends", "status"), [(None, "passed"), (ValueError("boom"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_run_leaves_its_report_however_it_ends(
    ends: BaseException | None, status: str, stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    if ends is not None:
        stages.instead["dpo"] = _fail(ends)
    with pytest.raises((StageFailed, Interrupted)) if ends else nullcontext():
        run_pipeline(_configs())
    run_dir = _only_run()
    assert f'class="badge is-{status}"' in (run_dir / "report.html").read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert f"{status.capitalize()} after" in said
    assert f"Report: {run_dir.relative_to(Path.cwd()) / 'report.html'}" in said


def test_a_report_that_cannot_be_written_fails_no_run(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evaluation.report.page.page", lambda _: 1 / 0)
    run_dir = run_pipeline(_configs())
    assert json.loads((run_dir / "run_info.json").read_text(encoding="utf-8"))["status"] == "passed"
    said = " ".join("".join(capsys.readouterr()).split())
    assert said.count("the report of the run could not be written: ZeroDivisionError: division by zero") == 1


def test_a_failing_measurement_fails_the_stage(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.evaluate_stage", lambda *_, **__: _fail(RuntimeError("cannot score"))())
    with pytest.raises(StageFailed, match="cannot score"):
        run_pipeline(_configs())


def test_the_trainers_model_is_freed_before_it_is_measured(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __init__(self) -> None:
            self.forward = lambda: self  # a cycle, as accelerate makes one

    alive: list[weakref.ref[Model]] = []
    found: list[Model | None] = []
    stages.instead["sft"] = lambda: alive.append(weakref.ref(Model()))

    def measure(*_: Any, **__: Any) -> list[dict[str, Any]]:
        found.append(alive[0]())
        return [RESULT]

    monkeypatch.setattr("evaluation.evaluate_stage", measure)
    gc.disable()
    try:
        run_pipeline(_sft())
    finally:
        gc.enable()
    assert found == [None]


def _sft(**changes: Any) -> Configs:
    return {"sft": replace(_configs()["sft"], **changes)}


REFUSALS: dict[str, tuple[Callable[[], Configs], str]] = {
    "no stages": (dict, "has no stages"),
    "unknown kind": (lambda: {"sfd": _configs()["sft"]}, "did you mean 'sft'"),
    "wrong class": (lambda: {"sft": PretrainConfig(output_dir="x", dataset_name="y")}, "must be a TrainingConfig"),
    "pretrain later": (
        lambda: _configs() | {"pretrain": PretrainConfig(output_dir="x", dataset_name="rows.jsonl")},
        "pretrain: must come before sft, since it starts from nothing",
    ),
    "unknown input": (lambda: _sft(model_name=StageOutput("pretrian")), "the recipe has no such stage"),
    "itself as input": (lambda: _sft(model_name=StageOutput("sft")), "does not run before"),
    "reward model as policy": (
        lambda: {
            "reward": replace(_configs()["sft"], dataset_name="pairs.jsonl", output_dir="r"),
            "dpo": replace(_configs()["dpo"], model_name=StageOutput("reward")),
        },
        "not a reward model",
    ),
    "output_dir twice": (
        lambda: {**_configs(), "dpo": replace(_configs()["dpo"], output_dir="My-SFT")},
        "is in use by sft",
    ),
    "output_dir a secret": (lambda: _sft(output_dir="sft-hf_" + "aBcD1234" * 4), "is, or looks like, a secret"),
    "output_dir outside": (lambda: _sft(output_dir="../elsewhere"), "must be the plain name"),
    "type of a field": (lambda: _sft(learning_rate="fast"), "learning_rate = 'fast': must be float"),
    "range of a field": (lambda: _sft(max_steps=0), "max_steps = 0: must be 1 or more"),
    "field of another trainer": (
        lambda: {**_configs(), "dpo": replace(_configs()["dpo"], packing=True)},
        "dpo has no such option",
    ),
    "type in pretraining": (
        lambda: {"pretrain": PretrainConfig(output_dir="x", dataset_name="rows.jsonl", max_steps="3")},  # type: ignore[arg-type]
        "max_steps = '3': must be int",
    ),
    "range in pretraining": (
        lambda: {"pretrain": PretrainConfig(output_dir="x", dataset_name="rows.jsonl", max_steps=0, hidden_size=101)},
        "max_steps = 0: must be above 0.*hidden_size = 101: must be a multiple",
    ),
    "no such model": (lambda: _sft(model_name="./nowhere"), "there is no directory ./nowhere"),
    "no model inside": (lambda: _sft(model_name="."), "is no model's directory"),
    "a file as model": (lambda: _sft(model_name="rows.jsonl"), "rows.jsonl is a file: name the directory"),
    "a model's name without an owner": (
        lambda: _sft(model_name="nosuchmodel"),
        r"'nosuchmodel' \(no directory here has this name; a Hub id is owner/name, but for old ones like gpt2\)",
    ),
    "Hub model, offline": (
        lambda: _sft(model_name="no/such-model"),
        r"HF_HUB_OFFLINE.*'no/such-model'.*--download",
    ),
    "Hub data, offline": (
        lambda: _sft(dataset_name="no/such-data"),
        r"HF_HUB_OFFLINE.*'no/such-data'.*--download",
    ),
    "no such file": (lambda: _sft(dataset_name="rowz.jsonl"), "did you mean 'rows.jsonl'"),
    "made data without `made:`": (
        lambda: _sft(dataset_name="conversations"),
        "did you mean 'made:conversations'",
    ),
    "no such made data": (lambda: _sft(dataset_name="made:conversation"), "did you mean 'made:conversations'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_request_that_cannot_be_served_creates_nothing(case: str, stages: Stages) -> None:
    before = sorted(Path.cwd().rglob("*"))
    configs, message = REFUSALS[case]
    with pytest.raises(Refused, match=re.compile(message, re.DOTALL)):
        run_pipeline(configs())
    assert sorted(Path.cwd().rglob("*")) == before
    assert stages.trained == []


def test_malformed_and_empty_data_are_refused_before_anything_starts(stages: Stages) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": ')
    with pytest.raises(Refused, match="line 2"):
        run_pipeline(_configs())
    Path("rows.jsonl").write_text("")
    with pytest.raises(Refused, match="no rows"):
        run_pipeline(_configs())
    assert not Path("runs").exists()


def test_all_problems_of_a_recipe_are_told_at_once() -> None:
    wrong = {
        "sft": replace(_configs()["sft"], learning_rate=-1.0, output_dir="a/b"),
        "dpo": replace(_configs()["dpo"], model_name=StageOutput("stf"), max_steps=0),
    }
    with pytest.raises(Refused) as refused:
        run_pipeline(wrong)
    for problem in ("learning_rate = -1.0", "output_dir = 'a/b'", 'StageOutput("stf")', "max_steps = 0"):
        assert problem in str(refused.value)


def test_an_unknown_tracker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT_TO", "wanddb")
    with pytest.raises(Refused, match="did you mean 'wandb'"):
        run_pipeline(_configs())


def test_some_stages_take_their_inputs_from_an_earlier_run(stages: Stages) -> None:
    first = run_pipeline(_sft())
    second = run_pipeline(_configs(), stages=["dpo"], from_run=first.name)
    assert [entry["name"] for entry in _info(second / "run_info.json")["stages"]] == ["dpo"]
    assert _info(second / "my-dpo" / "stage_info.json")["input"]["path"] == str(first / "my-sft")


def test_a_stage_without_its_input_is_refused(stages: Stages) -> None:
    with pytest.raises(Refused, match=r"has not run: add sft to --stages, or name a run that has it with --from"):
        run_pipeline(_configs(), stages=["dpo"])
    with pytest.raises(Refused, match=r"--stages dop.*did you mean 'dpo'"):
        run_pipeline(_configs(), stages=["dop"])
    with pytest.raises(Refused, match="no run 'nothing'"):
        run_pipeline(_configs(), stages=["dpo"], from_run="nothing")
    assert not Path("runs").exists()


def test_an_earlier_run_whose_weights_have_changed_is_refused(stages: Stages) -> None:
    first = run_pipeline(_sft())
    (first / "my-sft" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(Refused, match="holds other weights"):
        run_pipeline(_configs(), stages=["dpo"], from_run=first.name)


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja"])
def test_an_earlier_run_whose_model_is_read_otherwise_now_is_refused(name: str, stages: Stages) -> None:
    first = run_pipeline(_sft())
    (first / "my-sft" / name).write_text("{}")
    with pytest.raises(Refused, match=f"holds another {name} than it wrote"):
        run_pipeline(_configs(), stages=["dpo"], from_run=first.name)


def test_only_the_outputs_that_are_needed_must_still_be_there(stages: Stages) -> None:
    first = run_pipeline(_configs())
    (first / "my-dpo" / "model.safetensors").write_bytes(b"other")
    run_pipeline(_configs(), stages=["dpo"], from_run=first.name)
    (first / "my-dpo" / "model.safetensors").unlink()
    run_pipeline(_configs(), stages=["dpo"], from_run=first.name)


def test_two_revisions_of_a_model_are_two_models(stages: Stages, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = in_tmp / "hub/models--some--model"
    for number, revision in enumerate(("old", "new"), 1):
        shutil.copytree("model", cached / "snapshots" / revision)
        _save_weights(cached / "snapshots" / revision, float(number))
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / revision).write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached.parent))
    configs = {kind: replace(config, model_name="some/model") for kind, config in _configs().items()}
    run = run_pipeline({"sft": replace(configs["sft"], revision="old"), "dpo": replace(configs["dpo"], revision="new")})
    for name, revision in (("my-sft", "old"), ("my-dpo", "new")):
        assert _info(run / name / "stage_info.json")["input"]["path"] == str(cached / "snapshots" / revision)


def test_sigterm_interrupts_and_resume_goes_on(stages: Stages) -> None:
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    stages.instead["dpo"] = terminate
    with pytest.raises(Interrupted, match=r"--resume \d{8}_\d{6}_[a-z0-9]{4}"):
        run_pipeline(_configs())
    run = _only_run()
    info = _info(run / "run_info.json")
    assert info["status"] == "interrupted"
    assert [entry["status"] for entry in info["stages"]] == ["passed", "interrupted"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    stages.trained.clear()
    assert run_pipeline(_configs(), resume="latest") == run
    assert stages.trained == ["dpo"]
    assert _info(run / "run_info.json")["status"] == "passed"
    assert "--resume" in (run / "console_output.log").read_text()


def test_a_run_whose_time_is_over_starts_no_further_stage_and_can_be_resumed(stages: Stages) -> None:
    stages.instead["sft"] = lambda: time.sleep(0.5)
    with pytest.raises(Interrupted, match=r"--max-hours 0.0001 are over before dpo. Continue with:\n.*--resume"):
        run_pipeline(_configs(), max_hours=0.0001)
    info = _info(_only_run() / "run_info.json")
    assert info["status"] == "interrupted"
    assert [entry["status"] for entry in info["stages"]] == ["passed", "pending"]
    run_pipeline(_configs(), resume="latest", max_hours=1)
    assert _info(_only_run() / "run_info.json")["status"] == "passed"


def test_why_a_stage_stopped_is_told_with_how_to_go_on(stages: Stages) -> None:
    stages.instead["dpo"] = _fail(Interrupted("stopped for time: too slow"))
    with pytest.raises(Interrupted, match=r"stopped for time: too slow. Continue with:\n.*--resume"):
        run_pipeline(_configs())
    assert "stopped for time: too slow" in (_only_run() / "console_output.log").read_text()
    events = (_only_run() / "my-dpo" / "training_events.log").read_text()
    assert events.endswith("| STAGE_INTERRUPTED | stopped for time: too slow\n")


def test_an_interrupted_stage_records_what_it_had_done(stages: Stages) -> None:
    def interrupt() -> None:
        StageLog(_only_run() / "my-sft").metrics(20, 0.5, {"loss": 1.0, "num_tokens": 640})
        raise KeyboardInterrupt

    stages.instead["sft"] = interrupt
    with pytest.raises(Interrupted):
        run_pipeline(_sft())
    info = _info(_only_run() / "my-sft" / "stage_info.json")
    assert (info["status"], info["steps"], info["tokens"]) == ("interrupted", 20, 640)
    events = (_only_run() / "my-sft" / "training_events.log").read_text()
    assert events.endswith("| STAGE_INTERRUPTED | step 20 was the last that was logged\n")


def test_a_stage_that_had_trained_is_only_measured_at_resume(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("evaluation.evaluate_stage", lambda *_, **__: _fail(KeyboardInterrupt())())
        with pytest.raises(Interrupted):
            run_pipeline(_sft())
    log = StageLog(_only_run() / "my-sft")
    log.info(data=log.read_info()["data"] | {"lost_to_max_length": {"too long": 3}})  # as training records it
    run_pipeline(_sft(), resume="latest")
    assert stages.trained == ["sft"]
    assert log.read_info()["evaluation"] == [RESULT]
    assert log.read_info()["data"]["lost_to_max_length"] == {"too long": 3}


def _interrupted(stages: Stages) -> Path:
    stages.instead["dpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs())
    return _only_run()


def test_a_stage_that_passes_gets_a_card_and_a_resume_writes_one_that_is_missing(stages: Stages) -> None:
    run = _interrupted(stages)
    card, mine = run / "my-sft" / "README.md", run / "my-dpo" / "README.md"
    first = card.read_text()
    assert "of stage sft of run" in first
    assert "trained with sixgig" in first
    assert not mine.exists()
    card.unlink()
    mine.write_text("mine")
    run_pipeline(_configs(), resume=run.name)
    assert card.read_text() == first
    assert mine.read_text() == "mine"


def test_a_card_that_cannot_be_written_fails_no_run(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evaluation.card.card_of", lambda *_: 1 / 0)
    run = run_pipeline(_sft())
    assert _info(run / "run_info.json")["status"] == "passed"
    assert capsys.readouterr().out.count("its model card could not be written") == 1


def test_resume_refuses_a_changed_recipe_and_force_records_it(stages: Stages) -> None:
    run = _interrupted(stages)
    changed = {**_configs(), "dpo": replace(_configs()["dpo"], learning_rate=1e-5)}
    with pytest.raises(Refused, match=r"dpo: learning_rate was None, now 1e-05"):
        run_pipeline(changed, resume=run.name)
    run_pipeline(changed, resume=run.name, force=True)
    record = _info(run / "run_info.json")
    assert record["forced"] == ["dpo: learning_rate was None, now 1e-05"]
    assert record["configs"]["dpo"]["learning_rate"] == 1e-5


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"versions": {"torch": "1.0"}}, "torch was 1.0, now "),
        (
            {"code": {"data/layouts.py": "0", "data/gone.py": "0"}},
            "code of sixgig has changed: algorithms/",
        ),
        ({"processes": 2}, "the run had 2 processes, now 1"),
    ],
)
def test_resume_refuses_other_libraries_code_and_processes_and_force_goes_on_on_the_record(
    recorded: dict[str, Any], told: str, stages: Stages
) -> None:
    run = _interrupted(stages)
    record = _info(run / "run_info.json")
    here = {key: record[key] for key in ("versions", "code", "processes")}
    assert here["code"]["algorithms/dpo.py"]
    changed = {key: record[key] | value if key == "versions" else value for key, value in recorded.items()}
    (run / "run_info.json").write_text(json.dumps(record | changed))
    (run / "my-dpo" / "checkpoint-7").mkdir()
    with pytest.raises(Refused, match=re.escape(told)):
        run_pipeline(_configs(), resume=run.name)
    run_pipeline(_configs(), resume=run.name, force=True)
    record = _info(run / "run_info.json")
    assert record["forced"][0].startswith(told)
    assert {key: record[key] for key in here} == here
    assert (run / "my-dpo" / "checkpoint-7").exists()  # it went on, and did not start over


def test_a_file_that_is_gone_is_said_to_be_made_anew_only_if_it_was_prepared(stages: Stages) -> None:
    from data.corpus.cache import root

    for gone, said in (
        (root() / "documents/x.bin", "prepares what was prepared anew"),
        (Path("mine.txt"), "traceback"),
    ):
        stages.instead["sft"] = _fail(FileNotFoundError(2, "No such file or directory", str(gone)))
        with pytest.raises(StageFailed, match=said):
            run_pipeline(_configs())


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "make room"),
        (errno.EROFS, "let it be written"),
        (errno.EACCES, "let it be written"),
    ],
)
def test_a_stage_that_cannot_write_fails_with_the_path_and_the_way_out(number: int, way: str, stages: Stages) -> None:
    stages.instead["sft"] = _fail(OSError(number, os.strerror(number), "runs/x"))
    with pytest.raises(
        StageFailed, match=rf"'runs/x'\. What was saved before is whole: {way}, and go on with --resume"
    ):
        run_pipeline(_sft())


def test_a_reward_model_whose_weights_are_gone_judges_nothing(tmp_path: Path) -> None:
    run = RunInfo(tmp_path)
    entries = [{"name": name, "kind": "reward", "output_dir": name, "status": "passed"} for name in ("a", "b")]
    run.set(status="passed", stages=entries)
    assert reward_model_of(run) is None
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _save_weights(tmp_path / name, 1.0)
    assert reward_model_of(run) == tmp_path / "b"
    (tmp_path / "b/model.safetensors").unlink()
    assert reward_model_of(run) == tmp_path / "a"


def test_a_reward_function_with_another_body_is_another_reward() -> None:
    from chain.record import source_hash

    def one(completions: list[Any], **_: Any) -> list[float]:
        return [1.0 for _ in completions]

    def two(completions: list[Any], **_: Any) -> list[float]:
        return [2.0 for _ in completions]

    assert source_hash(one) == source_hash(one) != source_hash(two)
    assert source_hash("accuracy") is source_hash(StageOutput("reward")) is None


def test_resume_refuses_a_change_of_a_stage_that_has_not_begun(stages: Stages) -> None:
    stages.instead["sft"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs())
    with pytest.raises(Refused, match="dpo: learning_rate was None, now 1e-05"):
        run_pipeline({**_configs(), "dpo": replace(_configs()["dpo"], learning_rate=1e-5)}, resume="latest")


def test_resume_refuses_other_rows_of_a_stage_that_has_not_begun(stages: Stages) -> None:
    stages.instead["sft"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs())
    whole = Path("pairs.jsonl").read_text()
    Path("pairs.jsonl").write_text(whole + '\n{"prompt": "What is 1+0?", "chosen": " 1", "rejected": " 0"}')
    told = "dpo: the rows of pairs.jsonl are not those that the run began with"
    with pytest.raises(Refused, match=told):
        run_pipeline(_configs(), resume="latest")
    stages.instead["dpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs(), resume="latest", force=True)
    assert _info(_only_run() / "run_info.json")["forced"] == [told]
    stages.instead["dpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs(), resume="latest")  # what was accepted once is not asked again
    Path("pairs.jsonl").write_text(whole)
    with pytest.raises(Refused, match=r"dpo: the rows of pairs\.jsonl are not those that"):
        run_pipeline(_configs(), resume="latest")


def test_other_rows_of_a_stage_that_has_passed_are_accepted_once(stages: Stages) -> None:
    run = _interrupted(stages)
    with Path("rows.jsonl").open("a") as file:
        file.write('\n{"prompt": "What is 1+0?", "completion": " 1"}')
    with pytest.raises(Refused, match=r"sft: the rows of rows\.jsonl are not those that it began with"):
        run_pipeline(_configs(), resume=run.name)
    stages.instead["dpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs(), resume=run.name, force=True)
    run_pipeline(_configs(), resume=run.name)
    assert stages.trained == ["sft", "dpo", "dpo", "dpo"]


def test_a_stopped_stage_that_has_changed_starts_over_and_a_passed_one_is_kept(stages: Stages) -> None:
    run = _interrupted(stages)
    (run / "my-dpo" / "checkpoint-7").mkdir()
    sft = (run / "my-sft" / "stage_info.json").read_bytes()
    stages.trained.clear()
    changed = {kind: replace(config, learning_rate=1e-5) for kind, config in _configs().items()}
    run_pipeline(changed, resume=run.name, force=True)
    assert stages.trained == ["dpo"]
    assert (run / "my-sft" / "stage_info.json").read_bytes() == sft
    assert not (run / "my-dpo" / "checkpoint-7").exists()
    assert (run / "my-dpo.before-1" / "checkpoint-7").exists()
    assert "RESUME" not in (run / "my-dpo" / "training_events.log").read_text()
    said = " ".join((run / "console_output.log").read_text().split())
    assert "dpo starts over, since it has changed; what it had is kept in my-dpo.before-1" in said
    assert "sft has passed and is kept as it is" in said


def test_a_stage_stopped_while_measured_trains_anew_if_it_has_changed(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("evaluation.evaluate_stage", lambda *_, **__: _fail(KeyboardInterrupt())())
        with pytest.raises(Interrupted):
            run_pipeline(_sft())
    run_pipeline(_sft(learning_rate=1e-5), resume="latest", force=True)
    assert stages.trained == ["sft", "sft"]


def test_resume_refuses_other_rows_and_another_input(stages: Stages) -> None:
    run = _interrupted(stages)
    with Path("pairs.jsonl").open("a") as file:
        file.write('\n{"prompt": "What is 1+0?", "chosen": " 1", "rejected": " 0"}')
    with pytest.raises(Refused, match=r"dpo: the rows of pairs\.jsonl are not those that it began with"):
        run_pipeline(_configs(), resume=run.name)
    run_pipeline(_configs(), resume=run.name, force=True)
    assert stages.trained == ["sft", "dpo", "dpo"]

    stages.instead["sft"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_sft())
    _save_weights(Path("model"), 2.0)
    with pytest.raises(Refused, match="sft: the weights of model are not those that it began with"):
        run_pipeline(_sft(), resume="latest")


def test_resume_refuses_another_reward_model(stages: Stages) -> None:
    for name in ("policy", "judge"):
        shutil.copytree("model", name)
        settings = Path(name, "tokenizer_config.json")
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    Path("judge/config.json").write_text('{"model_type": "llama", "num_labels": 1}')
    grpo = TrainingConfig(model_name="policy", output_dir="g", dataset_name="rows.jsonl", eval_fraction=0.2)
    extra = GRPOExtraConfig(reward_func="judge")
    stages.instead["grpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline({"grpo": grpo}, extra)
    judged_by = _info(_only_run() / "g" / "stage_info.json")["reward_models"]
    assert judged_by == {"judge": weights_sha256(Path("judge"))}
    _save_weights(Path("judge"), 2.0)
    with pytest.raises(Refused, match="grpo: the weights of judge are not those that it began with"):
        run_pipeline({"grpo": grpo}, extra, resume="latest")
    _save_weights(Path("judge"), 1.0)
    run_pipeline({"grpo": grpo}, extra, resume="latest")


def test_a_resumed_run_has_its_own_stages_and_inputs(stages: Stages) -> None:
    first = run_pipeline(_sft())
    stages.instead["dpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_pipeline(_configs(), stages=["dpo"], from_run=first.name)
    with pytest.raises(Refused, match="leave out stages and from_run"):
        run_pipeline(_configs(), stages=["dpo"], resume="latest")
    with pytest.raises(Refused, match="--stages dpo: the recipe has no such stage"):
        run_pipeline(_sft(), resume="latest", force=True)
    moved = {**_configs(), "dpo": replace(_configs()["dpo"], output_dir="moved")}
    with pytest.raises(Refused, match="a run's directories keep their names"):
        run_pipeline(moved, resume="latest", force=True)
    second = run_pipeline(_configs(), resume="latest")
    assert _info(second / "run_info.json")["from_run"] == first.name
    assert stages.trained == ["sft", "dpo", "dpo"]


def test_what_set_changes_at_a_resume_is_still_set_at_the_next(stages: Stages, in_tmp: Path) -> None:
    import run_all

    (in_tmp / "mine.py").write_text(
        "from algorithms import TrainingConfig\nconfigs = {'sft': TrainingConfig(model_name='model',"
        " output_dir='x', dataset_name='rows.jsonl', eval_fraction=0.2)}\n"
    )
    for argv in (["--recipe", "mine.py", "--seed", "7"], ["--resume", "latest", "--set", "sft.max_steps=3", "--force"]):
        stages.instead["sft"] = _fail(KeyboardInterrupt())
        assert run_all.main(argv) == 130
    assert run_all.main(["--resume", "latest"]) == 0
    record = _info(_only_run() / "run_info.json")
    assert record["values"] == ["sft.seed=7", "sft.max_steps=3"]
    assert record["seed"] == 7
    assert _info(_only_run() / "x" / "stage_info.json")["config"]["max_steps"] == 3


def test_resume_refuses_altered_weights_a_live_run_and_a_finished_one(stages: Stages) -> None:
    run = _interrupted(stages)
    with lock(run), pytest.raises(Refused, match="is still running"):
        run_pipeline(_configs(), resume=run.name)
    good = (run / "my-sft" / "model.safetensors").read_bytes()
    (run / "my-sft" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(Refused, match="holds other weights"):
        run_pipeline(_configs(), resume=run.name)
    (run / "my-sft" / "model.safetensors").write_bytes(good)
    run_pipeline(_configs(), resume=run.name)
    with pytest.raises(Refused, match="has passed: there is nothing to resume"):
        run_pipeline(_configs(), resume=run.name)


def test_a_stage_does_not_write_through_a_link_out_of_its_run(stages: Stages, in_tmp: Path) -> None:
    elsewhere = in_tmp / "elsewhere"
    elsewhere.mkdir()

    def link() -> None:
        (_only_run() / "my-dpo").symlink_to(elsewhere)

    stages.instead["sft"] = link
    with pytest.raises(Refused, match="my-dpo is a link to "):
        run_pipeline(_configs())
    assert list(elsewhere.iterdir()) == []
    assert _info(_only_run() / "run_info.json")["status"] == "failed"
    with pytest.raises(Refused, match="my-dpo is a link to "):
        run_pipeline(_configs(), resume="latest")
    (_only_run() / "my-dpo").unlink()
    run_pipeline(_configs(), resume="latest")


def test_a_secret_in_a_recipe_is_on_no_record_and_no_change_at_resume(stages: Stages) -> None:
    secret = "hf_" + "aBcD1234" * 4
    configs = _configs()
    configs["dpo"] = replace(configs["dpo"], trainer_args={"run_name": secret})
    stages.instead["dpo"] = _fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(configs)
    assert _info(_only_run() / "run_info.json")["configs"]["dpo"]["trainer_args"] == {"run_name": "***"}
    run_pipeline(configs, resume="latest")
    assert not [path for path in _only_run().rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_path_that_a_record_hides_is_still_the_path(
    stages: Stages, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "the-runs")
    secrets._of_environment.cache_clear()
    sources: list[Path] = []

    def evaluate(_kind: str, source: Path, *_: object, **__: object) -> list[dict[str, Any]]:
        sources.append(source)
        return [RESULT]

    monkeypatch.setattr("evaluation.evaluate_stage", evaluate)
    try:
        run = run_pipeline(_configs(), runs_dir="the-runs")
    finally:
        secrets._of_environment.cache_clear()
    assert sources == [in_tmp / "model", run / "my-sft"]
    assert "the-runs" not in (run / "my-dpo" / "stage_info.json").read_text()


def test_the_traceback_of_a_stage_has_no_secret(stages: Stages) -> None:
    stages.instead["sft"] = _fail(RuntimeError("https://ann:s3cret@host says\n2026-01-01 ERROR us: no"))
    with pytest.raises(StageFailed, match=r"s3cret"):  # what is raised is the caller's
        run_pipeline(_configs())
    stage_dir = _only_run() / "my-sft"
    written = {path.name: path.read_text(encoding="utf-8") for path in stage_dir.iterdir() if path.is_file()}
    assert not [name for name in written if "s3cret" in written[name]]
    assert "RuntimeError: https://***@host says\n    2026-01-01 ERROR us: no\n" in written["training.log"]
    assert "s3cret" not in (_only_run() / "console_output.log").read_text()


def test_resume_of_an_unknown_run_is_refused_with_the_nearest(stages: Stages) -> None:
    run = _interrupted(stages)
    with pytest.raises(Refused, match=f"did you mean '{run.name}'"):
        run_pipeline(_configs(), resume=run.name[:-1])
    with pytest.raises(Refused, match="no unfinished run"):
        run_pipeline(_configs(), resume="latest", runs_dir="elsewhere")


def test_seed_of_a_run_is_null_where_stages_differ(stages: Stages) -> None:
    run = run_pipeline({**_configs(), "dpo": replace(_configs()["dpo"], seed=1)})
    assert _info(run / "run_info.json")["seed"] is None


@pytest.mark.parametrize(("runs_dir", "message"), [("rows.jsonl", "is a file"), ("", "is empty")])
def test_a_runs_dir_that_cannot_be_used_is_refused_before_data_are_fetched(
    runs_dir: str, message: str, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(Refused, match=message):
        run_pipeline(_configs(), runs_dir=runs_dir)


def test_a_recipe_run_as_a_script_from_anywhere_ends_with_a_message(in_tmp: Path) -> None:
    recipe = in_tmp / "mine-0.5.py"
    recipe.write_text(
        "from algorithms import TrainingConfig\nfrom pipeline import run_pipeline\n"
        "configs = {'sft': TrainingConfig(model_name='model', output_dir='x', dataset_name='nowhere.jsonl')}\n"
        "if __name__ == '__main__':\n    run_pipeline(configs)\n"
    )
    done = subprocess.run([sys.executable, str(recipe)], cwd=in_tmp, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no data set 'nowhere.jsonl'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (in_tmp / "runs").exists()


def test_stage_records_survive_a_second_attempt(stages: Stages) -> None:
    stages.instead["sft"] = _fail(StageFailed("first try"))
    with pytest.raises(StageFailed):
        run_pipeline(_sft())
    run_pipeline(_sft(), resume="latest")
    record = StageLog(_only_run() / "my-sft").read_info()
    assert (record["status"], record["error"]) == ("passed", None)
    events = (_only_run() / "my-sft" / "training_events.log").read_text()
    assert "STAGE_FAILED | first try" in events
