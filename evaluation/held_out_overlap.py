"""Which held-out items share runs of words with what a run, and all that it was built on, was trained on."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from data.examples import Row
from data.made import PREFIX
from evaluation.choose import tasks_for, verifier_for
from evaluation.lineage import Lineage, Trained
from evaluation.named import label
from evaluation.ngrams import SHORTEST, Index, Turns, words
from evaluation.sections import Section
from evaluation.task import Task
from kinds import Stage
from utils.console import progress

COLUMNS = ("text", "messages", "prompt", "completion", "chosen", "rejected", "answer", "solution")
VERIFIED = {"skills", "verified_answers"}
"""Tasks that ask a verifier's problems."""
EXPECTED = (
    "{}: rows that a program makes from templates share their words, which is expected: numbers and names tell them"
    " apart. An item that shares all of its words is another matter."
)
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
    if stage.kind.layout == "documents":
        from data.corpus.configured import corpus_for, record_of

        corpus = corpus_for(stage.options)
        stored = [(part.store.texts("train"), part.train) for part in corpus.parts]
        rows = ([texts.text(index)] for texts, indices in stored for index in indices.tolist())
        return corpus.count("train"), rows, record_of(corpus, stage.options.eval_samples)["fingerprint"]
    from data.sources import load_for

    data = load_for(stage.options, stage.kind.name)
    return len(data.train), map(turns_of, data.train), data.info["fingerprint"]


def held_out_sets(stages: Iterable[Trained]) -> list[HeldOutSet]:
    """Return what these stages were measured on, each set once, and none that is a part of another."""
    by_run: dict[str, list[Stage]] = {}
    for stage in stages:
        by_run.setdefault(stage.run, []).append(Stage(stage.label, stage.kind, stage.options))
    found: list[HeldOutSet] = []
    for run, trained in by_run.items():
        tasks = tasks_for(trained)
        for one in trained:
            sets = {task.name: task.held_out.rows for task in tasks[one.label]}
            if one.kind.layout == "documents":
                sets["test documents"] = _test_documents(one.config)
            found += [HeldOutSet(f"{run}/{one.label} {title}", tuple(_items(rows))) for title, rows in sets.items()]
    return [one for place, one in enumerate(found) if not _is_part(one, found[:place], found[place + 1 :])]


def unsearched(stages: Iterable[Trained]) -> list[str]:
    """Return the runs that a verifier of their own measured: its problems stand in the recipe, which is not loaded."""
    runs: dict[str, list[Trained]] = {}
    for stage in stages:
        runs.setdefault(stage.run, []).append(stage)
    found = []
    for run, of_run in runs.items():
        tasks = {result["task"] for stage in of_run for result in stage.record.get("evaluation") or ()}
        if tasks & VERIFIED and not verifier_for(Stage(one.label, one.kind, one.options) for one in of_run):
            found.append(run)
    return found


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
    names = [str(stage.config["dataset_name"]) for stage in lineage.stages]
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
            shares = [float(item["share"]) for item in items]
            counts = {"items": len(items), "half": sum(share >= 0.5 for share in shares), "whole": shares.count(1.0)}
            pair = {"training_set": stage.name, "evaluation_set": one.name}
            overlaps.append({**pair, **counts, "most": max(shares, default=0.0), "found": items})
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
        "made": list(dict.fromkeys(name for name in names if PREFIX in name)),
        "not_known": lineage.unknown,
        "not_searched": unsearched(lineage.stages),
    }


def _shown(rows: Iterable[Turns], what: str, count: int) -> Iterator[Turns]:
    with progress(what, count) as bar:
        for number, row in enumerate(rows, 1):
            yield row
            if number % 1000 == 0 or number == count:
                bar.update(number)


def sections(report: dict[str, Any]) -> list[Section]:
    """Return the tables of a report; sets of the run itself go by their stage."""
    sizes = {one["name"]: one["items"] for one in report["evaluation_sets"]}

    def names(overlap: dict[str, Any]) -> tuple[str, str]:
        training, evaluation = (overlap[name] for name in ("training_set", "evaluation_set"))
        return training.removeprefix(f"{report['run_id']}/"), evaluation.removeprefix(f"{report['run_id']}/")

    counts = [
        (*names(one), f"{sizes[one['evaluation_set']]:,}", f"{one['items']:,}", f"{one['half']:,}",
         f"{one['whole']:,}", f"{one['most']:.0%}")
        for one in report["overlaps"]
    ]  # fmt: skip
    shared = [(one, item) for one in report["overlaps"] for item in one["found"]]
    worst = [
        (*names(one), str(item["item"]), f"{item['share']:.0%}", _rows(item), f"{item['shared']:.150}")
        for one, item in sorted(shared, key=lambda pair: -pair[1]["share"])[:WORST]
    ]
    notes = [f"Shared: a run of {report['ngram']} words, or a whole turn of {report['shortest']} words and more."]
    changed = [one["name"] for one in report["training_sets"] if one["changed"]]
    notes += [f"{name}: the rows have changed since; these are those of now" for name in changed]
    notes += [f"What {name} was trained on is not known" for name in report["not_known"]]
    notes += [f"The problems of {run}'s own verifier are not searched" for run in report["not_searched"]]
    if shared and report["made"]:
        notes.append(EXPECTED.format(", ".join(report["made"])))
    columns = ("training set", "evaluation set", "items", "share words", "half and more", "all", "most")
    of_worst = ("training set", "evaluation set", "item", "share", "rows", "the longest stretch")
    numbered = "Items and rows are numbered from 0, in the order in which the stages read them." if worst else "none"
    return [Section("Held-out items in training text", columns, counts, "\n".join(notes)),
            Section("The items that share most", of_worst, worst, numbered)]  # fmt: skip


def _rows(item: dict[str, Any]) -> str:
    first = ", ".join(map(str, item["first_rows"][:3]))
    return first if item["rows"] <= 3 else f"{first} and {item['rows'] - 3:,} more"
