"""Qwen2.5-0.5B on published data: SFT on conversations, reward model and DPO on preferences, GRPO on mathematics.

For: an aligned 0.5B model from one consumer GPU. Needs the Hugging Face Hub once (`--download`), then no network. What
it costs in rows, steps, parameters and disk: `python run_all.py --prod --plan`. Each figure below can be changed with
`--set`, such as `--set sft.max_steps=100`.
"""

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from pipeline import run_pipeline

configs = {
    # The base model continues text and does not end its turn: it learns to, so <|im_end|> becomes its end of sequence.
    # float32 weights everywhere: in bfloat16, updates of 1e-5 and less round away. Weights and gradients of 494 M are
    # 8 bytes each, 3.95 GB. AdamW's states are 2 bytes of 358 M, 0.72 GB, and 8 of the 136 M embeddings, which
    # transformers keeps in 32 bits, 1.09 GB: 5.76 GB together, instead of 7.90 with all states in 32 bits.
    "sft": TrainingConfig(
        model_name="Qwen/Qwen2.5-0.5B", output_dir="Qwen2.5-0.5B-SFT", dataset_name="trl-lib/Capybara",
        learning_rate=2e-5, lr_scheduler_type="cosine", warmup_steps=0.03, num_train_epochs=1,
        per_device_train_batch_size=2, gradient_accumulation_steps=16, max_length=1024, optim="adamw_8bit",
        save_steps=100, save_total_limit=2, trainer_args={"eos_token": "<|im_end|>"},
    ),
    # One pass: a second one over the same pairs memorises them.
    "reward": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="Qwen2.5-0.5B-Reward", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", learning_rate=1e-5, warmup_steps=0.03, num_train_epochs=1,
        per_device_train_batch_size=2, gradient_accumulation_steps=16, max_length=1024, optim="adamw_8bit",
        save_steps=200, save_total_limit=2,
    ),
    # The reference's log-probabilities are computed ahead: its weights, 1.98 GB, are not held beside the policy's.
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="Qwen2.5-0.5B-DPO", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", learning_rate=1e-6, beta=0.1, warmup_steps=0.03, num_train_epochs=1,
        per_device_train_batch_size=1, gradient_accumulation_steps=32, max_length=1024, optim="adamw_8bit",
        save_steps=200, save_total_limit=2, trainer_args={"precompute_ref_log_probs": True},
    ),
    # Eight answers a prompt: with two, both are mostly right or both wrong, and most steps teach nothing.
    "grpo": TrainingConfig(
        model_name=StageOutput("dpo"), output_dir="Qwen2.5-0.5B-GRPO", dataset_name="trl-lib/DeepMath-103K",
        learning_rate=1e-6, max_steps=500, per_device_train_batch_size=8, gradient_accumulation_steps=8,
        optim="adamw_8bit", logging_steps=1, save_steps=50, save_total_limit=2,
    ),
}  # fmt: skip
grpo_extra = GRPOExtraConfig(reward_func="accuracy", num_generations=8, max_completion_length=512)

# As published, for a plan without a network: rows of the splits, and what of config.json shapes the model.
SIZES = {
    "trl-lib/Capybara": {"train": 15_806},
    "trl-lib/ultrafeedback_binarized": {"train": 62_135},
    "trl-lib/DeepMath-103K": {"train": 97_870},
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}  # fmt: skip

if __name__ == "__main__":
    run_pipeline(configs, grpo_extra)
