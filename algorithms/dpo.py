"""Direct preference optimisation: prefer the chosen answers, near the reference (Rafailov et al., 2023)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.trl_kind import FORGETTING, SAMPLED, TrlKind
from data.messages import is_learnt
from kinds import Stage

if TYPE_CHECKING:
    from data.sources import StageData

SIDES = ("chosen", "rejected")


class DirectPreferenceOptimisation(TrlKind):
    """Trains on pairs of a chosen and a rejected answer.

    The reference is the stage's own input, which TRL loads a second time, or with `precompute_ref_log_probs` runs once
    over the data before training, and never again over the same. `trainer_args` may name several losses and weights.
    """

    name = "dpo"
    trl_name = "DPO"
    layout = "pairs"
    sequences_per_row = 2
    has_reference = True
    bar = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    tasks = ("skills", "documents", "sampled_skills", "demonstrations", "preferences", "answers")
    figures = (
        "preferences accuracy",
        "preferences margin",
        "preferences chosen_logp",
        "preferences rejected_logp",
        "reward_model prefers_after",
        "skills strict",
        *SAMPLED,
        "answers stop_rate",
        *FORGETTING,
    )
    headlines = ("skills strict", "reward_model prefers_after", "preferences accuracy")

    def trainer_class(self) -> Any:
        """Return TRL's trainer, which keeps what its reference says."""
        from algorithms.kept_reference import KeptReferenceTrainer

        return KeptReferenceTrainer

    def build(self, stage: Stage, stage_dir: Path, data: "StageData") -> "tuple[Any, StageData]":
        """Return TRL's trainer; see `TrlKind.build`. Of answers of several turns only the assistant's are preferred."""
        from algorithms import supervision
        from data.layouts import may_say

        may = any(may_say(data.train, said, *SIDES) for said in ('"user"', '"tool"', '"weight"'))
        if not may or not any(_says_more(row[side]) for row in data.train for side in SIDES):
            return super().build(stage, stage_dir, data)
        trainer = _trainer_of_turns(self.parts(stage, stage_dir, data))
        return trainer, supervision.inspect_pairs(trainer, data, stage_dir)


def _says_more(answer: Any) -> bool:
    """Tell whether an answer holds more than what the assistant is to say."""
    return not isinstance(answer, str) and any(turn["role"] != "assistant" or not is_learnt(turn) for turn in answer)


def _trainer_of_turns(parts: dict[str, Any]) -> Any:
    """Return TRL's trainer on pairs whose answers hold turns of the user or of tools, too, which are context to it.

    TRL prefers all that stands after the prompt, the user's words in it.
    """
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from algorithms.kept_reference import KeptReferenceTrainer
    from data.examples import completion

    tokenizer, args = parts["processing_class"], parts["args"]
    columns = [f"{side}_scored" for side in SIDES]

    def scored(row: dict[str, Any]) -> dict[str, Any]:
        found = (completion(tokenizer, row["prompt"], row[side], row.get("tools")).scored for side in SIDES)
        return {column: [int(one) for one in mask] for column, mask in zip(columns, found, strict=True)}

    class Collator(DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().torch_call(examples)
            masks = [{"prompt_ids": [], **{f"{side}_ids": one[f"{side}_scored"] for side in SIDES}} for one in examples]
            batch["completion_mask"] *= super().torch_call(masks)["input_ids"]  # cut and padded as the tokens are
            return batch

    class Trainer(KeptReferenceTrainer):
        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += [column for column in columns if column not in self._signature_columns]

    for name in ("train_dataset", "eval_dataset"):
        parts[name] = parts[name] and parts[name].map(scored)
    pad = tokenizer.convert_tokens_to_ids(args.pad_token or tokenizer.pad_token)
    for config in (parts["model"].config.get_text_config(), parts["model"].generation_config):
        config.pad_token_id = pad  # as TRL sets it where it makes the collator
    collator = Collator(pad, args.max_length, args.truncation_mode, args.pad_to_multiple_of)
    return Trainer(**parts, data_collator=collator)


DPO = DirectPreferenceOptimisation()
