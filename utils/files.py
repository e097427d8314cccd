"""JSON files that are whole at any moment; files of weights, their shapes and their fingerprint."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from glob import escape
from pathlib import Path
from typing import Any

from utils.errors import Refused, without_number
from utils.secrets import hidden, hide

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which peft, and transformers through it, know a directory that holds an adapter alone."""
LFS_POINTER = b"version https://git-lfs"


def user_path(name: str) -> Path:
    """Return a name that a user gave as a path, its `~` replaced; whatever it names, it can be asked about.

    Raises:
        Refused: it can be no path: a user that is none, a name that is too long or holds a null.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
        if "\0" in name:  # of which Path says that there is no such file
            raise ValueError("it holds a null character")
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(f"{name:.200} can be no path: {without_number(error).partition(': ')[0].rstrip('.')}.") from None
    return path


def new_file(name: str, flag: str) -> Path:
    """Return the path of a file that a flag asks to be written.

    Raises:
        Refused: something of that name is there, which might be somebody's, or its directory cannot be written.
    """
    path = user_path(name)
    if not name or os.path.lexists(path):
        raise Refused(
            f"{flag} {name} is there already and is not overwritten: name a new file"
            if name
            else f"{flag} is empty: name a file"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise Refused(
            f"{flag} {name}: {path.parent.absolute()} is no directory that can be written: make it, or name another"
        )
    return path


def jsonable(value: Any) -> Any:
    """Return `value` in JSON's own types: NaN and infinity become null, a path its string, a callable its name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:  # a numpy or torch scalar
        return jsonable(value.item())
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return getattr(value, "__name__", None) or str(value)


def json_line(obj: Any, indent: int | None = None) -> str:
    """Return `obj` as JSON and a line feed, secrets hidden but in the names of fields."""
    return json.dumps(hidden(jsonable(obj)), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, *objs: Any, indent: int | None = 2) -> None:
    """Write JSON to `path` in one step: a reader, or a crash, finds the old file or the new one, never a part.

    Of several objects each is one line with `indent=None`. Secrets in them are hidden.
    """
    _replace(path, "".join(json_line(obj, indent) for obj in objs))


def replace_text(path: Path, text: str) -> None:
    """Replace the content of `path` in one step, on disk when this returns. Secrets in it are hidden."""
    _replace(path, hide(text))


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:  # a name that is no UTF-8
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_half(path: Path, process_id: int) -> None:
    """Remove what `_replace` left of `path` where that process was killed; what others write stays."""
    for half in path.parent.glob(f".{escape(path.name)}.{process_id}.*.tmp"):
        half.unlink(missing_ok=True)


def remove_temporary(directory: Path) -> None:
    """Remove what `_replace` left in `directory` and below where it was killed, while nobody writes there."""
    for path in directory.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Return the object in a JSON file.

    Raises:
        Refused: the file cannot be read, or is no JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def base_of(directory: Path) -> Path | None:
    """Return the directory of the model that the adapter in `directory` belongs to; None if there is no adapter.

    Raises:
        Refused: that model is not where the adapter says.
    """
    file = directory / ADAPTER_CONFIG
    if not file.is_file():
        return None
    named = read_json(file).get("base_model_name_or_path")
    if not named or not (Path(named) / "config.json").is_file():
        raise Refused(
            f"{directory} holds an adapter for the model in {named!r}, which is not there: put it back, or write where"
            f" it is now as base_model_name_or_path into {file}"
        )
    return Path(named)


def own_weight_files(directory: Path) -> list[Path]:
    """Return the files of weights in `directory`, sorted."""
    return sorted(directory.glob("*.safetensors"))


def weight_files(directory: Path) -> list[Path]:
    """Return the files that hold the weights of the model in `directory`; of an adapter, those of its model too.

    Raises:
        Refused: there is an adapter whose model is not where it says.
    """
    own = own_weight_files(directory)
    base = base_of(directory) if own else None
    return own if base is None else [*own, *own_weight_files(base)]


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor of a safetensors file; reads its header alone.

    Raises:
        Refused: it cannot be read, is a Git LFS pointer, is cut off, or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    refuse_pointer(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  it is no mapping
    except SafetensorError as error:
        raise Refused(f"{path} cannot be read, is it whole? {error}") from error


def refuse_pointer(path: Path) -> None:
    """Raise Refused if a file of weights cannot be read, or is what Git leaves in its place without Git LFS."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:  # such as of a link whose target is gone
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    if start == LFS_POINTER:
        raise Refused(f"{path} is a Git LFS pointer, not the weights: run git lfs pull in its directory")


READ_WITH_WEIGHTS = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
"""What of a model's directory decides, beside the weights, what it says."""


def files_sha256(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model beside its weights, by name."""
    files = [*(directory / name for name in READ_WITH_WEIGHTS), *directory.glob("additional_chat_templates/*")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def weights_sha256(directory: Path) -> str:
    """Return one SHA-256 over the names and bytes of `weight_files`.

    Raises:
        FileNotFoundError: the directory holds no weights.
        Refused: there is an adapter whose model is not where it says.
    """
    weights = weight_files(directory)
    if not weights:
        raise FileNotFoundError(f"no weights in {directory}: expected *.safetensors. Is it a model's directory?")
    digest = hashlib.sha256()
    for path in weights:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
