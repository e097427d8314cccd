"""What the files of a run say of its stages: written when it opens, read when it is resumed or built upon."""

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kinds
from chain.fetch import Fetched
from chain.stages import Extra, kind_of, reference, reward_name, stages_of
from kinds import Stage, StageOutput
from records.run_directory import RunInfo, find_unfinished, passed_on, refuse_unusable
from records.stage_log import StageLog
from utils.code_hashes import code_hashes
from utils.errors import Refused
from utils.files import files_sha256, jsonable, remove_temporary, weight_files, weights_sha256
from utils.limits import Limits
from utils.processes import count, is_first
from utils.runtime import git_commit, hardware, now, versions
from utils.secrets import hidden


def chosen_stages(
    configs: Mapping[str, Any],
    grpo_extra: Extra,
    only: Sequence[str] | None,
    source: RunInfo | None,
    verifier: Any = None,
) -> tuple[list[Stage], dict[str, Path]]:
    """Return the stages to run, in order, and the directories of those stages of the run `source` that have passed.

    Raises:
        Refused: with every problem of the recipe; or a stage of `source` that a chosen one names no longer has the
            weights that it wrote.
    """
    outputs = finished_outputs(source) if source else {}
    judged = reward_model_of(source) is not None
    stages = stages_of(configs, grpo_extra, only, outputs, judged=judged, verifier=verifier)
    refs = [ref for stage in stages for ref in (stage.model, *stage.reward_models) if isinstance(ref, StageOutput)]
    for name in {ref.name for ref in refs} - {stage.label for stage in stages}:
        if source is None:
            continue
        if problem := altered(source.stage_dir(name), outputs[name]):
            raise Refused(f"run {source.run_dir.name}, stage {name}: {problem}. Run it again.")
        (entry,) = (entry for entry in source.read()["stages"] if entry["name"] == name)
        was, kind = kinds.recorded(entry), kind_of(name, configs[name])
        if kind is not None and was.name != kind.name:
            raise Refused(
                f"run {source.run_dir.name} has trained {name} as {was.name}, and in this recipe it is {kind.name}:"
                " name another run with --from, or run the stage again"
            )
    return stages, {name: path for name, path in outputs.items() if weight_files(path)}


def finished_outputs(info: RunInfo) -> dict[str, Path]:
    """Return the directories of the models that those stages of a run pass on which have passed."""
    passed = (entry for entry in info.read()["stages"] if entry["status"] == "passed")
    return {entry["name"]: passed_on(entry, info.run_dir) for entry in passed}


def reward_model_of(info: RunInfo | None) -> Path | None:
    """Return the directory of the newest reward model that a run has made and still has; else None."""
    entries = [] if info is None else info.read()["stages"]
    made = [entry["output_dir"] for entry in entries if entry["status"] == "passed" and kinds.recorded(entry).scores]
    there = [info.run_dir / one for one in made if weight_files(info.run_dir / one)] if info else []
    return there[-1] if there else None


def altered(stage_dir: Path, model_dir: Path) -> str | None:
    """Say how the model that a finished stage passes on differs from the one on record; None if it is the same.

    `model_dir` is the stage's own directory, or that of its input where its gate failed.
    """
    own = model_dir == stage_dir
    known = StageLog(stage_dir).read_info().get("output" if own else "input") or {}
    since = "it wrote" if own else "the stage began with"
    if not weight_files(model_dir):
        return f"{model_dir} holds no weights"
    if weights_sha256(model_dir) != known.get("sha256"):
        return f"{model_dir} holds other weights than {since}"
    was = known.get("files") or {}
    now = files_sha256(model_dir)
    others = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)] if was else []
    return f"{model_dir} holds another {', '.join(sorted(others))} than {since}" if others else None


def output_of(stage_dir: Path) -> dict[str, Any]:
    """Return what is recorded of a stage's model: where it lies, and the hashes that tell whether it is still that."""
    return {"path": str(stage_dir), "sha256": weights_sha256(stage_dir), "files": files_sha256(stage_dir)}


def resumable(runs_dir: Path, run_id: str) -> RunInfo:
    """Return the run of that id, or the `latest` unfinished one.

    Raises:
        Refused: there is none, it has passed or is running, or its record does not say what it was asked for.
    """
    info = find_unfinished(runs_dir, run_id)
    record = info.read()
    refuse_unusable(info)
    if record["status"] == "passed":
        raise Refused(f"run {info.run_dir.name} has passed: there is nothing to resume")
    _refuse_lacking(info, "recipe", "configs", "values", "from_run")
    return info


