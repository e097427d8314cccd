"""A run's directory as a run leaves it, small: its files are written by what writes those of a real one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from records.run_directory import RunInfo
from records.stage_log import StageLog

RUN_ID = "20260131_101500_k3x9"
INPUTS = {"sft": "pretrain", "reward": "sft", "dpo": "sft", "grpo": "dpo"}


def result(task: str, metric: str, before: float | None, after: float, ci95: list[float] | None) -> dict[str, Any]:
    return {"task": task, "metric": metric, "n": 100, "before": before, "after": after, "ci95": ci95}


RESULTS = {
    "pretrain": [result("documents", "bits_per_byte", None, 0.4, None), result("skills", "strict", None, 0.0, None)],
    "sft": [
        result("skills", "strict", 0.0, 0.8, [0.7, 0.9]),
        result("documents", "bits_per_byte", 0.4, 0.9, [0.3, 0.7]),
    ],
    "reward": [result("pairs", "accuracy", 0.5, 0.49, [-0.1, 0.1])],
    "dpo": [result("skills", "strict", 0.8, 0.6, [-0.3, -0.1])],
    "grpo": [result("sampled_skills", "strict", 0.5, 0.5, [-0.1, 0.1])],
}  # fmt: skip


def sample(number: int, before: float | None, after: float) -> dict[str, Any]:
    sides = [
        None if score is None else {"text": f"says {score:g}", "scores": {"strict": score}} for score in (before, after)
    ]
    prompt = [{"role": "user", "content": f"question {number}"}]
    return {
        "task": "skills",
        "prompt": prompt,
        "group": "sums",
        "expected": "42",
        "before": sides[0],
        "after": sides[1],
    }


SCORES = [(0, 1, 1), (0, 1, 0), (1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 0, 0), (0, 1, 1)]
"""Of each question: after pretraining, SFT, DPO."""
SAMPLES = {
    "pretrain": [sample(place, None, scores[0]) for place, scores in enumerate(SCORES)],
    "sft": [sample(place, scores[0], scores[1]) for place, scores in enumerate(SCORES)],
    "dpo": [sample(place, scores[1], scores[2]) for place, scores in enumerate(SCORES)],
}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a run of these stages with these statuses; "pending" has no directory.

    Without `kinds`, by label, the records are as they were before stages had labels.
    """

    def make(
        status: str = "passed", *, text: str = "made:prompts", kinds: Mapping[str, str] | None = None, **stages: str
    ) -> Path:
        run_dir = tmp_path / "runs" / RUN_ID
        run_dir.mkdir(parents=True)
        entries = [{"name": name, "output_dir": f"my-{name}", "status": how} for name, how in stages.items()]
        for entry in entries if kinds else ():
            entry["kind"] = (kinds or {})[entry["name"]]
        configs = {name: {"model_name": f'StageOutput("{INPUTS[name]}")'} for name in stages if name in INPUTS}
        asked = {"recipe": "scratch_tiny", "seed": 7, "values": ["sft.max_steps=3"], "configs": configs}
        RunInfo(run_dir).set(
            run_id=RUN_ID, status=status, stages=entries, started_at="2026-01-31T10:15:00+00:00", **asked
        )
        for name, how in stages.items():
            if how != "pending":
                _stage(run_dir / f"my-{name}", name, how, text, (kinds or {}).get(name))
        return run_dir

    return make


def _stage(directory: Path, name: str, status: str, text: str, kind: str | None) -> None:
    directory.mkdir()
    log = StageLog(directory)
    source = {"ref": f'StageOutput("{INPUTS[name]}")', "sha256": "ab" * 32} if name in INPUTS else None
    data = {"name": text, "fingerprint": "cd" * 32, "train_rows": 9, "eval_rows": 3, "dropped": 1, "faults": {text: 1}}
    log.open(name=name, status=status, data=data, input=source, steps=400, tokens=5000, duration_s=71.2)
    log.info(error=f"{text} went wrong" if status == "failed" else None, **({"kind": kind} if kind else {}))
    for step in range(1, 401):
        log.metrics(step, None, {"loss": 1 / step, "rewards/" + text + "/mean": 0.5, "epoch": 1})
    log.alarm(7, "loss_spike", f"{text} rose")
    if status == "passed":
        log.info(
            evaluation=RESULTS[kind or name] if (kind or name) in RESULTS else RESULTS["sft"],
            output={"path": "x", "sha256": "ef" * 32},
        )
        said = [one | {"group": text} for one in SAMPLES.get(name, [])]
        (directory / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said), encoding="utf-8")
