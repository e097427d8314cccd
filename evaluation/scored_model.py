"""A saved model under evaluation: loaded when first needed, its results kept so that none is computed twice."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.chat import encode, refuse_unknown
from evaluation.placement import Placement, device_for, loading_options, placed_kind
from utils.errors import Refused
from utils.files import jsonable, read_json, weights_sha256, write_json
from utils.runtime import free_memory
from utils.secrets import hidden

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from batching.complete import Completion

CACHE_FILE = "evaluation_scores.json"
MAX_TOKENS = 2048
"""Longer sequences are not evaluated, even by a model that could take them."""


class Impossible(Exception):
    """A task that this checkpoint cannot be given; the message says why. Reported in the result, never passed over."""


class ScoreCache:
    """Per-example results of evaluations, kept in a stage's directory under keys that name weights, data and task."""

    def __init__(self, directory: Path, also_read: Iterable[Path] = ()) -> None:
        self.file = directory / CACHE_FILE
        self._new: dict[str, Any] = _read(self.file)
        self._known = dict(self._new)
        for other in also_read:
            self._known |= _read(other / CACHE_FILE)

    def get(self, key: str, compute: Callable[[], Any], *, anew: bool = False) -> Any:
        """Return the result under `key`, computed and written if it is not there yet, or to be computed `anew`."""
        if anew or key not in self._known:
            result = hidden(jsonable(compute()))  # as the file has it: what is kept must be what was judged
            if self._known.get(key, self) != result:
                self._known[key] = self._new[key] = result
                write_json(self.file, self._new, indent=None)
        return self._known[key]


def _read(file: Path) -> dict[str, Any]:
    return dict(read_json(file)) if file.exists() else {}


