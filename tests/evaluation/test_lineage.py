"""Lineage: stages are known by label, and judged by their kind."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from evaluation.comparison import compared
from evaluation.lineage import Lineage
from records.run_directory import RunInfo

RUN = "20260101_000000_aaaa"
STAGES = {"base text": "pretrain", "code": "sft", "tools": "sft", "mine": "merging"}


def _run(directory: Path, **changed: Any) -> RunInfo:
    """Record a passed run whose stages follow each other, of which two are of one kind and one of an unknown kind."""
    labels = list(STAGES)
    configs: dict[str, Any] = {label: {"dataset_name": f"{label} data", "max_steps": 3} for label in labels}
    for before, label in pairwise(labels):
        configs[label]["model_name"] = f'StageOutput("{before}")'
    configs["tools"] |= changed
    info = RunInfo(directory / RUN)
    info.run_dir.mkdir(parents=True)
    entries = [{"name": label, "kind": kind, "output_dir": f"d{n}"} for n, (label, kind) in enumerate(STAGES.items())]
    info.set(status="passed", stages=[entry | {"status": "passed"} for entry in entries], configs=configs)
    return info


def test_the_lineage_of_a_label_goes_through_stages_of_one_kind(tmp_path: Path) -> None:
    info = _run(tmp_path)
    stages = Lineage(info, tmp_path, "tools").stages
    assert [(one.label, one.kind.name) for one in stages] == list(STAGES.items())[:3]
    assert [one.kind.layout for one in stages[:2]] == ["documents", "conversations"]
    assert stages[2].name == f"{RUN}/tools tools data"
    assert [one.kind.name for one in Lineage(info, tmp_path).stages] == list(STAGES.values())


def test_two_stages_of_one_kind_are_compared_label_by_label(tmp_path: Path) -> None:
    sections = compared([_run(tmp_path / "a"), _run(tmp_path / "b", max_steps=4)])
    differences = next(section for section in sections if section.title == "What differs")
    assert differences.rows == [("tools", "max_steps", "3", "4")]
    assert {row[0] for row in sections[0].rows} >= {f"stage {label}" for label in STAGES}
