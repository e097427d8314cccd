"""SmolLM2-135M on published data, a few steps of every stage: the smallest real model, to try the way before Qwen.

For: seeing the Hub's models and data go through the whole chain on a laptop. Its steps are too few to make the model
good. Needs the Hugging Face Hub once (`--download`), then no network. What it costs: `--recipe smollm2_135m --plan`.
"""

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from pipeline import run_pipeline

configs = {
    # The base model has no chat template: it gets the project's, and keeps it from here on.
    "sft": TrainingConfig(
        model_name="HuggingFaceTB/SmolLM2-135M", output_dir="SmolLM2-135M-SFT", dataset_name="trl-lib/Capybara",
        max_samples=2000, learning_rate=5e-5, max_steps=50, per_device_train_batch_size=2,
        gradient_accumulation_steps=4, max_length=512, logging_steps=5, save_steps=25, save_total_limit=1,
    ),
    "reward": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="SmolLM2-135M-Reward", dataset_name="trl-lib/ultrafeedback_binarized",
        max_samples=2000, learning_rate=2e-5, max_steps=50, per_device_train_batch_size=2,
        gradient_accumulation_steps=4, max_length=512, logging_steps=5, save_steps=25, save_total_limit=1,
    ),
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="SmolLM2-135M-DPO", dataset_name="trl-lib/ultrafeedback_binarized",
        max_samples=2000, learning_rate=2e-6, max_steps=25, per_device_train_batch_size=2,
        gradient_accumulation_steps=4, max_length=512, logging_steps=5, save_steps=25, save_total_limit=1,
    ),
    # A model this small hardly ever solves a problem of DeepMath: the reward model of this run gives GRPO something to
    # climb where the verifier gives every answer 0.
    "grpo": TrainingConfig(
        model_name=StageOutput("dpo"), output_dir="SmolLM2-135M-GRPO", dataset_name="trl-lib/DeepMath-103K",
        max_samples=1000, learning_rate=2e-6, max_steps=10, per_device_train_batch_size=8,
        gradient_accumulation_steps=1, logging_steps=1, save_steps=10, save_total_limit=1,
    ),
}  # fmt: skip
grpo_extra = GRPOExtraConfig(
    reward_func=["accuracy", StageOutput("reward")],
    reward_weights=[1.0, 0.1],
    num_generations=4,
    max_completion_length=96,
)

# As published, for a plan without a network: rows of the splits, and what of config.json shapes the model.
SIZES = {
    "trl-lib/Capybara": {"train": 15_806},
    "trl-lib/ultrafeedback_binarized": {"train": 62_135},
    "trl-lib/DeepMath-103K": {"train": 97_870},
    "HuggingFaceTB/SmolLM2-135M": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49_152, "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}  # fmt: skip

if __name__ == "__main__":
    run_pipeline(configs, grpo_extra)
