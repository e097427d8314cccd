"""Which files decide a result, and what of them is code."""

from pathlib import Path

import pytest

import kinds
from utils.code_hashes import DECIDES_NOTHING, ROOT, code_hashes


def _write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def test_files_are_found_by_what_imports_what(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        stages__one="import os\nfrom deep import far\ndef train():\n    import late",
        deep__far="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shown",
        late="",
        shown="",
        utils__console="import shown",
    )
    (root / "deep/__init__.py").write_text("from utils import console")
    assert set(code_hashes(["stages.one"], root)) == {"deep/__init__.py", "deep/far.py", "late.py", "stages/one.py"}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# why\ndef f(a,\n  b):\n  'Another.'\n  return a+b", True),
        ('"""What it is."""\n\ndef f(a, b):\n    """Add."""\n    return a + b\n', True),
        ("def f(a, b):\n    return b + a", False),
        ("def f(a, b):\n    return 'Another.'", False),
        ("X = 1\ndef f(a, b):\n    return a + b", False),
    ],
)
def test_comments_docstrings_and_formatting_are_no_code(text: str, same: bool, tmp_path: Path) -> None:
    before = code_hashes(["m"], _write(tmp_path, m='def f(a, b):\n    """Add."""\n    return a + b'))
    assert (code_hashes(["other"], _write(tmp_path, other=text))["other.py"] == before["m.py"]) is same


def test_every_kind_depends_on_what_keeps_its_checkpoints_and_none_on_what_only_shows() -> None:
    modules = {where.partition(":")[0] if isinstance(where, str) else type(where).__module__ for where in
               kinds.KINDS.values()}  # fmt: skip
    for module in modules:
        if module.partition(".")[0] not in ("pretrain", "algorithms"):
            continue  # a kind of another test
        files = code_hashes([module, "evaluation"])
        assert {
            "records/sealed.py",
            "utils/hub.py",
            "data/chat/chat_rendering.py",
            "evaluation/before_and_after.py",
        } <= set(files), module
        assert not [name for name in files if name.startswith(("evaluation/report", "evaluation/commands", "chain"))]
        assert "utils/console.py" not in files
    for name in DECIDES_NOTHING:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), f"{name} has gone elsewhere: say where"
