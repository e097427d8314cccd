"""The presets: what is said of them is true."""

import re

import pytest

from pretrain.model import parameter_count
from pretrain.presets import PRESETS, preset
from pretrain.pretrain_config import range_problems
from utils.errors import Refused

PIECES = {"HuggingFaceTB/SmolLM-135M": 49_152}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_tokens_and_memory_that_it_says(name: str) -> None:
    config = preset(name, output_dir="out", dataset_name="text")
    assert list(range_problems(config)) == []
    vocab_size = PIECES[config.tokenizer_name] if config.tokenizer_name else config.vocab_size
    parameters = parameter_count(config, vocab_size)
    width, layers = config.hidden_size, config.num_hidden_layers
    muon = layers * (4 * width * width + 3 * width * config.intermediate_size)
    tokens_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.max_length
    said = re.search(r"([\d.,]+) M parameters, ([\d.,]+) M tokens, ([\d.,]+) MB", PRESETS[name][0])
    assert said
    as_said = [float(number.replace(",", "")) for number in said.groups()]
    memory = 12 * muon + 16 * (parameters - muon)
    assert as_said == [round(parameters / 1e6, 2), round(20 * parameters / 1e6), round(memory / 1e6)]
    logits = 21 * config.per_device_train_batch_size * config.max_length * vocab_size
    assert logits < 3e9
    if name != "tiny":  # whose steps are the embedded recipe's
        assert config.max_steps == pytest.approx(20 * parameters / tokens_per_step, abs=1)


def test_a_preset_takes_other_values_and_an_unknown_one_names_the_nearest() -> None:
    assert preset("small", output_dir="out", dataset_name="text", max_steps=3).max_steps == 3
    with pytest.raises(Refused, match=r"no preset 'agentic-30', did you mean 'agentic-30m'\? Presets: tiny, small"):
        preset("agentic-30", output_dir="out", dataset_name="text")
