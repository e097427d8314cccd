"""Model cards: the Hub's library reads them, their code loads the model, and nobody's file is overwritten."""

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.card import FILE, card_of, licence, markdown, write_card
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.files import weights_sha256

RUN, EARLIER = "20260102_000000_bbbb", "20260101_000000_aaaa"
RESULTS: list[dict[str, Any]] = [
    {"task": "skills", "metric": "strict", "n": 40, "before": 0.25, "after": 0.5, "ci95": [0.125, 0.375]},
    {"task": "skills", "metric": "strict/counting", "n": 9, "before": 0.5, "after": 1.0, "ci95": None},
    {"task": "documents", "metric": "perplexity", "n": 0, "before": None, "after": None, "ci95": None},
]


def recorded(
    runs_dir: Path, model: Path, kind: str, *, run: str = RUN, config: dict[str, Any] | None = None, **more: Any
) -> tuple[RunInfo, Path]:
    """Copy a model into a run as the output of its only stage, and write the records that a stage leaves."""
    info = RunInfo(runs_dir / run)
    stage_dir = shutil.copytree(model, info.run_dir / f"my-{kind}")
    asked = {"dataset_name": "made:preferences", "dataset_revision": None, "seed": 3, "model_name": "owner/base"}
    config = asked | (config or {})
    entries = [{"name": kind, "output_dir": stage_dir.name, "status": "passed"}]
    configs: Any = {kind: config}
    info.set(status="running", stages=entries, configs=configs, recipe="r", versions={"torch": "2.0"}, **more)
    StageLog(stage_dir).open(
        name=kind, status="passed", config=config, input={"ref": "owner/base", "path": "x", "sha256": "ab12" * 16},
        output={"path": str(stage_dir), "sha256": weights_sha256(model)}, evaluation=RESULTS, steps=7, tokens=1234,
        data={"name": config["dataset_name"], "fingerprint": "f" * 64, "train_rows": 12, "eval_rows": 5, "dropped": 1},
        alarms=[{"step": 4, "name": "spike", "message": "the loss <b>jumped</b>"}], duration_s=61.0,
    )  # fmt: skip
    return info, stage_dir


