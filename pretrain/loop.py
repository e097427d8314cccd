"""The pretraining loop: from text and random weights to a directory that `from_pretrained` loads."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.corpus.batches import HeldOut
from data.corpus.rows import Batch
from pretrain import checkpoint, packing
from pretrain.checkpoint import Position
from pretrain.config import PretrainConfig
from pretrain.corpus import Tokens, load_corpus
from pretrain.model import random_model
from pretrain.optim import learning_rate_factor, make_optimizer
from pretrain.record import Record, recording
from records.out_of_memory import told_with_step
from records.sealed import damage, newest_sound, partial, publish, sealed, writing
from utils.agreement import by_first, peer_has_ended
from utils.console import warn
from utils.errors import Interrupted, Refused, StageFailed
from utils.gradients import MOST_SKIPPED, Gradients
from utils.runtime import computes_in_bf16
from utils.runtime import device as find_device
from utils.stopping import asked_to_stop

if TYPE_CHECKING:
    from accelerate import Accelerator


def pretrain(config: PretrainConfig, stage_dir: Path) -> Path:
    """Train from random weights, or from the newest checkpoint in `stage_dir`; return `stage_dir` with the result.

    Every process of `accelerate launch` or `torchrun` calls this; the first one writes.

    Raises:
        StageFailed: the loss or the gradient became NaN or infinite, the loss jumped, or another process ended.
        Refused: the newest checkpoint is of another model, or of a run with other rows a step.
        Interrupted: Ctrl-C or SIGTERM came, or the run's time does not suffice; a checkpoint holds what was done.
        OutOfMemory: memory ran out.
    """
    stage_dir.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(config)
    with recording(stage_dir, config, accelerator.is_main_process) as record, _others_alive(accelerator):
        tokens = load_corpus(config, stage_dir, accelerator, record)
        run = _prepared(config, stage_dir, accelerator, tokens, record)
        run.resume()
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
    config: PretrainConfig, stage_dir: Path, accelerator: "Accelerator", tokens: Tokens, record: Record
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
    return Run(
        config,
        stage_dir,
        accelerator,
        tokens,
        record,
        model,
        optimizer,
        Position(rows_per_step=rows_per_step, data=tokens.data),
    )


@dataclass
class Run:
    """A run under way, as one process sees it."""

    config: PretrainConfig
    stage_dir: Path
    accelerator: "Accelerator"
    tokens: Tokens
    record: Record
    model: Any
    optimizer: Any
    position: Position
    skipped: int = 0
    """Steps in a row that fp16's loss scale was too large for."""
    gradients: Gradients = field(default_factory=Gradients)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = by_first(lambda: newest_sound(self.stage_dir, warn))
        if found:
            position = checkpoint.load_checkpoint(found, self.accelerator, self.model, self.optimizer)
            if position.rows_per_step != self.position.rows_per_step:
                raise Refused(
                    f"{found} is of a run with {position.rows_per_step} rows a step, this one has "
                    f"{self.position.rows_per_step}: rows × gradient_accumulation_steps × processes must stay the same."
                )
            self.position = position
        plain = self.accelerator.unwrap_model(self.model)
        self.record.start(plain, self.position.step, found.name if found else None)

    def train(self) -> None:
        """Train to the last step, or to the end of the one in which a stop was asked for."""
        self.model.train()
        with asked_to_stop() as asked, told_with_step(lambda: self.position.step + 1):
            while self.position.step < self.config.max_steps:
                metrics = self._step()
                self.record.step(self.position.step)
                last = self.position.step == self.config.max_steps
                evaluated = last or self.position.step % self.config.eval_steps == 0
                if evaluated:
                    metrics |= self.evaluate(self.tokens.validation)
                self._refuse_broken(metrics)
                reason = self.record.out_of_time() or (self._stopped() if asked() else None)
                stop = self._any(reason is not None)
                best = self.position.best_loss
                better = evaluated and (best is None or metrics["eval_loss"] < best)
                if better:
                    self.position = replace(self.position, best_step=self.position.step, best_loss=metrics["eval_loss"])
                # Before the checkpoint: after a kill in between, a line too much is cut off, one too few would be lost.
                if evaluated or self.position.step % self.config.logging_steps == 0:
                    self.record.metrics(self.position.step, self._epoch(), metrics)
                if stop or (not last and (better or self.position.step % self.config.save_steps == 0)):
                    self._save_checkpoint()
                if stop:
                    raise Interrupted(reason or self._stopped())

    def _stopped(self) -> str:
        return f"stopped after step {self.position.step} of {self.config.max_steps}, with a checkpoint"

    def _step(self) -> dict[str, float]:
        """Make one optimizer step; return its metrics."""
        config, step = self.config, self.position.step
        if config.dropout:  # what it draws depends on nothing before the step, so that a resumed run draws the same
            torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index)
        micro_batches = self.tokens.step(step, self.position.rows_per_step)
        predicted, seen = self._sums(
            float(sum((labels != packing.IGNORED).sum() for _, labels in micro_batches)),
            float(sum((rows.document > 0).sum() for rows, _ in micro_batches)),
        )
        total = torch.zeros((), device=self.accelerator.device)
        for number, (rows, labels) in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                nll = summed_loss(self.model, rows, labels, self.accelerator.device) / predicted
                self.accelerator.backward(nll * self.accelerator.num_processes)  # gradients of processes are averaged
            total += nll.detach()
        grad_norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        factor = learning_rate_factor(
            step,
            max_steps=config.max_steps,
            warmup_steps=config.warmup_steps,
            decay_fraction=config.decay_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._count_skipped()
        self.position = replace(self.position, step=step + 1, tokens=self.position.tokens + int(seen))
        (loss,) = self._sums(float(total))
        return {
            "loss": loss,
            **({} if self.skipped else {"grad_norm": grad_norm}),  # of a step that was not made it is infinite
            "learning_rate": config.learning_rate * factor,
            "num_tokens": self.position.tokens,
        }

    def _count_skipped(self) -> None:
        """Count the steps in a row that fp16's loss scale, which is lowered then, was too large for.

        Raises:
            StageFailed: there have been too many: no scale fits, and nothing is learnt.
        """
        self.skipped = self.skipped + 1 if self.optimizer.step_was_skipped else 0
        if self.skipped == MOST_SKIPPED:
            raise StageFailed(
                f"{MOST_SKIPPED} steps in a row had gradients beyond fp16, whatever the loss scale: nothing is learnt. "
                "Use mixed_precision='bf16' or 'no', or lower the learning rates."
            )

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
            self.record.say(f"the result is the weights of step {self.position.best_step}: lowest held-out loss")
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
        self.record.end(self.position, self.evaluate(self.tokens.test) if self.tokens.test else None)

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
        self.record.checkpoint(path.name)

    def _refuse_broken(self, metrics: Mapping[str, float]) -> None:
        """Raise StageFailed where a value is not finite, the loss has jumped, or the gradient exploded or died."""
        broken = [f"the {name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if not broken and (wrong := self.gradients.look(metrics.get("grad_norm", 1.0))):
            broken = [wrong]
        loss = metrics["loss"]
        recent = self.position.recent
        if not broken and len(recent) == RECENT:
            mean, spread = statistics.fmean(recent), statistics.stdev(recent)
            if loss > mean + max(JUMP_NATS, JUMP_DEVIATIONS * spread):
                broken = [f"the loss jumped from {mean:.3f} to {loss:.3f}"]
        self.position = replace(self.position, recent=[*recent, loss][-RECENT:])
        if broken:
            step, kept = self.position.step, sealed(self.stage_dir)
            documents = self.tokens.documents(step - 1, self.position.rows_per_step)
            raise StageFailed(
                f"step {step}: {'; '.join(broken)}. The step's documents: {'; '.join(documents)}.\n"
                f"Last good checkpoint: {kept[-1] if kept else 'none yet'}. If the documents are in order, lower "
                "muon_learning_rate and learning_rate."
            )

    def _epoch(self) -> float:
        return self.position.step * self.position.rows_per_step / len(self.tokens.train)

    def _sums(self, *values: float) -> list[float]:
        """Return each value summed over the processes."""
        if self.accelerator.num_processes == 1:
            return list(values)
        device = self.accelerator.device
        kind = torch.float32 if device.type == "mps" else torch.float64
        return list(self.accelerator.reduce(torch.tensor(values, dtype=kind, device=device)).tolist())

    def _any(self, value: bool) -> bool:
        return self._sums(float(value))[0] > 0


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
