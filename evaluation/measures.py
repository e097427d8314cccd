"""What is measured, in words: which examples each task counts, and what each metric says."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from evaluation import choose
from kinds import Kind, recorded

Result = Mapping[str, Any]

SAMPLED = f"the first {choose.SAMPLED_PROBLEMS} problems of skills, 4 sampled answers each"
EXAMPLES = {
    "skills": "the verifier's problems, the same for every stage, the likeliest answers",
    "sampled_skills": SAMPLED,
    "verified_answers": f"answers of the policy to {SAMPLED}",
    "documents": "documents held out of the pretraining text",
    "demonstrations": "conversations held out, of the first stage that trains on such where this one does not",
    "other_questions": f"the first {choose.CHANGED_ROWS} held-out rows that begin with a question",
    "worse_answers": f"the first {choose.CHANGED_ROWS} held-out pairs, the chosen answer changed",
    "answers": f"the first {choose.ANSWERED_PROMPTS} held-out prompts",
    "rewards": f"the first {choose.REWARDED_PROMPTS} held-out prompts",
    "sampled_rewards": f"the first {choose.SAMPLED_PROMPTS} held-out prompts, 4 sampled answers each",
    "preferences": f"the first {choose.POLICY_PAIRS} held-out pairs",
    "thumbs": f"the first {2 * choose.POLICY_PAIRS} held-out rows",
    "pairs": "held-out pairs, for length_bias those of unlike length",
    "reward_model": "prompts whose answers the newest reward model compares",
}
"""What the examples of a task are."""
MEANING = {
    "strict": "share of answers that are exactly right",
    "flexible": "share of answers that are right in any form",
    "pass@2": "share of problems that one of two answers solves",
    "pass@4": "share of problems that one of four answers solves",
    "stop_rate": "share of answers that end by themselves",
    "completion_tokens": "tokens of an answer",
    "loss": "nats a token, less is better",
    "bits_per_byte": "bits a byte of text, less is better, whatever the tokenizer",
    "margin": "how far the chosen answer lies above the rejected one",
    "chosen_logp": "log-probability of the chosen answer",
    "rejected_logp": "log-probability of the rejected answer",
    "brier": "squared error of the stated probability, less is better",
    "calibration_error": "by how much stated probabilities miss, less is better",
    "length_bias": "how much more often the longer answer wins than it should",
    "auc": "how often a good answer scores above a bad one; 0.5 is chance",
    "prefers_after": "share of prompts where the answer after the stage is preferred; 0.5 is chance",
}
ACCURACY = {
    "documents": "share of the next tokens foretold right",
    "demonstrations": "share of the answer's tokens foretold right",
    "pairs": "share of pairs ranked right",
    "preferences": "share of pairs ranked right",
}
"""What `accuracy` is a share of, by task."""


def shown(kind: Kind, results: Sequence[Result]) -> Iterator[tuple[str, Result]]:
    """Yield what matters for a kind of stage, in order, each with its name; of one that tells none, all but groups."""
    named = [(f"{result['task']} {result['metric']}", result) for result in results]
    if not kind.figures:
        yield from ((name, result) for name, result in named if "/" not in name)
    for pattern in kind.figures:
        yield from ((name, result) for name, result in named if fnmatchcase(name, pattern))


def meaning(task: str, metric: str) -> str:
    """Return what a result says, in words."""
    name, _, group = metric.partition("/")
    known = ACCURACY.get(task) if name == "accuracy" else MEANING.get(name)
    return (known or "as the recipe defines it") + (f", of {group}" if group else "")


def counted(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the tasks shown count, where that are not just the held-out rows that a stage's panel tells."""
    said = dict[str, str]()
    for stage in stages:
        held_out = (stage.get("data") or {}).get("eval_rows")
        for _, result in shown(recorded(stage), stage.get("evaluation") or []):
            task = result["task"]
            if held_out is not None and result["n"] not in (0, held_out) and task in EXAMPLES:
                said.setdefault(task, f"n of {task}: {EXAMPLES[task]}")
    yield from said.values()
