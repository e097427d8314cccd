"""What the model sees: the rendering, its marks for training, and the tokens that end and pad it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from data.chat import (
    CHAT_TEMPLATE,
    adds_bos,
    check_system_renders,
    check_thoughts_render,
    check_tools_render,
    encode,
    prepare_tokenizer,
    render,
    separate_pad_from_eos,
    tell_control_tokens,
)
from data.layouts import to_layout
from data.local_files import from_rows
from utils.errors import Refused

MakeTokenizer = Callable[..., Any]

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds."}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + é?"},
    {"role": "assistant", "content": "I add.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "name": "add", "content": "3"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "It is 3."},
    {"role": "system", "content": "Stop."},
]
CALL_TEXT = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
GOLDEN = f"""<|im_start|>system
Be brief.

<tools>
{{"type": "function", "function": {{"name": "add", "description": "Adds."}}}}
</tools><|im_end|>
<|im_start|>user
1 + é?<|im_end|>
<|im_start|>assistant
I add.
{CALL_TEXT}
{CALL_TEXT}<|im_end|>
<|im_start|>user
<tool_response>
3
</tool_response><|im_end|>
<|im_start|>assistant
{CALL_TEXT}<|im_end|>
<|im_start|>user
<tool_response>
4
</tool_response><|im_end|>
<|im_start|>assistant
It is 3.<|im_end|>
<|im_start|>system
Stop.<|im_end|>
"""


@pytest.fixture
def chatml(make_tokenizer: MakeTokenizer) -> Any:
    tokenizer = make_tokenizer("<|im_start|>", "<|im_end|>", "<|endoftext|>", eos_token="<|im_end|>")
    prepare_tokenizer(tokenizer, template="give")
    return tokenizer


def test_every_kind_of_turn_renders_as_written_down_here(chatml: Any) -> None:
    assert render(chatml, CONVERSATION, TOOLS) == GOLDEN


def test_tools_without_a_system_turn_get_one(chatml: Any) -> None:
    text = render(chatml, CONVERSATION[1:2], '[{"name": "add"}]', add_generation_prompt=True)
    assert text == (
        '<|im_start|>system\n<tools>\n{"name": "add"}\n</tools><|im_end|>\n'
        "<|im_start|>user\n1 + é?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("cut", range(1, len(CONVERSATION)))
def test_a_prompt_is_a_prefix_of_every_longer_conversation(chatml: Any, cut: int) -> None:
    generating = CONVERSATION[cut]["role"] == "assistant"
    whole = encode(chatml, CONVERSATION, TOOLS, add_generation_prompt=False)
    part = encode(chatml, CONVERSATION[:cut], TOOLS, add_generation_prompt=generating)
    assert whole[: len(part)] == part


def test_generation_marks_cover_what_the_assistant_says_and_its_end_and_nothing_else(chatml: Any) -> None:
    output = chatml.apply_chat_template(CONVERSATION, tools=TOOLS, return_assistant_tokens_mask=True, return_dict=True)
    marked = [token for token, mark in zip(output["input_ids"], output["assistant_masks"], strict=True) if mark]
    said = f"I add.\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>{CALL_TEXT}<|im_end|>It is 3.<|im_end|>"
    assert chatml.decode(marked) == said


def test_tool_call_arguments_given_as_json_render_as_the_object_they_are(chatml: Any) -> None:
    call = {"name": "add", "arguments": '{"a": 1, "b": "é"}'}
    assert CALL_TEXT in render(chatml, [{"role": "assistant", "content": "", "tool_calls": [call]}])


def test_an_unknown_role_is_an_error(chatml: Any) -> None:
    with pytest.raises(Exception, match="robot"):
        render(chatml, [{"role": "robot", "content": "hi"}])


def test_trl_renders_prompt_and_completion_to_the_same_text(chatml: Any) -> None:
    from trl.data_utils import apply_chat_template

    row = apply_chat_template({"prompt": CONVERSATION[:6], "completion": CONVERSATION[6:7]}, chatml, tools=TOOLS)
    assert row["prompt"] == render(chatml, CONVERSATION[:6], TOOLS, add_generation_prompt=True)
    assert row["prompt"] + row["completion"] == render(chatml, CONVERSATION[:7], TOOLS)


def test_the_template_survives_saving(chatml: Any, tmp_path: Path) -> None:
    chatml.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(loaded, CONVERSATION, TOOLS) == encode(chatml, CONVERSATION, TOOLS)
    assert loaded.pad_token == "<|endoftext|>"


def test_a_tokenizer_that_adds_bos_gets_exactly_one_everywhere(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer("<s>", "</s>", "<pad>", prepend_bos=True, bos_token="<s>", eos_token="</s>")
    prepare_tokenizer(tokenizer, template="give")
    bos = tokenizer.bos_token_id
    messages = [{"role": "user", "content": "hi"}]
    prompts = [encode(tokenizer, messages), encode(tokenizer, "hi"), encode(tokenizer, "<s>hi")]
    prompts.append(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
    assert [ids.count(bos) for ids in prompts] == [1, 1, 1, 1]
    assert all(ids[0] == bos for ids in prompts)


def test_turns_end_with_the_tokenizers_own_eos_where_it_knows_no_im_end(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer("</s>", "<pad>", eos_token="</s>")
    prepare_tokenizer(tokenizer, template="give")
    assert render(tokenizer, [{"role": "user", "content": "hi"}]) == "<|im_start|>user\nhi</s>\n"


def test_eos_becomes_the_token_that_ends_a_turn(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer("<|im_end|>", "<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE.replace("eos_token", "'<|im_end|>'")
    prepare_tokenizer(tokenizer, template="need")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_a_model_without_template_is_refused_where_one_is_needed(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(Refused, match="sft stage first"):
        prepare_tokenizer(make_tokenizer("</s>", eos_token="</s>"), template="need")


@pytest.mark.parametrize(
    ("special", "named", "pad"),
    [
        (["<e>", "<|endoftext|>"], {"pad_token": "<e>"}, "<|endoftext|>"),
        (["<e>", "<u>"], {"unk_token": "<u>"}, "<u>"),
        (["<e>", "<|reserved_7|>"], {}, "<|reserved_7|>"),
        (["<e>", "<p>"], {"pad_token": "<p>"}, "<p>"),
    ],
)
def test_pad_is_a_token_of_the_vocabulary_apart_from_eos(
    make_tokenizer: MakeTokenizer, special: list[str], named: dict[str, str], pad: str
) -> None:
    tokenizer = make_tokenizer(*special, eos_token="<e>", **named)
    size = len(tokenizer)
    separate_pad_from_eos(tokenizer)
    assert (tokenizer.pad_token, len(tokenizer)) == (pad, size)


def test_a_vocabulary_with_no_token_to_spare_is_refused(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(Refused, match="pad"):
        separate_pad_from_eos(make_tokenizer("<e>", eos_token="<e>"))


def test_rows_with_tools_are_refused_by_a_template_that_leaves_them_out(chatml: Any) -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    calling = {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]}
    rows = from_rows([plain, calling], "rows")
    check_tools_render(chatml, rows)
    chatml.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    check_tools_render(chatml, rows.select([0]))
    with pytest.raises(Refused, match=r"row 2 has tools, .* leaves tool calls out"):
        check_tools_render(chatml, rows)


def test_trl_trains_on_the_marked_tokens_only(chatml: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(chatml), **size))
    args = SFTConfig(output_dir=str(tmp_path), assistant_only_loss=True, max_length=None, use_cpu=True, bf16=False)
    rows = Dataset.from_list([{"messages": [*CONVERSATION[:2], CONVERSATION[6]]}])
    trainer = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=chatml)
    labels = trainer.train_dataset[0]["labels"]
    assert chatml.decode([label for label in labels if label != -100]) == "It is 3.<|im_end|>"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "eos", "pad"),
    [
        ("models/stories260K", "</s>", "<unk>"),
        ("tokenizers/qwen2.5", "<|im_end|>", "<|endoftext|>"),
        ("tokenizers/smollm2", "<|im_end|>", "<|endoftext|>"),
        ("tokenizers/minimind", "<|im_end|>", "<|endoftext|>"),
    ],
)
def test_real_tokenizers_end_turns_with_eos_and_pad_with_another(shared: Path, name: str, eos: str, pad: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "fixtures" / name)
    prepare_tokenizer(tokenizer, template="give")
    assert (tokenizer.eos_token, tokenizer.pad_token) == (eos, pad)
    text = render(tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}])
    assert text.rstrip().endswith(f"yes{eos}")
    ids = encode(tokenizer, [{"role": "user", "content": "hi"}])
    assert not adds_bos(tokenizer) or ids.count(tokenizer.bos_token_id) == 1


CUTS = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}{{ m.role + c + eos_token }}{% endfor %}"
)


def test_thoughts_stand_under_the_key_that_a_template_shows(chatml: Any) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "reasoning_content": "hm"}]
    chatml.chat_template = CHAT_TEMPLATE.replace("reasoning_content", "thinking")  # as gpt-oss has it
    assert "<think>\nhm\n</think>\n\n!" in render(chatml, turns)
    chatml.chat_template = "{% for m in messages %}[{{ m.thinking }}|{{ m.content }}]{% endfor %}"
    assert render(chatml, turns) == "[|?][hm|!]"
    chatml.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert render(chatml, turns) == "[?][<think>\nhm\n</think>\n\n!]"


def test_a_system_turn_that_a_template_leaves_out_is_refused(chatml: Any) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    plain = to_layout(from_rows([{"messages": turns}], "rows"), "sft")
    with_system = to_layout(from_rows([{"messages": [{"role": "system", "content": "Add."}, *turns]}], "rows"), "sft")
    check_system_renders(chatml, with_system)
    chatml.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    check_system_renders(chatml, plain)
    with pytest.raises(Refused, match="row 1 has a system turn, and this model's chat template leaves it out"):
        check_system_renders(chatml, with_system)


def test_control_tokens_inside_turns_are_told(chatml: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(text: str) -> Dataset:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
        return to_layout(from_rows([{"messages": turns}], "rows"), "sft")

    tell_control_tokens(chatml, rows("one two"))
    assert capsys.readouterr().out == ""
    tell_control_tokens(chatml, rows("one<|endoftext|>two"))
    assert "1 of 1 rows, the first of them row 1, hold <|endoftext|> inside" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_tokenizer_without_eos_is_refused_for_plain_text_too(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(Refused, match="no EOS token to end an answer with"):
        separate_pad_from_eos(make_tokenizer("<pad>", pad_token="<pad>"))


def test_thoughts_that_a_template_cuts_out_are_refused(chatml: Any) -> None:
    def rows(**answer: str) -> Dataset:
        asked = {"role": "user", "content": "Is </think> a tag?"}
        return from_rows([{"messages": [asked, {"role": "assistant", "content": "yes", **answer}]}], "rows")

    apart, inline = rows(reasoning_content="hm"), rows(content="<think>hm</think>yes")
    for one in (rows(), apart, inline):
        check_thoughts_render(chatml, to_layout(one, "sft"))
    chatml.chat_template = CUTS
    check_thoughts_render(chatml, to_layout(rows(), "sft"))
    for one in (apart, inline):
        with pytest.raises(Refused, match=r"row 1 has thoughts, and .* cuts out .*: name a model"):
            check_thoughts_render(chatml, to_layout(one, "sft"))
    chatml.chat_template = CUTS.replace("{{ m.role", "{{ m.reasoning_content }}{{ m.role")
    check_thoughts_render(chatml, to_layout(apart, "sft"))
    with pytest.raises(Refused, match="give them as reasoning_content"):
        check_thoughts_render(chatml, to_layout(inline, "sft"))
