"""How long a stage takes: its passes and its sampling, timed on this machine with random weights of the true shape.

On a GPU rows are timed at their full length, which most are not, and without Liger's layers: the arithmetic takes that
at most. On a CPU they are as long as the batches of the stage. The optimizer, reading of data, evaluations and
checkpoints come on top.
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from algorithms import adapters
from algorithms.memory import Sampling
from chain import forecast
from chain.forecast import Models
from kinds import Stage
from utils.four_bits import in_4_bits
from utils.runtime import device, free_memory
from watching.out_of_memory import is_out_of_memory

TIMED = 2
"""Passes whose mean is taken, after one that is not timed."""
PRODUCT = 1024
"""Rows and columns of the matrices by which a CPU is judged."""
CPU_SEQUENCES = 16
"""Rows of a pass that is timed on a CPU, whose time grows with them."""
SHORT_S = 0.2
"""What takes longer the first time is timed once more, and not twice."""
LONG_S = 3.0
"""What takes longer is timed once; a pass, on a CPU, not at all."""
SAMPLED = (4, 12)
"""Tokens that are sampled for each completion; the difference tells what one more takes."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage computes."""

    config: Any
    """transformers' configuration of its model."""
    parameters: int
    loss: str = "tiles"
    """How the loss is made: from the `logits` of the whole batch, as in pretraining; from `tiles` of them, as in TRL's
    trainers; or from a reward model's `score`."""
    sequences: int
    """Rows of one pass; of pairs both sides."""
    tokens: int
    """Of a row."""
    dtype: str = "float32"
    autocast: str | None
    """The type that the matrix products give; None is that of the weights."""
    gradient_checkpointing: bool
    attention: str
    peft_args: Mapping[str, Any] | None = None
    """Of the adapter that is trained; None trains all weights."""
    multiplied_in: str | None = None
    """The type that weights in 4 bits are multiplied in; None: none are in 4 bits."""
    passes: float
    """Forward and backward, in the whole stage."""
    references: float = 0.0
    """Passes of the reference, forward alone."""
    samplings: float = 0.0
    sampling: Sampling | None = None


@dataclass(frozen=True)
class Pace:
    """What was timed, in seconds."""

    one_pass: float
    reference: float = 0.0
    sampling: float = 0.0

    def of(self, work: Work) -> float:
        """Return the seconds of all that a stage computes."""
        return self.one_pass * work.passes + self.reference * work.references + self.sampling * work.samplings


def seconds(stage: Stage, models: Models, steps: int, rows: int | None, length: int | None = None) -> float:
    """Return what the passes and samplings of `steps` optimizer steps take on this machine.

    On a GPU with every row full: at most. On a CPU with `length` tokens read of each; what would take it long to time
    is told by its products.

    Raises:
        ValueError: it is not measured, with the reason.
    """
    on_cpu = device() == "cpu"
    work = work_of(stage, models, steps, rows, length if on_cpu else None)
    pace = by_products(work) if on_cpu else None
    if pace is not None:
        if pace.one_pass < LONG_S:
            few = min(work.sequences, CPU_SEQUENCES)
            of_few, times = measured(replace(work, sequences=few)), work.sequences / few
            pace = replace(of_few, one_pass=times * of_few.one_pass, reference=times * of_few.reference)
        return pace.of(work)
    try:
        return measured(work).of(work)
    finally:
        free_memory()


def by_products(work: Work) -> Pace:
    """Return the time of a stage's matrix products alone, by how fast this CPU multiplies large matrices."""
    import torch

    number = getattr(torch, work.autocast or work.dtype)
    matrix = torch.rand((PRODUCT, PRODUCT)).to(number)
    flop_per_s = 2 * PRODUCT**3 / _timed(lambda: matrix @ matrix)
    forward = 2 * work.parameters / flop_per_s
    passed, of = work.sequences * work.tokens, work.sampling
    sampled = of.sequences * (of.prompt_tokens + of.completion_tokens) if of else 0
    return Pace(3 * forward * passed, forward * passed, forward * sampled)


