"""The picture of the chain: every stage has a place of its own, behind what it starts from."""

import json
from collections.abc import Callable
from pathlib import Path

from evaluation.report.chain import placed
from evaluation.report.facts import read_run

STAGES = ("pretrain", "sft", "reward", "dpo", "grpo")


def places(run_dir: Path) -> dict[str, tuple[int, int]]:
    return {box.stage.name: (box.depth, box.lane) for box in placed(read_run(run_dir))}


def test_a_stage_stands_behind_its_input_whether_or_not_it_has_begun(make_run: Callable[..., Path]) -> None:
    run_dir = make_run("failed", **dict.fromkeys(STAGES[:3], "passed"), dpo="failed", grpo="pending")
    assert places(run_dir) == {"pretrain": (0, 0), "sft": (1, 0), "reward": (2, 1), "dpo": (2, 0), "grpo": (3, 0)}


def test_no_two_stages_stand_in_one_place(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(**dict.fromkeys(STAGES, "pending"))
    record = json.loads((run_dir / "run_info.json").read_text(encoding="utf-8"))
    (run_dir / "run_info.json").write_text(json.dumps(record | {"configs": {}}), encoding="utf-8")
    assert len(set(places(run_dir).values())) == len(STAGES)
