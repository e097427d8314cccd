"""Which held-out items share runs of words with what a run, and all that it was built on, was trained on."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.choose import tasks_for
from evaluation.encode import Row
from evaluation.lineage import Lineage, Trained
from evaluation.named import label
from evaluation.ngrams import SHORTEST, Index, Turns, words
from evaluation.sections import Section
from evaluation.task import Task
from kinds import Stage, recorded
from utils.console import progress

COLUMNS = ("text", "messages", "prompt", "completion", "chosen", "rejected", "answer", "solution")
WORST = 10
"""Items that are shown on the console."""


@dataclass(frozen=True)
class HeldOutSet:
    """Items that some stage was measured on."""

    name: str
    items: tuple[tuple[str, ...], ...]


def turns_of(row: Row, *, held_out: bool = False) -> list[str]:
    """Return the texts of a row, a turn each.

    Of a held-out row without system turns: rows share them, and do not pose the same question because of it.
    """
    texts = []
    for value in (row.get(column) for column in COLUMNS):
        if isinstance(value, str):
            texts.append(value)
        for turn in value if isinstance(value, list) else ():
            if not (held_out and turn["role"] == "system"):
                calls = [json.dumps(call.get("function", call)) for call in turn.get("tool_calls") or ()]
                texts += [turn["content"], *calls]
    return texts


def training_turns(stage: Trained) -> tuple[int, Iterable[Turns], str]:
    """Return how many rows a stage trains on, their turns, read when they are needed, and their fingerprint now."""
    if stage.kind == "pretrain":
        from data.corpus.configured import corpus_for, record_of

        corpus = corpus_for(stage.options)
        stored = [(part.store.texts("train"), part.train) for part in corpus.parts]
        rows = ([texts.text(index)] for texts, indices in stored for index in indices.tolist())
        return corpus.count("train"), rows, record_of(corpus, stage.options.eval_samples)["fingerprint"]
    from data.sources import load_for

    data = load_for(stage.options, stage.kind)
    return len(data.train), map(turns_of, data.train), data.info["fingerprint"]


def held_out_sets(stages: Iterable[Trained]) -> list[HeldOutSet]:
    """Return what these stages were measured on, each set once, and none that is a part of another."""
    by_run: dict[str, list[Stage]] = {}
    for stage in stages:
        kind = recorded({"name": stage.kind})
        by_run.setdefault(stage.run, []).append(Stage(stage.kind, kind, stage.options))
    found: list[HeldOutSet] = []
    for run, of_run in by_run.items():
        tasks = tasks_for(of_run)
        for one in of_run:
            named = {task.name: task.held_out.rows for task in tasks[one.label]}
            if one.kind.layout == "documents":
                named["test documents"] = _test_documents(one.config)
            for name, rows in named.items():
                found.append(HeldOutSet(f"{run}/{one.label} {name}", tuple(_items(rows))))
    return [one for place, one in enumerate(found) if not _is_part(one, found[:place], found[place + 1 :])]


def _items(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    return (tuple(turns_of(row, held_out=True)) for row in rows)


def _test_documents(config: Any) -> list[Row]:
    from data.corpus.configured import corpus_for

    parts = corpus_for(config).parts
    chosen = [(part.store.texts("test"), part.held_out("test", config.eval_samples)) for part in parts]
    return [{"text": texts.text(index)} for texts, indices in chosen for index in indices.tolist()]


def _is_part(one: HeldOutSet, before: list[HeldOutSet], after: list[HeldOutSet]) -> bool:
    mine = set(one.items)
    return any(mine <= set(other.items) for other in before) or any(mine < set(other.items) for other in after)


def contamination(lineage: Lineage, n: int, others: Iterable[Task] = ()) -> dict[str, Any]:
    """Return what every evaluation set of a lineage, and of `others`, shares with every training set, item by item."""
    sets = held_out_sets(lineage.stages)
    sets += [HeldOutSet(label(task), tuple(_items(task.held_out.rows))) for task in others]
    index = Index([item for one in sets for item in one.items], n)
    training, overlaps = [], []
    for stage in lineage.stages:
        count, rows, fingerprint = training_turns(stage)
        changed = stage.fingerprint is not None and stage.fingerprint != fingerprint
        training.append({"name": stage.name, "rows": count, "changed": changed})
        found = {overlap.item: overlap for overlap in index.search(_shown(rows, f"searching {stage.name}", count))}
        first = 0
        for one in sets:
            places = range(first, first := first + len(one.items))
            items = [asdict(found[item]) | {"item": item - places.start} for item in places if item in found]
            overlaps.append({"training_set": stage.name, "evaluation_set": one.name, **_counts(items), "found": items})
    return {
        "run_id": lineage.run_id,
        "ngram": n,
        "shortest": SHORTEST,
        "training_sets": training,
        "evaluation_sets": [
            {"name": one.name, "items": len(one.items), "without_words": sum(not any(map(words, i)) for i in one.items)}
            for one in sets
        ],
        "overlaps": overlaps,
        "not_known": lineage.unknown,
    }


def _shown(rows: Iterable[Turns], what: str, count: int) -> Iterator[Turns]:
    with progress(what, count) as bar:
        for number, row in enumerate(rows, 1):
            yield row
            if number % 1000 == 0 or number == count:
                bar.update(number)


def _counts(items: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [item["share"] for item in items]
    half, whole = (sum(share >= least for share in shares) for least in (0.5, 1.0))
    return {"items": len(items), "half": half, "whole": whole, "most": max(shares, default=0.0)}


def sections(report: dict[str, Any]) -> list[Section]:
    """Return the tables of a report; sets of the run itself go by their stage."""
    own = f"{report['run_id']}/"
    sizes = {one["name"]: one["items"] for one in report["evaluation_sets"]}
    rows = [
        (*_short(one, own), f"{sizes[one['evaluation_set']]:,}",
         *(f"{one[name]:,}" for name in ("items", "half", "whole")), f"{one['most']:.0%}")
        for one in report["overlaps"]
    ]  # fmt: skip
    said = [f"Shared: a run of {report['ngram']} words, or a whole turn of {report['shortest']} words and more."]
    said += [
        f"{one['name']}: the rows have changed since; these are those of now"
        for one in report["training_sets"]
        if one["changed"]
    ]
    said += [f"What {name} was trained on is not known" for name in report["not_known"]]
    columns = ("training set", "evaluation set", "items", "share words", "half and more", "all", "most")
    worst = sorted(
        ((one, item) for one in report["overlaps"] for item in one["found"]), key=lambda pair: -pair[1]["share"]
    )[:WORST]
    shown = [
        (*_short(one, own), str(item["item"]), f"{item['share']:.0%}", _rows(item),
         f"{item['shared']:.150}")
        for one, item in worst
    ]  # fmt: skip
    named = ("training set", "evaluation set", "item", "share", "rows", "the longest stretch")
    told = "Items and rows are numbered from 0, in the order in which the stages read them." if shown else "none"
    return [Section("Held-out items in training text", columns, rows, "\n".join(said)),
            Section("The items that share most", named, shown, told)]  # fmt: skip


def _short(one: dict[str, Any], own: str) -> tuple[str, str]:
    return one["training_set"].removeprefix(own), one["evaluation_set"].removeprefix(own)


def _rows(item: dict[str, Any]) -> str:
    first = ", ".join(map(str, item["first_rows"][:3]))
    return first if item["rows"] <= 3 else f"{first} and {item['rows'] - 3:,} more"
