"""How many tokens of a row a stage reads, as its batches are read on a CPU: what it computes is told by that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinds import Stage, StageOutput
from utils import hub
from utils.errors import Refused

if TYPE_CHECKING:
    from data.sources import StageData

LOOKED_AT = 256
"""Rows, from the first on."""


class Lengths:
    """The lengths of the rows of a run's stages. A tokenizer that the run trains is stood in for by one like it."""

    def __init__(self, stages: Sequence[Stage], outputs: Mapping[str, Path]) -> None:
        self.stages, self.outputs = {stage.label: stage for stage in stages}, outputs
        self._stand_ins: dict[str, Any] = {}

    def of(self, stage: Stage, rows: "StageData | None", batch_size: int, config: Any, attention: str) -> int | None:
        """Return the mean tokens that are read of a sequence, of a prompt where the kind samples; None: not known.

        `config` is that of the stage's model, `attention` how that is computed.
        """
        if rows is None:
            return None
        import numpy
        from jinja2 import TemplateError
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        from algorithms import supervision
        from batching.masks import takes_masks
        from batching.read_once import narrowest

        looked_at = rows.train.select(range(min(len(rows.train), LOOKED_AT)))
        try:
            tokenizer = self._tokenizer(stage, looked_at)
            answered = not stage.kind.samples
            shown = [supervision.shown(tokenizer, row, answered=answered) for row in looked_at]
        except (Refused, ValueError, OSError, TemplateError):  # which a run refuses
            return None
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        once = takes_masks(config, model_class, attention)
        batches = [shown[at : at + batch_size] for at in range(0, max(1, len(shown) - batch_size + 1), batch_size)]
        read = sequences = 0
        for batch in batches:
            ids = [numpy.array(one) for row in batch for one in row]
            longest = max(map(len, ids))
            if not answered:
                read += sum(map(len, ids))
            else:
                found = narrowest(ids, config, longest) if once else None
                read += longest * len(ids) if found is None else found.ids.size
            sequences += len(ids)
        return round(read / sequences)

    def _tokenizer(self, stage: Stage, rows: Any) -> Any:
        from algorithms import loading

        model, revision = stage.model, stage.config.revision
        while isinstance(model, StageOutput) and model.name in self.stages:
            source = self.stages[model.name]
            if source.model is None:
                if source.label not in self._stand_ins:
                    self._stand_ins[source.label] = (source.kind.stand_in(source.config) or [None])[0]
                return self._stand_ins[source.label]
            model, revision = source.model, source.config.revision
        assert model is not None, "documents have no rows"
        path = self.outputs.get(model.name) if isinstance(model, StageOutput) else hub.local_model(model, revision)
        config = replace(stage.config, model_name=str(path), revision=None)
        return loading.tokenizer(config, rows, gives_template=True)
