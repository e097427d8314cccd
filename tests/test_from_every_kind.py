"""`--from` a run that has a stage of every kind: each kind runs again, and is measured as what it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinds import KINDS
from run_all import main
from tests.algorithms.conftest import data_files, model_dir
from tests.chain.test_labels import RECIPE
from tests.test_labelled_run import VERIFIED
from utils.files import weights_sha256

pytestmark = pytest.mark.slow
__all__ = ["data_files", "model_dir"]  # fixtures

CONFIGS = """
from pretrain import PretrainConfig


def of(kind, data="conversations", after="pretrain", **fields):
    one = stage("my-" + kind, data, model_name=StageOutput(LABELS[after]), stage=kind, max_steps=1, **fields)
    return {LABELS[kind]: one}


sampling = dict(reward_func=[total, StageOutput(LABELS["reward"])], num_generations=4, max_completion_length=4)
grpo_extra = GRPOExtraConfig(preflight_prompts=0, **sampling)
configs = {
    LABELS["pretrain"]: PretrainConfig(
        output_dir="my-pretrain", dataset_name=DIRECTORY + "text.txt", stage="pretrain", tokenizer_name=MODEL,
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_length=16, max_steps=1,
        per_device_train_batch_size=2, eval_samples=8, eval_steps=1, warmup_steps=1,
    ),
    **of("sft"), **of("reward", "pairs", "sft"), **of("dpo", "pairs", "sft"), **of("kto", "labelled", "sft"),
    **of("grpo", "prompts", "dpo"), **of("rloo", "prompts", "kto"),
}
"""
LABELS = {
    "pretrain": "reward", "sft": "dpo", "reward": "sft", "dpo": "pretrain", "kto": "rloo", "grpo": "kto",
    "rloo": "grpo",
}  # fmt: skip
"""Of each kind, which is the name of another: whoever went by it would take a reward model for a policy."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model_dir: Path, data_files: dict[str, Path]) -> Iterator[Path]:
    """A run of a stage of every kind, with the recipe in the working directory."""
    directory, data = tmp_path_factory.mktemp("whole"), next(iter(data_files.values())).parent
    texts = "\n\n".join(f"text {n} says one two three and up or down {n % 7} times" for n in range(200))
    (data / "text.txt").write_text(texts)
    given = RECIPE.format(model=str(model_dir), directory=f"{data}/")
    names = f"LABELS, MODEL, DIRECTORY = {LABELS!r}, {str(model_dir)!r}, {f'{data}/'!r}\n"
    (directory / "recipe.py").write_text(given + names + CONFIGS + VERIFIED)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(directory)
        assert main(["--recipe", "recipe.py"]) == 0
        (run_dir,) = Path("runs").resolve().iterdir()
        yield run_dir


def _info(run_dir: Path, kind: str) -> dict[str, Any]:
    return dict(json.loads((run_dir / f"my-{kind}" / "stage_info.json").read_text()))


def test_every_kind_is_tried_here() -> None:
    assert set(LABELS) == set(KINDS) == set(LABELS.values())


@pytest.mark.parametrize("kind", LABELS)
def test_a_stage_runs_again_from_a_run_that_has_all_kinds(kind: str, whole: Path) -> None:
    others = set(whole.parent.iterdir())
    assert main(["--recipe", "recipe.py", "--stages", LABELS[kind], "--from", whole.name]) == 0
    (again,) = set(whole.parent.iterdir()) - others
    first, second = _info(whole, kind), _info(again, kind)
    assert (second["name"], second["kind"], second["status"]) == (LABELS[kind], kind, "passed")
    assert second["input"] == first["input"]
    assert second["output"]["sha256"] == weights_sha256(again / f"my-{kind}") == first["output"]["sha256"]
    if kind in ("grpo", "rloo"):
        assert list(second["reward_models"].values()) == [weights_sha256(whole / "my-reward")]
    tasks = {one["task"] for one in second["evaluation"]}
    assert tasks == {"pairs", "verified_answers", "worse_answers"} if kind == "reward" else tasks.isdisjoint({"pairs"})
    assert ("reward_model" in tasks) == (kind not in ("pretrain", "reward"))  # it judges answers of policies that chat
