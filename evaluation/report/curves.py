"""The curves of a stage, drawn by matplotlib as small SVG pictures in the page; of few points, the numbers."""

import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from io import StringIO
from typing import Any, NamedTuple

from markupsafe import Markup

from evaluation.report.facts import Facts, StageFacts, number
from utils.text import one_line

PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "eval_loss"),
    "reward": ("reward", "rewards/*/mean"),
    "accuracy": ("accuracy", "mean_token_accuracy", "rewards/accuracies", "eval_accuracy", "eval_*accuracy"),
    "margin": ("margin", "rewards/margins"),
    "log-probability": ("logps/chosen", "logps/rejected"),
    "bits per byte": ("eval_bits_per_byte",),
    "completion, tokens": ("completions/mean_length",),
    "entropy": ("entropy",),
    "gradient norm": ("grad_norm",),
}
"""What is drawn of a stage, in order, where it was logged: a panel's title, and patterns of the metrics that share it.
What a kind adds has a panel each."""
MOST_PANELS, MOST_LINES = 6, 5
MOST_BINS = 120
"""Longer curves are drawn by the lowest and highest of each bin, so that a spike stays to be seen."""
FEWEST_POINTS = 5
"""What has fewer is told in numbers: a line through them would show a course that nobody has seen."""
FEW_POINTS = 30
"""Shorter curves show their points."""
GREY, ALARM, COLOURS = "#7d8793", "#d1495b", ("#2f7ed8", "#e08a1e", "#2a9d6f", "#a35bd6", "#d1495b")
"""Colours that can be told apart on white and on black."""
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, and takes no room
    "text.parse_math": False,  # a name with a $ is a name
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
}

Line = tuple[str, list[tuple[int, float]]]
"""A metric's name, and its (step, value) points."""


class Panel(NamedTuple):
    """What a stage logged of one thing."""

    title: str
    lines: list[Line]
    picture: Markup | None
    """None where there are too few points for a curve."""

    @property
    def rows(self) -> list[tuple[int, list[float | None]]]:
        """Each step, with the value of each line there."""
        values = [dict(points) for _, points in self.lines]
        return [(step, [of.get(step) for of in values]) for step in sorted(set().union(*values))]


def curves(stage: StageFacts) -> list[Panel]:
    """Return a panel for each thing that has something to show, its picture with the alarms marked and numbered."""
    alarms = [alarm["step"] for alarm in stage.info["alarms"] if isinstance(alarm.get("step"), int)]
    wanted = PANELS | {pattern: (pattern,) for pattern in stage.kind.curves}
    panels = [(title, lines) for title, patterns in wanted.items() if (lines := _lines(stage.metrics, patterns))]
    return [
        Panel(
            title,
            lines,
            _draw(f"{stage.name}, {title}", lines, alarms)
            if max(len(points) for _, points in lines) >= FEWEST_POINTS
            else None,
        )
        for title, lines in panels[:MOST_PANELS]
    ]


def _lines(metrics: Sequence[Facts], patterns: Sequence[str]) -> list[Line]:
    names = dict.fromkeys(name for line in metrics for name in line)
    matching = dict.fromkeys(name for pattern in patterns for name in names if fnmatchcase(name, pattern))
    lines = []
    for name in list(matching)[:MOST_LINES]:
        points = [(line["step"], value) for line in metrics if (value := number(line.get(name))) is not None]
        if points:
            lines.append((one_line(name)[:40], thinned(points)))
    return lines


def thinned(points: list[tuple[int, float]], bins: int = MOST_BINS) -> list[tuple[int, float]]:
    """Return at most `2 * bins` of the points, in their order: the lowest and the highest of each bin.

    >>> thinned([(1, 5.0), (2, 9.0), (3, 1.0), (4, 2.0), (5, 2.5), (6, 2.2)], bins=2)
    [(2, 9.0), (3, 1.0), (4, 2.0), (5, 2.5)]
    """
    if len(points) <= 2 * bins:
        return points
    kept = set()
    for place in range(bins):
        span = range(place * len(points) // bins, (place + 1) * len(points) // bins)
        kept |= {min(span, key=lambda i: points[i][1]), max(span, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _draw(name: str, lines: Sequence[Line], alarms: Sequence[int]) -> Markup:
    import matplotlib
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it keeps a list of fonts is no news
    svg = StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.0, 2.2), layout="constrained")
        axes = figure.add_subplot()
        for (metric, points), colour in zip(lines, COLOURS, strict=False):
            marker = "." if len(points) <= FEW_POINTS else ""
            axes.plot(
                *zip(*points, strict=True), color=colour, linewidth=1.4, marker=marker, markersize=4, label=metric
            )
        for place, step in enumerate(alarms, start=1):
            axes.axvline(step, color=ALARM, linewidth=1, linestyle="--")
            axes.annotate(
                str(place), (step, 1), xycoords=("data", "axes fraction"), color=ALARM, ha="center", va="bottom"
            )
        axes.grid(color=GREY, alpha=0.2, linewidth=0.6)
        axes.locator_params(nbins=5, axis="both")
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, handlelength=1.2)
        figure.savefig(svg, format="svg", transparent=True)
    return _inline(svg.getvalue(), name)


def _inline(svg: str, name: str) -> Markup:
    """Return what matplotlib wrote as an element of a page: sized by the page, named, without its metadata."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # each picture of a page would have the same
    svg = re.sub(r"(?<=\d)\.(\d\d)\d+(?=[^<>]*>)", r".\1", svg)  # in tags alone: a number of the text stays
    opening, _, drawing = svg.partition(">")
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening.removeprefix("<svg"))
    return Markup('<svg role="img" aria-label="{}"').format(name) + Markup(f"{opening}>{drawing}")
