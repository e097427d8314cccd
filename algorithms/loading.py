"""The model and the tokenizer that a stage starts from."""

from typing import Any

from algorithms.config import TrainingConfig
from algorithms.overrides import without_head_report
from data import chat
from utils.errors import StageFailed

HEAD = "score.weight"  # the new layer of a reward model


def tokenizer(config: TrainingConfig, row: dict[str, Any], *, gives_template: bool = False) -> Any:
    """Return the model's tokenizer, fit for rows like `row`: a pad apart from EOS, and for conversations a template.

    `gives_template`: a model without a chat template gets the project's; otherwise it is refused.
    """
    from transformers import AutoTokenizer
    from trl import is_conversational

    loaded = AutoTokenizer.from_pretrained(str(config.model_name), revision=config.revision or "main")
    if is_conversational(row):
        chat.prepare_tokenizer(loaded, template="give" if gives_template else "need")
    else:
        chat.separate_pad_from_eos(loaded)
    return loaded


def options(config: TrainingConfig) -> dict[str, Any]:
    """Return what `from_pretrained` takes to load the stage's model: type, attention kernel, revision, and the rest."""
    chosen: dict[str, Any] = {"dtype": config.dtype or "float32", "revision": config.revision or "main"}
    if config.attn_implementation is not None:
        chosen["attn_implementation"] = config.attn_implementation
    if config.trainer_args.get("trust_remote_code"):
        chosen["trust_remote_code"] = True
    return chosen | dict(config.trainer_args.get("model_init_kwargs") or {})


def language_model(config: TrainingConfig) -> Any:
    """Return the stage's model for next-token prediction.

    Raises:
        StageFailed: the checkpoint lacks weights that the model needs.
    """
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        str(config.model_name), output_loading_info=True, **options(config)
    )
    return _complete(model, found, config)


def reward_model(config: TrainingConfig, pad_token_id: int) -> Any:
    """Return the stage's model with a head that gives one score; a new head depends on `config.seed` alone.

    Raises:
        StageFailed: the checkpoint lacks other weights than the head.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(config.seed)
    with without_head_report():
        model, found = AutoModelForSequenceClassification.from_pretrained(
            str(config.model_name), num_labels=1, output_loading_info=True, **options(config)
        )
    model.config.pad_token_id = pad_token_id  # the score is read at the last token that is not this one
    return _complete(model, found, config)


def _complete(model: Any, found: dict[str, Any], config: TrainingConfig) -> Any:
    missing = sorted(set(found["missing_keys"]) - {HEAD})
    if missing or found["mismatched_keys"]:
        wrong = missing or sorted(str(key) for key in found["mismatched_keys"])
        raise StageFailed(
            f"{config.model_name} lacks {len(wrong)} of the weights of a {type(model).__name__}, such as {wrong[0]}: "
            "they would be random. Is the checkpoint whole, and of this architecture?"
        )
    return model
