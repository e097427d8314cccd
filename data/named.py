"""What a data set's name may mean: made data, a file or folder, or data on the Hub. Told before a library is loaded."""

from collections.abc import Collection

from data import made
from utils import hub
from utils.errors import Refused, did_you_mean
from utils.files import user_path

ON_HUB = {"tinystories": "roneneldan/TinyStories", "hermes": "interstellarninja/hermes_reasoning_tool_use"}
"""Names of their own that data to pretrain on have."""


def refuse_unknown(name: str, built_in: Collection[str] = ()) -> None:
    """Raise Refused for a name that means no data; `built_in` are names that mean some besides."""
    if name.startswith(made.PREFIX):
        made.made(name.removeprefix(made.PREFIX))
        return
    path = user_path(name)
    if name in built_in or path.exists() or hub.is_dataset_id(name):
        return
    beside = [str(path.parent / found.name) for found in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = did_you_mean(name, [*beside, *built_in, *made.names()]) or "."
    others = f", {', '.join(built_in)}," if built_in else ""
    raise Refused(
        f"there is no data set {name!r}{meant} Data are a local file or folder (looked in {path.parent.resolve()}), a "
        f"Hub id as owner/name{others} or made:NAME."
    )
