"""Experiment trackers: TensorBoard always, others only when asked for, and none of them can stop training."""

import netrc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from utils.console import warn
from utils.errors import Refused, did_you_mean
from utils.files import jsonable
from utils.processes import is_first

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
    missing = [name for name in names if find_spec(PACKAGE_OF[name]) is None]
    for name in missing:
        warn(f"the tracker {name} is not installed, so it records nothing: pip install {PACKAGE_OF[name]}")
    return [name for name in names if name not in missing]


def shield(trainer: Any) -> None:
    """Make a Hugging Face trainer's trackers harmless: one that raises is reported once, and then left alone."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    handler = trainer.callback_handler
    trackers = tuple(INTEGRATION_TO_CALLBACK.values())
    handler.callbacks = [_shielded(item) if isinstance(item, trackers) else item for item in handler.callbacks]


def _shielded(tracker: Any) -> Any:
    """Return `tracker` with every `on_...` method guarded. The instance is changed, so its class stays recognisable."""
    name = type(tracker).__name__.removesuffix("Callback")
    guard = _Guard(name)
    for method in dir(tracker):
        if method.startswith("on_"):
            setattr(tracker, method, guard(getattr(tracker, method)))
    return tracker


@contextmanager
def recording(stage_dir: Path, config: Any, model: Any) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Give a function that sends a step's metrics to the trackers, for a stage that has no Trainer.

    It drives the callbacks that a Trainer would, so that all stages look alike, and `config` takes the place of the
    Trainer's arguments.
    """
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import get_reporting_integration_callbacks

    class Arguments(TrainingArguments):
        # The original would set up devices and processes anew, under the run that has set them up.
        _setup_devices = model.device

        def to_dict(self) -> dict[str, Any]:
            return dict(jsonable(config))

    arguments = Arguments(str(stage_dir), report_to=[])
    state, control = TrainerState(), TrainerControl()
    made = [_Guard(kind.__name__)(kind)() for kind in get_reporting_integration_callbacks(report_to())]
    trackers = [_shielded(tracker) for tracker in made if tracker is not None]

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
                return method(*arguments, **options)
            except (Exception, SystemExit) as error:  # noqa: BLE001  a tracker must never stop training
                self.broken = True
                warn(f"the tracker {self.name} failed and records nothing more; training goes on: {error}")
                return None

        return call


@contextmanager
def stage_environment(run_id: str, stage: str, stage_dir: Path) -> Iterator[None]:
    """Give the trackers of one stage their names and places by environment variables, and close them afterwards.

    TensorBoard writes to `stage_dir/logs`. Weights & Biases gets one run a stage, in the group of the run, and works
    offline when it has no key, since asking for one would block the run.
    """
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(stage_dir / "logs"),
        "WANDB_NAME": f"{run_id}-{stage}",
        "WANDB_RUN_GROUP": run_id,
        "WANDB_DIR": str(stage_dir / "logs"),
        "WANDB_SILENT": "true",
    }
    if "WANDB_PROJECT" not in os.environ:
        wanted["WANDB_PROJECT"] = "sixgig"
    if "wandb" in requested() and "WANDB_MODE" not in os.environ and not _wandb_key():
        wanted["WANDB_MODE"] = "offline"
        warn("Weights & Biases has no key (WANDB_API_KEY), so it records offline; `wandb sync` sends it later")
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    (stage_dir / "logs").mkdir(exist_ok=True)
    try:
        yield
    finally:
        _close()
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
    """End the Weights & Biases run, which would otherwise also take the next stage's metrics."""
    wandb = sys.modules.get("wandb")
    try:
        if wandb is not None and getattr(wandb, "run", None) is not None:
            wandb.finish()
    except Exception as error:  # noqa: BLE001  a tracker must never stop training
        warn(f"Weights & Biases did not close: {error}")
