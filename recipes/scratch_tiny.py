"""Random weights to a model that answers fresh problems, on a laptop: all five stages on made data, in minutes.

For: watching every stage work, and testing that it does. A Qwen3 of 1.0 M parameters learns three skills of a made
world (recipes/arithmetic): word problems with a trace, counting words, calling a calculator. It needs no network and no
GPU.
"""

from typing import Any

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from pretrain import PretrainConfig
from recipes.arithmetic import VERIFIER, made_strict

SMALL: dict[str, Any] = {  # what a model of this size needs on a CPU: no memory to save, and the fastest attention
    "max_length": 256, "gradient_checkpointing": False, "attn_implementation": "eager", "logging_steps": 5,
    "save_steps": 1000, "save_total_limit": 1,
}  # fmt: skip
# A gate stops the run where a stage has lost, beyond noise, what its input could do. Of how much is reached none asks:
# a run of fewer steps, to try things out, reaches less and is sound.
SAME_SHAPES: dict[str, Any] = {"pad_to_multiple_of": 64}  # batches of ever new shapes leave holes in memory
configs: dict[str, PretrainConfig | TrainingConfig] = {
    # Most of the time goes here: copying, which every skill needs, is learned between steps 200 and 400, all at once.
    "pretrain": PretrainConfig(
        output_dir="tiny-base", dataset_name="made:documents", max_samples=42_000, max_steps=1000, save_steps=250,
    ),
    # Demonstrations are scarce and human: 500, of which a quarter ramble on and two of five leave out the working.
    "sft": TrainingConfig(
        model_name=StageOutput("pretrain"), output_dir="tiny-sft", dataset_name="made:conversations", max_samples=500,
        eval_samples=120, max_steps=60, per_device_train_batch_size=32, learning_rate=2e-3, warmup_steps=3,
        trainer_args=SAME_SHAPES, gates=[{"metric": "demonstrations accuracy", "not_below_input": 0.05}], **SMALL,
    ),
    # Pairs are cheaper than demonstrations. A slip in a digit is the rejection that takes most of the steps to see.
    "reward": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="tiny-reward", dataset_name="made:preferences", max_samples=3840,
        eval_samples=240, max_steps=240, per_device_train_batch_size=16, learning_rate=1e-3, warmup_steps=10,
        trainer_args=SAME_SHAPES, gates=[{"metric": "pairs accuracy", "not_below_input": 0.05}], **SMALL,
    ),
    # The chosen answer shares most tokens with the rejected one, so DPO alone lowers both: the SFT term holds it.
    "dpo": TrainingConfig(
        model_name=StageOutput("sft"), output_dir="tiny-dpo", dataset_name="made:preferences", max_samples=320,
        eval_samples=300, max_steps=10, per_device_train_batch_size=32, learning_rate=2e-4, beta=0.1, warmup_steps=2,
        trainer_args={**SAME_SHAPES, "loss_type": ["sigmoid", "sft"], "loss_weights": [0.05, 1.0]},
        gates=[{"metric": "skills strict", "not_below_input": 0.02}], **SMALL,
    ),
    # Checkable prompts are plenty: no problem is seen twice. Advantages are scaled by the batch: scaled by the group,
    # small differences of the reward model would weigh as much, where all answers are right, as right against wrong.
    "grpo": TrainingConfig(
        model_name=StageOutput("dpo"), output_dir="tiny-grpo", dataset_name="made:prompts", max_samples=512,
        eval_samples=300, max_steps=32, per_device_train_batch_size=64, gradient_accumulation_steps=2,
        learning_rate=2e-4, warmup_steps=2, gradient_checkpointing=False, attn_implementation="sdpa",
        logging_steps=1, save_steps=16, save_total_limit=1,
        gates=[
            {"metric": "skills strict", "not_below_input": 0.02},
            {"metric": "sampled_skills strict", "not_below_input": 0.05},
        ],
        trainer_args={
            "temperature": 1.0, "top_k": 0, "scale_rewards": "batch", "bf16": False,
            "pad_to_multiple_of": 16,
        },
    ),
}  # fmt: skip
grpo_extra = GRPOExtraConfig(
    reward_func=[made_strict, StageOutput("reward")],
    reward_weights=[1.0, 0.02],
    num_generations=8,
    max_completion_length=48,
)
verifier = VERIFIER  # every stage is measured on the world's held-out problems

if __name__ == "__main__":
    from run_all import run_script

    run_script(__file__)
