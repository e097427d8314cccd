"""Tables of text from runs, on the console and as an HTML page: escaped, without a script."""

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from evaluation.markup import templates
from utils.text import safe

TEMPLATE = "tables.html.jinja"


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
    """Return one HTML document that needs nothing else."""
    return str(templates().get_template(TEMPLATE).render(sections=sections))
