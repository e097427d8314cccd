"""SmolLM2-135M-Instruct on published data, a few steps of every stage: the smallest real model, to try the way.

For: seeing the Hub's models and data go through the whole chain, on a GPU of 6 GB or a laptop's CPU, before the hours
of Qwen. Its steps are too few to make the model better. Needs the Hugging Face Hub once (`--download`), then no
network. What it needs on your machine: `--recipe smollm2_135m --plan`.

What it costs, by arithmetic; nothing here was measured on a GPU. 134.5 M weights, each with its gradient and AdamW's
two states 16 bytes in float32: 2.15 GB. At this size that fits, so nothing is given up for memory, and a CPU that only
emulates bfloat16 is not slowed down. A checkpoint is 1.6 GB.
"""

from typing import Any

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig

# 8 rows or pairs of at most 512 tokens a step, in micro-batches of 2; what is longer is cut off or left out.
# Recomputing activations would save memory that is not short. 64 held-out rows
# bound the time of measuring.
SHORT: dict[str, Any] = {
    "dtype": "float32", "optim": "adamw_torch_fused", "gradient_checkpointing": False, "max_samples": 2000,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_length": 512, "warmup_steps": 5,
    "eval_samples": 64, "logging_steps": 5, "save_steps": 25, "save_total_limit": 1,
}  # fmt: skip

configs = {
    # The model knows how to chat: its own template is used and kept, and SFT moves its style.
    "sft": TrainingConfig(
        model_name="HuggingFaceTB/SmolLM2-135M-Instruct", output_dir="SmolLM2-135M-SFT",
        dataset_name="trl-lib/Capybara", learning_rate=2e-5, max_steps=50, **SHORT,
    ),
    "reward": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="SmolLM2-135M-Reward", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", learning_rate=2e-5, max_steps=50, **SHORT,
    ),
    # The reference beside the policy is 0.54 GB: at this size there is room, and no pass over the data comes first.
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="SmolLM2-135M-DPO", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", learning_rate=2e-6, beta=0.1, max_steps=25, **SHORT,
    ),
    # A model this small hardly ever solves a problem of DeepMath: the reward model of this run gives GRPO something to
    # climb where the verifier gives every answer 0. Two groups of 4 completions a step, no reference model.
    "grpo": TrainingConfig(
        model_name=StageOutput("dpo"), output_dir="SmolLM2-135M-GRPO", dataset_name="trl-lib/DeepMath-103K",
        dtype="float32", optim="adamw_torch_fused", gradient_checkpointing=False, max_samples=1000, eval_samples=64,
        learning_rate=2e-6, max_steps=10, beta=0.0, per_device_train_batch_size=8, gradient_accumulation_steps=1,
        logging_steps=1, save_steps=10, save_total_limit=1,
        trainer_args={"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    ),
}  # fmt: skip
# 96 tokens cut most answers off: enough to see sampling, rewards and steps at work.
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
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49_152, "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}  # fmt: skip

if __name__ == "__main__":
    from run_all import run_script

    run_script(__file__)
