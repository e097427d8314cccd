"""Loading a stage's data: both sides, what is told about them, and the refusals when they cannot be had."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets, config, load_dataset
from huggingface_hub import constants

from algorithms import TrainingConfig
from data import made
from data.sources import fingerprint, load, load_for
from data.splits import held_out, key_of, normalised
from utils.errors import Refused

WriteRows = Callable[..., str]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    def write(count: int, name: str = "rows.jsonl", start: int = 0) -> str:
        rows = ({"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(start, start + count))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of datasets and of the Hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def keys(rows: Any) -> set[str]:
    return {normalised(key_of(row)) for row in rows}


def test_rows_are_split_by_the_hash_of_their_problem(write_rows: WriteRows) -> None:
    data = load(write_rows(400), "sft", eval_fraction=0.2)
    assert data.info["train_rows"] + data.info["eval_rows"] == 400
    assert all(held_out(key, 0.2) for key in keys(data.eval))
    assert not any(held_out(key, 0.2) for key in keys(data.train))


def test_no_stage_trains_on_what_another_holds_out(write_rows: WriteRows) -> None:
    path = write_rows(400)
    assert keys(load(path, "sft").eval) == keys(load(path, "grpo").eval)


def test_held_out_rows_beyond_eval_samples_are_not_used_at_all(write_rows: WriteRows) -> None:
    path = write_rows(400)
    whole, capped = load(path, "sft", eval_fraction=0.2), load(path, "sft", eval_fraction=0.2, eval_samples=3)
    assert capped.info["eval_rows"] == 3
    assert keys(capped.eval) < keys(whole.eval)
    assert keys(capped.train) == keys(whole.train)


def test_max_samples_takes_the_first_training_rows_and_keeps_the_held_out_side(write_rows: WriteRows) -> None:
    path = write_rows(2000)
    whole, few = load(path, "sft", eval_samples=20), load(path, "sft", eval_samples=20, max_samples=30)
    assert list(few.train) == list(whole.train.select(range(30)))
    assert list(few.eval) == list(whole.eval)


@pytest.mark.parametrize("max_dropped_fraction", [None, 1.0])
def test_max_samples_comes_whole_where_the_source_has_it(
    write_rows: WriteRows, max_dropped_fraction: float | None
) -> None:
    path = write_rows(3000)
    whole = load(path, "sft", eval_samples=20)
    lines = Path(path).read_text().splitlines()
    count = 90 if max_dropped_fraction is None else 1000
    unusable = [json.dumps({"question": f"What is {n}?", "answer": ""}) for n in range(count)]
    Path(path).write_text("\n".join([*lines[:400], *unusable, *lines[400:]]))  # most of the first rows
    few = load(path, "sft", eval_samples=20, max_samples=420, max_dropped_fraction=max_dropped_fraction)
    assert list(few.train) == list(whole.train.select(range(420)))
    assert list(few.eval) == list(whole.eval)


def test_faults_that_the_first_rows_have_are_a_share_of_the_whole_source(write_rows: WriteRows) -> None:
    path = write_rows(3000)
    unusable = [json.dumps({"question": f"What is {n}?", "answer": ""}) for n in range(200)]
    Path(path).write_text("\n".join([*unusable, Path(path).read_text()]))
    data = load(path, "sft", eval_samples=20, max_samples=30)
    assert (data.info["train_rows"], data.info["eval_rows"], data.info["dropped"]) == (30, 20, 200)


def write_labelled(path: Path, labels: Callable[[int], list[bool]]) -> str:
    rows = [
        {"prompt": f"What is {n}?", "completion": f"{n}", "label": label} for n in range(100) for label in labels(n)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_an_answer_with_both_labels_is_no_repeat_and_stays_on_one_side(tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "rows.jsonl", lambda n: [True, False])
    data = load(path, "kto", eval_fraction=0.5)
    assert data.info["faults"] == {}
    assert len(data.train) + len(data.eval) == 200
    assert not keys(data.train) & keys(data.eval)
    for side in (data.train, data.eval):
        assert side["label"].count(True) == side["label"].count(False) == len(side) / 2


def test_pairs_are_loaded_as_labelled_answers_each_held_out_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, [*PAIRS, PAIRS[0], {**PAIRS[0], "rejected": "d"}])))
    pairs, data = load(str(path), "dpo", eval_fraction=0.3), load(str(path), "kto", eval_fraction=0.3)
    assert pairs.info["faults"] == {"a repeated row": 1}
    assert data.info["faults"] == {"a repeated row": 1, "repeat another held-out row": 1}  # "b" to "a 0"
    assert [row["prompt"] for row in data.train if row["label"]] == pairs.train["prompt"][:]
    assert len(data.eval) == 2 * len(pairs.eval) - 1
    assert len(load(str(path), "kto", eval_fraction=0.3, max_samples=11).train) == 11


@pytest.mark.parametrize(("label", "lacking"), [(True, "down"), (False, "up")])
def test_rows_with_one_label_only_are_refused(tmp_path: Path, label: bool, lacking: str) -> None:
    path = write_labelled(tmp_path / "rows.jsonl", lambda n: [label])
    told = f"have the label {str(label).lower()}, and kto needs both: add answers with thumbs {lacking}, .* train sft"
    with pytest.raises(Refused, match=told):
        load(path, "kto", eval_fraction=0.5)


def test_a_row_with_an_empty_question_is_left_out(write_rows: WriteRows) -> None:
    path = write_rows(50)
    with Path(path).open("a") as file:
        file.write('{"question": "", "answer": "4"}\n')
    data = load(path, "sft", eval_fraction=0.2)
    assert (data.info["train_rows"] + data.info["eval_rows"], data.info["dropped"]) == (50, 1)


def test_too_few_rows_to_hold_any_out_are_refused_with_a_fraction_that_works(write_rows: WriteRows) -> None:
    path = write_rows(3)
    with pytest.raises(Refused, match="holds out none of its 3 rows") as refusal:
        load(path, "sft", eval_fraction=0.001)
    enough = float(str(refusal.value).rpartition("eval_fraction=")[2].split()[0])
    assert load(path, "sft", eval_fraction=enough).info["eval_rows"] == 1


@pytest.mark.parametrize("text", ["one line\nand the next\n", "the same\n\nThe  same\n"])
def test_a_text_that_is_one_row_is_refused_with_what_parts_rows(text: str, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(text)
    with pytest.raises(Refused, match=r"has one row.*blank lines part the rows"):
        load(str(path), "pretrain")


def test_the_data_of_a_stage_are_loaded_once_until_their_file_changes(write_rows: WriteRows, tmp_path: Path) -> None:
    path = write_rows(50)
    config = TrainingConfig(model_name="m", output_dir="sft", dataset_name=path, eval_fraction=0.2)
    first = load_for(config, "sft")
    assert load_for(replace(config, max_steps=3), "sft") is first
    assert load_for(config, "grpo") is not first
    assert load_for(replace(config, eval_samples=1), "sft").info["eval_rows"] == 1
    write_rows(60)
    assert load_for(config, "sft").info["train_rows"] > first.info["train_rows"]
    folder = replace(config, dataset_name=str(tmp_path))
    assert load_for(folder, "sft") is load_for(folder, "sft")
    write_rows(40, "more.jsonl", start=60)
    more = load_for(folder, "sft").info
    assert more["train_rows"] + more["eval_rows"] == 100


def test_a_relative_name_means_another_file_in_another_directory(
    write_rows: WriteRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(model_name="m", output_dir="sft", dataset_name="rows.jsonl", eval_fraction=0.2)
    found = []
    for name, count in (("one", 50), ("other", 60)):
        (tmp_path / name).mkdir()
        write_rows(count, f"{name}/rows.jsonl")
        monkeypatch.chdir(tmp_path / name)
        info = load_for(config, "sft").info
        found.append(info["train_rows"] + info["eval_rows"])
    assert found == [50, 60]


def test_all_rows_held_out_is_refused(write_rows: WriteRows) -> None:
    with pytest.raises(Refused, match="no row to train on"):
        load(write_rows(3), "sft", eval_fraction=0.9999)


def test_a_published_split_is_used_and_its_problems_leave_the_training_side(
    write_rows: WriteRows, tmp_path: Path
) -> None:
    write_rows(50, "train.jsonl")
    write_rows(10, "test.jsonl", start=45)
    data = load(str(tmp_path), "sft", eval_split="test")
    assert (data.info["train_rows"], data.info["eval_rows"], data.info["dropped"]) == (45, 10, 5)
    assert not keys(data.train) & keys(data.eval)


@pytest.mark.parametrize(
    ("names", "split", "held"),
    [
        (("train", "test"), "train", "test"),
        (("train", "test", "val"), "train", "validation"),
        (("train", "eval"), "train", "validation"),
        (("train", "test"), "test", None),
        (("train",), "train", None),
    ],
)
def test_a_folder_holds_out_its_own_split_and_says_so(
    names: tuple[str, ...],
    split: str,
    held: str | None,
    write_rows: WriteRows,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for place, name in enumerate(names):
        write_rows(50, f"{name}.jsonl", start=100 * place)
    data = load(str(tmp_path), "sft", split=split, eval_fraction=0.2)
    said = capsys.readouterr().out
    if held is None:
        assert "holds out" not in said
        assert data.info["train_rows"] + data.info["eval_rows"] == 50
    else:
        assert f"holds out its own split '{held}'" in " ".join(said.split())
        assert keys(data.eval) == keys(load(str(tmp_path), "sft", eval_split=held).eval)
        assert (data.info["train_rows"], data.info["eval_rows"]) == (50, 50)


def test_a_malformed_row_is_told_with_its_split(write_rows: WriteRows, tmp_path: Path) -> None:
    write_rows(50, "train.jsonl")
    (tmp_path / "test.jsonl").write_text('{"question": "a", "answer": 4}\n')
    with pytest.raises(Refused, match=r"split 'test': 1 of 1 rows .*\n.* row 1: answer must be text"):
        load(str(tmp_path), "sft")


def test_a_number_does_not_make_a_held_out_row_another_one(tmp_path: Path) -> None:
    for name, rows in (("train", range(50)), ("test", range(100, 110))):
        lines = [json.dumps({"prompt": f"What is {n}?", "answer": str(n), "id": k}) for n in rows for k in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    assert load(str(tmp_path), "grpo").info["eval_rows"] == 10


def test_a_held_out_row_counts_once_and_what_is_left_out_is_told(
    write_rows: WriteRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(50, "train.jsonl")
    test = Path(write_rows(10, "test.jsonl", start=45))
    test.write_text(test.read_text() * 3)
    data = load(str(tmp_path), "sft")
    assert (data.info["train_rows"], data.info["eval_rows"], data.info["dropped"]) == (45, 10, 5 + 20)
    assert data.info["faults"] == {"ask what held-out rows ask": 5, "repeat another held-out row": 20}
    said = " ".join(capsys.readouterr().out.split())
    assert "5 rows to train on ask what held-out rows ask, and are left out" in said
    assert "20 of 30 held-out rows repeat another one and are left out" in said


def test_info_says_what_was_used(tmp_path: Path) -> None:
    rows = [{"prompt": f"a {n}", "chosen": "b", "rejected": "b" if n < 4 else "c"} for n in range(100)]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    data = load(str(path), "dpo", eval_fraction=0.3)
    assert data.info == {
        "name": str(path),
        "fingerprint": fingerprint(data.train, data.eval),
        "train_rows": len(data.train),
        "eval_rows": len(data.eval),
        "dropped": 4,
        "faults": {"chosen and rejected are equal": 4},
    }
    assert len(data.train) + len(data.eval) == 96


PAIRS = [{"prompt": f"a {n}", "chosen": "b", "rejected": "c"} for n in range(100)]


def faulty_pairs(path: Path) -> str:
    """Write 100 pairs, of which 11 cannot be used."""
    lines = [json.dumps(row) for row in PAIRS]
    for n in (3, 4):
        lines[n] = lines[n][:20]
    lines[5] = "7"
    lines[6] = json.dumps({**PAIRS[6], "rejected": ["c"]})
    lines[7] = json.dumps({**PAIRS[7], "chosen": ""})
    for n in range(10, 14):
        lines[n] = json.dumps({**PAIRS[n], "rejected": "b"})
    for n in (21, 22):
        lines[n] = lines[20]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_every_fault_is_counted_shown_and_told_in_one_message(tmp_path: Path) -> None:
    path = faulty_pairs(tmp_path / "pairs.jsonl")
    with pytest.raises(Refused) as refusal:
        load(path, "dpo", eval_fraction=0.3)
    told = str(refusal.value).splitlines()
    assert told[0] == f"{path}: 11 of 100 rows cannot be used (read as prompt, chosen, rejected, for dpo):"
    assert told[1].startswith("  2 × not valid JSON (also line 5), line 4: not valid JSON (")
    assert told[2] == "  1 × no JSON object, line 6: each line is one JSON object, not 7"
    assert told[3].startswith("  1 × a value of another kind than most of its column, row 4: column 'rejected' holds")
    assert told[4:7] == [  # numbered as they were read
        "  1 × the chosen is empty, row 4: 'a 7'",
        "  4 × chosen and rejected are equal (also row 8, row 9, row 10), row 7: 'a 10'",
        "  2 × a repeated row (also row 19), row 18: row 17 again",
    ]
    assert told[7].endswith("set max_dropped_fraction=0.11 to leave them out.")


def test_rows_are_left_out_where_the_recipe_allows_their_share(tmp_path: Path) -> None:
    path = faulty_pairs(tmp_path / "pairs.jsonl")
    for refused in (0.0, 0.1):
        with pytest.raises(Refused, match=f"At most {100 * refused:g} % may be left out"):
            load(path, "dpo", eval_fraction=0.3, max_dropped_fraction=refused)
    data = load(path, "dpo", eval_fraction=0.3, max_dropped_fraction=0.11)
    assert sorted(row["prompt"] for row in [*data.train, *data.eval]) == sorted(
        row["prompt"] for n, row in enumerate(PAIRS) if n not in (*range(3, 8), *range(10, 14), 21, 22)
    )
    assert data.info["dropped"] == sum(data.info["faults"].values()) == 11


def test_rows_that_repeat_others_count_as_faults_but_the_same_question_does_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"say {n // 2}", "answer": str(n)} for n in range(100)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load(str(path), "sft", eval_fraction=0.2).info["faults"] == {}
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0], rows[8]])))
    assert load(str(path), "sft", eval_fraction=0.2).info["faults"] == {"a repeated row": 2}
    path.write_text("\n".join(map(json.dumps, rows * 2)))
    with pytest.raises(Refused, match=r"100 × a repeated row .*row 101: row 1 again"):
        load(str(path), "sft", eval_fraction=0.2)


def test_rows_cached_without_their_faults_are_judged_again(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    rows = [*PAIRS, {**PAIRS[0], "prompt": "one more", "rejected": "b"}]
    Dataset.from_list(rows).to_parquet(path)
    faults = [load(str(path), "dpo", eval_fraction=0.3).info["faults"] for _ in range(2)]
    assert faults == [{"chosen and rejected are equal": 1}] * 2
    with pytest.raises(Refused, match="At most 0 %"):
        load(str(path), "dpo", eval_fraction=0.3, max_dropped_fraction=0.0)


def test_the_fingerprint_is_of_the_rows_and_their_side(write_rows: WriteRows) -> None:
    path = write_rows(60)
    before = load(path, "sft", eval_fraction=0.2).info["fingerprint"]
    assert load(path, "sft", eval_fraction=0.2).info["fingerprint"] == before
    Path(path).write_text(Path(path).read_text().replace('"answer": "7"', '"answer": "8"'))
    changed = load(path, "sft", eval_fraction=0.2)
    assert changed.info["fingerprint"] != before
    assert fingerprint(changed.train, changed.eval) != fingerprint(concatenate_datasets([changed.train, changed.eval]))


@pytest.mark.parametrize(
    ("name", "stage"),
    [("documents", "pretrain"), ("conversations", "sft"), ("preferences", "reward"), ("preferences", "dpo"),
     ("prompts", "grpo")],
)  # fmt: skip
def test_made_data_come_for_their_stage_with_their_own_held_out_side(name: str, stage: str) -> None:
    data = load(f"made:{name}", stage, max_samples=40, eval_samples=20, seed=1)
    assert (len(data.train), len(data.eval)) == (40, 20)
    column = data.train.column_names[0]
    assert data.train[column][:] == [row[column] for row in made.rows(name, "train", 40, 1)]
    again, other = (load(f"made:{name}", stage, max_samples=40, eval_samples=20, seed=seed) for seed in (1, 2))
    assert again.info["fingerprint"] == data.info["fingerprint"] != other.info["fingerprint"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("made:prompt", "did you mean 'made:prompts'"),
        ("conversations", "did you mean 'made:conversations'"),
        ("rows.json", r"did you mean '.*rows\.jsonl'"),
        ("gsm8k", "a Hub id as owner/name"),
        ("folder/rows.parquet", "looked in"),
    ],
)
def test_a_name_that_is_nothing_is_refused_with_the_nearest(
    write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(Path(write_rows(3)).parent)
    with pytest.raises(Refused, match=message):
        load(name, "sft")


def test_a_local_path_has_no_revision(write_rows: WriteRows) -> None:
    with pytest.raises(Refused, match="has no revisions"):
        load(write_rows(3), "sft", revision="main")


@pytest.mark.parametrize(
    "wrong", [{"eval_fraction": 0.0}, {"eval_fraction": 1.0}, {"eval_samples": 0}, {"max_samples": 0}]
)
def test_senseless_amounts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(wrong))):
        load("made:documents", "pretrain", **wrong)


def test_hub_data_that_are_not_here_are_refused_at_once_when_offline(offline: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Refused, match=r"'owner/missing' .*--download"):
        load("owner/missing", "sft")
    assert time.monotonic() - started < 2


def test_without_a_network_the_hub_is_found_unreachable_before_the_libraries_retry(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for library in (constants, config):
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens on the discard port
    started = time.monotonic()
    with pytest.raises(Refused, match="the Hugging Face Hub cannot be reached"):
        load("owner/missing", "sft")
    assert time.monotonic() - started < 2


def test_hub_data_prepared_earlier_load_offline_in_their_revision_only(
    write_rows: WriteRows, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_hub_cache(offline, "owner", "sums", "c0ffee", write_rows(100))
    data = load("owner/sums", "sft", eval_fraction=0.2)
    assert data.info["train_rows"] + data.info["eval_rows"] == 100
    assert load("owner/sums", "sft", eval_fraction=0.2, revision="c0ffee").info == data.info
    with pytest.raises(Refused, match=r"revision 'main'.* is on this machine as c0ffee only"):
        load("owner/sums", "sft", revision="main")
    refs = Path(constants.HF_HUB_CACHE) / "datasets--owner--sums" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("c0ffee")
    assert load("owner/sums", "sft", eval_fraction=0.2, revision="main").info == data.info
    (refs / "main").write_text("decaf")  # fetched since, as another commit
    with pytest.raises(Refused, match=r"revision 'main'.* is on this machine as c0ffee only"):
        load("owner/sums", "sft", revision="main")


def prepare_hub_cache(cache: Path, owner: str, name: str, revision: str, file: str) -> None:
    """Leave what an online load of `owner/name` leaves in the cache of datasets."""
    rows = load_dataset("json", data_files=file, split="train", cache_dir=str(cache / "made"))
    prepared = Path(rows.cache_files[0]["filename"]).parent
    target = cache / f"{owner}___{name}" / "default" / "0.0.0" / revision
    shutil.copytree(prepared, target)
    (target / "json-train.arrow").rename(target / f"{name}-train.arrow")
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps({**info, "config_name": "default", "dataset_name": name}))


def test_an_unknown_split_or_configuration_is_refused_with_what_there_is(write_rows: WriteRows, offline: Path) -> None:
    prepare_hub_cache(offline, "owner", "sums", "c0ffee", write_rows(30))
    with pytest.raises(Refused, match=r"Unknown split .*train"):
        load("owner/sums", "sft", split="trian")
    with pytest.raises(Refused, match="configuration 'other'"):
        load("owner/sums", "sft", config_name="other")


def test_of_answers_sorted_by_label_both_are_left_where_they_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "thumbs.jsonl"
    rows = [{"prompt": f"say {n}", "completion": f"{n}", "label": n < 300} for n in range(600)]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load(str(path), "kto", max_samples=60, eval_samples=20, eval_fraction=0.2)
    for side, count in ((data.train, 60), (data.eval, 20)):
        assert len(side) == count
        assert set(side["label"]) == {True, False}
        assert side["label"][:] == sorted(side["label"], reverse=True), "in the order of the file"
