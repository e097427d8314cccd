"""Benchmarks of the field through EleutherAI's lm-evaluation-harness, an optional library.

Its tasks, prompts, answer filters and metrics are its own. What each example scored is taken from it, so that intervals
and paired differences are those of every other task here.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from evaluation.checkpoint import Impossible, ScoredModel
from evaluation.task import HeldOut, Scores, Task
from utils.errors import Refused, did_you_mean

PREFIX = "lm-eval:"
BATCH_SIZE = 8


@dataclass(frozen=True)
class Harness(Task):
    """A task of lm-eval, or a group of them, which is then scored a part at a time."""

    title: str
    manager: Any
    """lm-eval's TaskManager, which knows the task's definition."""
    limit: int | None = None
    chat: bool = False
    """Whether the model is asked through its chat template. lm-eval's own command does not, unless it is told to."""
    versions: dict[str, Any] = field(default_factory=dict)
    """The version of each part's definition, once it has been scored."""
    name: ClassVar[str] = "lm-eval"
    headline: ClassVar[tuple[str, ...]] = ("acc",)

    @property
    def version_label(self) -> str:
        """The version of the definition, a group's parts apart, that of the library, whether it is put as a chat."""
        from importlib.metadata import version

        known = ", ".join(sorted({str(one) for one in self.versions.values()})) or "?"
        return f"{known} (lm-eval {version('lm-eval')}{', chat template' if self.chat else ''})"

    def scores(self, checkpoint: ScoredModel) -> Scores:
        """Return each of its metrics that has a number for each example: `METRIC`, or `METRIC/FILTER` by a filter."""
        return self.score(checkpoint)

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return the same.

        Raises:
            Impossible: no metric has a number for each example; there is no chat template.
        """
        if self.chat and checkpoint.tokenizer.chat_template is None:
            raise Impossible("the model has no chat template: leave out --mode chat")
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what a caller cannot change
        model = HFLM(pretrained=checkpoint.model, tokenizer=checkpoint.tokenizer, batch_size=BATCH_SIZE)
        found = simple_evaluate(
            model=model, tasks=[self.title.removeprefix(PREFIX)], task_manager=self.manager, limit=self.limit,
            bootstrap_iters=0, log_samples=True, apply_chat_template=self.chat,
        )  # fmt: skip
        self.versions.update(found["versions"])
        parts = found["samples"]
        scores: Scores = {}
        for part, samples in parts.items():
            within = f"/{part}" if len(parts) > 1 else ""
            for sample in sorted(samples, key=lambda one: one["doc_id"]):
                for metric in sample["metrics"]:
                    value, by = sample[metric], sample["filter"]
                    if isinstance(value, bool | int | float):
                        key = f"{metric}{within}" + ("" if by == "none" else f"/{by}")
                        scores.setdefault(key, []).append(float(value))
        if not scores:
            raise Impossible("none of its metrics has a number for each example")
        return scores


def harness_tasks(
    names: Sequence[str], limit: int | None, include_path: Path | None, *, chat: bool = False
) -> list[Task]:
    """Return lm-eval's tasks of these names; `include_path` is a directory with definitions of one's own (.yaml).

    Raises:
        Refused: lm-eval is not installed, knows no task of that name, or cannot load its data.
    """
    if find_spec("lm_eval") is None:
        raise Refused(
            f"{PREFIX}{names[0]} needs lm-eval, which is not installed: pip install 'sixgig[lm-eval]', or in a checkout"
            " pip install -e '.[lm-eval]'"
        )
    if include_path is not None and not include_path.is_dir():
        raise Refused(f"--include-path {include_path} is no directory: name one that holds definitions, .yaml files.")
    from lm_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    known = manager.all_tasks
    if unknown := [name for name in names if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise Refused(f"lm-eval has no task {unknown[0]!r}{near or '.'} Its own command lists them: lm-eval ls tasks")
    for name in names:  # loads its data, before a model is
        try:
            get_task_dict([name], manager)
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise Refused(f"lm-eval cannot load {name}: {reason}") from error
    return [Harness(HeldOut([]), f"{PREFIX}{name}", manager, limit, chat) for name in names]