class ScoredModel:
    """The model in `directory`, or of that Hub id, read through `tokenizer`.

    A stage's input and output are read through the output's tokenizer, so that both see the same tokens: the input of
    SFT may have no chat template yet. A reward model's `policy` is the one that its stage started from.
    """

    def __init__(
        self,
        directory: Path | str,
        tokenizer: "PreTrainedTokenizerBase",
        cache: ScoreCache,
        load: "Callable[[Path | str], PreTrainedModel] | None" = None,
        kind: str = "policy",
        sampling_seed: int = 0,
    ) -> None:
        self.directory, self.tokenizer, self.cache, self.kind = directory, tokenizer, cache, kind
        self.policy: ScoredModel | None = None
        self.sampling_seed = sampling_seed
        self._load = load or load_policy

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model, on the device where it is evaluated."""
        return self._load(self.directory)

    def sampled_anew(self) -> "ScoredModel":
        """Return the same checkpoint, whose sampled answers are drawn with another seed."""
        return ScoredModel(
            self.directory, self.tokenizer, self.cache, self._load, self.kind, sampling_seed=self.sampling_seed + 1
        )

    def release(self) -> None:
        """Free the model's memory; it is loaded again if it is needed again."""
        if self.__dict__.pop("model", None) is not None:
            free_memory()

    @cached_property
    def identity(self) -> str:
        """What results belong to: the weights, how they are read, and the tokenizer."""
        local = Path(self.directory).is_dir()
        weights = weights_sha256(Path(self.directory)) if local else str(self.directory)
        tokens = self.tokenizer
        vocabulary = sorted(tokens.get_vocab().items())
        reading = [self.kind, tokens.chat_template, tokens.eos_token, tokens.pad_token, vocabulary]
        reading += [self.sampling_seed] if self.sampling_seed else []
        return f"{weights[:16]}-{fingerprint(reading)}"

    @property
    def pad_token_id(self) -> int:
        """What fills batches."""
        pad: int = self.tokenizer.pad_token_id
        return pad

    @cached_property
    def max_tokens(self) -> int:
        """Longest sequence that it is evaluated on, in tokens."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min(limit or MAX_TOKENS, MAX_TOKENS)

    def readable(self, sequences: Sequence[list[int]], room: int = 0) -> list[int]:
        """Return which sequences are no longer than the model can take, with `room` for more tokens.

        Raises:
            Refused: one holds a token for which the model has no embedding.
        """
        refuse_unknown(self.tokenizer, self.model.get_input_embeddings().num_embeddings, sequences)
        return [i for i, ids in enumerate(sequences) if len(ids) + room <= self.max_tokens]

    def remembered(self, key: str, compute: Callable[[], Any], *, anew: bool = False) -> Any:
        """Return what `compute` returns for these weights, as JSON would give it back; computed once, or `anew`."""
        return self.cache.get(f"{key}@{self.identity}", compute, anew=anew)

    def complete(
        self, prompts: Sequence[tuple[Any, Any]], max_new_tokens: int, sampled: bool = False
    ) -> "list[Completion | None]":
        """Return the completion of each (prompt, tools), greedy or sampled; None where the prompt leaves no room.

        Raises:
            Impossible: a prompt is a conversation and there is no chat template.
        """
        from batching.complete import Completion, complete

        def compute() -> list[Completion | None]:
            ids = [self.encode(prompt, tools) for prompt, tools in prompts]
            fits = [i for i in self.readable(ids, max_new_tokens) if ids[i]]
            given, seed = [ids[i] for i in fits], self.sampling_seed
            done = complete(self.model, self.tokenizer, given, max_new_tokens, sampled=sampled, seed=seed)
            by_index = dict(zip(fits, done, strict=True))
            return [by_index.get(i) for i in range(len(ids))]

        key = f"{'sampled-' if sampled else ''}completions-v3-{fingerprint([prompts, max_new_tokens])}"
        return [None if item is None else Completion(*item) for item in self.remembered(key, compute)]

    def encode(self, prompt: Any, tools: Any = None) -> list[int]:
        """Return the ids of a prompt.

        Raises:
            Impossible: it is a conversation and there is no chat template.
        """
        self.need_template(prompt)
        return encode(self.tokenizer, prompt, tools)

    def need_template(self, conversation: Any) -> None:
        """Raise Impossible if a conversation is to be shown without a chat template."""
        if not isinstance(conversation, str) and self.tokenizer.chat_template is None:
            raise Impossible("the model has no chat template")


def fingerprint(value: Any) -> str:
    """Return a short SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(jsonable(value), sort_keys=True).encode()).hexdigest()[:16]


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer saved with a model, with a pad to fill batches with.

    Raises:
        Refused: it has none, and no token to spare for it.
    """
    from transformers import AutoTokenizer

    from data.chat import separate_pad_from_eos

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    separate_pad_from_eos(tokenizer)
    return tokenizer


def load_policy(directory: Path | str, placed: Placement = Placement.AS_SAVED) -> "PreTrainedModel":
    """Return the language model in `directory`.

    Raises:
        Refused: it lacks weights.
    """
    from transformers import AutoModelForCausalLM

    model, missing = _loaded(AutoModelForCausalLM, directory, placed)
    if missing:
        raise Refused(f"{directory} lacks {missing}: they would be random.")
    return ready(model, placed)


def load_reward_model(
    directory: Path | str,
    pad_token_id: int,
    placed: Placement = Placement.AS_SAVED,
    head_seed: int | None = None,
) -> "PreTrainedModel":
    """Return the reward model in `directory`, or what its training starts from: with a new head, of `head_seed`.

    Raises:
        Refused: it does not give one score, or lacks weights.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    is_new = head_seed is not None
    with torch.random.fork_rng():
        torch.manual_seed(head_seed or 0)
        options = {"num_labels": 1} if is_new else {}
        model, missing = _loaded(AutoModelForSequenceClassification, directory, placed, **options)
    if missing and not is_new:
        raise Refused(f"{directory} lacks {missing}: its scores would be random.")
    if model.config.num_labels != 1:
        raise Refused(f"{directory} gives {model.config.num_labels} scores instead of 1: it is no reward model.")
    model.config.get_text_config().pad_token_id = pad_token_id  # the score is read at the last other token
    return ready(model, placed)


def _loaded(auto_class: Any, directory: Path | str, placed: Placement, **options: Any) -> tuple[Any, str]:
    """Return a model, and the names of the weights that its checkpoint lacks."""
    options |= loading_options(placed)
    model, found = auto_class.from_pretrained(
        directory, output_loading_info=True, use_safetensors=True, trust_remote_code=False, **options
    )
    return model, ", ".join(sorted(found["missing_keys"]))


def open_model(directory: Path | str, cache: ScoreCache, placed: Placement, *, scores: bool) -> ScoredModel:
    """Return a model read through its own tokenizer; `scores` tells whether it is a reward model."""
    tokenizer = load_tokenizer(Path(directory))

    def load(path: Path | str) -> "PreTrainedModel":
        return load_reward_model(path, tokenizer.pad_token_id, placed) if scores else load_policy(path, placed)

    return ScoredModel(directory, tokenizer, cache, load, placed_kind("reward model" if scores else "policy", placed))


def ready(model: Any, placed: Placement) -> "PreTrainedModel":
    """Return a model on the device where it is evaluated, with nothing in it that trains."""
    if placed is not Placement.IN_4_BITS:  # which is where it is to be since it was loaded
        model = model.to(device_for(placed))
    frozen: PreTrainedModel = model.eval().requires_grad_(False)
    return frozen
