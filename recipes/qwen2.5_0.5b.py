"""Qwen2.5-0.5B on published data: SFT on conversations, reward model and DPO on preferences, GRPO on mathematics.

For: an aligned 0.5B model from one consumer GPU of 6 GB. Needs the Hugging Face Hub once (`--download`), then no
network. What it needs on your machine: `python run_all.py --prod --plan`. Each value below can be changed with `--set`,
such as `--set sft.max_steps=100`; the whole of a data set is `--set dpo.max_samples=none`.

What it costs, by arithmetic; nothing here was measured on a GPU. All 494 M weights are trained, in bfloat16: weights
0.99 GB, gradients 0.99, AdamW's two states in 8 bits 1.00, together 2.98 GB (2.8 GiB) in every stage, where float32
weights with AdamW's would be 7.90. The rest of 6 GiB is for the CUDA context, activations and, in GRPO, sampling. A
trained token is some 4 GFLOP, recomputation included: 4,000 tokens a second at 16 TFLOPS. A checkpoint is 2.0 GB.
"""

from typing import Any

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig

# bfloat16 weights and 8-bit states are what makes full fine-tuning of 0.5B fit. Updates of 1e-5 and less would round
# away in bfloat16: rounding stochastically keeps them on average. Of the activations only each layer's input is kept,
# 1,792 bytes a token and layer, and the rest computed again in the backward pass, for a quarter of the time.
# Gradients are clipped at 1, TRL's default. One checkpoint is kept: a resume needs one, and each is 2 GB.
FULL: dict[str, Any] = {
    "dtype": "bfloat16", "optim": "adamw_torch_8bit", "attn_implementation": "sdpa",
    "gradient_checkpointing": True, "weight_decay": 0.0, "save_total_limit": 1, "dataloader_num_workers": 2,
}  # fmt: skip
EIGHT_BIT: dict[str, Any] = {"optim_args": "bf16_stochastic_round=True"}

configs = {
    # The base model continues text and does not end its turn: it learns to, so <|im_end|> becomes its end of sequence.
    # 2e-5 is usual for full fine-tuning at this size; one pass, since a second one mostly memorises. Conversations are
    # packed into rows of 2,048 tokens: no padding is computed, and every step has the same shape, so that the memory
    # of the first is that of all. TRL lays a packed batch out as one row, whose attention mask is as long as it is
    # wide where there is no flash attention: 4 M entries here, but 67 M at a micro-batch of 4. So it is 1, and 16 of
    # them make a step of 32,768 tokens.
    "sft": TrainingConfig(
        model_name="Qwen/Qwen2.5-0.5B", output_dir="Qwen2.5-0.5B-SFT", dataset_name="trl-lib/Capybara",
        learning_rate=2e-5, lr_scheduler_type="cosine", warmup_steps=0.03, num_train_epochs=1,
        per_device_train_batch_size=1, gradient_accumulation_steps=16, max_length=2048, packing=True,
        save_steps=100, trainer_args={**EIGHT_BIT, "eos_token": "<|im_end|>"}, **FULL,
    ),
    # 20,000 of the 62,135 pairs: a third of the time. One pass: a second one over the same pairs memorises them. 32
    # pairs a step; a micro-batch of 2 pairs is 4 rows of at most 1,024 tokens. Pairs that are longer are left out.
    "reward": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="Qwen2.5-0.5B-Reward", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", max_samples=20_000, learning_rate=1e-5, lr_scheduler_type="linear", warmup_steps=0.03,
        num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=16, max_length=1024,
        save_steps=100, trainer_args=EIGHT_BIT, **FULL,
    ),
    # The reference's log-probabilities are computed ahead, in one forward pass over the data: its weights, 0.99 GB, are
    # not held beside the policy's. 1e-6 and beta 0.1 are usual for full fine-tuning; a rate ten times higher lowers the
    # chosen answers' likelihood with the rejected ones'. 32 pairs a step, as the reward model.
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="Qwen2.5-0.5B-DPO", dataset_name="trl-lib/ultrafeedback_binarized",
        eval_split="test", max_samples=20_000, learning_rate=1e-6, lr_scheduler_type="linear", warmup_steps=0.1,
        num_train_epochs=1, beta=0.1, per_device_train_batch_size=2, gradient_accumulation_steps=16, max_length=1024,
        save_steps=100, trainer_args={**EIGHT_BIT, "precompute_ref_log_probs": True}, **FULL,
    ),
    # 64 completions a step are sampled at once, before the gradients of that step exist: their keys and values are
    # 12,288 bytes a token, 0.6 GB at 64 × 768 tokens. They are trained on in 8 micro-batches of 8, one group each.
    # Temperature 1 and no top_k: the policy's own distribution, which is what the gradient assumes. beta 0: no
    # reference model, 0.99 GB less; at 1e-6 and a few hundred steps the policy does not get far. 300 steps see 2,400
    # of some 100,000 problems; the time goes into sampling, one token of 64 completions after another. Whether the
    # numbers mean anything shows in the share of groups whose completions differ in reward, not in the loss.
    "grpo": TrainingConfig(
        model_name=StageOutput("dpo"), output_dir="Qwen2.5-0.5B-GRPO", dataset_name="trl-lib/DeepMath-103K",
        max_samples=20_000, learning_rate=1e-6, lr_scheduler_type="constant_with_warmup", warmup_steps=10,
        max_steps=300, beta=0.0, per_device_train_batch_size=8, gradient_accumulation_steps=8, logging_steps=1,
        save_steps=50, trainer_args={**EIGHT_BIT, "temperature": 1.0, "top_k": 0, "top_p": 1.0}, **FULL,
    ),
}  # fmt: skip
# Eight answers a prompt: with two, both are mostly right or both wrong, and most steps teach nothing. The checked
# answer decides; the form, working inside <think> and the answer after it, is worth a tenth of it. Nothing before GRPO
# teaches that form, so its reward starts at 0 and moves only once the model has sampled it. 512 tokens bound the cache
# and the time; an answer that is cut off there has nothing to check and gets 0.
grpo_extra = GRPOExtraConfig(
    reward_func=["accuracy", "think_format"],
    reward_weights=[1.0, 0.1],
    num_generations=8,
    max_completion_length=512,
)

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
    from run_all import run_script

    run_script(__file__)
