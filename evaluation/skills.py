"""The made world's skills: exact match and pass@k on fresh problems, the calculator in a real loop of two turns."""

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

from data.world import tools, verify
from data.world.problems import SKILLS
from evaluation.checkpoint import Checkpoint
from evaluation.pass_at_k import means, passes
from evaluation.task import PromptTask, Scores, by_group, ending_scores

if TYPE_CHECKING:
    from evaluation.generate import Completion


@dataclass(frozen=True)
class Skills(PromptTask):
    """Greedy answers to held-out problems (rows with `prompt, skill, answer`).

    A calculator problem is solved when the call is right, and the answer after the tool's response.
    """

    name: ClassVar[str] = "skills"
    headline: ClassVar[tuple[str, ...]] = ("strict", "flexible", "stop_rate")
    metrics: ClassVar[tuple[str, ...]] = (
        *("strict", "flexible", "stop_rate", "completion_tokens"),
        *(f"{metric}/{skill}" for metric, skill in product(("strict", "flexible"), SKILLS)),
    )

    def score(self, checkpoint: Checkpoint) -> Scores:
        """Return `strict` (the form that was taught) and `flexible` (the right answer), over all and for each skill.

        `stop_rate` and `completion_tokens` are of the first turn.
        """
        rows = self.asked
        first = self.completions(checkpoint)
        second = self._after_tool(checkpoint, first)
        scores: Scores = {"strict": [], "flexible": []}
        for index, (row, said) in enumerate(zip(rows, first, strict=True)):
            skill, answer, then = row["skill"], row["answer"], second.get(index)
            for metric, is_right in (("strict", verify.strict), ("flexible", verify.flexible)):
                if said is None:
                    scores[metric].append(None)
                elif then is not None:
                    called = metric == "flexible" or is_right(said.text, skill, answer)
                    scores[metric].append(float(called and is_right(then.text, "calculator_answer", answer)))
                elif skill == "calculator":  # nothing valid was called, but the answer may have been said
                    right = metric == "flexible" and is_right(said.text, "calculator_answer", answer)
                    scores[metric].append(float(right))
                else:
                    scores[metric].append(float(is_right(said.text, skill, answer)))
        skills = [row["skill"] for row in rows]
        for metric in ("strict", "flexible"):
            scores |= by_group(metric, scores[metric], skills)
        return scores | ending_scores(first)

    def texts(self, checkpoint: Checkpoint) -> list[str | None]:
        """Return each answer; that of the calculator, and what is said after it, stand below the call."""
        first = self.completions(checkpoint)
        second = self._after_tool(checkpoint, first)
        texts = [None if said is None else said.text for said in first]
        for index, then in second.items():
            texts[index] = f"{texts[index]}\n→ {tools.respond(str(texts[index]))}\n{then.text}"
        return texts

    def _after_tool(self, checkpoint: Checkpoint, first: "list[Completion | None]") -> "dict[int, Completion]":
        """Run the calls of the first turn, and return what is said after each that the tool answered, by row."""
        prompts = {}
        for index, (row, said) in enumerate(zip(self.asked, first, strict=True)):
            response = tools.respond(said.text) if said is not None and row["skill"] == "calculator" else None
            if said is not None and response is not None:
                turns = [{"role": "assistant", "content": said.text}, {"role": "tool", "content": response}]
                prompts[index] = ([*row["prompt"], *turns], None)
        if not prompts:
            return {}
        then = checkpoint.complete(list(prompts.values()), self.max_new_tokens, self.sampled)
        return {index: said for index, said in zip(prompts, then, strict=True) if said is not None}


@dataclass(frozen=True)
class SampledSkills(Skills):
    """The same with sampled answers, several to a problem: how often the policy is right, and in how many tries.

    This is what GRPO raises: its rewards are of sampled answers.
    """

    name: ClassVar[str] = "sampled_skills"
    version: ClassVar[int] = 2
    headline: ClassVar[tuple[str, ...]] = ("strict", "pass@4")
    metrics: ClassVar[tuple[str, ...]] = (
        *Skills.metrics,
        *(f"{metric}pass@{k}" for metric, k in product(("", "flexible_"), (2, 4))),
    )
    sampled: ClassVar[bool] = True
    samples: ClassVar[int] = 4

    def score(self, checkpoint: Checkpoint) -> Scores:
        """Return each problem's mean of the scores of `Skills`, and `pass@2` and `pass@4` of both metrics.

        The mean of `strict` is pass@1. `flexible_pass@k` is pass@k of right answers in any form.
        """
        scores = super().score(checkpoint)
        reached: Scores = {}
        for k in (2, 4):
            reached[f"pass@{k}"] = passes(scores["strict"], self.samples, k)
            reached[f"flexible_pass@{k}"] = passes(scores["flexible"], self.samples, k)
        return {metric: means(values, self.samples) for metric, values in scores.items()} | reached
