"""From a source's name to batches of tokens: documents, split and free of duplicates, token shards, packed rows."""
