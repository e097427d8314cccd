"""Which files a path means: every data file of a folder, its subfolders and linked folders, and each one's split.

Files that are no data are named, but for what systems and the Hub leave beside data: hidden files, `README.md`,
`dataset_infos.json`, licences. A README of the Hub that lists configurations says which files are of which split.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple

from utils.console import console
from utils.errors import Refused, did_you_mean
from utils.hub import DATA_SUFFIXES

SPLIT_IN_NAME = re.compile(
    r"(?:^|[._-])(train|training|test|testing|validation|valid|val|dev|eval)(?:[._-]|$)", re.IGNORECASE
)
SPLIT_OF_STAGE = re.compile(
    r"((?:train|test|validation)_(?:\w+(?=-\d{5}-of-\d{5})|sft|gen|prefs?|dpo|kto|rm|rl|grpo|ppo))"
    r"(?:-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?)?",
    re.IGNORECASE,
)
"""How the Hub names the files of a split such as `train_sft`."""
HELD_OUT = ("validation", "test")
"""Splits that hold out, the one to be preferred first."""
ALIASES = {
    "training": "train",
    "testing": "test",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
"""Suffixes of files that are unpacked as they are read."""
BESIDE = re.compile(
    r"(readme|licen[cs]e|citation)(\.(md|txt|rst|cff|bib))?|dataset_infos?\.json|_success|_(common_)?metadata|"
    r"thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
"""Names of files that lie beside data."""
SAVED = ("dataset_dict.json", "state.json")
"""What datasets' save_to_disk writes, of several splits or of one."""
ARCHIVE = re.compile(r"\.(tar(\.\w+)?|tgz|zip|7z|rar)\Z", re.IGNORECASE)
NAMED = 5


class Folder(NamedTuple):
    """What lies in a folder."""

    data: list[Path]
    other: list[Path]
    """Files that are no data."""


def suffix_of(file: Path) -> str:
    """Return what a file is by its name, in small letters and without the suffix of a packed one.

    >>> suffix_of(Path("part-1.JSONL.gz"))
    '.jsonl'
    """
    name = file.name.lower()
    suffix = Path(name.removesuffix(next((suffix for suffix in PACKED if name.endswith(suffix)), ""))).suffix
    return ".jsonl" if suffix in (".ndjson", ".jsonlines") else suffix


def packing_of(file: Path) -> str | None:
    """Return the suffix of a packed file; None for one that is not packed."""
    return file.suffix.lower() if file.suffix.lower() in PACKED else None


def is_saved_to_disk(path: Path) -> bool:
    """Tell whether a folder is one that datasets' save_to_disk wrote."""
    return any((path / name).is_file() for name in SAVED)


def files_in(folder: Path) -> Folder:
    """Return what lies in a folder, its subfolders and those that are linked, in the order of names.

    Raises:
        Refused: a folder cannot be read, or a link with the name of a data file leads nowhere.
    """
    found = Folder([], [])
    for file in _walk(folder, set()):
        if suffix_of(file) not in DATA_SUFFIXES or BESIDE.fullmatch(file.name):
            if not BESIDE.fullmatch(file.name):
                found.other.append(file)
        elif file.is_file():
            found.data.append(file)
        else:
            what = "a link to nothing" if file.is_symlink() and not file.exists() else "no file"
            raise Refused(f"{file} is {what}, though its name is that of a data file: take it out, or name one file.")
    return found


def everything_in(path: Path) -> list[Path]:
    """Return the files of a folder, its subfolders and those that are linked, hidden ones left out; or the one file."""
    return list(_walk(path, set())) if path.is_dir() else [path] if path.exists() else []


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:  # a link to a folder above
        return
    seen.add(folder.resolve())
    with readable(folder):
        inside = sorted(folder.iterdir())
    for path in inside:
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.is_dir():  # also Spark's, whose names end as those of files
            yield from _walk(path, seen)
        else:
            yield path


def data_files(path: Path) -> list[Path]:
    """Return the data files that a path means.

    Raises:
        Refused: it is none, and holds none.
    """
    accepted = f"{' '.join(DATA_SUFFIXES)}, also packed as {' '.join(PACKED)}"
    if path.is_file():
        if suffix_of(path) not in DATA_SUFFIXES:
            archive = " It is an archive: unpack it." if ARCHIVE.search(path.name) else ""
            raise Refused(f"{path} has suffix {''.join(path.suffixes[-2:])!r}; data files are {accepted}.{archive}")
        return [path]
    if not path.is_dir():
        raise Refused(f"{path} is neither a file nor a folder that can be read: name one of them.")
    if saved := sorted(file.parent.name for name in SAVED for file in path.glob(f"*/{name}")):
        raise Refused(f"{path} holds folders that save_to_disk wrote, {', '.join(saved)}: name one of them.")
    files, other = files_in(path)
    if not files:
        there = f": it has {_some(other, path)}" if other else ""
        raise Refused(f"{path} has no data files ({accepted}){there}. Name a folder that has, or one file.")
    return files


