"""The pretraining loop: from text and random weights to a directory that `from_pretrained` loads."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.corpus.batches import HeldOut
from data.corpus.rows import Batch
from pretrain import checkpoint, packing
from pretrain.checkpoint import Position
from pretrain.model import random_model
from pretrain.optim import learning_rate_factor, make_optimizer
from pretrain.pretrain_config import PretrainConfig
from pretrain.tokens import Tokens, load_corpus
from records.sealed import damage, newest_sound, partial, publish, sealed, writing
from records.stage_log import StageLog
from utils.agreement import any_says, by_first, peer_has_ended
from utils.console import console, warn
from utils.errors import Interrupted, Refused, StageFailed
from utils.limits import Clock
from utils.runtime import computes_in_bf16, peak_memory_bytes
from utils.runtime import device as find_device
from utils.stopping import asked_to_stop
from watching import trackers
from watching.gradients import Gradients
from watching.out_of_memory import naming_the_step
from watching.phases import phase
from watching.stage_watch import StageWatch

if TYPE_CHECKING:
    from accelerate import Accelerator


def pretrain(config: PretrainConfig, stage_dir: Path, clock: Clock | None = None) -> Path:
    """Train from random weights, or from the newest checkpoint in `stage_dir`; return `stage_dir` with the result.

    Every process of `accelerate launch` or `torchrun` calls this; the first one writes.

    Raises:
        StageFailed: the loss or the gradient became NaN or infinite, the loss jumped, or another process ended.
        Refused: the newest checkpoint is of another model, or of a run with other rows a step.
        Interrupted: Ctrl-C or SIGTERM came, or the run's time does not suffice; a checkpoint holds what was done.
        OutOfMemory: memory ran out.
    """
    stage_dir.mkdir(parents=True, exist_ok=True)
    accelerator, log = make_accelerator(config), StageLog(stage_dir)
    name = log.read_info().get("name") or stage_dir.name
    with closing(StageWatch(log, name, SHOWN, clock or Clock())) as watch, _others_alive(accelerator):
        tokens = load_corpus(config, stage_dir, accelerator, log)
        run = _prepared(config, stage_dir, accelerator, tokens, watch)
        run.resume()
        model = accelerator.unwrap_model(run.model)
        with trackers.recording(stage_dir, config, model, run.position.step) as run.track:
            run.train()
            run.finish()
    return stage_dir


def make_accelerator(config: PretrainConfig) -> "Accelerator":
    """Return what runs the processes, one alone or as the launcher says, in the configured precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # an earlier stage of this process may have had another precision
    device = find_device()
    native = "bf16" if computes_in_bf16(device) else "fp16" if device == "cuda" else "no"
    return Accelerator(mixed_precision=config.mixed_precision or native, cpu=device == "cpu")


def _prepared(
    config: PretrainConfig, stage_dir: Path, accelerator: "Accelerator", tokens: Tokens, watch: StageWatch
) -> "Run":
    model: Any = random_model(config, tokens.tokenizer, str(accelerator.device))
    optimizer: Any = make_optimizer(
        model,
        muon_learning_rate=config.muon_learning_rate,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        weight_decay=config.weight_decay,
    )
    if config.compiles(accelerator.device.type):
        model.compile()
    model, optimizer = accelerator.prepare(model, optimizer)
    rows_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    position = Position(rows_per_step=rows_per_step, data=tokens.data)
    return Run(config, stage_dir, accelerator, tokens, watch, model, optimizer, position)


