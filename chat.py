"""Talk to any checkpoint, or to any stage of a run; two of them answer side by side."""

import argparse
import json
import math
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from data.chat import PROBE, Message, encode, refuse_unknown, render
from records.catalogue import Checkpoint, catalogue, find_checkpoint
from utils.command_line import Parser, refuse, this_command
from utils.console import console, warn
from utils.errors import Refused, did_you_mean, plain_endings, report
from utils.files import tensor_shapes, user_path, weight_files
from utils.text import plain

STOPPED = "stopped"
COMMANDS = ("/help", "/clear", "/system", "/save", "/thumb")


def parser() -> Parser:
    """Return the parser of the command line."""
    made = Parser(prog="chat.py", description="Talk to a model. Without one: list what there is.", allow_abbrev=False)
    add = made.add_argument
    named = "RUN_ID, RUN_ID/STAGE, `latest`, a model's directory or a Hub id; two answer side by side"
    add("checkpoints", nargs="*", metavar="CHECKPOINT", help=named)
    add("--prompt", metavar="TEXT", help="answer this and stop; without it prompts are read from stdin, one a line")
    add("--system", metavar="TEXT", help='the system turn; "" is none, by default that of most rows it was trained on')
    keeps = "keep what was said, where a model of single questions, and lines from a pipe, begin anew"
    add("--conversation", action="store_true", help=keeps)
    modes = "chat through the template, or continue text; by default chat, but for bases and where there is no template"
    add("--mode", choices=("chat", "text"), help=modes)
    add("--max-tokens", type=int, default=200, metavar="N", help="longest answer (200)")
    add("--temperature", type=float, default=0.8, metavar="T", help="0 always takes the likeliest token (0.8)")
    add("--top-p", type=float, default=0.9, metavar="P", help="sample from the likeliest tokens of this share (0.9)")
    add("--seed", type=int, metavar="N", help="sample the same answers again; without it they differ each time")
    add("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    return made


def refuse_values(args: argparse.Namespace) -> None:
    """Raise Refused with every value that is not allowed."""
    text = f"{args.prompt}{args.system}"  # Python hides bytes that are no UTF-8 in surrogates
    divides = 1e-3 <= args.temperature < math.inf  # the logits
    refuse(
        (len(args.checkpoints) > 2, f"one or two checkpoints can answer; given: {len(args.checkpoints)}"),
        (not all(args.checkpoints), "a checkpoint's name is empty"),
        (
            not args.checkpoints and args.prompt is not None,
            "--prompt needs a checkpoint to answer it, such as `latest`",
        ),
        (args.prompt is not None and not args.prompt.strip(), "--prompt is empty"),
        (text.encode(errors="ignore").decode() != text, "--prompt and --system must be UTF-8"),
        (args.max_tokens < 1, f"--max-tokens must be at least 1; given: {args.max_tokens}"),
        (
            args.temperature != 0 and not divides,
            f"--temperature must be 0, or at least 0.001; given: {args.temperature}",
        ),
        (not 0 < args.top_p <= 1, f"--top-p must be above 0 and at most 1; given: {args.top_p}"),
        (args.seed is not None and not 0 <= args.seed < 2**63, f"--seed must be 0 or more; given: {args.seed}"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one command line; return the exit code."""
    try:
        args = parser().parse_intermixed_args(argv)  # `A --prompt TEXT B` too
        refuse_values(args)
        with answers_alone():
            return serve(args)
    except (Refused, KeyboardInterrupt) as error:
        return report(error)
    except UnicodeDecodeError as error:
        return report(Refused(f"the prompts are not UTF-8: {error}"))
    except BrokenPipeError:  # whoever reads the answers has enough
        console().on_broken_pipe()
        return 0


@contextmanager
def answers_alone() -> Iterator[None]:
    """Leave stdout to `write` where it is a pipe or a file: what the shared console prints goes to stderr."""
    before = console().stderr
    console().stderr = not sys.stdout.isatty()
    try:
        yield
    finally:
        console().stderr = before


def serve(args: argparse.Namespace) -> int:
    """List what there is, or load what is named and talk."""
    if not args.checkpoints:
        write(catalogue(args.runs_dir) + "\n")
        return 0
    found = [find_checkpoint(name, args.runs_dir) for name in args.checkpoints]
    note(f"loading {' and '.join(checkpoint.name for checkpoint in found)}")
    from utils.quiet import quiet_libraries

    with quiet_libraries(None):
        converse([load(checkpoint, args.mode, args.system) for checkpoint in found], args)
    return 0


HELP = """\
/help             this
/clear            forget the conversation
/system           list the system turns that it was trained on; with a number, or a text, ask under that one
/save FILE        append the conversations to a .jsonl file, to train on, and begin anew
/thumb up|down    append the last answer, with that label, to thumbs.jsonl, for a kto stage
/exit             end; so does Ctrl-D. Ctrl-C stops an answer"""


def introduce(speakers: "Sequence[Speaker]") -> None:
    """Say how each model was asked while it was trained, and what."""
    note("/help lists the commands.")
    for speaker in speakers:
        if speaker.opening:
            note(f"{speaker.name} is asked after the system turn {speaker.opening[0]['content']!r:.200}")
        ways = speaker.asked.get("ways", [])
        if questions := [(n, way["questions"][0]) for n, way in enumerate(ways, 1) if way["questions"]]:
            note(f"{speaker.name} knows questions such as:")
        for number, question in questions:
            after = "" if speaker.asks_under(ways[number - 1]) else f"   (after /system {number})"
            note(f"  {' '.join(question.split())}{after}")
        if speaker.forgets:
            note("It was trained on single questions, so each is asked by itself; --conversation keeps them.")


def command(word: str, rest: str, speakers: "Sequence[Speaker]") -> None:
    """Do what a command says.

    Raises:
        Refused: it cannot be done.
    """
    if word == "/help":
        note(HELP)
    elif word == "/clear":
        for speaker in speakers:
            speaker.begin_anew()
    elif word == "/system":
        for speaker in speakers:
            speaker.ask_under(rest)
    elif word == "/save":
        if not rest:
            raise Refused("/save needs the name of a file, such as /save chats.jsonl")
        _append(rest, [row for speaker in speakers for row in speaker.said])
        for speaker in speakers:
            speaker.said = []
            speaker.begin_anew()
    elif rest not in ("up", "down"):
        raise Refused("/thumb up, or /thumb down")
    else:
        rows = [speaker.judged(rest == "up") for speaker in speakers if speaker.said]
        _append("thumbs.jsonl", rows)


def _append(name: str, rows: "Sequence[dict[str, Any]]") -> None:
    if not rows:
        raise Refused("there is no whole answer to keep yet")
    path = user_path(name)
    if path.suffix != ".jsonl":
        raise Refused(f"{name} is no .jsonl file, which is what can be trained on")
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}") from None
    note(f"{len(rows)} row{'s' * (len(rows) > 1)} appended to {path}")


def converse(speakers: "Sequence[Speaker]", args: argparse.Namespace) -> None:
    """Answer `--prompt`, or one prompt after the other until they end.

    Raises:
        Refused: a prompt is longer than the context, and nobody sits at the prompt to be told.
        KeyboardInterrupt: the answer to `--prompt` was stopped.
    """
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    one = args.prompt is not None
    for speaker in speakers:
        speaker.forgets = not args.conversation and (speaker.asked.get("turns") == 1 or not sys.stdin.isatty())
    if sys.stdin.isatty() and not one:
        introduce(speakers)
    for number, prompt in enumerate([args.prompt] if one else asked()):
        word, _, rest = prompt.strip().partition(" ")
        if word == "/exit" and not one:
            return
        if word in COMMANDS and not one:
            try:
                command(word, rest.strip(), speakers)
            except Refused as error:
                note(str(error))
            continue
        if not one and re.fullmatch(r"/\w+", word) and (near := did_you_mean(word, [*COMMANDS, "/exit"])):
            note(f"there is no command {word}{near} Nothing was asked.")
            continue
        for speaker in speakers if prompt.strip() else ():
            try:
                _refuse_bytes(prompt)
                if take_turn(speaker, prompt, args, seed + number, named=len(speakers) > 1) == STOPPED and one:
                    raise KeyboardInterrupt
            except Refused as error:
                if one or not sys.stdin.isatty():
                    raise
                note(str(error))


def _refuse_bytes(prompt: str) -> None:
    """Refuse a prompt with bytes that are no UTF-8, which Python takes for halves of characters in some locales."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"this prompt is not UTF-8: {error.reason}, at character {error.start + 1}") from None


def asked() -> Iterator[str]:
    """Yield the lines of stdin. On a terminal Ctrl-C drops a line that was begun, and ends at an empty one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    import readline  # lets a line be edited, and called back

    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt) as error:
            write("\n")
            if isinstance(error, EOFError) or not readline.get_line_buffer():
                return


class Speaker:
    """A loaded checkpoint, and the conversation with it."""

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, chat: bool, asked: dict[str, Any], system: str | None = None
    ) -> None:
        from batching.stream import stop_ids

        self.asked = asked if chat else {}
        """How it was asked while it was trained, as `data.asked` has it; empty where that is not known."""
        self.forgets = False
        self.said: list[dict[str, Any]] = []
        """Every conversation that is not saved yet as a row to train on, `{messages, tools}`."""
        self.row: dict[str, Any] | None = None
        """That of the conversation that goes on."""

        self.name, self.model, self.tokenizer, self.chat = name, model, tokenizer, chat
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit: int = limit or sys.maxsize  # tokens
        self.stops = stop_ids(model, tokenizer, chat=chat)
        first: dict[str, Any] = next((way for way in self.asked.get("ways", []) if way["share"] > 0.5), {})
        self.opening = _opening(first.get("system") if system is None else system)
        self.tools = first.get("tools") if system is None else None
        self.turns: list[Message] = []

    def ids(self, turns: "list[Message]") -> list[int]:
        """Return what the model is shown: the conversation, or its newest text alone if it continues text."""
        ids = encode(self.tokenizer, [*self.opening, *turns] if self.chat else turns[-1]["content"], self.tools)
        refuse_unknown(self.tokenizer, self.model.get_input_embeddings().num_embeddings, [ids])
        return ids

    def asks_under(self, way: dict[str, Any]) -> bool:
        """Tell whether it asks now under the system turn, and with the tools, that `data.asked` has as one way."""
        return (self.opening, self.tools) == (_opening(way["system"]), way["tools"])

    def ask_under(self, system: str) -> None:
        """Ask from now on under a system turn: one of those it was trained on, by its number, or a text; "" lists."""
        ways = self.asked.get("ways", [])
        if not system:
            for number, way in enumerate(ways, 1):
                note(f"{number}: {way['share']:.0%} of its rows: {way['system'] or 'no system turn'}")
            return
        if system.isdigit() and ways:
            if not 0 < int(system) <= len(ways):
                raise Refused(f"there is no system turn {system}: /system lists 1 to {len(ways)}")
            self.opening, self.tools = _opening(ways[int(system) - 1]["system"]), ways[int(system) - 1]["tools"]
        else:
            refuse_unfit(self.name, self.tokenizer, self.chat, system)
            self.opening, self.tools = _opening(system), None
        under = f"the system turn {self.opening[0]['content']!r:.200}" if self.opening else "no system turn"
        note(f"{self.name} is asked after {under}")
        self.begin_anew()

    def answered(self, turns: "list[Message]", *, whole: bool) -> None:
        """Keep a conversation to which the model has answered; the round as data only if the answer is `whole`."""
        if whole:
            if self.row is None:
                self.row = {"messages": list(self.opening)} | ({"tools": self.tools} if self.tools else {})
                self.said.append(self.row)
            self.row["messages"] += turns[-2:]
        self.turns = turns
        if self.forgets:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the conversation; what was said stays to be saved."""
        self.turns, self.row = [], None

    def ask(
        self, prompt: str, *, max_tokens: int = 200, temperature: float = 0.0, top_p: float = 0.9, seed: int = 0
    ) -> str:
        """Return the answer to a prompt, for Python: by the likeliest tokens, or sampled where `temperature` is set.

        The conversation goes on from one call to the next, unless the model was trained on single questions. An answer
        that is cut off is returned with a warning.

        Raises:
            Refused: the prompt is longer than the context.
        """
        parts: list[str] = []
        how = argparse.Namespace(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        if cut_off := take_turn(self, prompt, how, seed, named=False, out=parts.append):
            warn(f"the answer was {'cut off by Ctrl-C' if cut_off == STOPPED else cut_off}")
        return "".join(parts).removesuffix("\n")

    def judged(self, good: bool) -> dict[str, Any]:
        """Return the last answer with a thumb."""
        *asked, answer = self.said[-1]["messages"]
        return {"prompt": asked, "completion": [answer], "label": good}


def _opening(system: str | None) -> list[Message]:
    return [{"role": "system", "content": system}] if system else []


@contextmanager
def refused_by_a_full_gpu() -> Iterator[None]:
    """Raise Refused, with the way around it, where the GPU has no memory left: for the model, or to begin at all."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        on_cpu = f"CUDA_VISIBLE_DEVICES= {this_command()} …"
        raise Refused(f"the GPU is full: is a run training on it? On the CPU: {on_cpu}") from error


@refused_by_a_full_gpu()
def load(checkpoint: Checkpoint, mode: str | None, system: str | None) -> Speaker:
    """Load a checkpoint: in float32 on a CPU, in bfloat16 on a GPU that computes in it natively.

    Raises:
        Refused: it cannot be loaded whole, or not be talked to as asked, or has no room on the GPU.
    """
    started = time.monotonic()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from utils.runtime import computes_in_bf16, device

    dtype = torch.bfloat16 if device() != "cpu" and computes_in_bf16(device()) else torch.float32
    for file in weight_files(checkpoint.path):
        tensor_shapes(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, dtype=dtype, output_loading_info=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Refused(f"{checkpoint.path} cannot be loaded by transformers: {reason}") from error
    if loaded["missing_keys"]:
        raise Refused(f"{checkpoint.path} lacks {min(loaded['missing_keys'])} and would make it up: is it whole?")
    chat = checkpoint.chats if mode is None else mode == "chat"
    refuse_unfit(checkpoint.name, tokenizer, chat, system)
    asked: dict[str, Any] = checkpoint.stage.get("chat") or {}
    speaker = Speaker(checkpoint.name, model.to(device()).eval(), tokenizer, chat=chat, asked=asked, system=system)
    took = time.monotonic() - started
    how = "chat" if chat else "continues each text by itself"
    note(f"{speaker.name}: {model.num_parameters():,} parameters, {str(dtype)[6:]} on {device()}, {took:.1f} s; {how}")
    if checkpoint.status != "passed":
        note(f"its stage has not passed: {checkpoint.status}")
    return speaker


def open_model(name: str, *, runs_dir: Path | str = "runs", system: str | None = None) -> Speaker:
    """Return a model to talk to from Python, found by the name that the command line takes; see `Speaker.ask`.

    `system` is its system turn, by default that of most rows it was trained on, "" for none.

    Raises:
        Refused: there is no such model, or it cannot be talked to so.
    """
    from utils.quiet import quiet_libraries

    with quiet_libraries(None):
        speaker = load(find_checkpoint(str(name), Path(runs_dir)), None, system)
    speaker.forgets = speaker.asked.get("turns") == 1
    return speaker


def refuse_unfit(name: str, tokenizer: Any, chat: bool, system: str | None) -> None:
    """Raise Refused if there is no tokenizer, or if a chat, or its system turn, has no place in the template."""
    from jinja2 import TemplateError

    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # what transformers makes of no files
        raise Refused(f"{name} has no tokenizer: it needs tokenizer.json beside its weights")
    if not chat and system is not None:
        raise Refused(f"--system opens a chat, and {name} continues text: leave it out, or add --mode chat")
    if chat and tokenizer.chat_template is None:
        raise Refused(f"{name} has no chat template: without --mode chat it continues text")
    try:
        turns: list[Message] = [{"role": "system", "content": system or ""}, {"role": "user", "content": PROBE}]
        if chat and (system or "").strip() not in render(tokenizer, turns[system is None :]):
            raise Refused(f"the chat template of {name} leaves a system turn out: ask without --system")
    except TemplateError as error:
        raise Refused(f"the chat template of {name} does not take this chat: {error}") from error


def fitting(turns: list[Message], length: Callable[[list[Message]], int], limit: int, room: int) -> list[Message]:
    """Return the newest of `turns`, from a question on, that leave `room` tokens below `limit`.

    However long answers may be, half of the context stays open to what was said.

    Raises:
        Refused: the last question alone is as long as the context.
    """
    while len(turns) > 1 and length(turns) + min(room, limit // 2) > limit:
        turns = turns[2:]
    if length(turns) >= limit:
        raise Refused(f"this prompt takes {length(turns)} tokens and the model's context is {limit}: shorten it")
    return turns


@refused_by_a_full_gpu()
def take_turn(
    speaker: Speaker,
    prompt: str,
    args: argparse.Namespace,
    seed: int,
    *,
    named: bool,
    out: Callable[[str], Any] | None = None,
) -> str:
    """Answer a prompt, under the checkpoint's name if `named`, and remember both; return why the answer was cut off.

    `out` gets the answer piece by piece; None prints it, and says why it was cut off.

    Raises:
        Refused: the prompt is longer than the context, or its answer has no room on the GPU.
    """
    from batching.stream import stream

    turns: list[Message] = [*speaker.turns, {"role": "user", "content": prompt.strip() if speaker.chat else prompt}]
    kept = fitting(turns, lambda some: len(speaker.ids(some)), speaker.limit, args.max_tokens)
    if named:
        Console(highlight=False).print(plain(speaker.name), style="bold", markup=False, emoji=False, soft_wrap=True)
    if len(kept) < len(turns):
        note(f"(the context of {speaker.limit} tokens is full: the oldest {len(turns) - len(kept)} turns are dropped)")
    ids = speaker.ids(kept)
    room = min(args.max_tokens, speaker.limit - len(ids))
    how = {"temperature": args.temperature, "top_p": args.top_p, "seed": seed, "max_new_tokens": room}
    with interruptible() as stop:
        to = out or write
        answer = stream(speaker.model, speaker.tokenizer, ids, to, stops=speaker.stops, interrupted=stop, **how)
    to("\n")
    asked_for = f"--max-tokens {room}" if out is None else f"max_tokens={room}"
    full = asked_for if room == args.max_tokens else f"its context of {speaker.limit} tokens"
    cut_off = "" if answer.stopped else STOPPED if stop.is_set() else f"cut off by {full}"
    if out is None and (cut_off or not answer.text):
        note(f"({cut_off or 'it ended without a word'})")
    if speaker.chat and (answer.text or cut_off != STOPPED):  # else the question is taken back
        speaker.answered(
            [*kept, {"role": "assistant", "content": answer.text}], whole=bool(answer.text and not cut_off)
        )
    return cut_off


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, in place of what it does elsewhere; in the main thread, which alone gets it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def write(text: str) -> None:
    """Print to stdout, such as a part of an answer, as it is but for what would steer a terminal."""
    sys.stdout.write(plain(text))
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell the user what is no answer."""
    console().print(text, style="dim", markup=False, emoji=False, soft_wrap=True)


if __name__ == "__main__":
    plain_endings()
    sys.exit(main())
