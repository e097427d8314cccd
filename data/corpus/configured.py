"""The corpus that a pretraining configuration names, and what its record and its measurements take from it."""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from data.corpus.cache import key_of
from data.corpus.corpus import Corpus, prepare
from data.corpus.documents import Options
from data.corpus.mixture import parse
from data.named import ON_HUB
from data.sources import files_now
from kinds import Config
from utils import hub
from utils.files import user_path


def corpus_for(config: Config) -> Corpus:
    """Return the corpus that `config` names; see `corpus.prepare`. Checks, training and evaluation share it."""
    options = Options(
        separator=config.document_separator,
        config_name=config.dataset_config_name,
        revision=config.dataset_revision,
        columns=tuple(config.columns.items()),
        made_train=config.max_samples,
        made_held_out=config.eval_samples,
        seed=config.seed,
    )
    files = tuple(files_now(name) for name, _ in parse(config.dataset_name))
    return _prepared(config.dataset_name, options, config.data_fraction, files)


@lru_cache(maxsize=1)
def _prepared(source: str, options: Options, data_fraction: float, _files: Any) -> Corpus:
    return prepare(source, options, data_fraction=data_fraction)


def is_here(config: Config) -> bool:
    """Tell whether all parts are on this machine, so that the corpus can be had without a download."""

    def part_is_here(name: str) -> bool:
        return name.startswith("made:") or user_path(name).exists() or hub.has_dataset(ON_HUB.get(name, name))

    return all(part_is_here(name) for name, _ in parse(config.dataset_name))


def record_of(corpus: Corpus, eval_samples: int) -> dict[str, Any]:
    """Return what a stage's record tells of its data, and what each part of a mixture holds."""
    info = corpus.info
    left_out: Counter[str] = Counter()
    for part in info["parts"]:
        left_out.update(part["left_out"])
        left_out["held out elsewhere"] += part["held_out_elsewhere"]
    return {
        "name": corpus.name,
        "fingerprint": key_of([(part["fingerprint"], part["weight"], part["train_rows"]) for part in info["parts"]]),
        "train_rows": corpus.count("train"),
        "eval_rows": len(validation_rows(corpus, eval_samples)),
        "dropped": left_out.total(),
        "faults": {reason: count for reason, count in left_out.items() if count},
        "parts": info["parts"],
    }


def validation_rows(corpus: Corpus, eval_samples: int) -> list[Mapping[str, Any]]:
    """Return the validation documents that a run is measured on, as rows with `text`."""
    chosen = [(part.store.texts("validation"), part.held_out("validation", eval_samples)) for part in corpus.parts]
    return [{"text": texts.text(index)} for texts, indices in chosen for index in indices.tolist()]
