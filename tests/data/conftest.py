"""A tokenizer made on the spot, one token a byte, so that these tests need no files; a kind that trains on labels."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerBase

MakeTokenizer = Callable[..., PreTrainedTokenizerBase]


@pytest.fixture
def make_tokenizer() -> MakeTokenizer:
    """Return a function that makes a byte-level tokenizer with the special tokens given."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def make(*special: str, prepend_bos: bool = False, **named: str | None) -> PreTrainedTokenizerBase:
        tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
        if prepend_bos:
            bos = str(named["bos_token"])
            single = [bos, "$A"]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=single, pair=[*single, "$B"], special_tokens=[(bos, tokens.index(bos))]
            )
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)

    return make
