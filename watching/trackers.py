"""Experiment trackers: TensorBoard always, others only when asked for, and none of them can stop training."""

import copy
import logging
import netrc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from utils.console import warn
from utils.errors import Refused, did_you_mean
from utils.files import jsonable
from utils.processes import is_first
from utils.secrets import hidden, hide

PACKAGE_OF = {
    "tensorboard": "tensorboard", "wandb": "wandb", "neptune": "neptune", "mlflow": "mlflow", "comet_ml": "comet_ml",
    "clearml": "clearml", "codecarbon": "codecarbon", "dagshub": "dagshub", "dvclive": "dvclive", "flyte": "flytekit",
    "swanlab": "swanlab", "trackio": "trackio", "azure_ml": "azureml",
}  # fmt: skip


def requested() -> list[str]:
    """Return the trackers that REPORT_TO names, and TensorBoard, which is always on.

    Raises:
        Refused: REPORT_TO names a tracker that does not exist.
    """
    names = [name.strip().lower() for name in os.environ.get("REPORT_TO", "").split(",") if name.strip()]
    names = [name for name in names if name != "none"]
    for name in names:
        if name not in PACKAGE_OF:
            raise Refused(
                f"REPORT_TO names the tracker {name!r}{did_you_mean(name, PACKAGE_OF)}\n"
                f"Allowed, separated by commas: {', '.join(PACKAGE_OF)}. TensorBoard is on without being named."
            )
    return list(dict.fromkeys(["tensorboard", *names]))


def report_to() -> list[str]:
    """Return what a trainer's `report_to` should be: the requested trackers that are installed; says which are not.

    Of several processes the first reports.
    """
    names = requested() if is_first() else []
    for name in names:
        if not _installed(name):
            warn(f"the tracker {name} is not installed, so it records nothing: pip install {PACKAGE_OF[name]}")
    return [name for name in names if _installed(name) and name != "neptune"]  # which is `_ours`


def _installed(name: str) -> bool:
    return find_spec(PACKAGE_OF[name]) is not None


def _ours() -> list[Any]:
    """Return Neptune if it is asked for: transformers' callback asks the server for an id first, and fails offline."""
    if "neptune" not in requested() or not is_first() or not _installed("neptune"):
        return []
    from transformers.integrations import NeptuneCallback

    class Neptune(NeptuneCallback):
        def _initialize_run(self, **options: Any) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the package is deprecated
                import neptune
            for logger in map(logging.getLogger, ("neptune", "neptune_no_prefix")):  # it prints past ours
                logger.handlers = [one for one in logger.handlers if not type(one).__module__.startswith("neptune")]
            self._stop_run_if_exists()
            self._run = neptune.init_run(**options | self._init_run_kwargs)
            self._run["sys/group_tags"].add([self._init_run_kwargs["name"].rpartition("-")[0]])

    nothing = {f"capture_{what}": False for what in ("stdout", "stderr", "hardware_metrics", "traceback")}
    name = os.environ["NEPTUNE_CUSTOM_RUN_ID"]  # a stage that is resumed goes on with its run
    return [_shielded(Neptune(name=name, git_ref=False, source_files=[], **nothing))]


def shield(trainer: Any) -> None:
    """Make a Hugging Face trainer's trackers harmless: one that raises or hangs is told once, and then left alone."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    handler, trackers = trainer.callback_handler, tuple(INTEGRATION_TO_CALLBACK.values())
    handler.callbacks = [_shielded(item) if isinstance(item, trackers) else item for item in handler.callbacks]
    handler.callbacks += _ours()


def _shielded(tracker: Any) -> Any:
    """Return `tracker` with its `on_...` methods guarded. The instance is changed, so its class stays recognisable."""
    from transformers import TrainerCallback
    from transformers.integrations import TensorBoardCallback

    if isinstance(tracker, TensorBoardCallback):
        _write_each_step_once(tracker)
    guard = _Guard(type(tracker).__name__.removesuffix("Callback"))
    for method in dir(tracker):
        if method.startswith("on_") and getattr(type(tracker), method) is not getattr(TrainerCallback, method, None):
            setattr(tracker, method, guard(getattr(tracker, method)))
    return tracker


def _write_each_step_once(tensorboard: Any) -> None:
    """Let TensorBoard drop the steps that a killed process logged beyond the checkpoint it is resumed from.

    It drops them where a writer says at which step it begins, and not at the first that does: so each of them says it.
    """
    begin = tensorboard.on_train_begin

    def on_train_begin(args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero and tensorboard.tb_writer is None and tensorboard.logging_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            first = state.global_step + 1 if state.global_step else 0  # an evaluation before training is of step 0
            tensorboard.tb_writer = SummaryWriter(log_dir=tensorboard.logging_dir, purge_step=first)
        begin(args, state, control, **more)

    tensorboard.on_train_begin = on_train_begin


@contextmanager
def recording(
    stage_dir: Path, config: Any, model: Any, step: int = 0
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Give a function that sends a step's metrics to the trackers, for a stage without a Trainer that is at `step`.

    It drives the callbacks that a Trainer would, so that all stages look alike, and `config` takes the place of the
    Trainer's arguments.
    """
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import get_reporting_integration_callbacks

    class Arguments(TrainingArguments):
        # The original would set up devices and processes anew, under the run that has set them up.
        _setup_devices, _n_gpu = model.device, 1

        def to_dict(self) -> dict[str, Any]:
            return dict(hidden(jsonable(config)))

    arguments = Arguments(str(stage_dir), report_to=[])
    state, control = TrainerState(global_step=step), TrainerControl()
    callbacks = [_Guard(kind.__name__)(kind)() for kind in get_reporting_integration_callbacks(report_to())]
    trackers = [_shielded(tracker) for tracker in callbacks if tracker is not None] + _ours()

    def tell(event: str, **what: Any) -> None:
        for tracker in trackers:
            getattr(tracker, event)(arguments, state, control, model=model, **what)

    def record(step: int, metrics: Mapping[str, float]) -> None:
        state.global_step = step
        tell("on_log", logs=dict(metrics))

    tell("on_train_begin")
    try:
        yield record
    finally:
        tell("on_train_end")


