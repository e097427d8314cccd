"""What a reward model makes of a policy's own answers, and whether it agrees with the verifier on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from data.chat import encode
from data.examples import completion, prompt_of
from evaluation.ranking import auc_scores
from evaluation.scored_model import Impossible, ScoredModel, fingerprint
from evaluation.skills import VerifiedTask
from evaluation.task import Scores, scattered
from evaluation.tasks import rewards_of

if TYPE_CHECKING:
    from batching.complete import Completion


@dataclass(frozen=True)
class VerifiedAnswers(VerifiedTask):
    """Sampled answers of the policy that a reward model started from: does it rank the verified ones above the others?

    Where an answer calls a tool, the call is judged. The answers are the same before and after. This is the question
    that GRPO asks of a reward model, on the answers it will be asked.
    """

    name: ClassVar[str] = "verified_answers"
    headline: ClassVar[tuple[str, ...]] = ("auc",)
    metrics: ClassVar[tuple[str, ...]] = ("auc", "auc_flexible")
    sampled: ClassVar[bool] = True
    samples: ClassVar[int] = 4

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `auc` by the strict verifier and `auc_flexible` by the flexible one, one number an answer.

        Raises:
            Impossible: the policy's answers are all right or all wrong, or there is no policy.
        """
        policy = checkpoint.policy
        if policy is None:
            raise Impossible("it is not known which policy the reward model was trained for")
        checkpoint.release()  # one model at a time
        said = self.completions(policy)
        policy.release()
        prompts = [asked for row in self.asked if (asked := prompt_of(row)) is not None]
        rewards = answer_rewards(checkpoint, prompts, said)
        scores: Scores = {}
        for metric, form in (("auc", "strict"), ("auc_flexible", "flexible")):
            known = {
                i: (reward, bool(self.verifier.verdict(form, one.text, row)))
                for i, (row, one, reward) in enumerate(zip(self.asked, said, rewards, strict=True))
                if one is not None and reward is not None
            }
            right = [verified for _, verified in known.values()]
            if len(set(right)) == 2:
                numbers = auc_scores([reward for reward, _ in known.values()], right)
                scores[metric] = scattered(dict(zip(known, numbers, strict=True)), len(said))
        if "auc" not in scores:
            raise Impossible("the policy's answers are all right, or all wrong: there is nothing to rank")
        return scores


def answer_rewards(
    judge: ScoredModel, prompts: Sequence[tuple[Any, Any]], said: "Sequence[Completion | None]"
) -> list[float | None]:
    """Return the reward of the answer to each (prompt, tools), both rendered as the judge was trained on."""
    texts: dict[int, tuple[int, ...]] = {}
    for index, ((prompt, tools), answer) in enumerate(zip(prompts, said, strict=True)):
        if answer is None:
            continue
        judge.need_template(prompt)
        if isinstance(prompt, str):
            ids = completion(judge.tokenizer, prompt, answer.text).input_ids
        else:
            turns = [*prompt, {"role": "assistant", "content": answer.text}]
            ids = encode(judge.tokenizer, turns, tools, add_generation_prompt=False)
        texts[index] = tuple(ids)
    distinct = [list(ids) for ids in dict.fromkeys(texts.values())]  # a good policy often samples the same
    rewards = judge.remembered(f"judged-{fingerprint(distinct)}", lambda: rewards_of(judge, distinct))
    by_text = {tuple(ids): reward for ids, reward in zip(distinct, rewards, strict=True)}
    return scattered({index: by_text[ids] for index, ids in texts.items()}, len(said))
