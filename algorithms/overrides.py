"""What transformers and TRL keep private and we rely on, in one place; a test checks that it is still there."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from batching.read_once import reading_once
from records.sealed import partial, seal, writing
from utils.agreement import by_first
from utils.console import warn
from utils.files import read_json, write_json
from watching import phases


def load_finished(trainer: Any, checkpoint: Path) -> None:
    """Bring a trainer to the state of its last checkpoint; `train` would take one step too many from there."""
    from transformers import TrainerState
    from transformers.trainer_utils import align_special_tokens

    align_special_tokens(trainer.model, trainer.processing_class)  # as `train` does first
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


UNLOGGED = "unlogged.json"
"""In a checkpoint: what the trainer has added up since it last logged, which a checkpoint of transformers lacks."""


def _unlogged(trainer: Any) -> dict[str, Any]:
    """Return what goes into `UNLOGGED`. GRPO's number of tokens is part of the trainer state already."""
    return {
        "loss": trainer.accelerator.gather(trainer._tr_loss).mean().item(),
        "last_logged_step": trainer._globalstep_last_logged,
        "metrics": dict(trainer._metrics["train"]),
        "tokens": trainer._total_train_tokens,
    }


def continue_unlogged(trainer: Any, checkpoint: Path) -> None:
    """Let what is logged next after a resume be the mean over the same steps as without the interruption."""
    from transformers import TrainerCallback

    if not (checkpoint / UNLOGGED).is_file():  # of a version before
        return
    saved = read_json(checkpoint / UNLOGGED)
    trainer._metrics["train"].update(  # JSON has no NaN, which a metric may be
        {name: [math.nan if value is None else value for value in values] for name, values in saved["metrics"].items()}
    )
    trainer._total_train_tokens = saved["tokens"]

    class Continue(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:  # `train` has just set both back
            trainer._tr_loss.fill_(saved["loss"])
            trainer._globalstep_last_logged = saved["last_logged_step"]

    trainer.add_callback(Continue())


def samples(trainer: Any) -> bool:
    """Tell whether a trainer samples what it trains on, as GRPO's does."""
    return hasattr(trainer, "_buffered_inputs")


def continue_generations(trainer: Any, step: int) -> None:
    """Let GRPO sample again at the same optimizer steps as without the interruption; other trainers sample nothing.

    TRL counts forward and backward passes from 0 in each trainer, and samples when a whole number of blocks is done:
    resumed within a block, it would mix the prompts of two.
    """
    if samples(trainer):
        args = trainer.args
        rows = args.per_device_train_batch_size * args.steps_per_generation * args.world_size
        passes = len(trainer._get_train_sampler()) // rows  # of an epoch
        steps = max(1, -(-passes // args.gradient_accumulation_steps))
        epochs, within = divmod(step, steps)
        trainer._step = epochs * passes + within * args.gradient_accumulation_steps


def is_between_generations(trainer: Any) -> bool:
    """Tell whether nothing is lost by stopping here: GRPO has used up what it sampled, which no checkpoint holds."""
    if not samples(trainer):
        return True
    return bool(trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations) == 0)


def see_gradients(trainer: Any, is_left_out: Callable[[float], bool]) -> None:
    """Show the norm of each step's gradient, before it is clipped, to a function that may have the step left out.

    A step that is left out is in no mean of the loss.
    """
    from transformers import TrainerCallback

    measure = trainer._get_grad_norm
    loss_before: Any = None

    class BeforeStep(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            nonlocal loss_before
            loss_before = trainer._tr_loss.clone()

    def measured(model: Any, grad_norm: Any = None) -> Any:
        norm = measure(model, grad_norm)
        if is_left_out(float(norm)):
            model.zero_grad(set_to_none=True)  # an optimizer passes over what has no gradient
            trainer._tr_loss.copy_(loss_before)  # the sum since the last logged line, which one NaN would spoil
            trainer._globalstep_last_logged += 1  # the steps since then, by which it is divided
        return norm

    trainer._get_grad_norm = measured
    trainer.add_callback(BeforeStep())


def rows_of_step(trainer: Any) -> list[int]:
    """Return the places of the rows of the step under way in the trainer's prepared rows, on this process, from 0.

    With dynamic sampling, those that took others' place in its generation are among them.
    """
    loader, passes = trainer.get_train_dataloader(), trainer.args.gradient_accumulation_steps
    steps = max(1, -(-len(loader) // passes))  # of an epoch
    epoch, within = divmod(trainer.state.global_step, steps)
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    batches = islice(loader.batch_sampler, within * passes, (within + 1) * passes)
    return sorted({index for batch in batches for index in batch} | set(getattr(trainer, "drawn", ())))


def use_one_gpu(args: Any) -> None:
    """Let a process train on its first GPU where it sees several: TRL refuses the DataParallel that would be chosen."""
    if args.n_gpu > 1:
        warn(f"{args.n_gpu} GPUs are visible, and one process trains on the first: torchrun --nproc-per-node uses all")
        args._n_gpu = 1


def save_sealed(trainer: Any, stage_dir: Path) -> None:
    """Let each checkpoint of a trainer appear whole and sealed, without what no resume reads.

    transformers writes one file after another under the final name, a pickle of the arguments among them, and goes on
    without the optimizer's state where that file is missing.
    """
    save, args = trainer._save_checkpoint, trainer.args

    def save_checkpoint(model: Any, trial: Any) -> None:
        state, limit, name = trainer.state, args.save_total_limit, f"checkpoint-{trainer.state.global_step}"
        with writing(name, stage_dir):
            written = by_first(lambda: partial(stage_dir))
            args.output_dir, args.save_total_limit = str(written), None
            try:
                save(model, trial)
            finally:
                args.output_dir, args.save_total_limit = str(stage_dir), limit
        if state.best_global_step:
            state.best_model_checkpoint = str(stage_dir / f"checkpoint-{state.best_global_step}")
        unlogged = _unlogged(trainer)
        by_first(lambda: _finish(written, stage_dir / name, state, unlogged, limit))

    trainer._save_checkpoint = save_checkpoint


def _finish(written: Path, final: Path, state: Any, unlogged: dict[str, Any], limit: int | None) -> None:
    from transformers.trainer_utils import rotate_checkpoints

    with writing(final.name, final.parent):
        (written / final.name / "training_args.bin").unlink(missing_ok=True)
        state.save_to_json(str(written / final.name / "trainer_state.json"))
        write_json(written / final.name / UNLOGGED, unlogged)
        seal(written / final.name, final)
        shutil.rmtree(written)
    rotate_checkpoints(str(final.parent), limit, state.best_model_checkpoint)


def tell_phases(trainer: Any) -> None:
    """Let a trainer say what its time goes into."""
    from transformers import TrainerCallback

    class Update(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            phases.current().end()  # what an attempt left open that failed

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            phases.current().begin("optimizer")

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            phases.current().end()

    trainer.add_callback(Update())
    of: dict[str, phases.Phase] = {
        "get_batch_samples": "reading", "training_step": "forward and backward", "evaluate": "measuring",
        "_save_checkpoint": "saving", "_generate_single_turn": "sampling", "_calculate_rewards": "rewards",
    }  # fmt: skip
    for method, name in of.items():
        if hasattr(trainer, method):
            setattr(trainer, method, phases.of_phase(name, getattr(trainer, method)))


@contextmanager
def each_token_once(trainer: Any) -> Iterator[None]:
    """Let a trainer's models read each token of a batch once on a CPU, and let TRL score only those with a label.

    Without Triton it puts every token through the head of the vocabulary, since to some accelerators shapes are costly.
    """
    from trl.trainer import utils

    if trainer.args.torch_compile or trainer.args.device.type != "cpu":
        yield
        return
    models = [trainer.model, getattr(trainer, "ref_model", None), *getattr(trainer, "reward_funcs", ())]
    asks, utils._use_triton = utils._use_triton, lambda device: True  # read there for this alone
    with ExitStack() as stack:
        stack.callback(setattr, utils, "_use_triton", asks)
        for model in models:
            if hasattr(model, "base_model"):
                stack.enter_context(reading_once(trainer.accelerator.unwrap_model(model)))
        yield


@contextmanager
def policy_to_sample_from(trainer: Any) -> Iterator[Any]:
    """Give the model that GRPO or RLOO trains, as TRL gives it to `generate`: whole, without gradient checkpointing."""
    from trl.models import unwrap_model_for_generation

    args = trainer.args
    unwrapped = unwrap_model_for_generation(
        trainer.model_wrapped,
        trainer.accelerator,
        gather_deepspeed3_params=args.ds3_gather_for_generation,
        gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
    )
    with unwrapped as model, trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False):
        yield getattr(model, "_orig_mod", model)  # compiled, each new length would be compiled anew


def without_cpu_packing(model: Any) -> None:
    """Let 4-bit weights on a CPU stay as they are whenever nothing is trained.

    There bitsandbytes packs them anew where the CPU has AVX512-BF16, rounding their scales to bfloat16: the model would
    be another one after its first evaluation or generation, and layers of odd sizes fail.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def without_head_report() -> AbstractContextManager[None]:
    """Keep quiet, while a language model becomes a reward model, that its new head is not in the checkpoint."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    return suppress_seqcls_warning()
