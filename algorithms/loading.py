"""The model and the tokenizer that a stage starts from."""

from pathlib import Path
from typing import Any

from algorithms import adapters
from algorithms.config import TrainingConfig
from algorithms.overrides import without_cpu_packing, without_head_report
from data import chat
from utils.errors import Refused, StageFailed
from utils.files import base_of

HEAD = "score.weight"  # the new layer of a reward model


def tokenizer(config: TrainingConfig, rows: Any, *, gives_template: bool = False) -> Any:
    """Return the model's tokenizer, made fit for `rows`; see `fit_to`.

    Raises:
        Refused: there is no tokenizer, or it is not fit for the rows and cannot be made so.
    """
    from transformers import AutoTokenizer

    name = str(config.model_name)
    try:
        loaded = AutoTokenizer.from_pretrained(name, revision=config.revision or "main", trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise Refused(
            f"{name} has no tokenizer that transformers can load ({_first_line(error)}). A model needs tokenizer.json "
            "and tokenizer_config.json beside its weights: save them there, or name another model."
        ) from error
    if not loaded("a", add_special_tokens=False)["input_ids"]:  # what transformers makes where files are missing
        raise Refused(f"{name} has no tokenizer: save tokenizer.json beside its weights, or name another model.")
    fit_to(rows, loaded, gives_template=gives_template)
    return loaded


def fit_to(rows: Any, tokenizer: Any, *, gives_template: bool = False) -> None:
    """Make a tokenizer fit for `rows`: a pad apart from EOS, and for conversations a template that shows their tools.

    `gives_template`: a model without a chat template gets the project's; otherwise it is refused.

    Raises:
        Refused: it is not fit for the rows and cannot be made so.
    """
    from trl import is_conversational

    if is_conversational(rows[0]):
        chat.prepare_tokenizer(tokenizer, template="give" if gives_template else "need")
        chat.check_tools_render(tokenizer, rows)
        chat.check_thoughts_render(tokenizer, rows)
        chat.check_system_renders(tokenizer, rows)
        chat.tell_control_tokens(tokenizer, rows)
    else:
        chat.separate_pad_from_eos(tokenizer)


def max_tokens(config: TrainingConfig) -> int | None:
    """Return the most that the stage's model reads at once, in tokens, where its configuration tells."""
    try:
        return context_of(_model_config(config))
    except (OSError, ValueError, KeyError):  # as whoever loads the model will say
        return None


def context_of(model_config: Any) -> int | None:
    """Return the most that a model reads at once, in tokens, where its configuration tells."""
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _model_config(config: TrainingConfig) -> Any:
    from transformers import AutoConfig

    name, revision = str(config.model_name), config.revision or "main"
    return AutoConfig.from_pretrained(str(base_of(Path(name)) or name), revision=revision, trust_remote_code=False)


def options(config: TrainingConfig) -> dict[str, Any]:
    """Return what `from_pretrained` takes to load the stage's model: type, attention kernel, revision, and the rest."""
    dtype = config.dtype or "float32"
    if config.peft is not None:
        dtype = adapters.frozen_dtype(config, _saved_dtype(config) if config.dtype == "auto" else None)
    chosen: dict[str, Any] = {"dtype": dtype, "revision": config.revision or "main"}
    chosen |= {"trust_remote_code": False, "use_safetensors": True}
    if config.attn_implementation is not None:
        chosen["attn_implementation"] = config.attn_implementation
    return chosen | dict(config.trainer_args.get("model_init_kwargs") or {})


def _saved_dtype(config: TrainingConfig) -> str:
    """Return the type of the weights that a stage starts from, as their configuration says it."""
    return str(_model_config(config).dtype).removeprefix("torch.")


def adapter_of(config: TrainingConfig) -> Path | None:
    """Return the directory of the adapter that a stage starts from; None if it starts from whole weights.

    Raises:
        Refused: the stage trains no adapter, or the adapter's model is not where it says.
    """
    directory = Path(str(config.model_name))
    if base_of(directory) is None:
        return None
    if config.peft is None:
        raise Refused(
            f"{directory} holds an adapter, not a whole model, and this stage trains all weights: set peft='lora' (or"
            " 'qlora') to train the adapter on, or leave out merge_adapter=False in the stage that made it"
        )
    return directory


def language_model(config: TrainingConfig) -> Any:
    """Return the stage's model for next-token prediction, with its adapter if it trains one.

    Raises:
        Refused: transformers cannot load it.
        StageFailed: the checkpoint lacks weights that the model needs.
    """
    return _model(config, adapters.POLICY)


def reward_model(config: TrainingConfig, pad_token_id: int) -> Any:
    """Return the stage's model with a head that gives one score; a new head depends on `config.seed` alone.

    Raises:
        Refused: transformers cannot load it.
        StageFailed: the checkpoint lacks other weights than the head.
    """
    from transformers import set_seed

    set_seed(config.seed)
    with without_head_report():
        model = _model(config, adapters.REWARD_MODEL)
    model.config.pad_token_id = pad_token_id  # the score is read at the last token that is not this one
    return model


def unquantised(config: TrainingConfig, name: str, task_type: str) -> Any:
    """Return the weights beside which a QLoRA stage trained its adapter, as they are saved, on the CPU."""
    with without_head_report():
        return _whole(config, name, task_type)


def _model(config: TrainingConfig, task_type: str) -> Any:
    kept = adapter_of(config)
    name = str(config.model_name if kept is None else base_of(kept))
    model = _whole(config, name, task_type, **adapters.quantization(config))
    without_cpu_packing(model)
    return model if config.peft is None else adapters.attach(model, config, task_type, kept)


def _whole(config: TrainingConfig, name: str, task_type: str, **quantization: Any) -> Any:
    import transformers

    scores = task_type == adapters.REWARD_MODEL
    auto_class: Any = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    head = {"num_labels": 1} if scores else {}
    try:
        model, found = auto_class.from_pretrained(
            name, output_loading_info=True, **head, **options(config), **quantization
        )
    except (OSError, ValueError) as error:
        raise Refused(f"{name} cannot be loaded by transformers: {_first_line(error)}") from error
    missing = sorted(set(found["missing_keys"]) - {HEAD})
    if missing or found["mismatched_keys"]:
        wrong = missing or sorted(str(key) for key in found["mismatched_keys"])
        raise StageFailed(
            f"{name} lacks {len(wrong)} of the weights of a {type(model).__name__}, such as {wrong[0]}: "
            "they would be random. Is the checkpoint whole, and of this architecture?"
        )
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(" :")
