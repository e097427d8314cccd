"""Random weights to a model that answers fresh problems, on a laptop: all five stages on made data, in minutes.

For: watching every stage work, and testing that it does. A Qwen3 of 1.0 M parameters learns three skills of a made
world (data/world): word problems with a trace, counting words, calling a calculator. It needs no network and no GPU.
"""

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from pipeline import run_pipeline
from pretrain import PretrainConfig

configs: dict[str, PretrainConfig | TrainingConfig] = {
    # Most of the time goes here: copying, which every skill needs, is learned between steps 200 and 400, all at once.
    "pretrain": PretrainConfig(
        output_dir="tiny-base", dataset_name="made:documents", max_samples=28_000, eval_samples=256, max_steps=800,
        save_steps=400,
    ),
    # Demonstrations are scarce, as in life: 300, which teach the chat's form and no more than half of the skill.
    "sft": TrainingConfig(
        model_name=StageOutput("pretrain"), output_dir="tiny-sft", dataset_name="made:conversations", max_samples=300,
        eval_samples=240, max_steps=40, per_device_train_batch_size=32, learning_rate=1e-3, warmup_steps=3,
        max_length=256, gradient_checkpointing=False, attn_implementation="eager", logging_steps=5, save_steps=1000,
        save_total_limit=1,
    ),
    "reward": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="tiny-reward", dataset_name="made:preferences", max_samples=3200,
        eval_samples=600, max_steps=100, per_device_train_batch_size=32, learning_rate=1e-3, warmup_steps=10,
        max_length=256, gradient_checkpointing=False, attn_implementation="eager", logging_steps=10, save_steps=1000,
        save_total_limit=1,
    ),
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="tiny-dpo", dataset_name="made:preferences", max_samples=640,
        eval_samples=600, max_steps=20, per_device_train_batch_size=32, learning_rate=2e-5, beta=0.1, warmup_steps=2,
        max_length=256, gradient_checkpointing=False, attn_implementation="eager", logging_steps=2, save_steps=1000,
        save_total_limit=1,
    ),
    # Checkable prompts are plenty: no problem is seen twice.
    "grpo": TrainingConfig(
        model_name=StageOutput("dpo"), output_dir="tiny-grpo", dataset_name="made:prompts", max_samples=640,
        eval_samples=600, max_steps=40, per_device_train_batch_size=256, learning_rate=2e-4, warmup_steps=2,
        gradient_checkpointing=False, attn_implementation="eager", logging_steps=1, save_steps=20, save_total_limit=1,
        trainer_args={"temperature": 1.0, "top_k": 0},
    ),
}  # fmt: skip
grpo_extra = GRPOExtraConfig(
    reward_func=["made_strict", StageOutput("reward")],
    reward_weights=[1.0, 0.1],
    num_generations=16,
    max_completion_length=80,
)

if __name__ == "__main__":
    run_pipeline(configs, grpo_extra)
