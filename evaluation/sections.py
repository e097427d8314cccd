"""Tables of text from runs, on the console and as one HTML page: escaped, without a script."""

from collections.abc import Sequence
from html import escape as html
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape as markup
from rich.table import Table

from utils.text import safe

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
table { border-collapse: collapse; margin-bottom: .5em }
th, td { border-bottom: 1px solid #8885; padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere; white-space: pre-wrap; font-variant-numeric: tabular-nums }
p { white-space: pre-line }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }"""

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style></head>
<body>
{body}
</body>
</html>
"""


class Section(NamedTuple):
    """One table, with what is said below it, or in its place where it has no rows."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    said: str = ""


def on_console(section: Section) -> RenderableType:
    """Return a section as rich prints it."""
    table = Table(title=markup(safe(section.title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in section.columns:
        table.add_column(markup(safe(column)), overflow="fold")
    for row in section.rows:
        table.add_row(*(markup(safe(cell)) for cell in row))
    if section.rows:
        return Group(table, markup(safe(section.said)) + "\n") if section.said else table
    return f"{markup(safe(section.title))}: {markup(safe(section.said))}\n"


def page(title: str, sections: Sequence[Section]) -> str:
    """Return one HTML document that needs nothing else."""
    parts = [f"<h1>{_html(title)}</h1>"]
    for section in sections:
        parts.append(f"<section><h2>{_html(section.title)}</h2>")
        if section.rows:
            head = "".join(f'<th scope="col">{_html(column)}</th>' for column in section.columns)
            body = "\n".join(f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>" for row in section.rows)
            parts.append(f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>")
        parts.append(f"<p>{_html(section.said)}</p></section>" if section.said else "</section>")
    return PAGE.format(title=_html(title), style=STYLE, body="\n".join(parts))


def _html(text: str) -> str:
    return html(safe(text))
