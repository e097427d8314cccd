"""Which tokens SFT learns, for each layout and for templates with and without generation marks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig
from records.stage_log import StageLog
from tests.train_stage import train
from utils.errors import Refused, StageFailed

Configure = Callable[..., TrainingConfig]

TURNS = [
    {"role": "user", "content": "say red"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "and blue"},
    {"role": "assistant", "content": "blue"},
]

UNMARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that starts an SFT stage and gives what it would learn: the supervised text of each example."""
    from algorithms import training

    def texts(rows: list[dict[str, Any]], config: TrainingConfig) -> list[str]:
        found: list[str] = []

        def collect(trainer: Any, *_: Any) -> Path:
            for row in trainer.train_dataset:
                kept = [label for label in row["labels"] if label != -100]
                found.append(trainer.processing_class.decode(kept))
            return tmp_path

        monkeypatch.setattr(training, "fit", collect)
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        train("sft", replace(config, dataset_name=str(data), eval_fraction=0.3), tmp_path)
        return sorted(set(found))

    return texts


@pytest.fixture
def foreign(base_dir: Path, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that saves the model with another chat template, and gives its directory."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def save(template: str) -> str:
        tokenizer = AutoTokenizer.from_pretrained(base_dir)
        tokenizer.chat_template = template
        AutoModelForCausalLM.from_pretrained(base_dir).save_pretrained(tmp_path / "foreign")
        tokenizer.save_pretrained(tmp_path / "foreign")
        return str(tmp_path / "foreign")

    return save


def ask(count: int) -> list[dict[str, Any]]:
    """Conversations that differ, so that some are held out."""
    return [{"messages": [{"role": "user", "content": f"say red {n}"}, *TURNS[1:]]} for n in range(count)]


def test_marked_templates_learn_the_assistants_turns_with_their_eos(
    configure: Configure, learnt: Callable[..., list[str]]
) -> None:
    assert learnt(ask(10), configure("sft")) == ["red<|im_end|>blue<|im_end|>"]


def test_of_a_conversation_split_in_two_only_the_completion_is_learnt(
    configure: Configure, learnt: Callable[..., list[str]]
) -> None:
    rows = [{"prompt": row["messages"][:3], "completion": row["messages"][3:]} for row in ask(10)]
    assert learnt(rows, configure("sft")) == ["blue<|im_end|>"]


def test_unmarked_templates_learn_each_assistant_turn_and_no_user_turn(
    configure: Configure, learnt: Callable[..., list[str]], foreign: Callable[[str], str]
) -> None:
    config = configure("sft", model_name=foreign(UNMARKED))
    assert learnt(ask(10), config) == ["blue<|im_end|>\n", "red<|im_end|>\n"]
    split = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in ask(10)]
    assert learnt(split, config) == ["blue<|im_end|>\n", "red<|im_end|>\n"]


def thinking(turn: dict[str, Any], thought: str) -> dict[str, Any]:
    return turn | {"reasoning_content": thought}


def test_what_is_thought_before_an_answer_is_learnt(
    configure: Configure, learnt: Callable[..., list[str]], foreign: Callable[[str], str]
) -> None:
    rows = [{"messages": [row["messages"][0], thinking(TURNS[1], "one")]} for row in ask(10)]
    assert learnt(rows, configure("sft")) == ["<think>\none\n</think>\n\nred<|im_end|>"]
    config = configure("sft", model_name=foreign(UNMARKED))  # which knows no reasoning_content
    assert learnt(rows, config) == ["<think>\none\n</think>\n\nred<|im_end|>\n"]


def test_earlier_thoughts_that_a_template_leaves_out_are_learnt_by_turns(
    configure: Configure, learnt: Callable[..., list[str]], foreign: Callable[[str], str]
) -> None:
    rows = [{"messages": [row["messages"][0], thinking(TURNS[1], "one"), *TURNS[2:]]} for row in ask(10)]
    marked = UNMARKED.replace(
        "message.content + '<|im_end|>\\n' }}",
        "'' }}{% if message.role == 'assistant' %}{% generation %}{% if loop.last and message.reasoning_content %}"
        "{{ '(' + message.reasoning_content + ')' }}{% endif %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}",
    )
    config = configure("sft", model_name=foreign(marked))
    assert learnt(ask(10), config) == ["red<|im_end|>blue<|im_end|>"]
    assert learnt(rows, config) == ["(one)red<|im_end|>\n", "blue<|im_end|>\n"]


