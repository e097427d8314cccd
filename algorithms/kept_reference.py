"""DPO whose reference reads the same rows once, and not again in the next stage or run."""

from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy
import trl
from trl import DPOTrainer

from algorithms import overrides
from data.corpus.cache import key_of, made_once, root

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
READ = ("prompt_ids", "chosen_ids", "rejected_ids", "chosen_scored", "rejected_scored")
CHUNK_ROWS = 1000


class KeptReferenceTrainer(DPOTrainer):
    """TRL's trainer; with `precompute_ref_log_probs` it keeps the log-probabilities in the project's cache.

    TRL keeps them beside a dataset that lies on disk, which rows that were prepared in memory do not.
    """

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if self.accelerator.num_processes > 1:  # all compute it together, and none may wait for another
            return super()._precompute_ref_logps(dataset, name, batch_size)
        args, model = self.args, self.ref_model or self.model
        key = key_of(
            self._precompute_model_hash, _content(dataset), batch_size, args.max_length, args.truncation_mode,
            args.pad_to_multiple_of, args.bf16, args.fp16, args.ld_alpha, args.device.type, model.config.to_dict(),
            model.config._attn_implementation, trl.__version__,
        )  # fmt: skip
        directory = root() / "references" / key
        compute = partial(super()._precompute_ref_logps, dataset, name, batch_size)

        def make(empty: Path) -> dict[str, Any]:
            with overrides.each_token_once(self):
                found = compute()
            for column in COLUMNS:
                numpy.save(empty / f"{column}.npy", numpy.array(found[column], dtype=numpy.float32))
            return {"rows": len(dataset)}

        made_once(directory, "the reference's log-probabilities", make)
        for column in COLUMNS:
            dataset = dataset.add_column(column, numpy.load(directory / f"{column}.npy"))
        return dataset


def _content(dataset: Any) -> str:
    """Return a hash of what the reference reads of the rows."""
    found = sha256()
    columns = [column for column in READ if column in dataset.column_names]
    for batch in dataset.select_columns(columns).iter(CHUNK_ROWS):
        found.update(repr([batch[column] for column in columns]).encode())
    return found.hexdigest()
