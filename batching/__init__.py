"""Text from models: one engine, which GRPO, its preflight, evaluation and chat sample with."""
