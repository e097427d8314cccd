"""What all stages share: load the rows, configure TRL, train from where it stopped, judge, save."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms import adapters, arguments, merging, overrides
from algorithms.config import GRPOExtraConfig, TrainingConfig
from algorithms.watch import Watch
from data.asked import how_asked
from data.sources import StageData
from records.sealed import newest_sound, partial, publish, writing
from records.stage_log import StageLog
from utils import processes, runtime
from utils.agreement import by_first
from utils.console import console, warn
from utils.errors import Interrupted, StageFailed
from utils.limits import Clock
from utils.stopping import asked_to_stop
from watching import trackers
from watching.gradients import Gradients
from watching.out_of_memory import naming_the_step, record_out_of_memory

if TYPE_CHECKING:
    from algorithms.trl_kind import TrlKind

SAMPLED = 4096  # elements of each weight tensor that are compared before and after
LEAST_CHANGED = 0.01  # share of them that must differ; AdamW moves nearly all, rounding leaves those near 0

History = list[dict[str, Any]]
"""The trainer's log, one mapping a logged step, since the stage's first step."""


def trl_config(
    kind: "TrlKind", config: TrainingConfig, stage_dir: Path, extra: GRPOExtraConfig | None = None, **defaults: Any
) -> Any:
    """Return the TRL config of a stage; `defaults` are ours, for what the recipe leaves open."""
    options = defaults | arguments.resolve(config, extra, stage_dir) | {"report_to": trackers.report_to()}
    args = kind.args_class()(**options)
    if problem := arguments.rounding_problem(config, args):
        warn(problem)
    overrides.use_one_gpu(args)
    return args


def eval_rows(settings: Any, data: StageData) -> Any:
    """Return the held-out rows if the recipe asks TRL to evaluate before or while it trains, else None."""
    return data.eval if settings.eval_on_start or settings.eval_strategy != "no" else None


def fit(
    trainer: Any,
    config: TrainingConfig,
    stage_dir: Path,
    data: StageData,
    kind: "TrlKind",
    clock: Clock,
) -> Path:
    """Train, from the newest checkpoint in `stage_dir` if there is one, and save the result there.

    Raises:
        StageFailed: no row is left to train on, the loss was not a number, all gradients were 0, or the weights are
            what they were before.
        OutOfMemory: memory ran out.
        Interrupted: the user, or the run's limit of time, stopped it; a checkpoint holds what was done.
    """
    log = StageLog(stage_dir)
    if len(trainer.train_dataset) == 0:
        raise StageFailed("no training row is left: each is longer than max_length, or holds nothing to learn")
    adapters.begin(trainer.model)
    trainable, total = adapters.parameter_counts(trainer.model)
    log.info(
        data=data.info,
        chat=how_asked(data.train),
        config=(log.read_info().get("config") or {}) | {"trainer": trainer.args.to_dict()},
        parameters={"trainable": trainable, "total": total},
    )
    if config.peft:
        console().print(f"training {trainable:,} of {total:,} parameters ({trainable / total:.2%})", markup=False)
    before = _sample_weights(trainer.model)
    checkpoint = by_first(lambda: newest_sound(stage_dir, warn))
    if checkpoint is None:
        log.cut_back(-1)  # what an attempt logged that was killed before its first checkpoint
    if checkpoint is None or not _resume(trainer, checkpoint, log):
        with _watched(trainer, config, stage_dir, log, kind, clock) as watch:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if watch.stopped is not None:
            raise Interrupted(watch.stopped)
    history: History = trainer.state.log_history
    if trainer.state.global_step == 0:
        raise StageFailed(f"no step was taken: {len(trainer.train_dataset)} rows do not fill one batch")
    kind.judge(history)
    _judge_gradients(history)
    _judge_weights(before, _sample_weights(trainer.model))
    _save(trainer, config, data, stage_dir)
    tokens = next((line["num_tokens"] for line in reversed(history) if "num_tokens" in line), 0)
    steps = trainer.state.global_step
    log.info(steps=steps, tokens=int(tokens), peak_memory_bytes=runtime.peak_memory_bytes())
    log.train_end(f"{steps} steps, {int(tokens)} tokens")
    return stage_dir


@contextmanager
def _watched(
    trainer: Any, config: TrainingConfig, stage_dir: Path, log: StageLog, kind: "TrlKind", clock: Clock
) -> Iterator[Watch]:
    """Give a trainer what is ours while it trains: sealed checkpoints, a look at each gradient, the stage's record."""
    from transformers import PrinterCallback

    overrides.save_sealed(trainer, stage_dir)
    overrides.tell_phases(trainer)
    if overrides.samples(trainer):
        halved = [
            one["completions_at_once"][1]
            for one in log.read_info().get("out_of_memory", [])
            if "completions_at_once" in one
        ]
        trainer.most_rows = halved[-1] if halved else None
        trainer.tell_fewer = lambda was, now: _tell_sampling(log, _step(trainer), was, now)
    trackers.shield(trainer)
    trainer.remove_callback(PrinterCallback)
    parameters, _ = adapters.parameter_counts(trainer.model)
    log.event("TRAIN_START", f"{len(trainer.train_dataset)} rows, {parameters} trainable parameters")
    name = log.read_info().get("name") or stage_dir.name
    with asked_to_stop() as asked, naming_the_step(lambda: _step(trainer)), overrides.each_token_once(trainer):
        watch = Watch(log, name, kind, asked, lambda: overrides.is_between_generations(trainer), clock)
        trainer.add_callback(watch)
        overrides.see_gradients(trainer, _judge_of_steps(trainer, config, log))
        try:
            yield watch
        finally:
            watch.close()


