"""Several processes, on one machine without a GPU: the same run as one process's, and no hanging."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

TRAIN = """
import sys
from pathlib import Path
import cache_config
from pretrain import PretrainConfig, train
rows, directory = int(sys.argv[1]), Path(sys.argv[2])
directory.mkdir(exist_ok=True)
train(PretrainConfig(
    output_dir="base", dataset_name="made:documents", max_samples=600, eval_samples=64, vocab_size=512,
    tokenizer_samples=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    max_steps=8, per_device_train_batch_size=rows, gradient_accumulation_steps=2, logging_steps=1, eval_steps=4,
    save_steps=3, mixed_precision="no", dropout=0.0,
), directory)
"""


def run(processes: int, code: str, *arguments: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = Path(str(arguments[-1]) + ".py")
    script.write_text(code)
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def metrics(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "training_metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_with_the_same_rows_a_step(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(1, TRAIN, 4, one)
    run(2, TRAIN, 2, two)
    assert len(metrics(two)) == 8, "only the first process writes"
    for single, double in zip(metrics(one), metrics(two), strict=True):
        assert double["num_tokens"] == single["num_tokens"]
        for name in {"loss", "grad_norm", "eval_loss", "eval_accuracy", "eval_bits_per_byte"} & set(single):
            assert double[name] == pytest.approx(single[name], rel=2e-4), (single["step"], name)


def test_a_run_goes_on_with_other_processes_but_not_with_other_rows_a_step(tmp_path: Path) -> None:
    from records.sealed import sealed

    two = tmp_path / "two"
    run(2, TRAIN, 2, two)
    first = metrics(two)
    assert [path.name for path in sealed(two)] == ["checkpoint-4", "checkpoint-6"]
    run(1, TRAIN, 4, two)
    assert [line["step"] for line in metrics(two)] == list(range(1, 9))
    assert metrics(two)[-1]["eval_loss"] == pytest.approx(first[-1]["eval_loss"], rel=2e-4)
    refused = run(1, TRAIN, 3, two, check=False)
    assert "is of a run with 8 rows a step, this one has 6" in refused.stderr


DIES = """
import os
import pretrain.loop as loop
step = loop.Run._step
def dying(self):
    if self.position.step == 3 and self.accelerator.process_index == 1:
        os._exit(9)
    return step(self)
loop.Run._step = dying
"""


def test_a_process_that_dies_ends_the_run_with_a_message(tmp_path: Path) -> None:
    imports, training = TRAIN.split("rows, directory", 1)
    done = run(2, imports + DIES + "rows, directory" + training, 2, tmp_path / "two", check=False)
    assert done.returncode != 0
    assert "exitcode  : 9" in done.stderr


SHARDED = """
import copy
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import Qwen3Config, Qwen3ForCausalLM
from pretrain import checkpoint
from pretrain.optim import make_optimizer, placed_like

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))

def made(sharded, tied=False):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied,
    ))
    if sharded:
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    rates = dict(muon_learning_rate=0.02, learning_rate=0.003, embedding_learning_rate=0.1)
    return model, make_optimizer(model, **rates, weight_decay=0.1)

def step(model, optimizer, seed):
    ids = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(seed))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

def equal(one, other):
    whole = [[p.full_tensor() if hasattr(p, "full_tensor") else p for p in m.parameters()] for m in (one, other)]
    return all(torch.equal(p, q) for p, q in zip(*whole, strict=True))

(whole, whole_optimizer), (parts, parts_optimizer), (later, later_optimizer) = made(False), made(True), made(True)
for seed in range(3):
    step(whole, whole_optimizer, seed)
    step(parts, parts_optimizer, seed)
assert equal(parts, whole), "sharded Muon is Muon"
saved = copy.deepcopy(checkpoint._gathered(parts_optimizer.state_dict()))
with torch.no_grad():
    for p, q in zip(later.parameters(), parts.parameters(), strict=True):
        p.copy_(placed_like(p, q.full_tensor()))
later_optimizer.load_state_dict(checkpoint._placed(saved, later_optimizer.param_groups))
step(parts, parts_optimizer, 9)
step(later, later_optimizer, 9)
assert equal(later, parts), "a sharded optimizer's state is saved whole and placed again"

class Accelerator:  # accelerate makes FSDP2 for GPUs alone; this is what it does there
    unwrap_model = staticmethod(lambda model, **_: model)
    get_state_dict = staticmethod(lambda model: {n: t.full_tensor() for n, t in model.state_dict().items()})

tied, _ = made(True, tied=True)
weights = checkpoint.weights_of(Accelerator, tied)
assert set(weights) == {name for name, _ in tied.named_parameters()}, "of tied weights one is saved"
assert "lm_head.weight" not in weights
dist.barrier()  # gloo's threads abort a process that ends while the other still uses them
dist.destroy_process_group()
"""


def test_muon_and_its_state_hold_where_every_process_has_a_part_of_each_matrix(tmp_path: Path) -> None:
    run(2, SHARDED, tmp_path / "sharded")
