"""The private parts of transformers and TRL that we rely on are there, and take what we pass."""

import inspect
import math
from pathlib import Path
from types import SimpleNamespace

import pytest


def test_the_trainer_loads_weights_from_a_checkpoint_by_path() -> None:
    from transformers import Trainer

    parameters = list(inspect.signature(Trainer._load_from_checkpoint).parameters)
    assert parameters[:2] == ["self", "resume_from_checkpoint"]


def test_trls_trainers_count_tokens_in_the_attribute_that_a_resume_sets() -> None:
    from trl import DPOTrainer, RewardTrainer, SFTTrainer

    for trainer in (SFTTrainer, RewardTrainer, DPOTrainer):
        assert "self._total_train_tokens +=" in inspect.getsource(trainer)
        assert '["num_tokens"] = [self._total_train_tokens]' in inspect.getsource(trainer)


def test_what_is_added_up_between_two_logs_is_where_a_resume_puts_it() -> None:
    from transformers import Trainer
    from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer

    loop = inspect.getsource(Trainer)
    began = loop.index("self.callback_handler.on_train_begin")
    for line in ("self._tr_loss = torch.tensor(0.0", "self._globalstep_last_logged = self.state.global_step"):
        assert 0 < loop.index(line) < began
    for trainer in (SFTTrainer, RewardTrainer, DPOTrainer, GRPOTrainer):
        assert 'self._metrics = {"train": defaultdict(list)' in inspect.getsource(trainer)
        assert "self._metrics[mode].clear()" in inspect.getsource(trainer)


def test_trl_can_keep_quiet_about_a_new_head() -> None:
    from algorithms.overrides import without_head_report

    with without_head_report():
        pass


def test_trl_keeps_the_helpers_that_mark_templates() -> None:
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    assert has_generation_markers("{% generation %}{% endgeneration %}")
    assert not has_generation_markers("{{ messages }}")
    assert next(iter(inspect.signature(get_training_chat_template).parameters)) == "processing_class"


def test_the_trainer_measures_every_gradient_before_its_step_and_sums_the_loss_where_we_reach_in() -> None:
    from transformers import Trainer

    source = inspect.getsource(Trainer)
    measured = source.index("self._get_grad_norm(model, grad_norm=grad_norm)")
    assert measured < source.index("self.optimizer.step()", measured)
    assert "self._tr_loss += tr_loss_step" in source


def test_the_trainer_writes_checkpoints_where_we_reach_in() -> None:
    from transformers import Trainer

    source = inspect.getsource(Trainer._save_checkpoint)
    assert "self._get_output_dir(trial=trial)" in source
    assert list(inspect.signature(Trainer._save_checkpoint).parameters) == ["self", "model", "trial"]
    assert "self.args.output_dir" in inspect.getsource(Trainer._get_output_dir)


def test_a_process_that_sees_several_gpus_trains_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    from trl import SFTConfig

    from algorithms.overrides import use_one_gpu

    args = SFTConfig("never-written", use_cpu=True, bf16=False)
    args._n_gpu = 2
    use_one_gpu(args)
    assert args.n_gpu == 1
    assert "2 GPUs are visible" in capsys.readouterr().out


def test_grpo_counts_its_passes_and_samples_where_we_reach_in() -> None:
    from trl import GRPOTrainer

    source = inspect.getsource(GRPOTrainer)
    for line in ("_step = 0", "_step += 1", "_buffered_inputs = None", "_step % generate_every == 0"):
        assert f"self.{line}" in source
    parameters = list(inspect.signature(GRPOTrainer._generate_single_turn).parameters)
    assert parameters[:5] == ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"]
    assert "self._generate_single_turn(" in source


def test_bitsandbytes_decides_by_this_attribute_whether_it_packs_weights_anew_on_a_cpu() -> None:
    from bitsandbytes.nn import Linear4bit

    from algorithms.overrides import without_cpu_packing

    layer = Linear4bit(64, 64)
    assert "self.support_avx512bf16_for_cpu" in inspect.getsource(Linear4bit.forward)
    without_cpu_packing(layer)
    assert layer.support_avx512bf16_for_cpu is False


def test_a_metric_that_is_no_number_is_one_again_after_a_resume(tmp_path: Path) -> None:
    from algorithms.overrides import UNLOGGED, continue_unlogged
    from utils.files import write_json

    metrics: dict[str, list[float]] = {}
    trainer = SimpleNamespace(_metrics={"train": metrics}, add_callback=lambda _: None)
    written = {"loss": 1.0, "last_logged_step": 2, "metrics": {"entropy": [0.5, math.nan]}, "tokens": 7}
    write_json(tmp_path / UNLOGGED, written)
    continue_unlogged(trainer, tmp_path)
    assert metrics["entropy"][0] == 0.5
    assert math.isnan(sum(metrics["entropy"]))


def test_the_private_parts_that_a_measured_pass_stands_in_for_are_there() -> None:
    from importlib import import_module

    from algorithms import fake_step

    module, names = fake_step.HEAD
    assert all(hasattr(import_module(module), name) for name in names)
    module, _, name = fake_step.EXPERTS.rpartition(".")
    assert hasattr(import_module(module), name)