def _judge_of_steps(trainer: Any, config: TrainingConfig, log: StageLog) -> Callable[[float], bool]:
    """Return a function that looks at the norm of a step's gradient, and tells whether the step is to be left out.

    It raises StageFailed, before the weights take any harm, for a norm that is wrong and that `max_skipped_steps` does
    not cover; either way the rows of the step are recorded.
    """
    gradients = Gradients(may_be_zero=overrides.samples(trainer))
    scaled = trainer.accelerator.scaler is not None
    skipped = sum(alarm["name"] == SKIPPED for alarm in log.read_info().get("alarms") or [])  # before a resume

    def judge(norm: float) -> bool:
        nonlocal skipped
        wrong = gradients.look(norm, scaled=scaled)
        if wrong is None:
            return False
        step, rows = _step(trainer), overrides.rows_of_step(trainer)
        text = f"{wrong}. The step's rows: {_told(trainer, rows)}"
        if math.isfinite(norm) or scaled or skipped >= config.max_skipped_steps:
            log.alarm(step, "gradient", text, rows=rows)
            raise StageFailed(
                f"step {step}: {text}\nWhat was saved before is whole. Look at these rows, or lower learning_rate (it"
                f" is {trainer.args.learning_rate:g}); max_skipped_steps leaves out so many steps whose gradient is not"
                " a number."
            )
        skipped += 1
        log.alarm(step, SKIPPED, f"left out: {text}", rows=rows)
        return True

    return judge


SKIPPED = "skipped_step"
SHOWN_ROWS, SHOWN_TOKENS = 4, 12


def _told(trainer: Any, rows: list[int]) -> str:
    """Return the numbers of rows, from 1, and how the first of them begin."""
    shown = []
    for row in rows[:SHOWN_ROWS]:
        values = trainer.train_dataset[row]
        ids = next((value for name, value in values.items() if name.endswith("input_ids")), None)
        prompt = values.get("prompt", "")
        text = prompt[-1]["content"] if isinstance(prompt, list) and prompt else str(prompt)
        if ids is not None:
            text = trainer.processing_class.decode(ids[:SHOWN_TOKENS])
        shown.append(f"{row + 1} {text[:80]!r}")
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return f"{', '.join(shown)}{more} (of {len(trainer.train_dataset)}, as they are prepared)"


def _step(trainer: Any) -> int:
    """Return the number of the optimizer step that is being made, from 1."""
    return int(trainer.state.global_step) + 1


def _tell_sampling(log: StageLog, step: int, was: int, now: int) -> None:
    text = f"out of memory in step {step}: {now} completions are sampled at once, not {was}"
    record_out_of_memory(log, text, {"step": step, "completions_at_once": [was, now]})


def _resume(trainer: Any, checkpoint: Path, log: StageLog) -> bool:
    """Bring the record, and the trainer, back to a checkpoint; True if training had ended there."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    log.cut_back(state["global_step"])
    log.take_up(state["log_history"])
    console().print(f"going on from {checkpoint.name}", markup=False)
    log.resumed(checkpoint.name, f"from {checkpoint.name} of {state['max_steps']} steps")
    trainer.args.eval_on_start = False  # it has been done: a second time it would stand for the checkpoint's step
    overrides.continue_unlogged(trainer, checkpoint)
    overrides.continue_generations(trainer, state["global_step"])
    if state["global_step"] < state["max_steps"]:
        return False
    overrides.load_finished(trainer, checkpoint)
    return True


def _sample_weights(model: Any) -> dict[str, Any]:
    """Return up to `SAMPLED` evenly spaced elements of each trainable tensor: enough to see that training moved it."""
    sample = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            flat = weight.detach().flatten()
            sample[name] = flat[:: max(1, flat.numel() // SAMPLED)].cpu().clone()
    return sample


def _judge_weights(before: dict[str, Any], after: dict[str, Any]) -> None:
    import torch

    broken = [name for name, values in after.items() if not bool(torch.isfinite(values).all())]
    if broken:
        raise StageFailed(f"weights are no longer numbers, such as {broken[0]}: lower learning_rate")
    changed = sum(int((before[name] != values).sum()) for name, values in after.items())
    if changed < LEAST_CHANGED * sum(values.numel() for values in after.values()):
        raise StageFailed(
            f"training changed fewer than {LEAST_CHANGED * 100:g} % of the weights. Small updates round away, above all"
            " in bfloat16: use dtype='float32', or a higher learning_rate"
        )


def _judge_gradients(history: History) -> None:
    norms = [line["grad_norm"] for line in history if "grad_norm" in line]
    if norms and not any(norms):
        raise StageFailed(
            f"the gradient was 0 in all {len(norms)} logged steps: nothing was learnt. Is any token supervised, and"
            " does any pair or group of the data differ?"
        )


def _save(trainer: Any, config: TrainingConfig, data: StageData, stage_dir: Path) -> None:
    """Save the model as it is to be used: generating with a cache, and without the pickle that the Trainer adds."""
    sharded = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if not processes.is_first():
        return
    trainer.model.config.use_cache = True  # training turns it off
    with writing("the result", stage_dir):
        written = partial(stage_dir)
        if config.peft is None:
            trainer.model.save_pretrained(written, state_dict=sharded)
        elif config.merge_adapter:
            model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # of autocast, too
            merging.save_merged(model, config, trainer.processing_class, data, stage_dir, written)
        else:
            trainer.model.save_pretrained(written, state_dict=sharded, selected_adapters=["default"])
        trainer.processing_class.save_pretrained(written)
        publish(written, stage_dir)
