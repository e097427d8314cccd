"""From a source's name to batches of tokens: documents, split and free of duplicates, token shards, packed rows."""

from data.corpus.corpus import Corpus, prepare

__all__ = ["Corpus", "prepare"]
