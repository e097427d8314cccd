"""Each token of a batch is read once: without padding, and a beginning that rows share a single time.

A trainer pads rows to the longest of their batch, and reads a prompt anew for each of its answers: both sides of a
pair, every completion of a group. Here the backbone gets the distinct tokens in few long rows, each of which sees what
it would see in a row of its own, and the trainer gets its hidden states as if nothing had happened.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy
import torch

from batching.masks import UNSUITED, alike, class_of, mask_for, takes_masks
from utils.console import warn
from watching.out_of_memory import is_out_of_memory

WORTH = 0.9
"""Share of the padded batch's tokens that must be left over at most, or it is read as it is."""
WIDTHS = (1.0, 1.5, 2.0, 3.0)
"""Widths of rows that are tried, as multiples of the padded batch's."""
STEP = 32
"""Widths are multiples of it: kernels are made for each new shape."""


class Layout(NamedTuple):
    """Where the tokens of a batch are read."""

    ids: numpy.ndarray[Any, Any]
    """(rows, width), the distinct tokens."""
    positions: numpy.ndarray[Any, Any]
    """(rows, width), each one's place in the sequences that it belongs to."""
    family: numpy.ndarray[Any, Any]
    """(rows, width): tokens of different families do not see each other."""
    branch: numpy.ndarray[Any, Any]
    """(rows, width): nor do those of different branches, and all see branch 0, the beginning that a family shares."""
    places: list[numpy.ndarray[Any, Any]]
    """For each sequence, where its tokens stand among all that are read."""


def layout(sequences: list[numpy.ndarray[Any, Any]], widths: list[int], cost: Callable[[int, int], float]) -> Layout:
    """Return how sequences of ids are read: in rows of the width that is cheapest; their order does not matter.

    `cost` is that of so many rows of a width. The longest sequence fits the least of the widths.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tolist())
    common = [_common(sequences[one], sequences[other]) for one, other in pairwise(order)]
    plans = [(width, _rows(_families(sequences, order, common, width), width)) for width in widths]
    width, rows = min(plans, key=lambda plan: cost(len(plan[1]), plan[0]))
    ids, positions, family_of, branch_of = (numpy.full((len(rows), width), value) for value in (0, 0, -1, 0))
    places: list[Any] = [None] * len(sequences)
    for row, families in enumerate(rows):
        at = 0
        for number, family in enumerate(families):
            first, shared = at, family.shared
            head = numpy.arange(first, first + shared)
            ids[row, head], positions[row, head] = sequences[family.members[0]][:shared], numpy.arange(shared)
            at += shared
            for branch, member in enumerate(family.members, 1):
                tail = sequences[member][shared:]
                own = numpy.arange(at, at + len(tail))
                ids[row, own], branch_of[row, own] = tail, branch
                positions[row, own] = numpy.arange(shared, shared + len(tail))
                places[member] = row * width + numpy.concatenate([head, own])
                at += len(tail)
            family_of[row, first:at] = number
    return Layout(ids, positions, family_of, branch_of, places)


class Family(NamedTuple):
    """Sequences that begin alike."""

    members: list[int]
    shared: int
    """Tokens that they begin with, which are read once."""
    size: int
    """Tokens that are read."""


def _families(
    sequences: list[numpy.ndarray[Any, Any]], order: list[int], common: list[int], width: int
) -> list[Family]:
    """Return the families of sequences that are in order; `common` is how much each shares with the one before it.

    One joins the family before it if that saves tokens, if there is room, and if it is not of another one: if it does
    not share much more with the one after it.
    """
    families: list[Family] = []
    for place, index in enumerate(order):
        length = len(sequences[index])
        if place:
            members, shared, size = families[-1]
            now = min(shared, common[place - 1])
            together = size + (shared - now) * (len(members) - 1) + length - now
            alone = len(members) == 1
            saves = alone or now * len(members) > shared * (len(members) - 1)
            another = place < len(common) and common[place] > 2 * now
            if now and saves and not another and together <= width:
                families[-1] = Family([*members, index], now, together)
                continue
        families.append(Family([index], length, length))
    return [family if len(family.members) > 1 else family._replace(shared=0) for family in families]


def _rows(families: list[Family], width: int) -> list[list[Family]]:
    """Return rows of families, each no wider than `width`: the largest first, each into the first row with room."""
    rows: list[list[Family]] = []
    room: list[int] = []
    for family in sorted(families, key=lambda family: -family.size):
        row = next((row for row, left in enumerate(room) if left >= family.size), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(family)
        room[row] -= family.size
    return rows


def _common(one: numpy.ndarray[Any, Any], other: numpy.ndarray[Any, Any]) -> int:
    """Return how many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length


