"""The memory of a training step: sizes worked by hand, and a real step of real shapes under fake tensors."""

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from algorithms import memory
from algorithms.memory import Adapter, Sampling, Settings
from algorithms.shapes import Shapes, shapes_of
from pretrain.optim import make_optimizer

MIB = 2**20
SMALL = {
    "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 512,
    "vocab_size": 4096, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
VOCABULARY = 151_936 * 896


def qwen(layers: int = 24, cls: Any = Qwen2Config) -> Any:
    """Return the published configuration of Qwen2.5-0.5B, or of fewer layers of it."""
    shape = {
        "hidden_size": 896, "num_hidden_layers": layers, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True, "head_dim": 64,
    }  # fmt: skip
    return cls(**shape)


def settings(**given: Any) -> Settings:
    plain: dict[str, Any] = {
        "sequences": 2, "tokens": 512, "weight_bytes": 2, "compute_bytes": 2, "accumulates": True,
        "gradient_checkpointing": True, "optim": "adamw_torch_fused",
    }  # fmt: skip
    return Settings(**plain | given)


@pytest.fixture(scope="module")
def half_billion() -> Shapes:
    return shapes_of(qwen())


def test_static_sizes_of_qwen_worked_by_hand(half_billion: Shapes) -> None:
    assert half_billion.parameters == 494_032_768
    assert tied(half_billion)
    assert half_billion.weights[0].elements == VOCABULARY
    assert memory.weights_bytes(half_billion, settings()) // MIB == 942  # 494,032,768 × 2 bytes
    assert memory.weights_bytes(half_billion, settings(weight_bytes=4)) == 494_032_768 * 4
    at_the_update = memory.moments(half_billion, settings())["optimizer"]
    assert at_the_update["gradients"] // MIB == 942
    assert at_the_update["optimizer"] // MIB == 1884  # two states in the weights' type


def test_states_of_each_optimizer_worked_by_hand(half_billion: Shapes) -> None:
    trained = half_billion.weights
    # 72 biases (24 layers of 896 + 128 + 128) and 49 norms of 896 are below 4096 elements
    small = 24 * (896 + 128 + 128) + 49 * 896
    large = 494_032_768 - small
    block = 2 + 2 * 4 / 256  # two states of one byte, and their scales
    assert memory.optimizer_bytes(trained, "adamw_torch", 4) == 494_032_768 * 8
    assert memory.optimizer_bytes(trained, "adamw_torch_8bit", 2) == round(large * block + small * 4)
    by_bitsandbytes = round((large - VOCABULARY) * block + (VOCABULARY + small) * 8)  # embeddings in 32 bits
    assert memory.optimizer_bytes(trained, "adamw_8bit", 2) == by_bitsandbytes
    with pytest.raises(ValueError, match="'lion_32bit' are not known"):
        memory.optimizer_bytes(trained, "lion_32bit", 4)


def test_a_cache_of_keys_and_values_worked_by_hand(half_billion: Shapes) -> None:
    # 64 completions of 768 tokens: 24 layers, and one twice, of 2 heads of 64; values are cached in the type of keys
    sampled = settings(weight_bytes=4, sampling=Sampling(sequences=64, prompt_tokens=256, completion_tokens=512))
    moment = memory.moments(half_billion, sampled)["sampling"]
    assert moment["kv_cache"] == 25 * 64 * 768 * 128 * 8
    assert moment["logits"] == 64 * 151_936 * 16


def test_an_adapter_trains_its_own_weights_alone(half_billion: Shapes) -> None:
    targets = tuple(weight.name for weight in half_billion.weights if weight.name.endswith("q_proj.weight"))
    adapter = Adapter(r=16, targets=targets)
    trained = 24 * 16 * (896 + 896)  # A of 16 × 896 and B of 896 × 16 in each layer
    update = memory.moments(half_billion, settings(adapter=adapter))["optimizer"]
    assert update["weights"] == 494_032_768 * 2 + trained * 4
    assert update["gradients"] == trained * 4
    assert update["optimizer"] == trained * 8
    linear = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    in_4_bits = Adapter(r=16, targets=targets, quantised=True)
    got = memory.weights_bytes(half_billion, settings(adapter=in_4_bits))
    assert got == pytest.approx((494_032_768 - linear) * 2 + linear * 4.127 / 8 + trained * 4, rel=1e-5)


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, a model's included: MemTracker's total, and faster."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, Any] = {}
        self.count([*model.parameters(), *model.buffers()])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(result)
        return result

    def count(self, tensors: Any) -> None:
        for storage in (each.untyped_storage() for each in tree_leaves(tensors) if isinstance(each, torch.Tensor)):
            if id(storage) not in self.alive:
                self.alive[id(storage)] = weakref.ref(storage, partial(self.freed, id(storage), storage.nbytes()))
                self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def freed(self, key: int, size: int, _: object) -> None:
        del self.alive[key]
        self.now -= size


def test_storages_are_counted_as_pytorchs_tracker_counts_them() -> None:
    config, peaks = AutoConfig.for_model("llama", num_hidden_layers=2, **SMALL), []
    for counter in (Live, MemTracker):
        with FakeTensorMode():
            model = AutoModelForCausalLM.from_config(config)
            meter: Any = Live(model) if counter is Live else MemTracker()
            if counter is MemTracker:
                meter.track_external(model)
            with meter:
                ids = torch.randint(0, 1000, (2, 64))
                model(input_ids=ids, labels=ids).loss.backward()
            peaks.append(
                meter.peak if counter is Live else meter.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
            )
    assert peaks[0] == pytest.approx(peaks[1], rel=0.001)


def tracked(config: Any, given: Settings, monkeypatch: pytest.MonkeyPatch, autocast: bool) -> int:
    """Return the peak of an optimizer step under fake tensors, of which no byte is there.

    TRL's kernels on a GPU work in the tile, and sum in float32 without a copy; their stand-ins for a CPU make float32
    copies of the tile, so they are left out. Experts in float32 go another way, of which the shapes are known.
    """
    only = "transformers.integrations.moe._can_use_grouped_mm"
    monkeypatch.setattr(only, lambda _, weight, __: weight.dtype == torch.bfloat16)
    for kernel in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
        monkeypatch.setattr(f"trl.kernels.chunked_logprob.{kernel}", lambda *_, **__: None)
    config._attn_implementation = given.attention
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(
            config, dtype={2: torch.bfloat16, 4: torch.float32}[given.weight_bytes]
        )
        model.train()
        if given.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        if given.adapter is not None:
            with monkeypatch.context() as patch:  # modules of fake tensors do not move; an adapter is made in float32
                patch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
                model = get_peft_model(model, LoraConfig(r=given.adapter.r, target_modules="all-linear"))
        model.forward = torch.autocast("cpu", torch.bfloat16, enabled=autocast)(model.forward)
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], fused=True)
        with Live(model) as live:
            for step in range(2):  # the states are there in the second
                for _ in range(1 + given.accumulates):
                    ids = torch.randint(0, 1000, (given.sequences, given.tokens))
                    model(input_ids=ids, labels=ids, fused_lm_head=True).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == 0:
                    live.peak = 0
    return live.peak


