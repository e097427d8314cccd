"""The one chat rendering: what training, evaluation and chat show the model."""

from data.chat.chat_rendering import (
    PROBE,
    TURN_END,
    Message,
    adds_bos,
    align_eos,
    check_system_renders,
    check_thoughts_render,
    check_tools_render,
    encode,
    key_of_thoughts,
    prepare_tokenizer,
    refuse_unknown,
    render,
    separate_pad_from_eos,
    shows_thoughts,
    tell_control_tokens,
    with_thoughts_as,
)
from data.chat.template import CHAT_TEMPLATE

__all__ = [
    "CHAT_TEMPLATE",
    "PROBE",
    "TURN_END",
    "Message",
    "adds_bos",
    "align_eos",
    "check_system_renders",
    "check_thoughts_render",
    "check_tools_render",
    "encode",
    "key_of_thoughts",
    "prepare_tokenizer",
    "refuse_unknown",
    "render",
    "separate_pad_from_eos",
    "shows_thoughts",
    "tell_control_tokens",
    "with_thoughts_as",
]
