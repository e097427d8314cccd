"""The tokenizer of a run: trained on its text, loaded, or plain bytes.

A trained one is SentencePiece BPE with byte fallback, digits apart, the chat's tags reserved. One training gives two
files with the same ids: `tokenizer.model`, which SentencePiece and llama.cpp read, and `tokenizer.json` for tokenizers
and transformers.
"""

import io
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.chat import CHAT_TEMPLATE
from data.corpus.cache import META, key_of, made_once, root
from data.corpus.configured import record_of
from data.corpus.corpus import Corpus
from pretrain.pretrain_config import PretrainConfig
from utils import hub
from utils.console import console
from utils.errors import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

UNK, BOS, END_OF_TEXT, TURN_START, TURN_END = "<unk>", "<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TAGS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>",
)  # fmt: skip
"""Ordinary added tokens: a decoder that skips special tokens must keep these, or no reward sees them."""

MODEL_FILE = "tokenizer.model"
VERSION = 2
"""Of how a tokenizer is made; another one is trained anew."""
SPACE = "\u2581"
"""SentencePiece's visible space."""


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train on the lines of `texts` and return the serialized SentencePiece model, of exactly `vocab_size` pieces.

    Raises:
        ValueError: the text is too small or the size out of range, with SentencePiece's own reason.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            max_sentence_length=1 << 16,
            num_threads=1,  # the order in which threads count decides between pieces of one frequency
            unk_id=0,
            bos_id=1,
            eos_id=-1,
            pad_id=-1,
            control_symbols=[END_OF_TEXT, TURN_START, TURN_END],
            user_defined_symbols=[*TAGS, "\n"],
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if most := re.search(r"value <= (\d+)", str(error)):
            raise ValueError(f"the text has pieces for at most {most[1]}: --set vocab_size={most[1]}") from error
        if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise ValueError(f"its characters alone need {least[1]}: take a larger vocab_size") from error
        raise ValueError(f"a tokenizer of {vocab_size} pieces cannot be trained on this text: {error}") from error
    return model.getvalue()


def merges_of(pieces: dict[str, int], first_merge: int) -> list[tuple[str, str]]:
    """Return the merges that build each piece from two others, in the order in which SentencePiece prefers them.

    `pieces` maps a piece to its id; ids from `first_merge` on are merges in order of preference. Every split of a piece
    is listed, since SentencePiece joins any two neighbours whose concatenation is a piece.
    """
    merges = []
    for piece in sorted((p for p, i in pieces.items() if i >= first_merge and len(p) > 1), key=pieces.__getitem__):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in pieces and right in pieces]
        merges += sorted(known, key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
    return merges


def fast_tokenizer(serialized: bytes) -> "PreTrainedTokenizerFast":
    """Return the transformers tokenizer with the ids of the serialized SentencePiece model."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
    pieces = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    first_merge = 1 + max(i for i in pieces.values() if processor.is_byte(i))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=pieces, merges=merges_of(pieces, first_merge), unk_token=UNK, fuse_unk=True, byte_fallback=True
        )
    )
    # Splitting before each space changes no id, because no piece has a space inside, and lets the words be cached.
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, behavior="merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False) for t in (UNK, BOS, END_OF_TEXT, TURN_START, TURN_END)]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in (*TAGS, "\n")])
    return _for_chat(tokenizer, unk_token=UNK)


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a tokenizer of the 256 bytes and the chat's tags: nothing to train, and bits per byte as they are."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = [END_OF_TEXT, TURN_START, TURN_END, *TAGS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in (END_OF_TEXT, TURN_START, TURN_END)])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in TAGS])
    return _for_chat(tokenizer)


def _for_chat(tokenizer: Any, **special: str) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        **special,
    )


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a directory or Hub id, or the one of bytes.

    Raises:
        Refused: it cannot be had.
    """
    from transformers import AutoTokenizer

    if name == "bytes":
        return byte_tokenizer()
    away = None if Path(name).exists() else hub.unreachable()  # asked first: the library would try for a minute
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] if away is None else f"{away}. {hub.GET_IT}"
        raise Refused(f"tokenizer_name: there is no tokenizer {name!r}: {reason}") from None
    return tokenizer


def trained_tokenizer(config: PretrainConfig, corpus: Corpus) -> Path:
    """Return the directory of the tokenizer that `config` trains on a corpus; it is trained once, and then found.

    Raises:
        Refused: the text is too small for `vocab_size`, or that is out of range.
    """

    def make(partial: Path) -> dict[str, Any]:
        console().print(f"pretrain: training a tokenizer of {config.vocab_size} pieces")
        try:
            train_tokenizer(corpus.training_texts(config.tokenizer_samples), config.vocab_size, partial)
        except ValueError as error:
            raise Refused(f"vocab_size = {config.vocab_size}: {error}") from error
        return {}

    data = record_of(corpus, config.eval_samples)["fingerprint"]
    key = key_of("tokenizer", VERSION, data, config.vocab_size, config.tokenizer_samples)
    directory = root() / f"tokenizer-{key}"
    made_once(directory, "the tokenizer", make)
    return directory


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy a trained tokenizer; `tokenizer.json`, by which it is known to be there, comes last and in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    last = "tokenizer.json"
    for name in (MODEL_FILE, *sorted({file.name for file in source.iterdir()} - {META, MODEL_FILE, last}), last):
        partial = directory / f".{name}.partial"
        shutil.copyfile(source / name, partial)
        partial.replace(directory / name)


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: Path) -> "PreTrainedTokenizerFast":
    """Train a tokenizer on `texts`, save both of its files in `directory`, and return it.

    Raises:
        ValueError: the text is too small or the size out of range.
    """
    serialized = train_sentencepiece(texts, vocab_size)
    tokenizer = fast_tokenizer(serialized)
    tokenizer.save_pretrained(directory)
    (directory / MODEL_FILE).write_bytes(serialized)
    return tokenizer
