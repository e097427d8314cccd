"""The Hugging Face Hub: what of it is on this disk, what the network can give, and no long wait where it cannot."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from utils.command_line import command
from utils.errors import Refused, without_number
from utils.files import base_of, user_path, weight_files

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""The files of a model's repository that are fetched, and must then be there."""
DATASET_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
PICKLES = "Its weights are pickles (*.bin), which can run code when they are loaded, and are not read."
CONVERT = (
    "import sys, transformers as t; d = sys.argv[1]; c = t.AutoConfig.from_pretrained(d);"
    " getattr(t, c.architectures[0]).from_pretrained(d).save_pretrained(d)"
)
"""Python that writes a model's weights as safetensors; transformers reads nothing but tensors from a `.bin`."""
TIMEOUT_S = 3.0
"""What cannot be had is said within ten seconds: the libraries' import, one wait for the Hub, one for its answers."""
GET_IT = "With a network it is fetched when it is needed, or beforehand by --download; without one, name a local path."


def unreachable() -> str | None:
    """Return why the Hub cannot be asked now, or None if it can.

    While it cannot, its libraries are told to use their caches only, since their own retries take minutes.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE forbids the network"
    import httpx2
    from huggingface_hub import constants, get_session

    _set_offline(False)
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except (httpx2.HTTPError, OSError) as error:
        _set_offline(True)
        return f"the Hugging Face Hub cannot be reached: {without_number(error)}"
    return None


def _set_offline(offline: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = offline
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = offline


def is_path(name: str) -> bool:
    """Tell whether a name can only be that of a file or directory: no Hub id looks like it."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1


def local_model(name: str, revision: str | None) -> Path | None:
    """Return the directory of a model that is on this disk, named by its path or by its Hub id; None if it is not.

    Raises:
        Refused: the directory exists, or the name can only be a path, and there is no model; or an adapter without one.
    """
    path = user_path(name)
    if path.is_file():
        raise Refused(f"{name} is a file: name the directory that holds a model's config.json and *.safetensors")
    if path.is_dir():
        configured = (path / "config.json").is_file() or base_of(path)
        parts = {"config.json": configured, "*.safetensors": weight_files(path)}
        if lacks := [part for part, there in parts.items() if not there]:
            raise Refused(f"{name} is no model's directory: it has no {' and no '.join(lacks)}{if_pickled(path)}")
        return path.resolve()
    if is_path(name):
        raise Refused(f"there is no directory {name}: name a model's directory or a Hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # The patterns of `download_model`: without them, what it leaves out would count as missing.
        snapshot = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=PATTERNS))
    except HFValidationError as error:
        raise Refused(f"{name!r} is neither a directory nor a Hub id such as 'Qwen/Qwen2.5-0.5B'") from error
    except LocalEntryNotFoundError:
        return None
    return snapshot if (snapshot / "config.json").is_file() and weight_files(snapshot) else None


def if_bare(name: str) -> str:
    """Return what to say of a model's name that has no owner, and so was hardly meant for the Hub; "" for others."""
    return (
        "" if "/" in name else " (no directory here has this name; a Hub id is owner/name, but for old ones like gpt2)"
    )


def if_pickled(directory: Path) -> str:
    """Return what to say of a directory without safetensors that has PyTorch's older format; "" of any other."""
    if not list(directory.glob("pytorch_model*.bin")):
        return ""
    return f". {PICKLES} Convert them once:\n  {command('-c', CONVERT, str(directory))}"


def model_on_hub(name: str, revision: str | None) -> Any:
    """Return the Hub's description of a model.

    Raises:
        Refused: there is none, it may not be read, or its weights are pickles.
    """
    described = _described("model", name, revision)
    names = [file.rfilename for file in described.siblings or ()]
    if any(file.endswith(".bin") for file in names) and not any(file.endswith(".safetensors") for file in names):
        raise Refused(
            f"model {name!r} has no *.safetensors on the Hub. {PICKLES} Ask for them at"
            " https://huggingface.co/spaces/safetensors/convert, and name the `revision` that it makes, or convert a"
            " copy on this disk"
        )
    return described


