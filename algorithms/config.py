"""The configuration of a stage: one dataclass for all kinds over TRL's trainers, and what kinds that sample need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from kinds import StageOutput
from utils.values import with_known_fields


@with_known_fields
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Model, data and training of one stage.

    Names are those of transformers and TRL. None means the default of the stage's own TRL trainer. A field that this
    trainer does not have (`packing` for DPO) is refused when set; anything else that it has goes in `trainer_args`.
    """

    model_name: str | StageOutput
    """Model that the stage starts from: Hub id, local directory, or the output of an earlier stage."""

    output_dir: str
    """Name of the stage's directory inside the run directory."""

    dataset_name: str
    """Training rows: Hub id, local file or folder (.jsonl .json .csv .parquet .txt), or `made:NAME`."""

    stage: str | None = None
    """Kind of the stage. None: its label in the recipe is the name of its kind."""

    revision: str | None = None
    """Branch, tag or commit of a Hub model."""

    dataset_revision: str | None = None
    """Branch, tag or commit of a Hub data set."""

    dataset_config_name: str | None = None
    """Configuration (subset) of a Hub data set."""

    dataset_split: str = "train"
    """Split that is trained on."""

    eval_split: str | None = None
    """Split of held-out rows. None: a folder's own `validation` or `test` files, else `eval_fraction` of the rows."""

    eval_fraction: float = 0.05
    """Share of the rows held out, by a hash of their prompt, when there is no split of held-out rows."""

    eval_samples: int = 256
    """Most held-out rows that the stage is measured on. Exact match on made problems is always of the same problems."""

    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Columns of the data, or keys of their turns, by the name that a layout has for them: `{"prompt": "query"}`; None
    leaves one out."""

    max_samples: int | None = None
    """Most training rows that are used. None: all."""

    max_dropped_fraction: float | None = None
    """Most rows that may be left out for a fault, as a share of the source, or of those that are longer than
    `max_length`; more are refused. None: of rows that teach nothing or repeat others 0.1, since published sets have
    some (of Glaive's calls 5 % repeat others) and a file with more was hardly meant so; of malformed rows none, since
    such a file was written wrongly; of long rows half."""

    dtype: str | None = None
    """Type of the weights: `float32` (default), `bfloat16`, `float16`, or `auto` for the type they were saved in."""

    attn_implementation: str | None = None
    """Attention kernel: `eager`, `sdpa`, `flash_attention_2`, … None: transformers chooses."""

    peft: str | None = None
    """What is trained. None: all weights; `lora`: an adapter beside frozen weights; `qlora`: the same, with the frozen
    weights in 4 bits."""

    peft_args: Mapping[str, Any] = field(default_factory=dict)
    """Options of peft's LoraConfig, by their name there: `r`, `lora_alpha`, `target_modules`, … For `peft`."""

    merge_adapter: bool = True
    """Add the trained adapter to the weights, in 16 or 32 bits, and save an ordinary model. False: save the adapter
    alone, which a later stage trains on. For `peft`."""

    learning_rate: float | None = None
    """Peak learning rate."""

    lr_scheduler_type: str | None = None
    """Shape of the learning rate over the steps: `linear`, `cosine`, `constant`, …"""

    warmup_steps: float | None = None
    """Steps in which the learning rate rises from 0; below 1, that share of all steps."""

    num_train_epochs: float | None = None
    """Passes over the training rows."""

    max_steps: int | None = None
    """Optimizer steps. Where set, it overrides `num_train_epochs`."""

    per_device_train_batch_size: int | None = None
    """Rows of one forward and backward pass; of a kind that samples completions, not prompts."""

    gradient_accumulation_steps: int | None = None
    """Forward and backward passes in one optimizer step."""

    max_length: int | None = None
    """Longest sequence, in tokens. Longer ones are cut (SFT, DPO) or left out (reward)."""

    packing: bool | None = None
    """SFT: put several examples into one row of `max_length` tokens."""

    beta: float | None = None
    """Weight of staying near the reference model, of a kind that has one."""

    weight_decay: float | None = None
    """AdamW's decoupled weight decay."""

    optim: str | None = None
    """Optimizer, by the name transformers gives it: `adamw_torch`, `adamw_8bit`, … None: TRL's default, but where
    bfloat16 weights are trained `adamw_torch_8bit` with stochastic rounding, which loses no small update."""

    bf16: bool | None = None
    """Autocast to bfloat16. None: TRL's default, on, except on a device that does not compute in it natively."""

    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, about a quarter slower. TRL's default is on."""

    use_liger_kernel: bool | None = None
    """Liger's fused layers. None: on a CUDA GPU, where Liger knows the architecture. They exist for CUDA alone."""

    dataloader_num_workers: int | None = None
    """Processes that prepare batches. 0: the training process itself."""

    logging_steps: float | None = None
    """Optimizer steps between two lines of metrics; below 1, a share of all steps. The last step is always logged."""

    save_steps: float | None = None
    """Optimizer steps between two checkpoints; below 1, a share of all steps."""

    save_total_limit: int | None = None
    """Checkpoints that are kept. None: all."""

    max_skipped_steps: int = 0
    """Steps that are left out, and recorded with their rows, where the gradient is not a number. One more fails the
    stage."""

    gates: Sequence[Mapping[str, Any]] = ()
    """What the stage's measurement must show: `{"metric": "skills strict", "not_below_input": 0.05}`, or with
    `at_least`, `at_most` or `better_than_input`; `noise` where it is known what other seeds change."""

    on_fail: str = "stop"
    """What a failed gate does: `stop` ends the run; `input` lets later stages start from this stage's input."""

    seed: int = 42
    """Seed of new weights, of the order of the rows, of sampling, and of made data."""

    trainer_args: Mapping[str, Any] = field(default_factory=dict)
    """Anything else that the stage's TRL config accepts, by its name there."""


RewardSource = Callable[..., Sequence[float | None]] | str | StageOutput


def is_reward_model(reward: Any) -> TypeGuard[str | StageOutput]:
    """Tell whether a reward is a model, not a function or the name of a built-in one."""
    from algorithms.rewards import BUILT_IN

    return isinstance(reward, StageOutput) or (isinstance(reward, str) and reward not in BUILT_IN)


PREFLIGHT_COMPLETIONS = 8
"""Least completions of each prompt that the preflight samples, where the stage samples as many at once."""


@with_known_fields
@dataclass(frozen=True, kw_only=True)
class GRPOExtraConfig:
    """What a stage that samples needs besides a TrainingConfig: rewards, and how much to sample."""

    reward_func: RewardSource | Sequence[RewardSource] | None = None
    """One reward or a list: a callable (TRL's convention), a built-in's name, `StageOutput("reward")`, a reward model's
    directory or Hub id. None: TRL's maths accuracy, which reads the column `solution`."""

    reward_weights: Sequence[float] | None = None
    """Weight of each reward in the sum. None: all 1."""

    num_generations: int = 4
    """Completions sampled for each prompt, a group. At least 2: a completion is judged against its group."""

    max_completion_length: int = 256
    """Longest completion, in tokens."""

    preflight_prompts: int = 64
    """Training prompts that are tried before the first step, to tell how many groups will be informative: those in
    which rewards differ. Where none is, the stage fails at once. 0: no such trial."""

    dynamic_sampling: int = 0
    """Extra prompts to sample for flat groups, as a multiple of the batch; 0 is off. For GRPO, and one process."""

    @property
    def rewards(self) -> tuple[RewardSource, ...]:
        """The rewards as a tuple, the default filled in."""
        if self.reward_func is None:
            return ("accuracy",)
        if isinstance(self.reward_func, str | StageOutput) or callable(self.reward_func):
            return (self.reward_func,)
        return tuple(self.reward_func)

    @property
    def reward_models(self) -> tuple[str | StageOutput, ...]:
        """The rewards that are models."""
        return tuple(reward for reward in self.rewards if is_reward_model(reward))

    def with_reward_models(self, path_of: Callable[[str | StageOutput], str]) -> "GRPOExtraConfig":
        """Return it with every reward model replaced by its directory."""
        rewards = [path_of(reward) if is_reward_model(reward) else reward for reward in self.rewards]
        return replace(self, reward_func=rewards)
