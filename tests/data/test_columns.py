"""Columns and keys of turns under the names that a recipe gives them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.corpus.corpus import prepare
from data.corpus.documents import Options
from data.sources import load
from utils.errors import Refused

WriteRows = Callable[[list[dict[str, Any]]], Path]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    def write(rows: list[dict[str, Any]]) -> Path:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "rows.jsonl"

    return write


def both_sides(path: Path, kind: str, **columns: str | None) -> list[dict[str, Any]]:
    data = load(str(path), kind, eval_fraction=0.2, columns=tuple(columns.items()))
    return [*data.train, *data.eval]


def test_columns_are_read_by_the_names_that_a_recipe_gives_them(write_rows: WriteRows) -> None:
    path = write_rows([{"q": f"Say {n}.", "a": f"It is {n}.", "prompt": "an older one"} for n in range(40)])
    rows = both_sides(path, "sft", question="q", answer="a")
    assert {row["prompt"][0]["content"] for row in rows} == {f"Say {n}." for n in range(40)}
    prompts = both_sides(path, "grpo", prompt="q", answer="a")
    assert all(row["prompt"][0]["content"] == f"Say {row['answer'][6:-1]}." for row in prompts)
    assert set(prompts[0]) == {"prompt", "answer"}


def test_a_key_of_turns_is_named_or_left_out(write_rows: WriteRows) -> None:
    answer = {"role": "assistant", "content": "yes", "thought": "let me see"}
    path = write_rows([{"messages": [{"role": "user", "content": f"Is {n} one?"}, answer]} for n in range(40)])
    with pytest.raises(Refused, match=r"in 40 of 40 rows .* 'thought'.*columns=\{'thought': None\}"):
        both_sides(path, "sft")
    named = both_sides(path, "sft", reasoning_content="thought")
    assert all(row["messages"][1]["reasoning_content"] == "let me see" for row in named)
    plain = both_sides(path, "sft", thought=None)
    assert all(row["messages"][1] == {"role": "assistant", "content": "yes"} for row in plain)


def test_a_label_that_is_left_out_is_no_thumb(write_rows: WriteRows) -> None:
    turns = [{"role": "assistant", "content": "yes"}]
    path = write_rows(
        [{"messages": [{"role": "user", "content": f"Is {n} one?"}, *turns], "label": n % 2} for n in range(40)]
    )
    with pytest.raises(Refused, match=r"columns=\{'label': None\}"):
        both_sides(path, "sft")
    assert len(both_sides(path, "sft", label=None)) == 40


def test_a_column_that_is_not_there_is_refused_with_the_nearest(write_rows: WriteRows) -> None:
    path = write_rows([{"query": f"Say {n}.", "response": "yes"} for n in range(40)])
    with pytest.raises(Refused, match=r"names 'qery', .* did you mean 'query'.*It has: query, response"):
        both_sides(path, "sft", prompt="qery")


def test_pretraining_reads_the_column_that_is_named(write_rows: WriteRows) -> None:
    path = write_rows([{"content": f"def f{n}(): return {n}", "lang": "python"} for n in range(60)])
    with pytest.raises(Refused, match="has no text: its columns are content, lang"):
        prepare(str(path))
    corpus = prepare(str(path), Options(columns=(("text", "content"),)))
    texts = corpus.parts[0].store.texts("train")
    assert texts.text(0).startswith("def f")
    assert sum(corpus.count(split) for split in ("train", "validation", "test")) == 60


def test_a_recipe_and_the_command_line_name_columns(write_rows: WriteRows) -> None:
    from algorithms import TrainingConfig
    from chain.set_values import with_values
    from data.sources import load_for

    path = write_rows([{"q": f"Say {n}.", "a": "yes"} for n in range(40)])
    config = TrainingConfig(
        model_name="m", output_dir="sft", dataset_name=str(path), eval_fraction=0.2, columns={"question": "q"}
    )
    configs, _ = with_values({"sft": config}, None, ["sft.columns.answer=a"])
    assert configs["sft"].columns == {"question": "q", "answer": "a"}
    assert len(load_for(configs["sft"], "sft").train) > 20


def test_columns_that_are_not_read_are_named(write_rows: WriteRows, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows([{"question": f"{n}?", "answer": "yes", "source": "a", "level": 3} for n in range(40)])
    both_sides(path, "sft")
    assert f"sft does not read level, source of {path}" in capsys.readouterr().out
    both_sides(path, "grpo")
    assert "does not read" not in capsys.readouterr().out
