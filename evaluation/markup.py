"""The templates of the pages: every value is escaped, and nothing in it steers a terminal or is a secret."""

from pathlib import Path
from typing import Any

from utils.text import safe


def templates() -> Any:
    """Return the environment that the pages' templates are rendered in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def harmless(value: Any) -> Any:
        return safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "report"), autoescape=True, undefined=StrictUndefined,
        finalize=harmless, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
