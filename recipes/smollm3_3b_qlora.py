"""SmolLM3-3B with QLoRA: SFT and DPO of a model of 3B, whose frozen weights are held in 4 bits, within 6 GB.

For: the largest open model that a card of 6 GB fine-tunes; its licence is Apache 2.0. Needs the Hugging Face Hub once
(`--download`), then no network, and a CUDA GPU. What it needs on your machine: `--recipe smollm3_3b_qlora --plan`.

What it costs, by arithmetic; nothing here was measured on a GPU. Of 3,075 M weights the 2,812 M of the linear layers
are held in 4 bits and a few for scales, 1.45 GB, the 263 M of the embedding in bfloat16, 0.53 GB; the adapter's 30.2 M
are trained, 16 bytes each with gradient and AdamW's states: 0.48 GB. Weights are expanded layer by layer as they are
used, so a step is slower than LoRA's.
"""

from typing import Any

from algorithms import StageOutput, TrainingConfig

# See qwen2.5_1.5b_lora for the adapter. It is merged at 16 bits after each stage, and the result is measured as it is
# saved: the 4-bit weights are for training alone.
QLORA: dict[str, Any] = {
    "dtype": "bfloat16", "peft": "qlora", "merge_adapter": True, "optim": "adamw_torch_fused",
    "peft_args": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
    "attn_implementation": "sdpa", "gradient_checkpointing": True, "weight_decay": 0.0, "save_steps": 100,
    "save_total_limit": 1, "dataloader_num_workers": 2,
}  # fmt: skip

configs = {
    # 4,000 conversations: a quarter of the set, and of the time. SmolLM3 knows how to chat, and its template is kept.
    "sft": TrainingConfig(
        model_name="HuggingFaceTB/SmolLM3-3B", output_dir="SmolLM3-3B-SFT", dataset_name="trl-lib/Capybara",
        max_samples=4000, learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=0.03, num_train_epochs=1,
        per_device_train_batch_size=1, gradient_accumulation_steps=16, max_length=1024, packing=True, **QLORA,
    ),
    # 4,000 of the 62,135 pairs, one at a time, 32 a step. The reference is the model without the adapter.
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="SmolLM3-3B-DPO", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", max_samples=4000, learning_rate=5e-6, lr_scheduler_type="linear", warmup_steps=0.1,
        num_train_epochs=1, beta=0.1, per_device_train_batch_size=1, gradient_accumulation_steps=32, max_length=1024,
        **QLORA,
    ),
}  # fmt: skip

# As published, for a plan without a network: rows of the splits, and what of config.json shapes the model.
SIZES = {
    "trl-lib/Capybara": {"train": 15_806},
    "trl-lib/ultrafeedback_binarized": {"train": 62_135},
    "HuggingFaceTB/SmolLM3-3B": {
        "model_type": "smollm3", "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "intermediate_size": 11_008, "vocab_size": 128_256, "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}  # fmt: skip

if __name__ == "__main__":
    from run_all import run_script

    run_script(__file__)
