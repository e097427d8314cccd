"""Contamination of a run: real data, read again by its record, with held-out items hidden in what it trained on."""

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from data.corpus.configured import corpus_for, validation_rows
from data.made import rows
from data.sources import load_for
from evaluation.__main__ import main
from evaluation.held_out_overlap import contamination, turns_of, unsearched
from evaluation.lineage import Lineage, Trained
from kinds import named
from pretrain import PretrainConfig
from recipes.arithmetic.right_answers import SEED
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.files import jsonable, read_json

OLD, NEW = "20260101_000000_aaaa", "20260102_000000_bbbb"
WORDS = ["".join(Random(n).choices("abcdefghijklmnoprstuvwz", k=3 + n % 6)) for n in range(2000)]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    return tmp_path


def _sentence(random: Random, size: int) -> str:
    return " ".join(random.choices(WORDS, k=size))


def _write_rows(file: str, rows: list[dict[str, Any]]) -> None:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _sft() -> TrainingConfig:
    random = Random(1)
    rows = [{"question": _sentence(random, 9), "answer": _sentence(random, 25)} for _ in range(150)]
    _write_rows("asks.jsonl", rows)
    return TrainingConfig(
        model_name=StageOutput("pretrain"),
        output_dir="sft",
        dataset_name="asks.jsonl",
        eval_fraction=0.2,
        eval_samples=20,
    )


def _pretrain(hidden: list[str]) -> PretrainConfig:
    """Return a configuration whose documents have these texts in the midst of some, in capitals."""
    random = Random(2)
    documents = [_sentence(random, 120) for _ in range(300)]
    for place, text in enumerate(hidden):
        before, after = _sentence(random, 40), _sentence(random, 40)
        documents[7 * place] = f"{before}. {text.upper().replace(' ', ',  ')} {after}"
    _write_rows("documents.jsonl", [{"text": text} for text in documents])
    return PretrainConfig(output_dir="base", dataset_name="documents.jsonl", eval_samples=10)


def _record(run_id: str, configs: dict[str, Any], **more: Any) -> RunInfo:
    """Write the record of a run with these stages, as the pipeline does."""
    info = RunInfo(Path("runs") / run_id)
    info.run_dir.mkdir(parents=True)
    recorded = {kind: dict(jsonable(config)) for kind, config in configs.items()}
    for kind, config in configs.items():
        if isinstance(model := getattr(config, "model_name", None), StageOutput):
            recorded[kind]["model_name"] = f'StageOutput("{model.name}")'
    stages = [{"name": kind, "output_dir": kind, "status": "passed"} for kind in configs]
    info.set(run_id=run_id, status="passed", stages=stages, configs=recorded, **more)
    return info


def _overlap(report: dict[str, Any], training: str, evaluation: str) -> dict[str, Any]:
    (found,) = [
        one for one in report["overlaps"] if training in one["training_set"] and evaluation in one["evaluation_set"]
    ]
    return dict(found)


def _two_runs(hide: int) -> list[str]:
    """Record pretraining in one run, SFT in the next; of SFT's held-out items `hide` stand in the documents."""
    sft = _sft()
    held_out = [turns_of(row, held_out=True) for row in load_for(sft, "sft").eval]
    hidden = [turns[1] for turns in held_out[:hide]]
    _record(OLD, {"pretrain": _pretrain(hidden)})
    _record(NEW, {"sft": sft}, from_run=OLD)
    return hidden


def test_items_hidden_in_what_an_earlier_run_trained_on_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    hidden = _two_runs(5)
    assert main(["contamination", NEW, "--out", "report.json"]) == 0
    report = read_json(Path("report.json"))
    assert [one["name"] for one in report["training_sets"]] == [
        f"{OLD}/pretrain documents.jsonl", f"{NEW}/sft asks.jsonl",
    ]  # fmt: skip
    found = _overlap(report, "pretrain", "demonstrations")
    assert [item["item"] for item in found["found"]] == [0, 1, 2, 3, 4]
    texts = [row[0] for row in _documents()]
    for item, text in zip(found["found"], hidden, strict=True):
        assert item["shared"] == text
        assert item["share"] == pytest.approx(25 / 34)  # the answer's words; the question is not there
        (row,) = item["first_rows"]
        assert text.split()[0].upper() + ",  " + text.split()[1].upper() in texts[row]
    assert (found["items"], found["half"], found["whole"]) == (5, 5, 0)
    assert _overlap(report, "sft", "demonstrations")["found"] == []
    said = capsys.readouterr().out
    assert "74%" in said
    assert "sft demonstrations" in said
    assert "expected" not in said


def _documents() -> list[list[str]]:
    corpus = corpus_for(SimpleNamespace(**RunInfo(Path("runs") / OLD).read()["configs"]["pretrain"]))
    return [[part.store.texts("train").text(i)] for part in corpus.parts for i in part.train.tolist()]


