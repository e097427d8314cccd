"""What a plan counts, worked by hand."""

from algorithms import GRPOExtraConfig, TrainingConfig
from chain.plan import _steps
from chain.stages import Stage


def test_plan_of_grpo_counts_whole_groups() -> None:
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=8, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    # 16 completions a step are 4 prompts of 4; 103 prompts give 25 whole batches of prompts, one step each
    assert _steps(Stage("grpo", config, GRPOExtraConfig(num_generations=4)), 103) == 25