def read(stage_dir: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(stage_dir / FILE)


def run_code_of(stage_dir: Path) -> str:
    """Execute the card's code in the directory of the card, and return what it printed."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", read(stage_dir).text, re.DOTALL | re.MULTILINE)
    with contextlib.chdir(stage_dir), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    return printed.getvalue()


@pytest.mark.parametrize(
    ("kind", "template", "task", "auto"),
    [
        ("sft", True, "text-generation", "CausalLM"),
        ("dpo", False, "text-generation", "CausalLM"),
        ("pretrain", True, "text-generation", "CausalLM"),
        ("reward", True, "text-classification", "SequenceClassification"),
        ("reward", False, "text-classification", "SequenceClassification"),
    ],
)
def test_the_code_of_a_card_loads_and_uses_the_model(
    kind: str, template: bool, task: str, auto: str, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    model = make_model(tmp_path / "model", reward=kind == "reward", template=template)
    info, stage_dir = recorded(tmp_path / "runs", model, kind)
    write_card(info, kind)
    card = read(stage_dir)
    assert (card.data.pipeline_tag, card.data.library_name, card.data.tags) == (task, "transformers", ["sixgig", kind])
    assert f"AutoModelFor{auto}.from_pretrained(path)" in card.text
    assert ("apply_chat_template" in card.text) == (template and kind != "pretrain")
    printed = run_code_of(stage_dir)
    if kind == "reward":
        assert re.fullmatch(r"-?\d+\.\d+(e-\d+)?\n", printed)
    else:
        assert printed


@pytest.fixture
def passed(tmp_path: Path, model_dir: Path) -> tuple[RunInfo, Path]:
    return recorded(tmp_path / "runs", model_dir, "dpo")


def test_figures_data_and_hashes_are_those_of_the_records(passed: tuple[RunInfo, Path]) -> None:
    info, stage_dir = passed
    write_card(info, "dpo")
    card = read(stage_dir)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("strict", 0.5, "skills")
    assert (card.data.base_model, card.data.base_model_relation) == (["owner/base"], "finetune")
    assert card.data.datasets is None  # made data are on no Hub
    text = card.text
    assert r"| skills strict | 40 | 0.250 | 0.500 | \+0.250 \[+0.125, +0.375\] |" in text
    assert "| skills strict/counting | 9 | 0.500 | 1.000 | – |" in text
    assert "| dpo | made:preferences | ffffffffffffffff | 12 | 5 | 1 | made by sixgig |" in text
    assert f"7 steps, 1,234 tokens; from `{'ab12' * 16}`; wrote `{weights_sha256(stage_dir)}`" in text
    assert "base model owner/base, licence not known" in text
    assert "alarm at step 4: spike: the loss &lt;b&gt;jumped&lt;/b&gt;" in text


def test_the_lineage_goes_on_in_the_run_that_gave_the_input(tmp_path: Path, model_dir: Path) -> None:
    recorded(tmp_path / "runs", model_dir, "sft", run=EARLIER, config={"dataset_name": "owner/asks"})
    later = {"model_name": 'StageOutput("sft")', "dataset_name": str(tmp_path / "secret" / "pairs.jsonl")}
    info, stage_dir = recorded(tmp_path / "runs", model_dir, "dpo", config=later, from_run=EARLIER)
    write_card(info, "dpo")
    card = read(stage_dir)
    first, second = (card.text.index(f"- stage {name}") for name in ("sft of run 20260101", "dpo of run 20260102"))
    assert card.text.index("base model owner/base") < first < second
    assert card.data.datasets == ["owner/asks"]
    assert r"| dpo | pairs.jsonl |" in card.text
    assert str(tmp_path) not in (stage_dir / FILE).read_text()
    shutil.rmtree(tmp_path / "runs" / EARLIER)
    assert "- stage dpo of run" in card_of(info, "dpo", stage_dir)


@pytest.mark.parametrize(
    "name", ["a|b `c` *d* <script>x</script>\n# e\x1b[2J", "[x](https://e.vil) ![y](z)", "---\nq: 1"]
)
def test_what_users_wrote_stays_text(name: str, tmp_path: Path, model_dir: Path) -> None:
    info, stage_dir = recorded(tmp_path / "runs", model_dir, "dpo", config={"dataset_name": name}, git_commit=name)
    write_card(info, "dpo")
    raw = (stage_dir / FILE).read_text()
    assert not re.search(r"<script|\x1b|(?<!\\)\]\(|^# e|^q: 1", raw, re.MULTILINE)
    row = next(line for line in raw.splitlines() if line.startswith("| dpo | "))
    assert len(re.split(r"(?<!\\)\|", row)) == 9
    assert read(stage_dir).data.library_name == "transformers"


def test_text_is_escaped_and_numbers_stay_readable() -> None:
    assert markdown("a|b *c* <d>\n# e") == r"a\|b \*c\* &lt;d&gt; # e"
    assert markdown("- x_y") == r"\- x\_y"
    assert markdown("torch 2.13.0+cpu, -1.5") == "torch 2.13.0+cpu, -1.5"


def test_a_readme_that_is_there_is_not_overwritten(passed: tuple[RunInfo, Path]) -> None:
    info, stage_dir = passed
    (stage_dir / FILE).write_text("mine")
    write_card(info, "dpo")
    assert (stage_dir / FILE).read_text() == "mine"


def test_the_empty_template_that_peft_leaves_gives_way_to_a_card_but_not_once_it_is_edited(
    tmp_path: Path, model_dir: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(r=2, task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_dir / name, tmp_path / "adapter")
    blank = (tmp_path / "adapter" / FILE).read_text()
    info, stage_dir = recorded(tmp_path / "runs", tmp_path / "adapter", "sft")
    write_card(info, "sft")
    card = read(stage_dir)
    assert "[More Information Needed]" not in card.text
    assert (card.data.library_name, card.data.base_model_relation) == ("peft", "adapter")
    assert run_code_of(stage_dir)
    edited = blank.replace("[More Information Needed]", "My own words.", 1)
    (stage_dir / FILE).write_text(edited)
    write_card(info, "sft")
    assert (stage_dir / FILE).read_text() == edited


def test_a_card_that_cannot_be_written_is_one_warning(
    passed: tuple[RunInfo, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    info, stage_dir = passed
    StageLog(stage_dir).info(evaluation=[{"task": "no metric"}])
    write_card(info, "dpo")
    assert capsys.readouterr().out.count("warning: dpo: its model card could not be written: Unsound") == 1
    assert not (stage_dir / FILE).exists()


def test_a_licence_is_what_the_cached_card_of_the_hub_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for repo, text in (("datasets--o--d", "license: [mit, cc0-1.0]"), ("models--o--m", "license: apache-2.0"),
                       ("models--o--n", "tags: [x]")):  # fmt: skip
        snapshot = tmp_path / repo / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (tmp_path / repo / "refs").mkdir()
        (tmp_path / repo / "refs" / "main").write_text("abc")
        (snapshot / FILE).write_text(f"---\n{text}\n---\n")
    assert licence("o/d", "dataset", None) == "mit, cc0-1.0"
    assert licence("o/m", "model", "abc") == "apache-2.0"
    assert [licence(name, "model", None) for name in ("o/n", "o/absent", "./here")] == ["not known"] * 3


def test_a_card_names_the_stage_by_its_label_and_loads_it_by_its_kind(passed: tuple[RunInfo, Path]) -> None:
    info, stage_dir = passed
    record = info.read()
    entry = record["stages"][0] | {"name": "my judge", "kind": "reward"}
    info.set(stages=[entry], configs={"my judge": record["configs"]["dpo"]})
    StageLog(stage_dir).info(name="my judge", kind="reward")
    write_card(info, "my judge")
    card = read(stage_dir)
    assert (card.data.tags, card.data.pipeline_tag) == (["sixgig", "reward"], "text-classification")
    assert "The reward model of stage my judge of run" in card.text
    assert "| my judge | made:preferences |" in card.text
    assert "AutoModelForSequenceClassification" in card.text
