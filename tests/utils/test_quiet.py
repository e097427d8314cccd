"""What of the libraries' talk reaches the user."""

import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from utils.quiet import is_noise, quiet_libraries

REPORT = "LlamaForSequenceClassification LOAD REPORT from: x\nKey | Status |\n---+---+-\n"


def test_noise_goes_to_the_log_and_real_warnings_to_the_user_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "training.log"
    with quiet_libraries(log):
        logging.getLogger("transformers.trainer").warning("this argument is deprecated and will be removed in v6")
        logging.getLogger("trl").warning("all labels are masked [rows 1-3]")
        logging.getLogger("trl").warning("all labels are masked [rows 1-3]")
        logging.getLogger("datasets").error("disk is full")
        logging.getLogger("httpx2").warning("this client is deprecated")
        logging.getLogger("liger_kernel.backends.registry").warning(
            "Backend impl 'liger_kernel.ops.backends._ascend.rope'"
        )
        warnings.warn("old name", FutureWarning, stacklevel=1)
        warnings.warn("invalid escape sequence", SyntaxWarning, stacklevel=1)
        warnings.warn("loss scale is tiny", UserWarning, stacklevel=1)
    said = capsys.readouterr()
    for text in ("deprecated", "this client", "old name", "_ascend.rope", "invalid escape"):
        assert text not in said.out + said.err
        assert text in log.read_text()
    assert said.out.count("warning: (trl) all labels are masked [rows 1-3]") == 1
    for text in ("disk is full", "loss scale is tiny"):
        assert text in said.out
        assert text in log.read_text()


def test_importing_the_libraries_says_nothing() -> None:
    code = "from utils.quiet import quiet_libraries\nwith quiet_libraries(None):\n    import torchao.optim, trl, peft"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (done.stdout.split(), done.stderr, done.returncode) == (["loading", "libraries"], "", 0)


def test_loggers_are_as_before_afterwards() -> None:
    import transformers  # noqa: F401  sets up its logger

    logger = logging.getLogger("transformers")
    before = (list(logger.handlers), logger.propagate)
    with quiet_libraries(None):
        assert logger.handlers != before[0]
    assert (list(logger.handlers), logger.propagate) == before


@pytest.mark.parametrize(
    ("row", "noise"),
    [
        ("score.weight | MISSING | ", True),
        ("score.weight | MISSING | \nlm_head.weight | UNEXPECTED | ", True),
        ("model.layers.0.mlp.up_proj.weight | MISSING | ", False),
        ("score.weight | MISSING | \nmodel.norm.weight | MISMATCH | ", False),
    ],
)
def test_a_new_reward_head_is_noise_and_other_missing_weights_are_not(row: str, noise: bool) -> None:
    assert is_noise(REPORT + row) is noise


@pytest.mark.shared
def test_loading_a_reward_model_shows_the_user_nothing(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForSequenceClassification

    with quiet_libraries(None):
        AutoModelForSequenceClassification.from_pretrained(shared / "fixtures/models/stories260K", num_labels=1)
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_a_librarys_thread_that_fails_is_told_in_a_line_and_its_traceback_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError("no space left")

    log = tmp_path / "training.log"
    with quiet_libraries(log):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    printed = capsys.readouterr()
    assert "a library's thread has failed: OSError: no space left" in " ".join(printed.out.split())
    assert "Traceback" not in printed.out + printed.err
    assert 'raise OSError("no space left")' in log.read_text()