def tell_unread_files(path: Path, splits: Mapping[str, Sequence[Path]]) -> None:
    """Say which files of a folder are not read: those that are no data, and those in none of its `splits`."""
    if not path.is_dir():
        return
    files, other = files_in(path)
    read = {file for each in splits.values() for file in each}
    unlisted = [file for file in files if file not in read]
    for left, why in (
        (other, "are no data and are not read"),
        (unlisted, "are not in what README.md lists, and not read"),
    ):
        if left:
            said = f"{path}: {len(left)} files {why}: {_some(left, path)}"
            console().print(said, markup=False, soft_wrap=True)


def _some(files: Sequence[Path], folder: Path) -> str:
    return ", ".join(str(file.relative_to(folder)) for file in files[:NAMED]) + ", …" * (len(files) > NAMED)


def by_split(path: Path, config_name: str | None = None) -> dict[str, list[Path]]:
    """Return the data files of a path by their split: those of a file, or of names that tell none, are `train`.

    The split is told by a README of the Hub, by the name of a file, or by that of its folder. `config_name` is of a
    README that lists configurations.

    Raises:
        Refused: there are no data files, no such configuration, or some names tell a split and others do not.
    """
    files = data_files(path)
    listed = _configurations(path) if path.is_dir() else {}
    if listed:
        return _of_configuration(path, files, listed, config_name)
    if config_name:
        raise Refused(f"{path} lists no configurations, as a README of the Hub does: leave {config_name!r} out.")
    if path.is_file():
        return {"train": files}
    named = {file: split for file in files if (split := split_in_name(file.relative_to(path)))}
    if named and len(named) < len(files):
        unnamed = ", ".join(str(file.relative_to(path)) for file in files if file not in named)
        raise Refused(
            f"in {path}, the names of {unnamed} tell no split, while those of "
            f"{', '.join(str(file.relative_to(path)) for file in named)} do: put a split into every name, or into none."
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(named.get(file, "train"), []).append(file)
    return splits


def split_in_name(file: Path) -> str | None:
    """Return the split that a file's name tells, or else that of the nearest folder."""
    if shard := SPLIT_OF_STAGE.fullmatch(file.name.partition(".")[0]):
        return shard[1].lower()
    for part in (file.stem, *reversed(file.parent.parts)):
        if match := SPLIT_IN_NAME.search(part):
            return ALIASES.get(match[1].lower(), match[1].lower())
    return None


Patterns = list[tuple[str, list[str]]]
"""Splits, and the patterns of their files."""


def _configurations(folder: Path) -> dict[str, Patterns]:
    """Return what a README of the Hub lists for each configuration; {} without such a list."""
    from huggingface_hub.repocard import metadata_load

    readme = next((file for file in folder.iterdir() if file.name.lower() == "readme.md"), None)
    if readme is None:
        return {}
    try:
        configs = (metadata_load(readme) or {}).get("configs") or []
        configs = [one | {"config_name": "default"} if one.get("default") else one for one in configs]
        return {str(one["config_name"]): listed for one in configs if (listed := _patterns(one))}
    except Exception:  # noqa: BLE001  some other README, whose first lines may be anything
        return {}


def _patterns(config: Mapping[str, Any]) -> Patterns:
    """Return the splits of a configuration, which the Hub lets be written in four ways."""
    files, inside = config.get("data_files"), f"{str(config.get('data_dir') or '.').strip('/')}/"
    if not files:
        return [("train", [f"{inside}**"])] if config.get("data_dir") else []
    if isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    elif not (isinstance(files, list) and all(isinstance(one, Mapping) for one in files)):
        files = [{"split": "train", "path": files}]
    paths = ((one.get("split", "train"), one["path"]) for one in files)
    listed = ((split, path if isinstance(path, list) else [path]) for split, path in paths)
    return [(str(split), [normpath(f"{inside}{each}") for each in path]) for split, path in listed]


def _of_configuration(
    folder: Path, files: Sequence[Path], listed: Mapping[str, Patterns], name: str | None
) -> dict[str, list[Path]]:
    from datasets.data_files import resolve_pattern

    names = list(listed)
    chosen = name or ("default" if "default" in names else names[0] if len(names) == 1 else None)
    if chosen is None or chosen not in listed:
        asked = f"no configuration {name!r}{did_you_mean(name, names)}" if name else "several configurations"
        raise Refused(f"{folder} has {asked}. Name one of {', '.join(names)} as dataset_config_name.")
    splits: dict[str, list[Path]] = {}
    for split, patterns in listed[chosen]:
        found: set[Path] = set()
        for pattern in patterns:
            with suppress(FileNotFoundError):
                found |= {Path(path).resolve() for path in resolve_pattern(pattern, str(folder))}
        here = [file for file in files if file.resolve() in found]
        if not here:
            raise Refused(f"{folder}: README.md lists {', '.join(patterns)}, and no such file is there.")
        splits.setdefault(ALIASES.get(split, split), []).extend(here)
    return splits


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Refuse a path that the system does not let us read."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None
