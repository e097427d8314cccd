"""The chain as a picture: a box for each stage with its verdict, an arrow from what it starts from."""

from dataclasses import dataclass
from textwrap import shorten

from markupsafe import Markup

from evaluation.report.facts import MODELS_OUTPUT, RunFacts, StageFacts, mapping
from evaluation.report.story import change, headline, verdict_on
from utils.text import one_line

WIDTH, HEIGHT, GAP_X, GAP_Y = 190, 92, 44, 34
"""Of a box, and between boxes, in the picture's own units."""
LETTERS = 26
"""Of a line inside a box."""


@dataclass(frozen=True)
class Box:
    """A stage, how many stages stand before it, and its lane: policies in the first, reward models in the second."""

    stage: StageFacts
    depth: int
    lane: int


def placed(run: RunFacts) -> list[Box]:
    """Return the boxes of the stages; one of another run or of the Hub is no box, and what starts there has depth 0."""
    boxes: dict[str, Box] = {}
    for stage in run.stages:
        parent = boxes.get(_named(stage.input_ref, boxes))
        depth, lane = parent.depth + 1 if parent else 0, 0 if stage.is_policy else 1
        while any((box.depth, box.lane) == (depth, lane) for box in boxes.values()):
            depth += 1  # two stages from one model stand side by side
        boxes[stage.name] = Box(stage, depth, lane)
    return list(boxes.values())


def chain_picture(run: RunFacts, *, tall: bool) -> Markup:
    """Return the chain as SVG, from left to right, or `tall` from top to bottom for a narrow screen."""
    boxes = placed(run)
    by_name = {box.stage.name: box for box in boxes}
    lanes, depths = max(box.lane for box in boxes) + 1, max(box.depth for box in boxes) + 1
    across, down = (lanes, depths) if tall else (depths, lanes)
    size = (across * (WIDTH + GAP_X) - GAP_X + 4, down * (HEIGHT + GAP_Y) - GAP_Y + 4)
    marks = [_arrow(by_name[source], box, "judges" if judges else "", tall) for box in boxes
             for source, judges in _sources(box.stage, by_name)]  # fmt: skip
    marks += [_box(box, *_corner(box, tall)) for box in boxes]
    name = "tall" if tall else "wide"
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chain {}" viewBox="-2 -2 {} {}" role="img"'
        ' aria-label="the chain of stages"><defs><marker id="tip-{}" viewBox="0 0 8 8" refX="7" refY="4"'
        ' markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" class="tip" /></marker>'
        "</defs>{}</svg>"
    ).format(name, *size, name, Markup("").join(marks))


def _named(ref: str | None, names: dict[str, Box]) -> str:
    return next((name for name in names if ref == MODELS_OUTPUT.format(name)), "")


def _sources(stage: StageFacts, names: dict[str, Box]) -> list[tuple[str, bool]]:
    """Return the stages that one takes a model from, each with whether that is the judge of its answers."""
    refs = [(stage.input_ref, False), *((ref, True) for ref in mapping(stage.info.get("reward_models")))]
    return [(name, judges) for ref, judges in refs if (name := _named(ref, names))]


def _corner(box: Box, tall: bool) -> tuple[int, int]:
    across, down = (box.lane, box.depth) if tall else (box.depth, box.lane)
    return across * (WIDTH + GAP_X), down * (HEIGHT + GAP_Y)


def _arrow(source: Box, target: Box, kind: str, tall: bool) -> Markup:
    """Return an arrow between two boxes, bent where they stand in two lanes."""
    (left, top), (x, y) = _corner(source, tall), _corner(target, tall)
    if tall:
        start, end, shift = (left + WIDTH // 2, top + HEIGHT), (x + WIDTH // 2, y), 12 * (target.lane - source.lane)
        middle = end[1] - GAP_Y // 2
        path = f"M{start[0] + shift} {start[1]} V{middle} H{end[0] - shift} V{end[1]}"
    else:
        start, end, shift = (left + WIDTH, top + HEIGHT // 2), (x, y + HEIGHT // 2), 12 * (target.lane - source.lane)
        middle = end[0] - GAP_X // 2
        path = f"M{start[0]} {start[1] + shift} H{middle} V{end[1] - shift} H{end[0]}"
    return Markup('<path class="arrow {}" d="{}" marker-end="url(#tip-{})" />').format(
        kind, path, "tall" if tall else "wide"
    )


def _box(box: Box, x: int, y: int) -> Markup:
    found, verdict = headline(box.stage), verdict_on(box.stage)
    lines = [box.stage.name, verdict, *((found[0], change(found[1])) if found else ())]
    texts = [
        Markup('<text x="{}" y="{}" class="line{}">{}</text>').format(
            x + 16, y + 22 + 20 * place, place, shorten(one_line(line), LETTERS, placeholder="…")
        )
        for place, line in enumerate(lines)
    ]
    return Markup(
        '<g class="box {}"><rect x="{}" y="{}" width="{}" height="{}" rx="6" /><rect class="edge" x="{}" y="{}"'
        ' width="6" height="{}" rx="3" />{}</g>'
    ).format(css_class(verdict), x, y, WIDTH, HEIGHT, x, y, HEIGHT, Markup("").join(texts))


def css_class(verdict: str) -> str:
    """Return the class that colours a verdict or a status."""
    return "is-" + "".join(letter if letter.isalpha() else "-" for letter in verdict.lower())
