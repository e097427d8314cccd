"""Whatever is loaded is data: weights from safetensors, no code that comes with a model, no pickle of ours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from algorithms import TrainingConfig, loading
from tests.test_imports import ROOT, _sources

SAFE = {"trust_remote_code": False, "use_safetensors": True}
NO_WEIGHTS = ("AutoTokenizer", "AutoConfig", "Qwen3Config")
NO_CODE = ("LoraConfig",)
"""peft's configurations are JSON, and come with none."""


def calls(path: Path, name: str) -> Iterator[tuple[str, dict[str | None, object]]]:
    """Yield the owner of each call of a method of that name, and the call's keywords, by name; None is `**`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            value = {key.arg: getattr(key.value, "value", ast.unparse(key.value)) for key in node.keywords}
            yield ast.unparse(node.func.value), value


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_load_says_that_it_takes_no_code_and_no_pickle(path: Path) -> None:
    for owner, keywords in calls(path, "from_pretrained"):
        if owner in NO_CODE or (path.name, owner) == ("loading.py", "auto_class"):  # the next test looks at that one
            continue
        wanted = {name: value for name, value in SAFE.items() if name == "trust_remote_code" or owner not in NO_WEIGHTS}
        assert keywords.items() >= wanted.items(), f"{owner}.from_pretrained needs {wanted}"
    for owner, keywords in calls(path, "load"):
        if owner == "torch":
            assert keywords.get("weights_only") is True


def test_a_stage_loads_its_model_and_trl_its_reference_without_code_and_pickles() -> None:
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="d")
    assert loading.options(config).items() >= SAFE.items()