@pytest.mark.parametrize("template", ["", UNMARKED])
def test_a_turn_of_weight_0_is_context(
    template: str, configure: Configure, learnt: Callable[..., list[str]], foreign: Callable[[str], str]
) -> None:
    rows = [{"messages": [row["messages"][0], TURNS[1] | {"weight": 0}, *TURNS[2:]]} for row in ask(10)]
    config = configure("sft", **({"model_name": foreign(template)} if template else {}))
    assert learnt(rows, config) == ["blue<|im_end|>\n"]
    with pytest.raises(Refused, match="assistant_only_loss learns turns of weight 0"):
        learnt(rows, replace(config, trainer_args={"assistant_only_loss": True}))


def test_a_turn_of_weight_0_is_not_measured(model_dir: Path) -> None:
    from transformers import AutoTokenizer

    from data.examples import demonstration

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    example = demonstration(tokenizer, {"messages": [TURNS[0], TURNS[1] | {"weight": 0}, *TURNS[2:]]})
    scored = [token for token, counts in zip(example.input_ids, example.scored, strict=True) if counts]
    assert tokenizer.decode(scored) == "blue<|im_end|>"


@pytest.mark.shared
def test_qwens_template_is_marked_by_trl_for_the_labels_and_saved_as_it_was(
    configure: Configure, learnt: Callable[..., list[str]], shared: Path, base_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "fixtures/tokenizers/qwen2.5")
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    before = tokenizer.chat_template
    assert "generation" not in before.replace("add_generation_prompt", "")
    # TRL's twin of this template counts the line breaks around an answer as the assistant's too.
    config = configure("sft", model_name=str(tmp_path / "qwen"))
    (tmp_path / "trained").mkdir()
    train("sft", replace(config, max_steps=1), tmp_path / "trained")
    assert AutoTokenizer.from_pretrained(tmp_path / "trained").chat_template == before
    assert learnt(ask(10), config) == ["\nred<|im_end|>\n\nblue<|im_end|>\n"]


def test_prompt_and_completion_learn_the_completion_only(
    configure: Configure, learnt: Callable[..., list[str]]
) -> None:
    plain = [{"prompt": f"say {n} ", "completion": "red"} for n in range(10)]
    assert learnt(plain, configure("sft")) == ["red<|im_end|>"]


def test_text_is_learnt_whole_and_ends_with_eos(configure: Configure, learnt: Callable[..., list[str]]) -> None:
    texts = learnt([{"text": f"say {n}"} for n in range(10)], configure("sft"))
    assert texts
    assert all(text.startswith("say ") and text.endswith("<|im_end|>") for text in texts)


