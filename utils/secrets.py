"""Keys, tokens and passwords, taken out of what is shown and written."""

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

HIDDEN = "***"
"""What stands in a secret's place."""
SHORTEST = 8
"""Shorter values of the environment are no secrets worth the name, and words of every text."""
SECRET_NAME = re.compile(r"(^|_)[A-Z]*(KEY|TOKEN|SECRET|PASSWORD)S?(_|\d|$)", re.IGNORECASE)
"""WANDB_API_KEY, HF_TOKEN, PGPASSWORD; not TOKENIZERS_PARALLELISM."""
USER_INFO = re.compile(r"(\w\w:/{1,2})[^\s/]+@")
"""Who asks, in `https://user:password@host`; a path made of a URL has one slash."""


def hide(text: str) -> str:
    """Return `text` with `***` in place of secrets.

    Those are the values of environment variables whose names say so, tokens of the Hugging Face Hub, and what stands
    before the host in a URL.
    """
    if "@" in text:
        text = USER_INFO.sub(rf"\1{HIDDEN}@", text)
    return _secrets().sub(HIDDEN, text)


def hidden(value: Any) -> Any:
    """Return a value of JSON's types with `hide` done to every text in it, but for the names of its fields."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {name: hidden(item) for name, item in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list) else value


@cache
def _secrets() -> re.Pattern[str]:
    """Return the pattern of the secrets, those of the environment as it is when first asked.

    A variable may also name the file of a key, such as SSH_KEY_PATH: where it lies is none. And no password of the sort
    of `postgres` may change the paths of a run.
    """
    here = f"{os.environ.get('PWD')} {os.environ.get('HOME')} {sys.prefix}"
    named = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    own = {value for value in named if value not in here and not os.path.exists(value)}  # noqa: PTH110  never raises
    longest_first = map(re.escape, sorted(own, key=len, reverse=True))
    return re.compile("|".join([*longest_first, r"\bhf_[A-Za-z0-9]{16,}"]))