def work_of(stage: Stage, models: Models, steps: int, rows: int | None, length: int | None = None) -> Work:
    """Return what a stage computes in `steps` optimizer steps on `rows` rows, of which `length` tokens each are read.

    Raises:
        ValueError: the model or the rows are not known.
    """
    config, model, args = stage.config, models.of(stage), forecast.trainer_args(stage)
    settings = forecast.settings(stage, args, model, models)
    step = stage.kind.work(config, args, stage.extra)
    passes = steps * args.gradient_accumulation_steps
    if step.reference_ahead and rows is None:
        raise ValueError("how many rows its reference goes through is not known")
    sampling, tokens = settings.sampling, min(settings.tokens, length or settings.tokens)
    if sampling is not None:
        sampling = replace(sampling, prompt_tokens=min(sampling.prompt_tokens, length or sampling.prompt_tokens))
        prompt = sampling.prompt_tokens
        tokens = (-(-prompt // sampling.group) if length else prompt) + sampling.completion_tokens
    ahead = (rows or 0) * step.sequences_per_row / settings.sequences if step.reference_ahead else 0.0
    peft = getattr(config, "peft", None)
    dtype = adapters.frozen_dtype(config, model.dtype) if peft else step.dtype
    return Work(
        config=model.config,
        parameters=model.shapes.parameters,
        loss="logits" if step.whole_logits else "score" if stage.kind.scores else "tiles",
        sequences=settings.sequences,
        tokens=tokens,
        dtype=(model.dtype or "float32") if dtype == "auto" else dtype,
        autocast=step.autocast,
        gradient_checkpointing=settings.gradient_checkpointing,
        attention=settings.attention,
        peft_args=config.peft_args if peft else None,
        multiplied_in=adapters.compute_dtype(config) if peft == "qlora" else None,
        passes=passes,
        references=ahead + passes * step.reference_passes,
        samplings=passes * step.generations_per_pass + step.generations_ahead,
        sampling=sampling,
    )


def measured(work: Work) -> Pace:
    """Time a stage's passes and sampling on this machine's device.

    Raises:
        ValueError: the device's memory does not suffice, or a library that the recipe asks for is not here.
    """
    try:
        return _measured(work)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = "its passes do not fit into what is free of the GPU's memory now"
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
    free_memory()  # not above: there the error still holds what was allocated
    raise ValueError(reason)


def _measured(work: Work) -> Pace:
    import torch

    model = _random_model(work)
    ids = torch.randint(model.config.vocab_size, (work.sequences, work.tokens), device=model.device)

    def half() -> AbstractContextManager[Any]:
        """Anew for each pass, as in the trainers: it keeps the weights' copies until it ends."""
        return torch.autocast(model.device.type, getattr(torch, work.autocast)) if work.autocast else nullcontext()

    def forward() -> Any:
        with half():
            return _loss(model, ids, work.loss)

    def without_gradients() -> None:
        with torch.no_grad():
            forward()

    def one_pass() -> None:
        forward().backward()
        model.zero_grad()

    sampling = 0.0 if work.sampling is None else _sampling(model, work.sampling, half)
    reference = _timed(without_gradients) if work.references else 0.0
    if work.peft_args is not None:
        _add_adapter(model, work)
    if work.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    return Pace(_timed(one_pass), reference, sampling)


def _random_model(work: Work) -> Any:
    import torch
    import transformers
    from trl.trainer.utils import add_fused_lm_head

    scores = work.loss == "score"
    auto: Any = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    config = copy.deepcopy(work.config)  # the model writes into it
    config.pad_token_id = 0
    if scores:
        config.num_labels = 1
    made_on = device() if work.multiplied_in is None else "cpu"  # where the weights fit that are not yet in 4 bits
    with torch.random.fork_rng(), torch.device(made_on):
        model = auto.from_config(config, dtype=getattr(torch, work.dtype), attn_implementation=work.attention)
    if work.multiplied_in is not None:
        model = in_4_bits(model, work.multiplied_in).to(device())
    if work.loss == "tiles":
        add_fused_lm_head(model)
    return model


def _add_adapter(model: Any, work: Work) -> None:
    """Put the adapter that is trained into the model, in place."""
    from peft import LoraConfig, get_peft_model

    task_type = adapters.REWARD_MODEL if work.loss == "score" else adapters.POLICY
    get_peft_model(model, LoraConfig(**(adapters.DEFAULTS | dict(work.peft_args or {})), task_type=task_type))


def _loss(model: Any, ids: Any, kind: str) -> Any:
    """Return a loss over all tokens; of a reward model the sum of its scores."""
    if kind == "score":
        return model(input_ids=ids, use_cache=False).logits.float().sum()
    options = {"fused_lm_head": True} if kind == "tiles" else {}
    return model(input_ids=ids, labels=ids, use_cache=False, **options).loss


def _sampling(model: Any, sampling: Sampling, half: Callable[[], AbstractContextManager[Any]]) -> float:
    """Return the seconds in which all completions of one generation are sampled to their full length."""
    import torch

    from batching.complete import sample
    from batching.requests import Settings

    groups = -(-sampling.sequences // sampling.group)
    ids = torch.randint(model.config.vocab_size, (groups, sampling.prompt_tokens)).tolist()
    prompts = [prompt for prompt in ids for _ in range(sampling.group)][: sampling.sequences]
    model.eval()

    def sampled(tokens: int) -> None:
        with half():
            sample(model, prompts, Settings(tokens), max_rows=len(prompts), max_tokens=None)

    sampled(SAMPLED[0])
    few, more = (_once(partial(sampled, tokens)) for tokens in SAMPLED)
    each = (more - few) / (SAMPLED[1] - SAMPLED[0])
    return few + each * (sampling.completion_tokens - SAMPLED[0])


def _timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes, after a first time that is not counted, unless it takes long."""
    first = _once(work)
    if first > LONG_S:
        return first
    times = TIMED if first < SHORT_S else 1
    return sum(_once(work) for _ in range(times)) / times


def _once(work: Callable[[], object]) -> float:
    _synchronise()
    began = time.perf_counter()
    work()
    _synchronise()
    return time.perf_counter() - began


def _synchronise() -> None:
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