def test_a_text_that_ends_with_eos_and_a_line_break_gets_no_second_one(
    configure: Configure, learnt: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    rendered = "<|im_start|>user\nsay {}<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
    for text in learnt([{"text": rendered.format(n)} for n in range(9)], configure("sft")):
        assert text.count("<|im_end|>") == 2
        assert text.endswith("red<|im_end|>")
    assert "letters" not in capsys.readouterr().out


def test_tags_of_another_models_template_are_told(
    configure: Configure, learnt: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    learnt([{"text": f"<|start_header_id|>user<|end_header_id|> {n}"} for n in range(9)], configure("sft"))
    assert "<|end_header_id|>, <|start_header_id|>, tags of another" in " ".join(capsys.readouterr().out.split())


def test_a_text_that_begins_with_bos_gets_no_second_one(
    configure: Configure, learnt: Callable[..., list[str]], base_dir: Path, tmp_path: Path
) -> None:
    from tokenizers import processors
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    tokenizer.bos_token = bos = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    AutoModelForCausalLM.from_pretrained(base_dir).save_pretrained(tmp_path / "bos")
    tokenizer.save_pretrained(tmp_path / "bos")
    config = configure("sft", model_name=str(tmp_path / "bos"))
    plain = learnt([{"text": f"say {n}"} for n in range(10)], config)
    assert all(text.startswith(f"{bos}say") for text in plain)
    assert learnt([{"text": f"{bos}say {n}"} for n in range(10)], config) == plain


def test_a_model_without_a_template_gets_the_projects(
    configure: Configure, learnt: Callable[..., list[str]], base_dir: Path
) -> None:
    assert learnt(ask(10), configure("sft", model_name=str(base_dir))) == ["red<|im_end|>blue<|im_end|>"]


def test_examples_cut_off_before_their_end_fail_the_stage(configure: Configure, stage_dir: Path) -> None:
    from transformers import AutoTokenizer

    config = configure("sft")
    tokenizer = AutoTokenizer.from_pretrained(str(config.model_name))
    whole = tokenizer.apply_chat_template([*TURNS[:1], {"role": "assistant", "content": "red"}])["input_ids"]
    config = configure("sft", max_length=len(whole) - 2)  # without the EOS and the line break after it
    with pytest.raises(StageFailed, match=r"98 of 98 examples do not supervise the EOS.*max_length = \d+"):
        train("sft", config, stage_dir)


def test_a_last_answer_cut_off_is_counted_though_an_earlier_one_ends(
    configure: Configure, stage_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ask(10)), encoding="utf-8")
    config = configure("sft", dataset_name=str(data), eval_fraction=0.3)
    tokenizer = AutoTokenizer.from_pretrained(str(config.model_name))
    whole = tokenizer.apply_chat_template(ask(1)[0]["messages"])["input_ids"]
    last = len(tokenizer("<|im_end|>\n")["input_ids"])
    with pytest.raises(StageFailed, match=r"(\d+) of \1 examples do not supervise the EOS"):
        train("sft", replace(config, max_length=len(whole) - last), stage_dir)
    user_turn = tokenizer.apply_chat_template(ask(1)[0]["messages"][:3])["input_ids"]
    train(
        "sft", replace(config, max_length=len(user_turn) - 2, max_steps=1), stage_dir
    )  # the question is cut: no matter
    assert not json.loads((stage_dir / "stage_info.json").read_text()).get("alarms")


def with_template(base_dir: Path, directory: Path, template: str) -> str:
    """Return a copy of the tiny model with another chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    tokenizer.chat_template = template
    AutoModelForCausalLM.from_pretrained(base_dir).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' %}ANSWER"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            "{{ message.content }}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}",
            r"98 of \d+ tokens are learnt \(\d\.\d+%\), in 98 examples: no answer is, beyond its end",
        ),
        ("{{ message.content + '<|im_end|>' }}{% generation %}{% endgeneration %}", "no assistant tokens"),  # by TRL
        (
            "{% generation %}{{ message.content }}{% endgeneration %}{{ '<|im_end|>' }}",
            "98 of 98 examples do not supervise the EOS '<.im_end.>' of their last answer: the chat template .* marks"
            ". .*: let the template end the assistant's turns with '<.im_end.>', or set eos_token",
        ),
    ],
)
def test_marks_that_leave_out_the_answers_fail_the_stage(
    answer: str, reason: str, configure: Configure, stage_dir: Path, base_dir: Path, tmp_path: Path
) -> None:
    model = with_template(base_dir, tmp_path / "model", MARKED.replace("ANSWER", answer))
    with pytest.raises((StageFailed, RuntimeError), match=reason):
        train("sft", configure("sft", model_name=model), stage_dir)


def test_answers_far_shorter_than_their_prompts_raise_an_alarm(
    configure: Configure, stage_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [[{"role": "user", "content": f"{n} " + "red " * 240}, TURNS[1]] for n in range(10)]
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    config = configure("sft", dataset_name=str(data), eval_fraction=0.3, max_steps=1)
    train("sft", config, stage_dir)
    (alarm,) = json.loads((stage_dir / "stage_info.json").read_text())["alarms"]
    assert (alarm["step"], alarm["name"]) == (0, "few_supervised_tokens")
    assert "of the answer" not in alarm["message"]
    assert "nearly all the time goes into prompts" in alarm["message"]


def test_packed_examples_are_inspected_one_by_one(configure: Configure, stage_dir: Path) -> None:
    train("sft", configure("sft", packing=True, max_length=64, max_steps=1, attn_implementation="eager"), stage_dir)
    info = json.loads((stage_dir / "stage_info.json").read_text())
    assert not info.get("alarms")


def test_no_row_left_fails_the_stage(configure: Configure, stage_dir: Path) -> None:
    with pytest.raises(StageFailed, match="no training row is left"):
        train("sft", configure("sft", max_length=3), stage_dir)


def test_the_log_shows_an_example_with_what_is_learnt_marked(configure: Configure, stage_dir: Path) -> None:
    train("sft", configure("sft", max_steps=1), stage_dir)
    assert "<|im_start|>assistant\n    ⟦red red<|im_end|>⟧" in (stage_dir / "training.log").read_text(encoding="utf-8")


def test_the_log_keeps_the_spaces_that_single_tokens_do_not_hold(tmp_path: Path) -> None:
    from algorithms.supervision import marked
    from pretrain.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["Edit the following sentence, and say so."] * 50, 300, tmp_path)
    asked, said = (tokenizer(text)["input_ids"] for text in ("Edit the following", " sentence, and say so."))
    text = marked(tokenizer, asked + said, [-100] * len(asked) + said)
    assert text == "Edit the following⟦ sentence, and say so.⟧"


@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_pairs_beyond_max_length_raise_an_alarm_and_most_of_them_fail_the_stage(
    kind: str, configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setattr("algorithms.supervision.INSPECTED", 9)  # what is found among them is that share of all
    config = configure(kind)
    tokenizer = AutoTokenizer.from_pretrained(str(config.model_name))
    rows = [json.loads(line) for line in Path(config.dataset_name).read_text().splitlines()]
    both = [
        [tokenizer.apply_chat_template(row["prompt"] + row[side]) for side in ("chosen", "rejected")] for row in rows
    ]
    lengths = sorted(max(len(side["input_ids"]) for side in pair) for pair in both)
    train(kind, configure(kind, max_length=lengths[75], max_steps=1), stage_dir)
    (alarm,) = json.loads((stage_dir / "stage_info.json").read_text())["alarms"]
    assert alarm["name"] == "cut_off_examples"
    with pytest.raises(StageFailed, match=r"\d+ of 98 pairs are longer than max_length"):
        train(kind, configure(kind, max_length=lengths[20]), stage_dir)


def lost(stage_dir: Path) -> dict[str, int] | None:
    found = json.loads((stage_dir / "stage_info.json").read_text())["data"].get("lost_to_max_length")
    return None if found is None else dict(found)


@pytest.mark.parametrize("packing", [False, True])
def test_examples_of_which_max_length_leaves_nothing_to_learn_are_counted_and_said(
    packing: bool,
    configure: Configure,
    stage_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not packing:
        monkeypatch.setattr(
            "algorithms.supervision.INSPECTED", 5
        )  # of so few, those dropped would be more than a tenth
    data = tmp_path / "rows.jsonl"
    rows = [[{"role": "user", "content": f"{n} " + 60 * "red " * (n < 3)}, TURNS[1]] for n in range(60)]
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    config = configure(
        "sft", dataset_name=str(data), eval_fraction=0.1, max_steps=1, max_length=64, packing=packing,
        attn_implementation="eager",
    )  # fmt: skip
    from data.sources import load_for

    number = sum("red red" in row["messages"][0]["content"] for row in load_for(config, "sft").train)
    assert number > 1
    train("sft", config, stage_dir)
    assert lost(stage_dir) == {"max_length = 64 leaves nothing of an example to learn": number}
    assert StageLog(stage_dir).read_info().get("alarms", []) == []
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"{number} of the examples to train on teach nothing: max_length = 64 leaves nothing") == 1
    assert "lost_to_max_length" not in load_for(config, "sft").info  # which other stages share
    train("sft", replace(config, max_length=256), tmp_path)
    assert lost(tmp_path) is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("reward", "an answer with its prompt is longer than max_length = 64"),
        ("dpo", "the prompt alone fills max_length = 64"),
    ],
)
def test_pairs_that_trl_drops_for_max_length_are_counted_and_said(
    kind: str,
    reason: str,
    configure: Configure,
    stage_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("algorithms.supervision.INSPECTED", 5)  # of so few, those dropped would be more than a tenth
    data = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"{n} " + 60 * "red " * (n < 3), "chosen": "one", "rejected": "two" + 60 * " red" * (n == 9)}
        for n in range(60)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = configure(kind, dataset_name=str(data), eval_fraction=0.1, max_steps=1, max_length=64)
    from data.sources import load_for

    rows_left = load_for(config, kind).train
    long = sum("red red" in row["prompt"] for row in rows_left)
    number = long + (kind == "reward" and any("red red" in row["rejected"] for row in rows_left))
    assert long > 1
    train(kind, config, stage_dir)
    assert lost(stage_dir) == {reason: number}
    assert StageLog(stage_dir).read_info().get("alarms", []) == []
    assert f"{number} of the examples to train on teach nothing: {reason}" in " ".join(capsys.readouterr().out.split())


def test_examples_are_looked_at_all_over_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    from algorithms import supervision

    monkeypatch.setattr(supervision, "INSPECTED", 3)
    for number, places in ((2, [0, 1]), (3, [0, 1, 2]), (7, [0, 3, 6]), (8, [0, 3, 6]), (10, [0, 4, 8])):
        assert supervision._looked_at(Dataset.from_dict({"n": range(number)}))["n"][:] == places
