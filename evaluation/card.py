"""The model card of a stage: README.md beside its model, from the facts of its records."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from evaluation.lineage import Lineage, Trained
from evaluation.table import difference, number
from utils import hub
from utils.console import duration, warn
from utils.errors import Refused
from utils.files import ADAPTER_CONFIG, replace_text
from utils.processes import first_only
from utils.run_directory import RunInfo
from utils.secrets import hide
from utils.stage_log import StageLog
from utils.text import one_line

FILE = "README.md"
PUNCTUATION = re.compile(r"([\\`*_{}\[\]()!|~$]|^[#+-])")
NOT_KNOWN = "not known"


@first_only
def write_card(info: RunInfo, kind: str) -> None:
    """Write the card of a stage that has passed, unless a README.md is there; what goes wrong is one warning."""
    try:
        (entry,) = (entry for entry in info.read()["stages"] if entry["name"] == kind)
        file = info.run_dir / entry["output_dir"] / FILE
        if not file.exists() or _is_blank(file):
            replace_text(file, hide(card_of(info, kind, file.parent)))
    except Exception as error:  # noqa: BLE001  a card is no reason for a run to fail
        warn(f"{kind}: its model card could not be written: {type(error).__name__}: {error}")


def _is_blank(file: Path) -> bool:
    """Tell whether a card is the template that peft leaves beside an adapter, in which nobody has written."""
    from huggingface_hub import ModelCard, ModelCardData

    blank = ModelCard.from_template(ModelCardData()).text
    text = file.read_text(encoding="utf-8")
    if blank.strip()[:40] not in text:
        return False
    return ModelCard(text).text.partition("### Framework versions")[0].strip() == blank.strip()


def card_of(info: RunInfo, kind: str, stage_dir: Path) -> str:
    """Return the card of a stage: the Hub's metadata in YAML, then Markdown."""
    from huggingface_hub import ModelCard

    run, stage = info.read(), StageLog(stage_dir).read_info()
    try:
        lineage = Lineage(info, info.run_dir.parent, kind)
        stages, bases = lineage.stages, lineage.unknown
    except Refused:  # such as of an earlier run that is gone
        stages, bases = [Trained(info.run_dir.name, kind, stage["config"], stage)], []
    is_adapter = (stage_dir / ADAPTER_CONFIG).is_file()
    data = _metadata(kind, stage_dir.name, stage, stages, bases, is_adapter)
    parts = [
        f"# {markdown(stage_dir.name)}",
        f"The {_what(kind, is_adapter)} of stage `{kind}` of run {markdown(info.run_dir.name)}, trained with sixgig.",
        "## Where it comes from",
        *_lineage(stages, bases),
        "## Data",
        *_data(stages),
        "## Figures",
        *_figures(stage),
        "## How to load it",
        *_loading(kind, stage_dir, is_adapter),
        "## Limits",
        *_limits(stage, stages),
        "## Made with",
        *_made_with(run, stage),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    return str(card)


def markdown(text: Any) -> str:
    """Return text as Markdown that shows it: one line, in a table too, without markup or HTML of its own.

    >>> markdown("a|b *c* <d>\\n# e")
    'a\\\\|b \\\\*c\\\\* &lt;d&gt; # e'
    """
    return PUNCTUATION.sub(r"\\\1", escape(one_line(str(text)), quote=False))


def _public(name: str) -> str:
    """Return a name as a reader elsewhere may see it: of an absolute path, which tells of a machine, the last part."""
    return Path(name).name if Path(name).expanduser().is_absolute() else name


def _what(kind: str, is_adapter: bool) -> str:
    model = "reward model" if kind == "reward" else "language model"
    return f"adapter for a {model}" if is_adapter else model


def _metadata(
    kind: str, name: str, stage: Mapping[str, Any], stages: Sequence[Trained], bases: Sequence[str], is_adapter: bool
) -> Any:
    """Return what the Hub reads of a card: only models and data that are on it."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if kind == "reward" else "text-generation"
    results = [
        EvalResult(
            task_type=task, dataset_type=str(result["task"]), dataset_name=f"held out: {result['task']}",
            metric_type=str(result["metric"]), metric_value=result["after"],
        )
        for result in stage.get("evaluation") or []
        if result["after"] is not None and "/" not in result["metric"]
    ]  # fmt: skip
    base = [one for one in bases if hub.is_dataset_id(one)]  # the form of a model's id is the same
    more: dict[str, Any] = {"base_model_relation": "adapter" if is_adapter else "finetune"} if base else {}
    return ModelCardData(
        model_name=one_line(name),
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=task,
        tags=["sixgig", kind],
        base_model=base or None,
        datasets=list(dict.fromkeys(found for one in stages for found in _on_hub(one))) or None,
        eval_results=results or None,
        **more,
    )


def _on_hub(stage: Trained) -> Iterator[str]:
    """Yield the Hub's ids of a stage's data."""
    from data.corpus.documents import ON_HUB
    from data.corpus.mixture import parse

    name = stage.config["dataset_name"]
    for part in [part for part, _ in parse(name)] if stage.kind == "pretrain" else [name]:
        if hub.is_dataset_id(found := ON_HUB.get(part, part)):
            yield found


def _lineage(stages: Sequence[Trained], bases: Sequence[str]) -> Iterator[str]:
    lines = []
    for base in bases:
        revision = next((one.config.get("revision") for one in stages if one.config.get("model_name") == base), None)
        told = f" at {markdown(revision)}" if revision else ""
        lines.append(f"- base model {markdown(_public(base))}{told}, licence {licence(base, 'model', revision)}")
    if any(stage.kind == "pretrain" for stage in stages):
        lines.append("- random weights")
    for stage in stages:
        source, written = (stage.record.get(side) or {} for side in ("input", "output"))
        hashes = [f"{name} `{one['sha256']}`" for name, one in (("from", source), ("wrote", written)) if one]
        steps = f"{stage.record.get('steps') or 0:,} steps, {stage.record.get('tokens') or 0:,} tokens"
        if stage.kind == "reward" and stage is not stages[-1]:
            hashes.append("its scores were rewards, its weights are no part of this model")
        lines.append(f"- stage {stage.kind} of run {markdown(stage.run)}: {'; '.join([steps, *hashes])}")
    yield "In order; the hashes are SHA-256 over the names and bytes of the files of weights."
    yield "\n".join(lines)


def _data(stages: Sequence[Trained]) -> Iterator[str]:
    rows = []
    for stage in stages:
        data, revision = stage.record.get("data") or {}, stage.config.get("dataset_revision")
        on_hub = list(_on_hub(stage))
        commits = [hub.dataset_commit(one, revision or "main") for one in on_hub]
        licences = [licence(one, "dataset", revision) for one in on_hub]
        numbers = [f"{data[name]:,}" if name in data else NOT_KNOWN for name in ("train_rows", "eval_rows", "dropped")]
        own = "made by sixgig" if stage.config["dataset_name"].startswith("made:") else NOT_KNOWN
        version = ", ".join(commits) or f"{data.get('fingerprint') or NOT_KNOWN:.16}"
        name = _public(stage.config["dataset_name"])
        rows.append([stage.kind, name, version, *numbers, ", ".join(licences) or own])
    headers = ["stage", "data", "revision, or hash of the rows", "trained on", "held out", "left out", "licence"]
    yield _table(headers, rows)


def licence(repo_id: str, repo_type: str, revision: str | None) -> str:
    """Return the licence that the Hub's card tells, if that card is on this machine."""
    from huggingface_hub import DatasetCard, ModelCard, try_to_load_from_cache

    if not hub.is_dataset_id(repo_id):
        return NOT_KNOWN
    file = try_to_load_from_cache(repo_id, FILE, revision=revision, repo_type=repo_type)
    if not isinstance(file, str):
        return NOT_KNOWN
    card = (DatasetCard if repo_type == "dataset" else ModelCard).load(file, ignore_metadata_errors=True)
    found = card.data.get("license") or NOT_KNOWN
    return markdown(", ".join(found) if isinstance(found, list) else found)


def _figures(stage: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [f"{one['task']} {one['metric']}", str(one["n"]), number(one["before"]), number(one["after"]), difference(one)]
        for one in stage.get("evaluation") or []
    ]
    if not rows:
        yield "Nothing was measured."
        return
    yield (
        "Of the same held-out examples before and after the stage; the interval is that of the paired difference, 95 %."
    )
    yield _table(["measure", "n", "before", "after", "difference"], rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


LOAD = """```python
from transformers import {auto}, AutoTokenizer

path = "."  # the directory of this card
tokenizer = AutoTokenizer.from_pretrained(path)
model = {auto}.from_pretrained(path)
{inputs}
{use}
```"""
TALK = """messages = {messages}
inputs = tokenizer.apply_chat_template(messages, {more}return_tensors="pt", return_dict=True)"""
TEXT = """inputs = tokenizer("{text}", return_tensors="pt")"""
GENERATE = """output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
SCORE = """print(model(**inputs).logits[0, 0].item())  # higher is better; only differences mean something"""
ASKED = [{"role": "user", "content": "What is 2 + 2?"}]


def _loading(kind: str, stage_dir: Path, is_adapter: bool) -> Iterator[str]:
    """Yield code that runs in the directory of the card."""
    has_template = (stage_dir / "chat_template.jinja").is_file()
    is_judge = kind == "reward"
    if has_template and kind != "pretrain":
        messages = [*ASKED, {"role": "assistant", "content": "4"}] if is_judge else ASKED
        more = "" if is_judge else "add_generation_prompt=True, "
        inputs = TALK.format(messages=messages, more=more).replace("'", '"')
    else:
        inputs = TEXT.format(text="What is 2 + 2? 4" if is_judge else "Once upon a time")
    auto = "AutoModelForSequenceClassification" if is_judge else "AutoModelForCausalLM"
    yield LOAD.format(auto=auto, inputs=inputs, use=SCORE if is_judge else GENERATE)
    if is_adapter:
        yield "This needs peft, and the model that `adapter_config.json` names where it says."
    if kind == "pretrain" and has_template:
        yield "The chat template is for the stages to come: this model continues text, and knows no chat."


def _limits(stage: Mapping[str, Any], stages: Sequence[Trained]) -> Iterator[str]:
    lines = [
        "- What the figures above do not measure is not known: nothing was tried for safety, bias or other languages.",
        "- The held-out examples are of the same sources as the training data; on others it may do worse.",
    ]
    made = [one.kind for one in stages if one.config["dataset_name"].startswith("made:")]
    if made:
        lines.append(f"- In {', '.join(made)} it learnt from a made world of templates, and knows little else.")
    for alarm in stage.get("alarms") or []:
        lines.append(f"- alarm at step {alarm['step']}: {markdown(alarm['name'])}: {markdown(alarm['message'])}")
    yield "\n".join(lines)


def _made_with(run: Mapping[str, Any], stage: Mapping[str, Any]) -> Iterator[str]:
    hardware = run.get("hardware") or {}
    devices = [gpu["name"] for gpu in hardware.get("gpus") or []] or [str(hardware.get("cpu"))]
    peak = (stage.get("peak_memory_bytes") or 0) / 2**30
    took = f", {duration(stage['duration_s'])}" if stage.get("duration_s") else ""
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    lines = [
        f"- recipe {markdown(run.get('recipe') or 'of its own')}, seed {stage['config'].get('seed')},"
        f" commit {markdown(run.get('git_commit') or NOT_KNOWN)}",
        f"- {markdown(', '.join(devices))}{took}, peak of memory {peak:.2f} GiB",
        f"- {markdown(versions)}",
    ]
    yield "\n".join(lines)