def _refuse_lacking(info: RunInfo, *keys: str) -> None:
    record = info.read()
    there = {*record, *(f"configs.{label}" for label in record.get("configs", ()))}
    if lacking := [key for key in keys if key not in there]:
        raise Refused(f"{info.file} has no {', '.join(lacking)}, as of another version: start a new run")


NOT_TRAINED_BY = ("gates", "on_fail")
"""Fields that judge what a stage has trained: when they change, it is judged again, and not trained again."""


def changes_since(
    info: RunInfo, stages: list[Stage], fetched: Fetched, outputs: Mapping[str, Path], force: bool
) -> dict[str, list[str]]:
    """Return how each stage differs from what the run recorded, when `force` accepts that.

    Compared are every stage's configuration and rows with what the run was last asked for, the input and the reward
    models of the one that was stopped, and the weights of those that have passed. `outputs` are directories of an
    earlier run's stages.

    Raises:
        Refused: they differ, and `force` is not given or cannot help.
    """
    _refuse_lacking(info, "run_id", "seed", "hardware", *(f"configs.{stage.label}" for stage in stages))
    record = info.read()
    entries = {entry["name"]: entry for entry in record["stages"]}
    written = {name: info.run_dir / entry["output_dir"] for name, entry in entries.items()}
    handed_on = {**outputs, **{name: passed_on(entry, info.run_dir) for name, entry in entries.items()}}
    changes: dict[str, list[str]] = {}
    for stage in stages:
        was, begun = record["configs"][stage.label], StageLog(written[stage.label]).read_info()
        if stage.config.output_dir != was.get("output_dir"):
            raise Refused(
                f"{stage.label}: output_dir was {was.get('output_dir')!r}: a run's directories keep their names"
            )
        found = [
            f"{name} was {was[name]!r}, now {value!r}"
            for name, value in recorded(stage).items()
            if name in was and was[name] != value and name not in (*NOT_TRAINED_BY, "stage")
        ]
        if (kind := kinds.recorded(entries[stage.label]).name) != stage.kind.name:
            found.append(f"its kind was {kind}, now {stage.kind.name}")
        rows = record.get("data", {}).get(stage.label) or (begun.get("data") or {}).get("fingerprint")
        if rows and rows != fetched.data[stage.label]["fingerprint"]:
            began = "it" if begun.get("data") else "the run"
            found.append(f"the rows of {stage.config.dataset_name} are not those that {began} began with")
        if "passed" in (entries[stage.label]["status"], begun.get("status")):
            found += filter(None, [altered(written[stage.label], written[stage.label])])
        elif begun.get("input") and stage.model:
            models = [(stage.model, stage.config.revision, begun["input"]["sha256"])]
            judges = begun.get("reward_models") or {}
            models += [(one, None, judges[name]) for one in stage.reward_models if (name := reference(one)) in judges]
            for model, revision, sha256 in models:
                path = fetched.path_of(model, revision, handed_on)
                if not weight_files(path) or weights_sha256(path) != sha256:
                    found.append(f"the weights of {reference(model)} are not those that it began with")
        if found:
            changes[stage.label] = found
    if changes and not force:
        raise Refused(
            f"run {info.run_dir.name} cannot go on as it began:\n{_listed(changes, '- ')}\nUndo this, or accept it with"
            " --force: what has passed is kept, a stage that was stopped starts over"
        )
    return changes


COMPARED = ("torch", "trl", "transformers", "datasets", "accelerate", "peft", "liger-kernel", "torchao",
            "bitsandbytes", "tokenizers")  # fmt: skip
"""Libraries whose version decides a result."""


def changes_of_run(info: RunInfo, stages: list[Stage], verifier: Any, force: bool) -> list[str]:
    """Return how libraries, our own code, the verifier and the number of processes differ from those of a run's start.

    With `force` the run goes on with those of now, from where it stopped.

    Raises:
        Refused: they differ, and `force` is not given.
    """
    _refuse_lacking(info, "versions")
    record = info.read()
    was, now_has = record["versions"], versions()
    found = [
        f"{name} was {was.get(name, 'not there')}, now {now_has.get(name, 'not there')}"
        for name in COMPARED
        if was.get(name) != now_has.get(name)
    ]
    here = deciding_code(stages)
    before = record.get("code") or here
    files = sorted(file for file in before.keys() | here.keys() if before.get(file) != here.get(file))
    if files:
        more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
        found.append(f"code of sixgig has changed: {', '.join(files[:SHOWN_FILES])}{more}")
    if "verifier" in record and record["verifier"] != fingerprint_of(verifier, stages):
        found.append("the verifier, or its problems, are not those that the run began with")
    if (processes := record.get("processes", 1)) != count():
        found.append(f"the run had {processes} processes, now {count()}: a step would have other rows")
    if found and not force:
        listed = "\n".join(f"- {change}" for change in found)
        raise Refused(
            f"run {info.run_dir.name} cannot go on as it began:\n{listed}\nUndo this, or accept it with --force: the"
            " run goes on from where it stopped, and is no longer the same to the bit"
        )
    return found


