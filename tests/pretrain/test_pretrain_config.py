"""What a pretraining configuration decides by itself."""

from dataclasses import replace

from pretrain.pretrain_config import COMPILED_STEPS, PretrainConfig


def test_a_model_is_compiled_on_a_gpu_where_the_run_is_long_or_as_the_recipe_says() -> None:
    short = PretrainConfig(output_dir="o", dataset_name="d", max_steps=COMPILED_STEPS - 1)
    long = replace(short, max_steps=COMPILED_STEPS)
    assert [config.compiles("cuda") for config in (short, long, replace(short, torch_compile=True))] == [
        False,
        True,
        True,
    ]
    assert [config.compiles("cpu") for config in (long, replace(long, torch_compile=True))] == [False, True]
