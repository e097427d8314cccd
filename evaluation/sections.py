"""Tables of text from runs, on the console and as an HTML page: escaped, without a script."""

from collections.abc import Sequence
from io import StringIO
from typing import NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from utils.text import safe

PAGE_WIDTH = 140
"""Columns of the page."""


class Section(NamedTuple):
    """One table, with what is said below it, or in its place where it has no rows."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def rendered(section: Section) -> RenderableType:
    """Return a section as rich prints it."""
    title, note = (escape(safe(text)) for text in (section.title, section.note))
    if not section.rows:
        return f"{title}: {note}\n"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in section.columns:
        table.add_column(escape(safe(column)), overflow="fold")
    for row in section.rows:
        table.add_row(*(escape(safe(cell)) for cell in row))
    return Group(f"[italic]{title}[/]", table, *([f"{note}\n"] if note else []))


def page(sections: Sequence[Section]) -> str:
    """Return one HTML document that needs nothing else, as rich exports what it prints."""
    console = Console(record=True, file=StringIO(), width=PAGE_WIDTH, highlight=False)
    for section in sections:
        console.print(rendered(section))
    return console.export_html(inline_styles=True)
