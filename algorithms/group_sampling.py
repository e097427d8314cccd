"""Groups of sampled completions, as TRL's trainers make them: sampled apart from training, and judged by spread."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import torch

from algorithms import overrides
from batching.complete import sample
from batching.requests import Settings
from batching.slots import suits
from utils.runtime import free_memory
from watching.out_of_memory import is_out_of_memory

SETTINGS = {field.name for field in fields(Settings)} - {"stops"}
NO_MATTER = {"pad_token_id", "bos_token_id"}
"""Options of generation that change no completion, and no memory: a cache that the user chose is TRL's to use."""

Row = dict[str, Any]


class Sampled(NamedTuple):
    """A completion, before the trainer computes with it."""

    row: Row
    """The training row of its prompt."""
    ids: list[int]
    logprobs: list[float] | None
    """What vLLM sampled it with; None from transformers."""
    rewards: torch.Tensor
    """One for each reward function, NaN where it returned None."""
    extra: dict[str, Any]
    """What the reward functions logged beside it."""


Group = list[Sampled]


class GroupSampling:
    """What is added to a trainer of TRL that samples groups: it logs the share of informative ones.

    Spread is that of the rewards that are functions, summed with their weights: a reward model's scores differ between
    any two texts. Where all rewards are models, it is theirs.
    """

    num_generations: int
    tell_fewer: Callable[[int, int], Any] | None = None
    """Gets how many completions were sampled at once when memory ran out, and how many are from then on."""
    most_rows: int | None = None
    """How many completions are sampled at once, after memory ran out."""
    _metrics: dict[str, Any]
    flat_share: float
    """Share of the newest groups whose rewards, those of models too, are all the same."""

    def _completions(self: Any, prompts: list[Any]) -> tuple[list[list[int]], Any, Any]:
        """Return ids of a completion of each prompt, the completions as rewards get them, and vLLM's logprobs."""
        raise NotImplementedError

    def _sampled(
        self: Any,
        prompts: list[list[int]],
        images: Any,
        multimodal: Any,
        by_trl: Callable[[list[Any]], tuple[Any, Any]],
    ) -> tuple[list[list[int]], Any]:
        """Return a completion of each prompt (token ids), from the project's engine where it can, and their logprobs.

        TRL, which `by_trl` calls, reads a prompt once for each of its completions, and computes all of them until the
        longest has ended. Its log-probabilities are vLLM's; there are none without.
        """
        settings = self._settings()
        if images or multimodal or self.use_vllm or self.use_transformers_continuous_batching:
            return by_trl(prompts)
        if settings is not None:
            with overrides.policy_to_sample_from(self) as model:
                if suits(model):
                    seed = int(torch.randint(2**62, ()))  # of the random state, which checkpoints keep
                    rows = max(1, min(self.most_rows or len(prompts), len(prompts)))
                    found = sample(model, prompts, settings, seed, rows, max_tokens=None, tell=self._fewer)
                    return [one.ids for one in found], None
        return self._in_parts(prompts, by_trl), None

    def _settings(self: Any) -> Settings | None:
        """Return how tokens are chosen; None if TRL is told to generate in a way that the engine does not know."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # each pass is of all processes together
            return None
        options = {name: value for name, value in self.generation_kwargs.items() if value is not None}
        stops = options.pop("eos_token_id", [])
        greedy = not options.pop("do_sample", True)
        settings = {name: options.pop(name) for name in SETTINGS & options.keys()}
        if options.keys() - NO_MATTER or "max_new_tokens" not in settings:
            return None
        if greedy:
            settings["temperature"] = 0.0
        return Settings(stops=frozenset(stops if isinstance(stops, list) else [stops]), **settings)

    def _in_parts(self: Any, prompts: list[Any], by_trl: Callable[[list[Any]], tuple[Any, Any]]) -> list[list[int]]:
        """Return TRL's completions: of half as many prompts at once where memory runs out, and then not the same ones.

        TRL samples all completions of a generation at once, however small the micro-batch.
        """
        checkpoints = self.model.is_gradient_checkpointing
        while True:
            rows = max(1, min(self.most_rows or len(prompts), len(prompts)))
            try:
                parts = [by_trl(prompts[at : at + rows])[0] for at in range(0, len(prompts), rows)]
                return [ids for part in parts for ids in part]
            except RuntimeError as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            free_memory()
            if checkpoints and not self.model.is_gradient_checkpointing:  # TRL's context left it off
                self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
            self._fewer(rows, -(-rows // 2))

    def _fewer(self, was: int, now: int) -> None:
        self.most_rows = now
        if self.tell_fewer is not None:
            self.tell_fewer(was, now)

    def _rewards(self, inputs: list[Row], *rest: Any) -> torch.Tensor:
        """Return the rewards of completions, (B, F)."""
        rewards: torch.Tensor = super()._calculate_rewards(inputs, *rest)  # type: ignore[misc]
        return rewards

    def _calculate_rewards(self: Any, inputs: list[Row], *rest: Any) -> torch.Tensor:
        rewards: torch.Tensor = self._rewards(inputs, *rest)
        flat = self.informative(rewards, models=True)
        self.flat_share = 1 - sum(flat) / len(flat)
        if self.model.training:
            informative = self.informative(rewards)
            self._metrics["train"]["informative_groups"].append(sum(informative) / len(informative))
        return rewards

    def sample(self: Any, rows: list[Row]) -> list[Sampled]:
        """Sample and reward a completion for each row, in the trainer's own way; its metrics stay as they are.

        Rows of one prompt stand together, `num_generations` of them. Of several processes, each gets its own rows.
        """
        prompts = [row["prompt"] for row in rows]
        with self._metrics_aside():
            ids, completions, logprobs = self._completions(prompts)
            rewards = self._calculate_rewards(rows, prompts, completions, ids)
        first = self.accelerator.process_index * len(rows)
        logged = {name: values for name, values in self._pending_extra_logs.items() if len(values) == len(rows)}
        self._pending_extra_logs.clear()
        return [
            Sampled(
                row,
                ids[i],
                None if logprobs is None else logprobs[i],
                rewards[first + i],
                {name: values[i] for name, values in logged.items()},
            )
            for i, row in enumerate(rows)
        ]

    @contextmanager
    def apart(self: Any, num_generations: int) -> Iterator[None]:
        """Sample groups of `num_generations`, and then have no trace of it: what follows is drawn as without it."""
        was, tokens, training = self.num_generations, self.state.num_input_tokens_seen, self.model.training
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.args.seed + self.accelerator.process_index)
            self.num_generations = num_generations
            self.model.train()  # as it is when completions to train on are sampled
            try:
                yield
            finally:
                self.model.train(training)
                self.num_generations, self.state.num_input_tokens_seen = was, tokens
                self._pending_metrics.clear()

    def judged(self: Any, rewards: torch.Tensor, *, models: bool = False) -> torch.Tensor:
        """Return each completion's weighted sum of the rewards that spread is looked for in; NaN where it has none.

        `rewards` are (B, F); `models`: the reward models among them count too.
        """
        functions = [not isinstance(reward, torch.nn.Module) for reward in self.reward_funcs]
        weighted = rewards * self.reward_weights.to(rewards.device)
        if any(functions) and not models:
            weighted = weighted[:, torch.tensor(functions, device=rewards.device)]
        return weighted.nansum(dim=1).masked_fill(weighted.isnan().all(dim=1), math.nan)

    def informative(self: Any, rewards: torch.Tensor, *, models: bool = False) -> list[bool]:
        """Return for each group of `num_generations` whether its rewards, (B, F), differ; see `judged`."""
        groups = self.judged(rewards, models=models).view(-1, self.num_generations)
        highest, lowest = groups.nan_to_num(nan=-math.inf).amax(1), groups.nan_to_num(nan=math.inf).amin(1)
        return (highest > lowest).tolist()

    @contextmanager
    def _metrics_aside(self) -> Iterator[None]:
        """Let what is sampled meanwhile be in no metric: TRL logs each generation as if it were trained on."""
        logged, self._metrics = self._metrics, {mode: defaultdict(list) for mode in self._metrics}
        try:
            yield
        finally:
            self._metrics = logged
