"""TRL's GRPO trainer, which can sample other prompts in place of groups without spread (DAPO, Yu et al., 2025).

A group whose rewards are all the same has advantages of 0 and teaches nothing. Before anything is computed with the
sampled completions, such groups give way to groups of other training prompts that have a spread, up to a budget. What
this needs of TRL's private methods is listed in a test.
"""

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from trl import GRPOTrainer

from algorithms.group_sampling import Group, GroupSampling, Row, Sampled


class DynamicSamplingTrainer(GroupSampling, GRPOTrainer):
    """A GRPOTrainer that logs the share of informative groups, and can replace the others.

    With `dynamic_sampling=0` it trains as TRL's does.
    """

    def __init__(self, *args: Any, dynamic_sampling: int = 0, **named: Any) -> None:
        super().__init__(*args, **named)
        self.dynamic_sampling = dynamic_sampling
        self.drawn: list[int] = []
        """Places in the training rows of the prompts that took others' place in the newest generation."""
        self._held: list[Sampled] | None = None
        self._replay: Iterator[Sampled] = iter(())

    def _completions(self, prompts: list[Any]) -> tuple[list[list[int]], Any, Any]:
        _, ids, _, completions, logprobs, *_ = self._generate(prompts)
        return ids, completions, logprobs

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        if not self.dynamic_sampling or not self.model.training:
            return dict(super()._generate_and_score_completions(inputs))
        self._held = self._with_spread(inputs)
        self._replay = iter(self._held)
        tokens = self.state.num_input_tokens_seen
        try:
            output = dict(super()._generate_and_score_completions([one.row for one in self._held]))
        finally:
            self._held = None
        self.state.num_input_tokens_seen = tokens  # they were counted when they were sampled, the discarded ones too
        self._metrics["train"]["num_tokens"] = [tokens]
        return output

    def _with_spread(self, inputs: list[Row]) -> list[Sampled]:
        """Return a completion for each row of `inputs`, or in place of groups without spread those of other prompts."""
        kept = self._groups(inputs)
        flat = [place for place, (_, has_spread) in enumerate(kept) if not has_spread]
        lacking, budget, others = len(flat), self.dynamic_sampling * len(kept), self._others(inputs)
        sampled = found = 0
        self.drawn = []
        while flat and (left := min(budget - sampled, len(kept))) > 0:
            rate = (len(kept) - lacking + found) / (len(kept) + sampled)
            wanted = min(left, math.ceil(len(flat) / rate) if rate else left)  # few rounds: each lasts as its longest
            places = list(islice(others, wanted))
            if not places:
                break
            rows = [self.train_dataset[place] for place in places for _ in range(self.num_generations)]
            sampled += len(places)
            for place, (group, has_spread) in zip(places, self._groups(rows), strict=True):
                found += has_spread
                if has_spread and flat:
                    kept[flat.pop(0)] = group, True
                    self.drawn.append(place)
        metrics = self._metrics["train"]
        metrics["replaced_groups"].append(len(self.drawn) / len(kept))
        metrics["completions_sampled"].append((len(kept) + sampled) * self.num_generations)
        return [one for group, _ in kept for one in group]

    def _groups(self, rows: list[Row]) -> list[tuple[Group, bool]]:
        """Sample for `rows`; return each group and whether it is informative."""
        done, size = self.sample(rows), self.num_generations
        spread = self.informative(torch.stack([one.rewards for one in done]))
        return [(done[at : at + size], spread[at // size]) for at in range(0, len(done), size)]

    def _others(self, inputs: list[Row]) -> Iterator[int]:
        """Yield places of training rows with other prompts than `inputs`: by seed and pass, so a resume has the same.

        Passes are counted on after a resume, and no generation has another's.
        """
        rows, known = self.train_dataset, [row["prompt"] for row in inputs]
        most = min(len(rows), (1 + self.dynamic_sampling) * len(inputs))
        places = random.Random(f"{self.args.seed} {self._step}").sample(range(len(rows)), most)
        return (place for place in places if rows[place]["prompt"] not in known)

    def _generate_single_turn(
        self, prompt_ids: list[Any], images: Any, multimodal_fields: Any, *rest: Any, **named: Any
    ) -> tuple[Any, Any]:
        if self._held is None:
            generate = super()._generate_single_turn
            return self._sampled(
                prompt_ids,
                images,
                multimodal_fields,
                lambda prompts: generate(prompts, images, multimodal_fields, *rest, **named),
            )
        again = [next(self._replay) for _ in prompt_ids]  # a part of them, where memory ran out before
        return [one.ids for one in again], None if again[0].logprobs is None else [one.logprobs for one in again]

    def _rewards(self, inputs: list[Row], *rest: Any) -> torch.Tensor:
        if self._held is None:
            return super()._rewards(inputs, *rest)
        for name in {name for one in self._held for name in one.extra}:
            self._pending_extra_logs[name].extend(one.extra.get(name) for one in self._held)
        return torch.stack([one.rewards for one in self._held])
