"""Records with a wrong value, each key in turn: who asks for that run is refused in one message, `latest` is not."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import chat
import evaluation.__main__
import evaluation.evaluate_checkpoint
import run_all
from records.schema import RUN, STAGE, Shape, misfits
from records.stage_log import StageLog
from tests.test_fuzz import NEW
from tests.test_pipeline import RESULT, Stages, in_tmp, stages

__all__ = ["in_tmp", "stages"]  # fixtures

OLDER, BROKEN = "20260101_000000_aaaa", "20260102_000000_bbbb"
RECIPE = """
from algorithms import StageOutput, TrainingConfig

configs = {
    "sft": TrainingConfig(model_name="model", output_dir="my-sft", dataset_name="rows.jsonl", eval_fraction=0.2),
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="my-dpo", dataset_name="pairs.jsonl", eval_fraction=0.2
    ),
}
"""
GATE = {"metric": "t m", "rule": "at_least", "value": 0.1, "failed": False, "n": 1, "before": 0.0, "after": 1.0}
MORE: dict[str, Any] = {
    "gates": [GATE | {"ci95": [0.5, 1.5], "bounds95": [0.6, 1.4], "decision": "better", "reason": ""}],
    "alarms": [{"step": 1, "name": "loss_spike", "message": "it rose"}],
    "out_of_memory": [{"step": 1, "per_device_train_batch_size": [4, 2]}],
    "forecast": {"per_device_train_batch_size": 2, "reserved_bytes": 1},
    "evaluation": [RESULT | {"reason": "none"}],
    "energy_from": ["GPU"],
}
"""What the stand-ins of stages do not record."""
FROM = ("--recipe", "mine.py", "--stages", "dpo", "--from")
COMMANDS: dict[str, Callable[[str], int]] = {
    "resume": lambda run: run_all.main(["--resume", run]),
    "from": lambda run: run_all.main([*FROM, run]),
    "chat": lambda run: chat.main([run, "--prompt", "a"]),
    "report": lambda run: evaluation.__main__.main(["report", run]),
    "compare": lambda run: evaluation.__main__.main(["compare", OLDER, run]),
    "run": lambda run: evaluation.__main__.main(["run", run, "--tasks", "demonstrations"]),
}
FILES: dict[str, Shape] = {"run_info.json": RUN, "my-sft/stage_info.json": STAGE}
MISSING = object()
OTHERS: tuple[Any, ...] = (None, 3, -1.5, "x", [], {}, [[1], [2]], [3], {"a": [1]}, True, MISSING)


def keys(value: Any, shape: Shape) -> Iterator[list[Any]]:
    """Yield the way to each part of a record that its schema names; of a list, or of any names, to the first."""
    shape = next((one for one in shape if isinstance(one, dict | list)), None) if isinstance(shape, tuple) else shape
    named = list(value) if isinstance(value, dict) and isinstance(shape, dict) else []
    named = named[:1] if isinstance(shape, dict) and str in shape else named
    ways = [(name, shape.get(name, shape.get(f"{name}?", shape.get(str)))) for name in named]
    ways += [(0, shape[0])] if isinstance(value, list) and isinstance(shape, list) and value else []
    for name, inside in ways:
        if inside is not None:
            yield [name]
            yield from ([name, *rest] for rest in keys(value[name], inside))


def exchanged(record: dict[str, Any], shape: Shape, turn: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the record with the value of each key exchanged for each of `OTHERS`, or for one of them in `turn`."""
    for number, (*way, last) in enumerate(keys(record, shape)):
        for other in OTHERS if turn is None else [OTHERS[(number + turn) % len(OTHERS)]]:
            changed: Any = copy.deepcopy(record)
            holder = changed
            for name in way:
                holder = holder[name]
            del holder[last]
            if other is not MISSING:
                holder.insert(last, other) if isinstance(holder, list) else holder.update({last: other})
            if changed != record:
                yield f"{[*way, last]} = {other}", changed


@pytest.fixture
def runs(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped in its second stage, in the directory of runs also under an older name."""
    Path("mine.py").write_text(RECIPE)
    monkeypatch.setattr(chat, "load", lambda checkpoint, mode, system: (checkpoint.chats, checkpoint.status))
    monkeypatch.setattr(chat, "converse", lambda speakers, args: None)
    for name in ("refuse_unfit", "results_of"):
        monkeypatch.setattr(evaluation.evaluate_checkpoint, name, lambda found, tasks: [])

    def stop() -> None:
        raise KeyboardInterrupt

    stages.instead["dpo"] = stop
    assert run_all.main(["--recipe", "mine.py"]) == 130
    (made,) = Path("runs").iterdir()
    for name in (OLDER, BROKEN):
        shutil.copytree(made, f"sound/{name}")
        StageLog(Path(f"sound/{name}/my-sft")).info(**MORE)
    shutil.rmtree("runs")
    shutil.copytree("sound", "runs")
    return Path("runs")


def afresh(runs: Path) -> None:
    shutil.rmtree(runs)
    shutil.copytree("sound", runs)


def there() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_record_with_a_wrong_value_is_refused_by_name_and_nothing_is_written(
    command: str, file: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[command](BROKEN) == 0
    afresh(runs)
    record, refused = json.loads((runs / BROKEN / file).read_text()), 0
    turn = None if NEW in os.environ else list(COMMANDS).index(command)
    for case, changed in exchanged(record, FILES[file], turn):
        (runs / BROKEN / file).write_text(json.dumps(changed))
        before = there()
        capsys.readouterr()
        code, said = COMMANDS[command](BROKEN), capsys.readouterr().err
        assert "Traceback" not in said, case
        if any(misfits(changed, FILES[file])):
            refused += 1
            assert code == 2, case
            assert f"{BROKEN}/{file} is no sound record: " in said, case
            assert there() == before, case
        else:
            assert code in (0, 2), case
            afresh(runs)
    assert refused > 25


def test_every_key_is_refused_for_what_it_may_not_be_and_what_is_written_here_is_not(runs: Path) -> None:
    for file, shape in FILES.items():
        record = json.loads((runs / BROKEN / file).read_text())
        assert not list(misfits(record, shape))
        fitting: dict[str, int] = {}
        for case, changed in exchanged(record, shape):
            key = case.rpartition(" = ")[0]
            fitting[key] = fitting.get(key, 0) + (not any(misfits(changed, shape)))
        assert max(fitting.values()) <= 4, fitting  # such as a number or null, or missing


@pytest.mark.parametrize("command", ["resume", "from", "chat", "report", "run"])
def test_latest_passes_over_a_run_whose_record_is_wrong_and_says_so_once(
    command: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, shape in FILES.items():
        record = json.loads((runs / BROKEN / file).read_text())
        for case, changed in list(exchanged(record, shape, turn=0))[::7]:
            afresh(runs)
            (runs / BROKEN / file).write_text(json.dumps(changed))
            capsys.readouterr()
            if any(misfits(changed, shape)):
                assert COMMANDS[command]("latest") == 0, case
                said = capsys.readouterr()
                assert "".join((said.out + said.err).split()).count("passedover:") == 1, case
