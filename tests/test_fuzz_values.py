"""Random values of trainers' options, and rewards that return anything: refused before the run, or trained with."""

import json
import re
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms import GRPOExtraConfig, TrainingConfig
from algorithms.arguments import OURS
from kinds import named
from pipeline import run_pipeline
from tests.algorithms.conftest import data_files, model_dir
from tests.test_fuzz import EXAMPLES, LEAST_SHARE, _nothing_in_the_tree, bounded  # noqa: F401
from utils.errors import Refused, StageFailed
from utils.values import type_problem

pytestmark = pytest.mark.slow
__all__ = ["data_files", "model_dir"]  # fixtures
NUMBERS = count()
DATA = {"sft": "conversations", "reward": "pairs", "dpo": "pairs", "kto": "labelled", "grpo": "prompts"}
NOT_DRAWN = OURS.keys() | {
    "max_steps", "num_train_epochs", "logging_dir", "run_name", "project", "trackio_space_id",
    # programs and servers that are not on this machine, and what changes the process for those that come after
    "deepspeed", "fsdp", "fsdp_config", "use_vllm", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "parallelism_config", "accelerator_config", "debug", "full_determinism", "torch_empty_cache_steps",
    "dataloader_num_workers", "dataset_num_proc", "dataloader_prefetch_factor", "dataloader_persistent_workers",
    "average_tokens_across_devices", "log_level", "log_level_replica", "ddp_timeout", "liger_kernel_config",
}  # fmt: skip
NOTHING_LEARNT = "never varied|no completion got a reward|gradient was 0|changed fewer|no longer numbers|loss is nan"
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 0.0, 0.1, 0.5, 1.0, 2.0, -0.5, float("nan"), float("inf"), "", "no", "steps",
    "epoch", "cosine", "adafactor", "nope", "sigmoid", "a=b", "reward", [], [1.0], ["sigmoid"], {}, {"foo": 1},
    {"use_reentrant": False}, 10**6, 1e-5,
]  # fmt: skip


def options_of(kind: str) -> dict[str, Any]:
    """Return the options that TRL's configuration of a kind has, each with its annotation."""
    made = named(kind).trainer_args(TrainingConfig(model_name="m", output_dir="o", dataset_name="d"), _sampling(kind))
    names = sorted({field.name for field in fields(made) if field.init} - NOT_DRAWN)
    return {name: get_type_hints(type(made))[name] for name in names}


@st.composite
def options(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """One or two options, most with a value of their type."""
    hints = options_of(kind)
    drawn: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(sorted(hints)), min_size=1, max_size=2, unique=True)):
        fitting = [value for value in VALUES if not type_problem(name, value, hints[name])]
        drawn[name] = draw(st.sampled_from(VALUES if draw(st.integers(0, 3)) == 0 else fitting or VALUES))
    return drawn


def _sampling(kind: str, **given: Any) -> GRPOExtraConfig | None:
    if kind != "grpo":
        return None
    fields: dict[str, Any] = {"num_generations": 2, "max_completion_length": 4, "preflight_prompts": 0}
    fields["reward_func"] = lambda completions, **_: [float(len(str(one)) % 3) for one in completions]
    return GRPOExtraConfig(**fields | given)


def ends(kind: str, data: Path, model: Path, extra: GRPOExtraConfig | None, args: dict[str, Any]) -> bool:
    """Run one stage; True if it was trained, False if it was refused before anything was made.

    A stage that trains and learns nothing, as with a learning rate of 0 or rewards that are all the same, says so.
    """
    runs = Path(f"runs-{next(NUMBERS)}").resolve()
    config = TrainingConfig(
        model_name=str(model), output_dir=kind, dataset_name=str(data), stage=kind, max_steps=2, eval_samples=4,
        per_device_train_batch_size=2, learning_rate=1e-3, trainer_args=args,
    )  # fmt: skip
    try:
        run_pipeline({kind: config}, grpo_extra=extra, runs_dir=runs)
    except Refused:
        assert not runs.exists() or not list(runs.iterdir())
        return False
    except StageFailed as failure:
        if re.search(NOTHING_LEARNT, str(failure)):
            return True
        raise
    (run,) = runs.iterdir()
    assert json.loads((run / "run_info.json").read_text())["status"] == "passed"
    return True


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


few = settings(bounded, max_examples=EXAMPLES // 6)


@pytest.mark.parametrize("kind", DATA)
def test_options_that_are_taken_are_trained_with(kind: str, data_files: dict[str, Path], model_dir: Path) -> None:
    taken: list[bool] = []

    @few
    @given(options(kind))
    def run(args: dict[str, Any]) -> None:
        taken.append(ends(kind, data_files[DATA[kind]], model_dir, _sampling(kind), args))

    run()
    assert taken.count(True) >= LEAST_SHARE * len(taken), "where nearly all are refused, nothing is tried"


REWARDS: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([0, 1, 0.5, True, None, float("nan"), float("inf"), 1e39, "1", "", [], {}, {1}, b"1", 1 + 1j]),
    st.floats(-10, 10),
)  # fmt: skip


def test_rewards_that_are_taken_are_trained_with(data_files: dict[str, Path], model_dir: Path) -> None:
    taken: list[bool] = []

    @few
    @given(
        given=st.lists(REWARDS, min_size=1, max_size=2),
        whole=st.sampled_from(("each", "each", "each", "one", "too few")),
        weights=st.one_of(st.none(), st.lists(st.sampled_from([1.0, 0.5, 0, -1, float("nan"), "1", None]), max_size=2)),
    )
    def run(given: list[Any], whole: str, weights: Any) -> None:
        def reward(completions: list[Any], **_: Any) -> Any:
            each = [given[place % len(given)] for place in range(len(completions))]
            return {"each": each, "one": given[0], "too few": each[1:]}[whole]

        extra = _sampling("grpo", reward_func=reward, reward_weights=weights)
        taken.append(ends("grpo", data_files["prompts"], model_dir, extra, {}))

    run()
    assert taken.count(True) >= LEAST_SHARE * len(taken), taken
