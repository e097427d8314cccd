"""Neptune's run of one stage. Ours, since the callback of transformers asks the server for an id, and offline fails."""

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any


def neptune_run() -> Any:
    """Return a callback that records a stage as one run, in the group of the whole run's id.

    NEPTUNE_CUSTOM_RUN_ID names it: `<run id>-<stage>`. A stage that is resumed goes on with its run.
    """
    from transformers import TrainerCallback
    from transformers.integrations.integration_utils import rewrite_logs

    name = os.environ["NEPTUNE_CUSTOM_RUN_ID"]

    class Neptune(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            neptune = _imported()
            nothing = dict.fromkeys(("stdout", "stderr", "hardware_metrics", "traceback"), False)
            captured = {f"capture_{what}": value for what, value in nothing.items()}
            self.run = neptune.init_run(name=name, git_ref=False, source_files=[], **captured)
            self.run["sys/group_tags"].add([name.rpartition("-")[0]])
            self.run["trainer"] = neptune.utils.stringify_unsupported(args.to_dict())
            if getattr(model, "config", None) is not None:
                self.run["model"] = neptune.utils.stringify_unsupported(model.config.to_dict())

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            for metric, value in rewrite_logs(logs or {}).items():
                if isinstance(value, int | float):
                    self.run[metric].append(value, step=state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.run.stop()

    return Neptune()


def _imported() -> Any:
    """Import neptune without what it adds to its logger when imported, which would print past ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package is deprecated
        import neptune.utils
    for logger in (logging.getLogger("neptune"), logging.getLogger("neptune_no_prefix")):
        logger.handlers = [one for one in logger.handlers if not type(one).__module__.startswith("neptune")]
    return neptune
