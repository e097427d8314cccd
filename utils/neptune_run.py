"""Neptune's run of one stage. Ours, since the callback of transformers asks the server for an id, and offline fails."""

import os
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs


class NeptuneRun(TrainerCallback):
    """Records a stage as one run, which NEPTUNE_CUSTOM_RUN_ID names `<run id>-<stage>`, in the group of the run id."""

    def __init__(self) -> None:
        self.name = os.environ["NEPTUNE_CUSTOM_RUN_ID"]
        self._run: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Open the run, or take it up again; record the trainer's options and the model's configuration."""
        import neptune
        from neptune.utils import stringify_unsupported

        quiet = dict.fromkeys(("stdout", "stderr", "hardware_metrics", "traceback"), False)
        captured = {f"capture_{what}": value for what, value in quiet.items()}
        self._run = neptune.init_run(name=self.name, git_ref=False, source_files=[], **captured)
        self._run["sys/group_tags"].add([self.name.rpartition("-")[0]])
        self._run["trainer"] = stringify_unsupported(args.to_dict())
        if getattr(model, "config", None) is not None:
            self._run["model"] = stringify_unsupported(model.config.to_dict())

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Append a step's metrics."""
        for name, value in rewrite_logs(logs or {}).items():
            if isinstance(value, int | float):
                self._run[name].append(value, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the run, so that nothing of it is left in memory."""
        self._run.stop()
