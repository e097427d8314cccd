"""Keep library noise away from the user: it goes to training.log, and warnings that matter reach the console too."""

import importlib
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.console import console, warn
from utils.processes import is_first
from utils.runtime import now
from utils.spinning import share_cores
from utils.text import entry

LIBRARIES = (
    "transformers", "datasets", "trl", "accelerate", "peft", "huggingface_hub", "torch", "torchao", "bitsandbytes",
    "liger_kernel", "httpx2", "fsspec", "tensorboard", "absl", "wandb", "neptune", "py.warnings",
)  # fmt: skip

NOISE_CATEGORIES = (
    DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning, SyntaxWarning,
)  # fmt: skip

NOISE = re.compile(
    r"deprecated|will be removed in|"
    r"use_cache=True. is incompatible with gradient checkpointing|"
    r"tokenizer has new PAD/BOS/EOS tokens|"
    r"pin_memory. argument is set as true but no accelerator|"
    r"token indices sequence length is longer|"  # data that is too long is counted and reported by us
    r"using the .__call__. method is faster|"
    r"This is not expected.*lora|"
    r"generation flags are not valid|"
    r"model_init_kwargs. will be ignored|"  # not by the reference model, for which they are set
    r"Redirects are currently not supported|"
    r"CUDA initialization: Found no NVIDIA driver|"
    r"cpp extensions|"
    r"Failed to load \S*torchao|"  # kernels for other machines; none of what the optimizer needs
    r"_stable_hash_for_caching|"  # torchao's optimizer states, compiled: only caching is meant
    r"kernels-community|"
    r"Backend impl .liger_kernel|"  # for other machines: Liger goes on with its Triton kernels
    r"missing keys in the checkpoint model loaded: \['lm_head\.weight'\]|"  # of a checkpoint with tied embeddings
    r"do not match the ones in the .trainer_state.json.|"  # a share becomes a number; we refuse changes
    r"suggested max number of worker in current system|"
    r"latest cached (version of the dataset|dataset configuration)|"  # what an offline run is meant to use
    r"mtime may not be reliable on this filesystem|"
    r"torchao.*Could not load this library|"
    r"the current process just got forked",
    re.IGNORECASE | re.DOTALL,
)
REPORT_ROW = re.compile(r"^(\S+)\s*\|\s*(?:\x1b\[\d+m)*(MISSING|UNEXPECTED|MISMATCH|CONVERSION)", re.MULTILINE)
# What a language model lacks, and has too much, when it becomes a reward model.
EXPECTED_ROWS = {("score.weight", "MISSING"), ("lm_head.weight", "UNEXPECTED")}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_noise(message: str) -> bool:
    """Tell whether a library's warning says nothing that a user can act on."""
    if "LOAD REPORT" in message:
        return set(REPORT_ROW.findall(message)) <= EXPECTED_ROWS
    return NOISE.search(message) is not None


class _Route(logging.Handler):
    """Writes every record to the log; shows each warning that matters once."""

    def __init__(self, log: Path | None) -> None:
        super().__init__(logging.INFO)
        self.log, self.shown = log, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.take(record.name, record.levelno, record.getMessage())

    def take(self, origin: str, level: int, message: str) -> None:
        message = COLOUR.sub("", message).strip()
        if self.log is not None:
            with suppress(OSError), self.log.open("a", encoding="utf-8") as file:  # a full disk; the log is dispensable
                file.write(entry(f"{now()} {logging.getLevelName(level)} {origin}: {message}"))
        matters = level >= logging.ERROR or (level >= logging.WARNING and not is_noise(message))
        if matters and message not in self.shown:
            self.shown.add(message)
            warn(f"({origin.split('.')[0]}) {message}")


@contextmanager
def quiet_libraries(training_log: Path | None) -> Iterator[None]:
    """Send the libraries' log records and warnings to `training_log`, and show the user only those that matter.

    Their own handlers and progress bars are off meanwhile, and back afterwards. Of several processes the first writes.
    """
    if "transformers" not in sys.modules:
        console().print("loading libraries")  # it takes seconds, in which nothing else is said
    share_cores()
    route, hook = _Route(training_log if is_first() else None), threading.excepthook
    with warnings.catch_warnings(), _no_bars():
        warnings.showwarning, threading.excepthook = _show_by(route), _tell_by(route)
        before = [_redirect(logging.getLogger(name), route) for name in LIBRARIES]
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate


def _redirect(logger: logging.Logger, route: _Route) -> tuple[logging.Logger, list[logging.Handler], bool]:
    before = (logger, logger.handlers, logger.propagate)
    logger.handlers, logger.propagate = [route], False
    return before


def _show_by(route: _Route) -> Any:
    def show(message: Warning | str, category: type[Warning], filename: str, *_rest: object, **_: object) -> None:
        level = logging.INFO if issubclass(category, NOISE_CATEGORIES) else logging.WARNING
        origin = filename.split("site-packages/")[-1].split("/")[0].removesuffix(".py")
        route.take(origin, level, f"{category.__name__}: {message}")

    return show


def _tell_by(route: _Route) -> Any:
    """Return what tells of a library's thread that has failed, as a tracker's does where its file cannot be written."""

    def tell(failed: threading.ExceptHookArgs) -> None:
        trace = traceback.format_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
        route.take("threading", logging.INFO, "".join(trace))
        route.take("threading", logging.WARNING, f"a library's thread has failed: {trace[-1].strip()}")

    return tell


@contextmanager
def _no_bars() -> Iterator[None]:
    """Turn off the bars of transformers and datasets. Importing these also makes them set up their loggers now.

    torch, which they import later, would set up its own then, and take them back.
    """
    importlib.import_module("torch")
    modules = [importlib.import_module("transformers.utils.logging"), importlib.import_module("datasets.utils")]
    were_on = [modules[0].is_progress_bar_enabled(), modules[1].are_progress_bars_disabled() is False]
    modules[0].disable_progress_bar()
    modules[1].disable_progress_bars()
    try:
        yield
    finally:
        if were_on[0]:
            modules[0].enable_progress_bar()
        if were_on[1]:
            modules[1].enable_progress_bars()