@dataclass
class Run:
    """A run under way, as one process sees it."""

    config: PretrainConfig
    stage_dir: Path
    accelerator: "Accelerator"
    tokens: Tokens
    watch: StageWatch
    model: Any
    optimizer: Any
    position: Position
    track: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    """Sends a step's metrics to the trackers."""
    gradients: Gradients = field(default_factory=Gradients)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    """All metrics that were logged, also before a resume."""

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        newest = by_first(lambda: newest_sound(self.stage_dir, warn))
        if newest:
            position = checkpoint.load_checkpoint(newest, self.accelerator, self.model, self.optimizer)
            if position.rows_per_step != self.position.rows_per_step:
                raise Refused(
                    f"{newest} is of a run with {position.rows_per_step} rows a step, this one has "
                    f"{self.position.rows_per_step}: rows × gradient_accumulation_steps × processes must stay the same."
                )
            self.position = position
        log, step = self.watch.log, self.position.step
        log.cut_back(step)
        self.rows = [*log.read_metrics()]
        if newest:
            log.resumed(newest.name, newest.name)
            console().print(f"going on from {newest.name}", markup=False)
        parameters = self.accelerator.unwrap_model(self.model).num_parameters()
        where = self.accelerator.device.type
        log.event("TRAIN_START", f"{self.config.max_steps} steps, {parameters} parameters, on {where}")
        self.watch.start(self.config.max_steps, step)

    def train(self) -> None:
        """Train to the last step, or to the end of the one in which a stop was asked for."""
        self.model.train()
        config = self.config
        with asked_to_stop() as stop_requested, naming_the_step(lambda: self.position.step + 1):
            while self.position.step < config.max_steps:
                metrics = self._step()
                step = self.position.step
                self.watch.done(step)
                last = step == config.max_steps
                evaluated = last or step % config.eval_steps == 0
                if evaluated:
                    with phase("measuring"):
                        metrics |= self.evaluate(self.tokens.validation)
                reason = any_says(self._stopped() if stop_requested() else self.watch.out_of_time())
                best = self.position.best_loss
                better = evaluated and (best is None or metrics["eval_loss"] < best)
                if better:
                    self.position = replace(self.position, best_step=step, best_loss=metrics["eval_loss"])
                # Before the checkpoint: after a kill in between, a line too much is cut off, one too few would be lost.
                if evaluated or step % config.logging_steps == 0:
                    self._log(metrics)
                if reason or (not last and (better or step % config.save_steps == 0)):
                    with phase("saving"):
                        self._save_checkpoint()
                if reason:
                    raise Interrupted(reason)

    def _log(self, metrics: dict[str, float]) -> None:
        """Record, show and judge the metrics of the newest step."""
        step = self.position.step
        epoch = step * self.position.rows_per_step / len(self.tokens.train)
        self.watch.log.metrics(step, epoch, metrics)
        self.track(step, {**metrics, "epoch": epoch})
        self.rows.append(metrics)
        self.watch.logged(step, self.rows)
        self.watch.begin_step()

    def _stopped(self) -> str:
        return f"stopped after step {self.position.step} of {self.config.max_steps}, with a checkpoint"

    def _step(self) -> dict[str, float]:
        """Make one optimizer step; return its metrics."""
        config, step = self.config, self.position.step
        if config.dropout:  # what it draws depends on nothing before the step, so that a resumed run draws the same
            torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index)
        with phase("reading"):
            micro_batches = self.tokens.step(step, self.position.rows_per_step)
        predicted, seen = self._sums(
            float(sum((labels != packing.IGNORED).sum() for _, labels in micro_batches)),
            float(sum((rows.document > 0).sum() for rows, _ in micro_batches)),
        )
        total = torch.zeros((), device=self.accelerator.device)
        with phase("forward and backward"):
            for number, (rows, labels) in enumerate(micro_batches, start=1):
                last = number == len(micro_batches)
                with nullcontext() if last else self.accelerator.no_sync(self.model):
                    nll = summed_loss(self.model, rows, labels, self.accelerator.device) / predicted
                    # Gradients of processes are averaged.
                    self.accelerator.backward(nll * self.accelerator.num_processes)
                total += nll.detach()
            grad_norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
            (loss,) = self._sums(float(total))
        self._refuse_broken(loss, grad_norm)
        factor = learning_rate_factor(
            step,
            max_steps=config.max_steps,
            warmup_steps=config.warmup_steps,
            decay_fraction=config.decay_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        recent = [*self.position.recent, loss][-RECENT:]
        self.position = replace(self.position, step=step + 1, tokens=self.position.tokens + int(seen), recent=recent)
        return {
            "loss": loss,
            **({"grad_norm": grad_norm} if math.isfinite(grad_norm) else {}),  # fp16 left the step out
            "learning_rate": config.learning_rate * factor,
            "num_tokens": self.position.tokens,
        }

    @torch.no_grad()
    def evaluate(self, parts: Sequence[HeldOut]) -> dict[str, float]:
        """Return loss (nats a token), accuracy, perplexity and bits per byte of its rows, as `eval_...`."""
        self.model.eval()
        totals = torch.zeros(3, dtype=torch.float64)
        for rows, labels in self.tokens.held_out(parts):
            logits, labels = _logits(self.model, rows, self.accelerator.device), labels.to(self.accelerator.device)
            known = labels != packing.IGNORED
            nll = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=packing.IGNORED, reduction="sum")
            right = (logits.argmax(-1) == labels)[known].sum()
            totals += torch.stack([nll, right, known.sum()]).cpu().double()  # MPS has no float64
        self.model.train()
        all_nll, all_right, all_count = self._sums(*totals.tolist())
        if not math.isfinite(all_nll):
            self._fail(f"the held-out loss is {all_nll}", self.position.step)
        return {
            "eval_loss": all_nll / all_count,
            "eval_accuracy": all_right / all_count,
            "eval_perplexity": math.exp(min(all_nll / all_count, 700)),
            "eval_bits_per_byte": all_nll / math.log(2) / sum(part.text_bytes for part in parts),
        }

    def finish(self) -> None:
        """Save the weights of the best evaluation as the result, and measure them on the test documents, once."""
        if self.position.best_step != self.position.step:
            best = self.stage_dir / f"checkpoint-{self.position.best_step}"
            console().print(f"the result is the weights of step {self.position.best_step}: lowest held-out loss")
            if wrong := damage(best):
                raise StageFailed(f"{best} is damaged, and its weights are the result: {wrong}")
            checkpoint.load_weights(best, self.accelerator, self.model)
        weights = checkpoint.weights_of(self.accelerator, self.model)
        if self.accelerator.is_main_process:
            plain = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            plain.generation_config.use_cache = True
            with writing("the result", self.stage_dir):
                written = partial(self.stage_dir)
                plain.save_pretrained(written, state_dict=weights)
                self.tokens.tokenizer.save_pretrained(written)
                publish(written, self.stage_dir)
        test = self.evaluate(self.tokens.test) if self.tokens.test else {}
        log, position = self.watch.log, self.position
        log.train_end(f"step {position.step}")
        log.info(
            steps=position.step,
            tokens=position.tokens,
            best={"step": position.best_step, "eval_loss": position.best_loss},
            test={name.replace("eval_", "test_"): value for name, value in test.items()},
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _save_checkpoint(self) -> None:
        path = checkpoint.save_checkpoint(
            self.stage_dir,
            self.position,
            self.accelerator,
            self.model,
            self.optimizer,
            self.tokens.tokenizer,
            self.config.save_total_limit,
        )
        self.watch.saved(path.name)

    def _refuse_broken(self, loss: float, grad_norm: float) -> None:
        """Raise StageFailed, before the step is made, where loss or gradient is not finite, or jumps, or explodes."""
        recent, wrong = self.position.recent, None
        if not math.isfinite(loss):
            wrong = f"the loss is {loss}"
        elif len(recent) == RECENT:
            mean, spread = statistics.fmean(recent), statistics.stdev(recent)
            if loss > mean + max(JUMP_NATS, JUMP_DEVIATIONS * spread):
                wrong = f"the loss jumped from {mean:.3f} to {loss:.3f}"
        wrong = wrong or self.gradients.look(grad_norm, scaled=self.accelerator.scaler is not None)
        if wrong:
            self._fail(wrong, self.position.step + 1)

    def _fail(self, wrong: str, step: int) -> NoReturn:
        checkpoints = sealed(self.stage_dir)
        documents = self.tokens.documents(step - 1, self.position.rows_per_step)
        raise StageFailed(
            f"step {step}: {wrong}. The step's documents: {'; '.join(documents)}.\n"
            f"Last good checkpoint: {checkpoints[-1] if checkpoints else 'none yet'}. If the documents are in order, "
            "lower muon_learning_rate and learning_rate, or use mixed_precision='bf16' or 'no' in place of fp16."
        )

    def _sums(self, *values: float) -> list[float]:
        """Return each value summed over the processes."""
        if self.accelerator.num_processes == 1:
            return list(values)
        device = self.accelerator.device
        kind = torch.float32 if device.type == "mps" else torch.float64
        return list(self.accelerator.reduce(torch.tensor(values, dtype=kind, device=device)).tolist())


SHOWN = {name: name for name in ("loss", "eval_loss", "eval_bits_per_byte")}
RECENT, JUMP_NATS, JUMP_DEVIATIONS = 50, 2.0, 10.0
"""A jump of the loss is this far above the mean of the last `RECENT`: both, so that ordinary noise is none."""


def summed_loss(model: Any, rows: Batch, labels: Int[Tensor, "B T"], device: torch.device) -> Float[Tensor, ""]:
    """Return the negative log-likelihood of the labelled tokens, in nats; documents do not see each other."""
    logits = _logits(model, rows, device)
    return cross_entropy(
        logits.flatten(0, 1), labels.to(device).flatten(), ignore_index=packing.IGNORED, reduction="sum"
    )


def _logits(model: Any, rows: Batch, device: torch.device) -> Float[Tensor, "B T V"]:
    document = rows.document.to(device)
    logits = model(
        input_ids=rows.input_ids.to(device),
        attention_mask=_additive(packing.attention_mask(document)),
        position_ids=packing.positions_of(document),
        use_cache=False,
    ).logits
    return logits.float()


def _additive(allowed: Tensor) -> Tensor:
    # Padding attends to itself, so that no row of scores is empty: softmax over nothing is NaN.
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, torch.finfo(torch.float32).min)


@contextmanager
def _others_alive(accelerator: "Accelerator") -> Iterator[None]:
    """Say plainly that another process has ended, which a collective operation tells by an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if peer_has_ended(error):
            raise StageFailed(
                f"process {accelerator.process_index}: another process of this run has ended; its own message, or the "
                "launcher's, says why. Start again with --resume."
            ) from error
        raise