def model_config(name: str, revision: str | None) -> Path:
    """Return the file config.json of a model on the Hub, and download nothing else of it.

    Raises:
        Refused: it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    with _said_plainly("model", name, revision):
        return Path(hf_hub_download(name, "config.json", revision=revision))


def download_model(name: str, revision: str | None, *, weights: bool = True) -> Path:
    """Download a model's files, or all but its weights, into the Hugging Face cache, and return their directory.

    Raises:
        Refused: there is no such model, or it may not be read.
    """
    from huggingface_hub import snapshot_download

    model_on_hub(name, revision)  # refuses what is not to be downloaded
    patterns = [pattern for pattern in PATTERNS if weights or pattern != "*.safetensors"]
    with _said_plainly("model", name, revision), bars():
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


@contextmanager
def bars() -> Iterator[None]:
    """Let downloads show their progress on a terminal, of which pipes and files get nothing."""
    import datasets.utils
    import huggingface_hub.utils

    libraries: tuple[Any, ...] = (huggingface_hub.utils, datasets.utils)
    for library in libraries if sys.stderr.isatty() else ():
        library.enable_progress_bars()
    try:
        yield
    finally:
        for library in libraries:
            library.disable_progress_bars()


def dataset_on_hub(name: str, revision: str | None) -> Any:
    """Return the Hub's description of a data set.

    Raises:
        Refused: there is none, or it may not be read.
    """
    return _described("dataset", name, revision)


def _described(what: Literal["model", "dataset"], name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi, constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with _said_plainly(what, name, revision):
        described = getattr(HfApi(), f"{what}_info")(name, revision=revision, timeout=TIMEOUT_S)
        if described.gated:  # described to everyone, refused at its first file
            # As HfApi.auth_check, which would wait for ever.
            url = f"{constants.ENDPOINT}/api/{what}s/{name}/auth-check"
            hf_raise_for_status(get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_S))
    return described


def is_dataset_id(name: str) -> bool:
    """Tell whether `name` is that of a data set on the Hub: owner/name, and nothing on this disk or a file's name."""
    path = user_path(name)
    return bool(DATASET_ID.fullmatch(name)) and path.suffix not in DATA_SUFFIXES and not path.exists()


def has_dataset(name: str) -> bool:
    """Tell whether the data set has been prepared on this machine before."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    owner, _, own = name.rpartition("/")
    return any(Path(config.HF_DATASETS_CACHE).glob(f"{owner}___{camelcase_to_snakecase(own)}/*"))


def dataset_commit(name: str, revision: str) -> str:
    """Return the commit that a tag or branch was when the data set was last fetched; `revision` if none is known."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    ref = folder / "refs" / revision
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision


def split_sizes(name: str, config_name: str | None, revision: str | None) -> dict[str, int]:
    """Return the rows of each split of a data set on the Hub, as far as its description tells. Downloads no data."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    try:
        info = load_dataset_builder(name, config_name, revision=revision).info
    except (OSError, ValueError, DatasetsError) as error:
        raise Refused(f"data set {name!r} cannot be described by the Hub: {str(error).splitlines()[0]}") from error
    return {split: described.num_examples for split, described in (info.splits or {}).items() if described.num_examples}


@contextmanager
def _said_plainly(what: Literal["model", "dataset"], name: str, revision: str | None) -> Iterator[None]:
    """Turn the Hub's errors into refusals that say what to do."""
    import httpx2
    from huggingface_hub import errors

    subject = f"{'model' if what == 'model' else 'data set'} {name!r}"
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{'' if what == 'model' else 'datasets/'}{name}"
        raise Refused(f"{subject} is gated: accept its terms at {page} and set HF_TOKEN (see .env.example)") from error
    except errors.RevisionNotFoundError as error:
        raise Refused(f"{subject} has no revision {revision!r}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise Refused(
            f"{subject} is not on the Hub, or private: check its spelling{if_bare(name)}; a private one needs HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise Refused(f"{subject} cannot be had from the Hub: {without_number(error)}. {GET_IT}") from error
