"""Qwen2.5-1.5B with LoRA: SFT on conversations and DPO on preferences, an adapter beside frozen weights, within 6 GB.

For: a larger policy than full fine-tuning allows on the same card. Needs the Hugging Face Hub once (`--download`), then
no network. What it needs on your machine: `python run_all.py --recipe qwen2.5_1.5b_lora --plan`.

What it costs, by arithmetic; nothing here was measured on a GPU. 1,544 M frozen weights in bfloat16 are 3.09 GB; the
adapter's 18.5 M are trained, 16 bytes each in float32 with gradient and AdamW's states: 0.30 GB. Full fine-tuning as in
qwen2.5_0.5b would be 9.3 GB. A trained token is some 9 GFLOP: no gradients of frozen weights, but
recomputation.
"""

from typing import Any

from algorithms import StageOutput, TrainingConfig

# An adapter of rank 16 on every linear layer but the head, as QLoRA's authors found that all layers matter more than
# the rank; alpha 32 doubles what it adds, and dropout is left out for one pass over the data. It is merged into the
# weights after each stage, so that what comes out is an ordinary model, and DPO starts from it with a fresh adapter:
# its reference is the model without that adapter, which costs no memory.
LORA: dict[str, Any] = {
    "dtype": "bfloat16", "peft": "lora", "merge_adapter": True, "optim": "adamw_torch_fused",
    "peft_args": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
    "attn_implementation": "sdpa", "gradient_checkpointing": True, "weight_decay": 0.0, "save_steps": 100,
    "save_total_limit": 1, "dataloader_num_workers": 2,
}  # fmt: skip

configs = {
    # Ten times the rate of full fine-tuning, as is usual for adapters. Packed rows of 2,048 tokens, one at a time: see
    # qwen2.5_0.5b. The base model learns to end its turn: <|im_end|> becomes its end of sequence.
    "sft": TrainingConfig(
        model_name="Qwen/Qwen2.5-1.5B", output_dir="Qwen2.5-1.5B-SFT", dataset_name="trl-lib/Capybara",
        learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=0.03, num_train_epochs=1,
        per_device_train_batch_size=1, gradient_accumulation_steps=16, max_length=2048, packing=True,
        trainer_args={"eos_token": "<|im_end|>"}, **LORA,
    ),
    # 10,000 of the 62,135 pairs: a sixth of the time. One pair at a time, 32 a step.
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="Qwen2.5-1.5B-DPO", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", max_samples=10_000, learning_rate=1e-5, lr_scheduler_type="linear", warmup_steps=0.1,
        num_train_epochs=1, beta=0.1, per_device_train_batch_size=1, gradient_accumulation_steps=32, max_length=1024,
        **LORA,
    ),
}  # fmt: skip

# As published, for a plan without a network: rows of the splits, and what of config.json shapes the model.
SIZES = {
    "trl-lib/Capybara": {"train": 15_806},
    "trl-lib/ultrafeedback_binarized": {"train": 62_135},
    "Qwen/Qwen2.5-1.5B": {
        "model_type": "qwen2", "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151_936, "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}  # fmt: skip

if __name__ == "__main__":
    from run_all import run_script

    run_script(__file__)
