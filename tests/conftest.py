"""What all tests share: the fixtures directory beside the checkout, a quiet environment, no network."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each of several workers has a core
os.environ["HF_HUB_OFFLINE"] = "1"  # read at import by the libraries; a test that needs the network unsets it itself
for tracker_key in ("REPORT_TO", "WANDB_API_KEY", "WANDB_MODE"):
    os.environ.pop(tracker_key, None)

os.environ["SIXGIG_CACHE"] = tempfile.mkdtemp(prefix="sixgig-tests-")  # prepared data of tests are no user's
atexit.register(shutil.rmtree, os.environ["SIXGIG_CACHE"], ignore_errors=True)

import cache_config  # noqa: E402, F401  sets the rest of the environment before a Hugging Face library is imported

# Where the maths is, annotated types and shapes are checked at each call; a user's run does not pay for it.
install_import_hook(
    ["pretrain.loop", "pretrain.optim", "pretrain.packing", "evaluation", "data.examples"], "beartype.beartype"
)


def pytest_configure(config: pytest.Config) -> None:
    """Hide a GPU from all tests but those that need one (`-m gpu`): the others say what a CPU computes."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The directory of fixtures beside the checkout; a user's clone has none, and the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the fixtures in {SHARED}, which a clone of the project alone does not have")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes, with a pad of its own and no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<|im_end|>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>")
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache, as `--download` fills it from a Hub on this machine that has what the recipes name."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the tokenizers in {SHARED}")
    from tests import hub_repositories, loopback_hub

    root = tmp_path_factory.mktemp("hub")
    hub_repositories.write(root / "repositories", SHARED / "fixtures/tokenizers")
    code = "import sys, run_all; sys.exit(max(run_all.main(['--recipe', name, '--download']) for name in sys.argv[1:]))"
    with loopback_hub.serving(root / "repositories") as hub:
        done = subprocess.run(
            [sys.executable, "-c", code, *hub_repositories.RECIPES],
            cwd=root,
            env=hub_repositories.environment(root / "home", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
            | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "home"