def test_overlap_that_templates_bring_about_is_said_to_be_expected(capsys: pytest.CaptureFixture[str]) -> None:
    made = TrainingConfig(
        model_name="some/model", dataset_name="made:conversations", output_dir="sft", max_samples=300, eval_samples=60
    )
    _record(NEW, {"sft": made})
    assert main(["contamination", NEW, "--ngram", "8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "made:conversations: rows that a program makes from templates share their words, which is expected" in said


def test_nothing_is_found_where_nothing_is_shared() -> None:
    _two_runs(0)
    report = contamination(Lineage(RunInfo(Path("runs") / NEW), Path("runs")), 13)
    assert {one["name"].partition("/")[2]: one["items"] > 0 for one in report["evaluation_sets"]} == {
        "pretrain documents": True, "pretrain test documents": True, "sft demonstrations": True,
    }  # fmt: skip
    assert [one["items"] for one in report["overlaps"]] == [0] * 6


def test_data_that_have_changed_since_are_said() -> None:
    _two_runs(0)
    stage = Path("runs", NEW, "sft")
    stage.mkdir()
    for fingerprint, changed in (("another", True), (load_for(_sft(), "sft").info["fingerprint"], False)):
        StageLog(stage).open(name="sft", data={"fingerprint": fingerprint})
        report = contamination(Lineage(RunInfo(Path("runs") / NEW), Path("runs")), 13)
        assert [one["changed"] for one in report["training_sets"]] == [False, changed]


def test_the_lineage_goes_through_runs_directories_and_reward_models() -> None:
    base = Path("my-base")
    base.mkdir()
    config = jsonable(PretrainConfig(output_dir="base", dataset_name="notes"))
    StageLog(base).open(name="pretrain", config=config, data={"fingerprint": "f"})
    data: dict[str, Any] = {"output_dir": "x", "dataset_name": "d"}
    first = {
        "sft": TrainingConfig(model_name="my-base", **data),
        "reward": TrainingConfig(model_name=StageOutput("sft"), **data),
        "dpo": TrainingConfig(model_name="owner/model", **data),
    }
    _record(OLD, first)
    grpo = jsonable(TrainingConfig(model_name="owner/other", **data))
    extra = jsonable(GRPOExtraConfig()) | {"reward_func": ["accuracy", 'StageOutput("reward")']}
    new = _record(NEW, {}, from_run=OLD)
    stages = [
        {"name": "grpo", "output_dir": "g", "status": "running"},
        {"name": "sft", "output_dir": "s", "status": "pending"},
    ]
    new.set(configs={"grpo": grpo | {"grpo_extra": extra}}, stages=stages)
    lineage = Lineage(new, Path("runs"))
    assert [(stage.run, stage.kind.name) for stage in lineage.stages] == [
        ("my-base", "pretrain"), (OLD, "sft"), (OLD, "reward"), (NEW, "grpo"),
    ]  # fmt: skip
    assert lineage.unknown == ["owner/other"]


def test_system_turns_are_no_part_of_held_out_items() -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    row = {"messages": turns, "tools": [{"name": "add"}]}
    assert turns_of(row) == ["s", "u", "", '{"name": "add", "arguments": {"a": 1}}']
    assert turns_of(row, held_out=True) == turns_of(row)[1:]


def test_the_made_problems_themselves_are_in_no_training_text() -> None:
    made: dict[str, Any] = {"model_name": "m", "eval_samples": 60}
    configs = {
        kind: TrainingConfig(output_dir=kind, dataset_name=f"made:{name}", max_samples=300, **made)
        for kind, name in (("sft", "conversations"), ("grpo", "prompts"))
    }
    _record(NEW, configs)
    report = contamination(Lineage(RunInfo(Path("runs") / NEW), Path("runs")), 13)
    names = [one["name"] for one in report["evaluation_sets"]]
    assert names == [f"{NEW}/sft skills", f"{NEW}/sft demonstrations"]  # sampled_skills are the first of the skills
    questions = {" ".join(turns_of(row)) for row in load_for(configs["grpo"], "grpo").train}
    assert not questions & {" ".join(turns_of(row)) for row in rows("prompts", "eval", None, SEED)}


def test_validation_documents_are_those_that_the_run_is_measured_on() -> None:
    _two_runs(0)
    config = SimpleNamespace(**RunInfo(Path("runs") / OLD).read()["configs"]["pretrain"])
    report = contamination(Lineage(RunInfo(Path("runs") / OLD), Path("runs")), 13)
    sizes = {one["name"]: one["items"] for one in report["evaluation_sets"]}
    assert sizes[f"{OLD}/pretrain documents"] == len(validation_rows(corpus_for(config), 10)) == 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["20260102_000000_bbbc"], "did you mean"),
        ([NEW, "--ngram", "4"], "fewer than 5 words"),
        ([NEW, "--out", "asks.jsonl"], "--out asks.jsonl is there already"),
        ([OLD], "documents.jsonl"),
    ],
)
def test_what_cannot_be_searched_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    _two_runs(0)
    Path("documents.jsonl").unlink()
    before = Path("asks.jsonl").read_bytes()
    assert main(["contamination", *words, *([] if "--out" in words else ["--out", "new.json"])]) == 2
    assert said in capsys.readouterr().err
    assert Path("asks.jsonl").read_bytes() == before
    assert not Path("new.json").exists()


def test_a_run_whose_source_is_gone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    _record(NEW, {"sft": _sft()}, from_run=OLD)
    assert main(["contamination", NEW]) == 2
    assert OLD in capsys.readouterr().err


def test_the_length_that_the_command_names_is_the_indexs_own() -> None:
    from evaluation import ngrams
    from evaluation.commands import contamination as command

    assert command.NGRAM == ngrams.NGRAM


def test_problems_that_only_a_recipe_holds_are_said_to_be_unsearched() -> None:
    config = vars(TrainingConfig(model_name="m", output_dir="o", dataset_name="mine.jsonl"))
    measured = {"evaluation": [{"task": "skills", "metric": "strict"}]}

    def trained(run: str, dataset_name: str, record: dict[str, Any]) -> Trained:
        return Trained(run, "code", named("sft"), config | {"dataset_name": dataset_name}, record)

    stages = [
        trained("own", "mine.jsonl", measured),
        trained("none", "mine.jsonl", {}),
        trained("made", "made:conversations", measured),
    ]
    assert unsearched(stages) == ["own"]