SHOWN_FILES = 5


def _listed(changes: Mapping[str, Sequence[str]], mark: str = "") -> str:
    return "\n".join(f"{mark}{label}: {change}" for label, found in changes.items() for change in found)


def set_aside(stage_dir: Path) -> Path:
    """Rename a stage's directory, so that the stage starts over and nothing is lost; return where it is now."""
    number = 1
    while (aside := stage_dir.with_name(f"{stage_dir.name}.before-{number}")).exists():
        number += 1
    return stage_dir.rename(aside)


def recorded(stage: Stage) -> dict[str, Any]:
    """Return a stage's configuration as the run records it: in JSON's types, secrets hidden."""
    config = dict(jsonable(stage.config))
    if stage.model:
        config["model_name"] = reference(stage.model)
    if stage.extra is not None:
        config["grpo_extra"] = jsonable(stage.extra) | {
            "reward_func": [reward_name(one) for one in stage.extra.rewards],
            "reward_code": [source_hash(one) for one in stage.extra.rewards],
        }
    return dict(hidden(config))


def source_hash(reward: Any) -> str | None:
    """Return a short hash of the source of a reward function; None for what has none, such as a model."""
    bound = getattr(getattr(reward, "__self__", None), "__dict__", {})  # of a verifier's method its functions decide
    functions = [reward, *filter(callable, bound.values())]
    try:
        source = "".join(map(inspect.getsource, functions)) if callable(reward) else ""
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:12] if source else None


def fingerprint_of(verifier: Any, stages: Iterable[Stage]) -> str | None:
    """Return what tells a verifier from others; None if there is none."""
    return verifier and str(verifier.fingerprint([stage.config for stage in stages]))


def open_record(
    info: RunInfo,
    stages: list[Stage],
    *,
    recipe: str | None,
    from_run: str | None,
    values: Sequence[str],
    changes: Mapping[str, Sequence[str]],
    of_run: Sequence[str],
    untried: Sequence[str],
    limits: Limits,
    data: Mapping[str, Mapping[str, Any]],
    verifier: Any = None,
) -> None:
    """Write run_info.json of a new run, or take that of a resumed one up again, with what it is asked for now."""
    asked = {
        "values": list(values),
        "limits": jsonable(limits),
        "configs": {stage.label: recorded(stage) for stage in stages},
        "data": {label: rows["fingerprint"] for label, rows in data.items()},
        "verifier": fingerprint_of(verifier, stages),
    }
    before = info.read().get("forced", []) if info.file.exists() else []
    if forced := [*dict.fromkeys([*before, *_listed(changes).splitlines(), *of_run, *untried])]:
        asked["forced"] = forced
    if info.file.exists():
        if is_first():
            remove_temporary(info.run_dir)
        if of_run:
            asked |= made_with(stages)
        info.set(**asked, status="running", finished_at=None)
        return
    seeds = {stage.config.seed for stage in stages}
    pending = {"status": "pending", "started_at": None, "duration_s": None, "input": None}
    info.set(
        run_id=info.run_dir.name,
        recipe=recipe,
        argv=sys.argv,
        from_run=from_run,
        seed=seeds.pop() if len(seeds) == 1 else None,
        status="running",
        started_at=now(),
        finished_at=None,
        stages=[
            {"name": stage.label, "kind": stage.kind.name, "output_dir": stage.config.output_dir} | pending
            for stage in stages
        ],
        **asked,
        **made_with(stages),
        hardware=hardware(),
    )


def made_with(stages: Iterable[Stage]) -> dict[str, Any]:
    """Return what of this process decides a result beside the recipe and its data."""
    return {"versions": versions(), "git_commit": git_commit(), "code": deciding_code(stages), "processes": count()}


def deciding_code(stages: Iterable[Stage]) -> dict[str, str]:
    """Return the hash of each file of ours that decides what these stages train and measure.

    Of a kind of a recipe's own those are what its class is derived from; of data that a program makes, its modules.
    """
    from data import made

    modules = {"evaluation"}
    for stage in stages:
        modules |= {cls.__module__ for cls in type(stage.kind).__mro__}
        modules |= set(made.modules_of(stage.config.dataset_name))
    return code_hashes(filter(None, modules))  # what a recipe itself defines has no module