def tied(shapes: Shapes) -> bool:
    return not any(weight.role == "head" for weight in shapes.weights)


def forecast(shapes: Shapes, given: Settings) -> int:
    """Return the forecast peak without what the allocator and the context take.

    Under fake tensors the head's and the embedding's gradient are summed in a third tensor, where autograd adds real
    ones in place (measured: 2.0 of them).
    """
    moments = memory.moments(shapes, given)
    embedding = sum(weight.elements for weight in shapes.weights if weight.role == "embedding")
    third = 0 if given.adapter or not tied(shapes) else embedding * given.weight_bytes
    return max(sum(moment.values()) + third * (name == "embedding, backward") for name, moment in moments.items())


CASES = [
    (sequences, tokens, checkpointing, accumulates, number)
    for number in (2, 4)
    for checkpointing in (True, False)
    for sequences, tokens, accumulates in ((2, 512, False), (1, 1024, True), (4, 2048, True))
]


@pytest.mark.parametrize(("sequences", "tokens", "checkpointing", "accumulates", "number"), CASES)
def test_forecast_is_within_5_percent_of_a_step_under_fake_tensors(
    sequences: int, tokens: int, checkpointing: bool, accumulates: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = qwen(layers=4)
    given = settings(
        sequences=sequences, tokens=tokens, gradient_checkpointing=checkpointing, accumulates=accumulates,
        weight_bytes=number,
    )  # fmt: skip
    measured = tracked(config, given, monkeypatch, autocast=number == 4)
    assert forecast(shapes_of(config), given) == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("number", [2, 4])
def test_forecast_of_all_of_qwen_is_within_5_percent_of_a_step_under_fake_tensors(
    number: int, checkpointing: bool, half_billion: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tokens=1024, gradient_checkpointing=checkpointing, weight_bytes=number)
    measured = tracked(qwen(), given, monkeypatch, autocast=number == 4)
    assert forecast(half_billion, given) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cls", [Qwen2Config, Qwen3Config])
def test_forecast_holds_for_norms_of_heads_and_for_eager_attention(
    cls: Any, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = qwen(layers=3, cls=cls)
    given = settings(gradient_checkpointing=False, sequences=4, attention=attention)
    measured = tracked(config, given, monkeypatch, autocast=False)
    assert forecast(shapes_of(config), given) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("sequences", "tokens", "checkpointing", "number"),
    [(2, 512, True, 2), (4, 2048, False, 2), (2, 512, True, 4), (2, 512, False, 4)],
)
def test_forecast_of_an_adapter_is_within_10_percent_of_a_step_under_fake_tensors(
    sequences: int, tokens: int, checkpointing: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = qwen(layers=4)
    shapes = shapes_of(config)
    adapter = Adapter(r=16, targets=tuple(weight.name for weight in shapes.weights if weight.role == "linear"))
    given = settings(
        sequences=sequences, tokens=tokens, gradient_checkpointing=checkpointing, adapter=adapter, weight_bytes=number
    )
    measured = tracked(config, given, monkeypatch, autocast=True)
    assert forecast(shapes, given) == pytest.approx(measured, rel=0.1)


def tracked_pretraining(config: Any, given: Settings) -> int:
    """Return the peak of a step of pretraining under fake tensors."""
    config._attn_implementation = given.attention
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.train()
        if given.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        forward = torch.autocast("cpu", torch.bfloat16, enabled=given.compute_bytes == 2)(model.forward)
        optimizer = make_optimizer(
            model, muon_learning_rate=0.02, learning_rate=3e-3, embedding_learning_rate=0.1, weight_decay=0.0
        )

        def loss(ids: torch.Tensor) -> torch.Tensor:
            mask = torch.zeros(given.sequences, 1, given.tokens, given.tokens)
            logits = forward(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
            return cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="sum")

        with Live(model) as live:
            for step in range(2):  # the states are there in the second
                for _ in range(1 + given.accumulates):
                    loss(torch.randint(0, 1000, (given.sequences, given.tokens))).backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == 0:
                    live.peak = 0
    return live.peak


@pytest.mark.parametrize(
    ("vocabulary", "width", "sequences", "tokens", "checkpointing", "accumulates", "compute", "attention"),
    [
        (8192, 512, 8, 512, False, False, 2, "sdpa"),
        (8192, 512, 8, 512, False, False, 4, "sdpa"),
        (32_768, 768, 2, 128, True, False, 2, "sdpa"),  # the optimizer's step is the peak
        (4096, 512, 16, 1024, True, False, 2, "sdpa"),
        (4096, 512, 16, 1024, False, True, 2, "sdpa"),
        (1024, 256, 16, 128, False, False, 4, "eager"),
    ],
)
def test_forecast_of_pretraining_is_within_5_percent_of_a_step_under_fake_tensors(
    vocabulary: int,
    width: int,
    sequences: int,
    tokens: int,
    checkpointing: bool,
    accumulates: bool,
    compute: int,
    attention: str,
) -> None:
    heads = width // 64
    config = Qwen3Config(
        hidden_size=width, num_hidden_layers=4, num_attention_heads=heads, num_key_value_heads=heads, head_dim=64,
        intermediate_size=3 * width, vocab_size=vocabulary, tie_word_embeddings=False,
    )  # fmt: skip
    given = settings(
        sequences=sequences, tokens=tokens, gradient_checkpointing=checkpointing, accumulates=accumulates,
        weight_bytes=4, compute_bytes=compute, attention=attention, optim=memory.MUON, whole_logits=True,
    )  # fmt: skip
    assert forecast(shapes_of(config), given) == pytest.approx(tracked_pretraining(config, given), rel=0.05)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"num_hidden_layers": 5, "tie_word_embeddings": False}),
        ("gemma3_text", {"num_hidden_layers": 7, "sliding_window": 64}),  # every sixth layer sees all
        ("smollm3", {"num_hidden_layers": 6}),  # every fourth layer has no positions
        ("qwen3_moe", {"num_hidden_layers": 4, **EXPERTS}),
        ("mixtral", {"num_hidden_layers": 4, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)
@pytest.mark.parametrize(("checkpointing", "number"), [(False, 2), (True, 4)])
def test_forecast_holds_for_architectures_that_no_formula_is_for(
    kind: str, options: dict[str, Any], checkpointing: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoConfig.for_model(kind, **SMALL, **options)
    shapes = shapes_of(config)
    assert shapes.stack.config.num_hidden_layers < config.num_hidden_layers == len(shapes.layers)
    given = settings(tokens=256, gradient_checkpointing=checkpointing, weight_bytes=number, accumulates=False)
    measured = tracked(config, given, monkeypatch, autocast=number == 4)
    assert forecast(shapes, given) == pytest.approx(measured, rel=0.01)


def test_layers_and_attention_of_a_gpu_take_less() -> None:
    shapes = shapes_of(AutoConfig.for_model("llama", num_hidden_layers=4, **SMALL))

    def activations(**given: Any) -> int:
        return memory.moments(shapes, settings(gradient_checkpointing=False, **given))["layers, backward"][
            "activations"
        ]

    plain = activations()
    per_layer = 4 * 2 * 512  # layers, and tokens of two rows
    # two norms of 128 save neither the float32 copy nor the result, and an MLP of 512 one number of 2 bytes less
    assert plain - activations(liger=True) == pytest.approx(per_layer * (2 * 128 * (4 + 2) + 512 * 2), rel=0.25)
    # the mask of a row of 512, and keys and values repeated: 4 heads of 32 instead of 2, each 2 bytes
    flash = activations(attention="flash_attention_2")
    assert plain - flash == pytest.approx(per_layer * (512 * 2 + 2 * (4 - 2) * 32 * 2), rel=0.25)


def test_a_pass_that_fails_is_said_to_be_what_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = shapes_of(AutoConfig.for_model("llama", num_hidden_layers=3, **SMALL))
    with pytest.raises(ValueError, match="a pass of llama cannot be measured without bytes: "):
        memory.peak(shapes, settings(attention="unheard_of"))


def test_forecast_holds_where_a_layers_backward_pass_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model("llama", num_hidden_layers=5, **SMALL | {"num_attention_heads": 16})
    given = settings(sequences=1, tokens=1024, gradient_checkpointing=False, attention="eager", accumulates=False)
    shapes = shapes_of(config)
    found = {name: sum(moment.values()) for name, moment in memory.moments(shapes, given).items()}
    assert max(found, key=lambda name: found[name]) == "layers, backward"
    assert forecast(shapes, given) == pytest.approx(tracked(config, given, monkeypatch, autocast=False), rel=0.01)