class _Guard:
    """Wraps the methods of one tracker; after the first failure it calls none of them again."""

    def __init__(self, name: str) -> None:
        self.name, self.broken = name, False

    def __call__(self, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.broken:
                return None
            try:
                return bounded(lambda: method(*map(_without_secrets, arguments), **options))
            except (Exception, SystemExit) as error:  # noqa: BLE001  a tracker must never stop training
                self.broken = True
                warn(f"the tracker {self.name} failed and records nothing more; training goes on: {error}")
                return None

        return call


def _without_secrets(argument: Any) -> Any:
    """Return a Trainer's arguments in a copy that does not tell the secrets in them; anything else as it is."""
    from transformers import TrainingArguments

    if not isinstance(argument, TrainingArguments):
        return argument
    shown = copy.copy(argument)
    vars(shown).update({name: hidden(value) for name, value in vars(shown).items() if name != "output_dir"})
    return shown


LONGEST_CALL_S = 60.0
"""How long a tracker may keep training waiting, once; then it is left behind."""


def bounded(function: Callable[[], Any], longest_s: float | None = None) -> Any:
    """Return what `function` returns, or raise what it raises, within `longest_s` seconds or `LONGEST_CALL_S`.

    It runs in a thread of its own, in which it may hang on: no client of a tracker can be made to give up.

    Raises:
        TimeoutError: it has not returned.
    """
    limit_s = LONGEST_CALL_S if longest_s is None else longest_s
    outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put((function(), None))
        except (Exception, SystemExit) as error:  # noqa: BLE001  raised below
            outcome.put((None, error))

    Thread(target=work, daemon=True).start()
    try:
        result, error = outcome.get(timeout=limit_s)
    except Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return result


@contextmanager
def stage_environment(run_id: str, stage: str, stage_dir: Path) -> Iterator[None]:
    """Give the trackers of one stage their names and places by environment variables, and close them afterwards.

    TensorBoard writes to `stage_dir/logs`. Weights & Biases and Neptune get one run a stage, in the group of the run,
    and work offline when there is no key, since asking for one would block the run, or no service, as Neptune's. Of
    several processes the first has trackers.
    """
    if not is_first():
        yield
        return
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(stage_dir / "logs"),
        "WANDB_NAME": f"{run_id}-{stage}",
        "WANDB_RUN_GROUP": run_id,
        "WANDB_DIR": str(stage_dir / "logs"),
        "WANDB_SILENT": "true",
        "WANDB_INIT_TIMEOUT": os.environ.get("WANDB_INIT_TIMEOUT", "20"),  # seconds; its own default is 90
        "NEPTUNE_CUSTOM_RUN_ID": f"{run_id}-{stage}",
        "NEPTUNE_DATA_DIRECTORY": str(stage_dir / "logs/neptune"),
    }
    if "WANDB_PROJECT" not in os.environ:
        wanted["WANDB_PROJECT"] = "sixgig"
    if "wandb" in requested() and "WANDB_MODE" not in os.environ and not _wandb_key():
        wanted["WANDB_MODE"] = "offline"
        warn("Weights & Biases has no key (WANDB_API_KEY), so it records offline; `wandb sync` sends it later")
    if "neptune" in requested() and "NEPTUNE_MODE" not in os.environ:
        wanted["NEPTUNE_MODE"] = "offline"
        warn("Neptune's service has closed, so it records offline; NEPTUNE_MODE=async sends to a server of your own")
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    (stage_dir / "logs").mkdir(exist_ok=True)
    words = sys.argv[:]
    sys.argv[:] = map(hide, words)  # Weights & Biases records the command
    try:
        yield
    finally:
        _close()
        sys.argv[:] = words
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _close() -> None:
    """End the Weights & Biases run, and its client, which else keeps the first stage's name, group and directory."""
    wandb = sys.modules.get("wandb")
    if wandb is None or not hasattr(wandb, "teardown"):
        return
    try:
        if getattr(wandb, "run", None) is not None:
            bounded(wandb.finish)
        bounded(wandb.teardown)
    except Exception as error:  # noqa: BLE001  a tracker must never stop training
        warn(f"Weights & Biases did not close: {error}")
