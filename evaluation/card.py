"""The model card of a stage: README.md beside its model, from the facts of its records."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import kinds
from data import made
from evaluation.lineage import Lineage, Trained
from evaluation.table import difference, number
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils import hub
from utils.console import duration, warn
from utils.errors import Refused
from utils.files import ADAPTER_CONFIG, replace_text
from utils.processes import first_only
from utils.text import one_line

FILE = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.jinja")
PUNCTUATION = re.compile(r"([\\`*_{}\[\]()!|~$]|^[#+-])")
NOT_KNOWN = "not known"


@first_only
def write_card(info: RunInfo, label: str) -> None:
    """Write the card of a stage that has passed, unless a README.md is there; what goes wrong is one warning."""
    try:
        file = info.stage_dir(label) / FILE
        if not file.exists() or _is_blank(file):
            replace_text(file, card_of(info, label, file.parent))
    except Exception as error:  # noqa: BLE001  a card is no reason for a run to fail
        warn(f"{label}: its model card could not be written: {type(error).__name__}: {error}")


def _is_blank(file: Path) -> bool:
    """Tell whether a card is the template that peft leaves beside an adapter, in which nobody has written."""
    from huggingface_hub import ModelCard, ModelCardData

    blank = ModelCard.from_template(ModelCardData()).text
    text = file.read_text(encoding="utf-8")
    if blank.strip()[:40] not in text:
        return False
    return ModelCard(text).text.partition("### Framework versions")[0].strip() == blank.strip()


def card_of(info: RunInfo, label: str, stage_dir: Path) -> str:
    """Return the card of a stage: the Hub's metadata in YAML, then Markdown."""
    from huggingface_hub import ModelCard

    run, record = info.read(), StageLog(stage_dir).read_info()
    try:
        lineage = Lineage(info, info.run_dir.parent, label)
        stages, unknown = lineage.stages, lineage.unknown
    except Refused:  # such as of an earlier run that is gone
        stages, unknown = [Trained(info.run_dir.name, label, kinds.recorded(record), record["config"], record)], []
    kind, is_adapter = stages[-1].kind, (stage_dir / ADAPTER_CONFIG).is_file()
    model = "reward model" if kind.scores else "language model"
    hardware = run.get("hardware") or {}
    revisions = {one.config.get("model_name"): one.config.get("revision") for one in stages}
    card = ModelCard.from_template(
        _metadata(stage_dir.name, record, stages, unknown, is_adapter),
        template_path=str(TEMPLATE),
        text=markdown, duration=duration, name=stage_dir.name, label=label, run_id=info.run_dir.name, run=run,
        record=record, kind=kind, stages=stages, is_adapter=is_adapter,
        what=f"adapter for a {model}" if is_adapter else model,
        bases=[(_public(name), revision := revisions.get(name), licence(name, "model", revision)) for name in unknown],
        data=[_data(one) for one in stages],
        figures=[
            (f"{one['task']} {one['metric']}", one["n"], number(one["before"]), number(one["after"]), difference(one))
            for one in record.get("evaluation") or []
        ],
        auto="AutoModelForSequenceClassification" if kind.scores else "AutoModelForCausalLM",
        has_template=(stage_dir / "chat_template.jinja").is_file(),
        made_by=[one.label for one in stages if _ships(one.config["dataset_name"])],
        devices=[gpu["name"] for gpu in hardware.get("gpus") or []] or [str(hardware.get("cpu"))],
    )  # fmt: skip
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


def _metadata(
    name: str, record: Mapping[str, Any], stages: Sequence[Trained], unknown: Sequence[str], is_adapter: bool
) -> Any:
    """Return what the Hub reads of a card: only models and data that are on it."""
    from huggingface_hub import EvalResult, ModelCardData

    kind = stages[-1].kind
    task = "text-classification" if kind.scores else "text-generation"
    results = [
        EvalResult(
            task_type=task, dataset_type=str(result["task"]), dataset_name=f"held out: {result['task']}",
            metric_type=str(result["metric"]), metric_value=result["after"],
        )
        for result in record.get("evaluation") or []
        if result["after"] is not None and "/" not in result["metric"]
    ]  # fmt: skip
    base = [one for one in unknown if hub.is_dataset_id(one)]  # the form of a model's id is the same
    more: dict[str, Any] = {"base_model_relation": "adapter" if is_adapter else "finetune"} if base else {}
    return ModelCardData(
        model_name=one_line(name),
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=task,
        tags=["sixgig", kind.name],
        base_model=base or None,
        datasets=list(dict.fromkeys(dataset for one in stages for dataset in _on_hub(one))) or None,
        eval_results=results or None,
        **more,
    )


def _on_hub(stage: Trained) -> Iterator[str]:
    """Yield the Hub's ids of a stage's data."""
    from data.corpus.mixture import parse
    from data.named import ON_HUB

    name = stage.config["dataset_name"]
    for part in [part for part, _ in parse(name)] if stage.kind.layout == "documents" else [name]:
        if hub.is_dataset_id(dataset := ON_HUB.get(part, part)):
            yield dataset


def _ships(dataset_name: str) -> bool:
    return dataset_name.startswith(made.PREFIX) and dataset_name.removeprefix(made.PREFIX) in made.SHIPPED


def _data(stage: Trained) -> list[str]:
    """Return the cells of a stage's row in the table of data."""
    data, revision = stage.record.get("data") or {}, stage.config.get("dataset_revision")
    on_hub, name = list(_on_hub(stage)), str(stage.config["dataset_name"])
    commits = [hub.dataset_commit(one, revision or "main") for one in on_hub]
    licences = [licence(one, "dataset", revision) for one in on_hub]
    counts = [f"{data[field]:,}" if field in data else NOT_KNOWN for field in ("train_rows", "eval_rows", "dropped")]
    own = ("made by sixgig" if _ships(name) else "made by its recipe") if name.startswith(made.PREFIX) else NOT_KNOWN
    version = ", ".join(commits) or f"{data.get('fingerprint') or NOT_KNOWN:.16}"
    return [stage.label, _public(name), version, *counts, ", ".join(licences) or own]


def licence(repo_id: str, repo_type: str, revision: str | None) -> str:
    """Return the licence that the Hub's card tells, if that card is on this machine."""
    from huggingface_hub import DatasetCard, ModelCard, try_to_load_from_cache

    if not hub.is_dataset_id(repo_id):
        return NOT_KNOWN
    file = try_to_load_from_cache(repo_id, FILE, revision=revision, repo_type=repo_type)
    if not isinstance(file, str):
        return NOT_KNOWN
    card = (DatasetCard if repo_type == "dataset" else ModelCard).load(file, ignore_metadata_errors=True)
    told = card.data.get("license") or NOT_KNOWN
    return ", ".join(map(str, told)) if isinstance(told, list) else str(told)