@contextmanager
def reading_once(model: Any) -> Iterator[bool]:
    """Let the backbone of a model read each token of a batch once, on a CPU, while open; tell whether it does.

    A model that does more than attend, and one that then says something else, is left as it is; so is one that trains
    with dropout, whose draws rows that share a prompt would share. On a GPU a batch stays as it is too: kernels for
    padded rows are faster there, and what a mask costs beside them has not been measured.
    """
    backbone = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    suited = backbone.device.type == "cpu" and takes_masks(model.config, class_of(model))
    if not suited or "forward" in vars(backbone) or _drops_out(backbone) or not _agrees(backbone):
        yield False
        return
    whole = backbone.forward

    @functools.wraps(whole)
    def forward(input_ids: Any = None, attention_mask: Any = None, **named: Any) -> Any:
        if not any(value is not None and value is not False for value in named.values()):
            found = _layout_of(model.config, input_ids, attention_mask)
            if found is not None:
                return _read(whole, model, *found)
        return whole(input_ids, attention_mask=attention_mask, **named)

    backbone.forward = forward
    try:
        yield True
    finally:
        del backbone.forward


def _drops_out(backbone: Any) -> bool:
    text = backbone.config.get_text_config(decoder=True)
    layers = (one for one in backbone.modules() if isinstance(one, torch.nn.Dropout))
    return any(layer.p > 0 for layer in layers) or bool(getattr(text, "attention_dropout", 0.0))


@torch.no_grad()
def _agrees(backbone: Any) -> bool:
    """Compare the hidden states of sequences that are read together with those of each alone."""
    sequences = [numpy.array(ids) for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 6], [7, 8, 9, 7])]
    training = backbone.training
    backbone.eval()  # without dropout
    try:
        expected = [backbone(torch.from_numpy(ids)[None], use_cache=False).last_hidden_state[0] for ids in sequences]
        found = layout(sequences, [16], lambda rows, width: rows)
        hidden = _read(backbone.forward, backbone, found, found.places).last_hidden_state
        return all(map(alike, hidden, expected))
    except UNSUITED as error:
        if is_out_of_memory(error):
            raise
        warn(f"{type(backbone).__name__} reads batches as they are padded: {type(error).__name__}: {error}")
        return False
    finally:
        backbone.train(training)


def _layout_of(config: Any, input_ids: Any, attention_mask: Any) -> "tuple[Layout, Any] | None":
    """Return how a padded batch is read, and where each of its tokens is found; None if that is not worth it."""
    if input_ids is None or input_ids.ndim != 2:
        return None
    ids = input_ids.numpy()
    if attention_mask is None:
        kept = numpy.ones(ids.shape, dtype=bool)
    elif getattr(attention_mask, "shape", None) == ids.shape:
        kept = attention_mask.numpy().astype(bool)
    else:
        return None
    if not kept.any(axis=1).all() or (numpy.diff(kept.astype(numpy.int8)) != 0).sum(axis=1).max(initial=0) > 2:
        return None  # a hole in a row counts for positions
    found = narrowest([row[own] for row, own in zip(ids, kept, strict=True)], config, ids.shape[1])
    if found is None:
        return None
    index = numpy.zeros(ids.shape, dtype=numpy.int64)
    index[kept] = numpy.concatenate(found.places)
    return found, index


def narrowest(sequences: list[numpy.ndarray[Any, Any]], config: Any, padded: int) -> Layout | None:
    """Return the cheapest way to read sequences that a trainer pads to `padded` tokens each; None if that is as good.

    Nor may attention be larger than that of the padded batch, by which memory is planned.
    """
    hidden, attended = config.get_text_config(decoder=True).hidden_size, len(sequences) * padded**2

    def cost(rows: int, width: int) -> float:
        """Return what rows of a width cost, in tokens: a layer has about 12 times the square of its size in weights."""
        return math.inf if rows * width**2 > attended else rows * width * (1 + width / (6 * hidden))

    least = _rounded(max(map(len, sequences)))
    widths = {least, *(_rounded(int(padded * times)) for times in WIDTHS)}
    found = layout(sequences, sorted(width for width in widths if width >= least), cost)
    return found if cost(*found.ids.shape) <= WORTH * cost(len(sequences), padded) else None


def _read(whole: Any, model: Any, found: Layout, index: Any) -> Any:
    """Return a backbone's output, whose hidden states are those of the tokens in `index`."""
    family, branch, positions = (torch.from_numpy(part) for part in (found.family, found.branch, found.positions))
    order = torch.arange(family.shape[1])
    sees = (family[:, :, None] == family[:, None, :]) & (order[:, None] >= order)
    sees &= (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    output = whole(
        torch.from_numpy(found.ids),
        attention_mask=mask_for(model.config, sees, positions, positions, model.dtype),
        position_ids=positions,
        use_cache=False,
    )
    hidden = output.last_hidden_state.flatten(0, 1)
    if isinstance(index, list):
        output.last_hidden_state = [hidden[torch.from_numpy(places)] for places in index]
    else:
        output.last_hidden_state = torch.nn.functional.embedding(torch.from_numpy(index), hidden)
    return output


def _rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
