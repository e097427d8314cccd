"""The command line: what it accepts, what it refuses, and how it ends."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import run_all
from chain.recipe import load, shipped
from chain.record import resumable
from chain.request import Request
from records.run_directory import RunInfo, create
from run_all import main
from utils.command_line import command, resume_command
from utils.errors import Refused, StageFailed

ON_PATH = os.environ | {"PYTHONPATH": str(Path(run_all.__file__).parent)}  # as `pip install -e .` has it
RECIPE = '''"""A recipe of one stage."""

from algorithms import TrainingConfig

configs = {
    "sft": TrainingConfig(model_name="model", output_dir="sft", dataset_name="rows.jsonl", eval_fraction=0.2)
}
'''


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a directory of its own, which holds a recipe, its data and a model's shell."""
    from safetensors.numpy import save_file

    numpy = pytest.importorskip("numpy")
    shutil.copytree(tokenizer_dir, tmp_path / "model")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300} | shape))
    save_file(
        {"a": numpy.zeros((3, 4), "float32"), "b": numpy.zeros(5, "float32")}, tmp_path / "model/model.safetensors"
    )
    rows = [{"prompt": f"What is {n}+{n}?", "completion": f" {2 * n}"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "mine-0.5.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one message of a command line that is refused; it must create nothing."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(argv) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert sorted(Path.cwd().rglob("*")) == before
    return said.err


def test_a_plan_whose_first_stage_is_refused_says_that_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--test", "--set", "sft.dataset_name=nosuch.jsonl", "--plan", "--runs-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "nosuch.jsonl" in said
    assert "Traceback" not in said


def test_list_names_the_recipes_with_the_first_line_of_their_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    for name, purpose in shipped().items():
        assert purpose
        assert f"{name} " in said
        assert purpose in said


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_sound(name: str) -> None:
    from chain.stages import stages_of

    recipe = load(name)
    assert recipe.name == name
    assert [stage.label for stage in stages_of(recipe.configs, recipe.grpo_extra)] == list(recipe.configs)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipy", "x"], "did you mean '--recipe'"),
        (["--tes"], "did you mean '--test'"),
        (["--seed", "many"], "argument --seed: many: must be a whole number"),
        (["--recipe", "smollm2_135"], "did you mean 'smollm2_135m'"),
        (["--recipe", "nowhere.py"], "no recipe 'nowhere.py'"),
        (["--test", "--prod"], "not allowed with"),
        (["--set", "sft.seed=1"], "add --test, --prod or --recipe"),
        (["--stages", "sft"], "add --test, --prod or --recipe"),
        (["--test", "--from", "x"], "add --stages"),
        (["--test", "--check-data"], "add --plan"),
        (["--resume", "nothing"], "no run 'nothing' in /"),
        (["--resume", ""], "no run '' in /"),
        (["--recipe", ""], "no recipe ''"),
        (["--recipe", "__init__"], "no recipe '__init__'"),
        (["--recipe", "model"], "model is a directory"),
        (["--test", "--stages", ""], "--stages names no stage"),
        (["--recipe", "mine-0.5.py", "--stages", "sft,sft"], "--stages names sft 2 times"),
        (["--list", "--plan"], "--list names the recipes and does nothing else"),
        (["--list", "--seed", "1"], "--list names the recipes and does nothing else"),
        (["--recipe", "mine-0.5.py", "--plan", "--runs-dir", ""], "--runs-dir is empty"),
        (["--recipe", "mine-0.5.py", "--plan", "--runs-dir", "rows.jsonl/runs"], "rows.jsonl is a file"),
        (["--recipe", "mine-0.5.py", "--runs-dir", "rows.jsonl"], "rows.jsonl is a file"),
        (["--test", "--stages", "sft", "--from", ""], "no run '' in /"),
        (["--from", ""], "add --stages"),
        (["--resume", "latest"], "no unfinished run in /"),
        (["--recipe", "mine-0.5.py", "--stages", "sfd"], "did you mean 'sft'"),
        (["--recipe", "mine-0.5.py", "--set", "stf.seed=1"], "did you mean 'sft'"),
        (["--recipe", "mine-0.5.py", "--set", "sft.learnign_rate=1"], "did you mean 'learning_rate'"),
        (["--recipe", "mine-0.5.py", "--set", "sft.learning_rate=fast"], "must be float or None, not 'fast'"),
        (["--recipe", "mine-0.5.py", "--set", "sft.max_steps=1.5"], "must be int or None, not '1.5'"),
        (["--recipe", "mine-0.5.py", "--set", "learning_rate"], "LABEL.FIELD=VALUE"),
        (["--recipe", "mine-0.5.py", "--set", "sft.trainer_args.max_grad_nrom=1"], "did you mean 'max_grad_norm'"),
        (["--recipe", "mine-0.5.py", "--set", "sft.trainer_args.learning_rate=1"], "leave out `trainer_args.`"),
        (["--test", "--memory-budget", "6"], "argument --memory-budget: 6: must be a size of at least 1MiB"),
        (["--test", "--memory-budget", "six"], "such as 6GiB"),
        (["--test", "--max-hours", "0"], "argument --max-hours: 0: must be hours above 0"),
        (["--test", "--max-hours", "nan"], "argument --max-hours: nan: must be hours above 0"),
        (["--test", "--seed", "-1"], "argument --seed: -1: must be a whole number, 0 or more"),
    ],
)
def test_a_wrong_command_is_refused_in_one_message(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refused(capsys, *argv)
    assert message in said
    assert said.count("must be") <= 1


def test_a_value_with_two_faults_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "--recipe", "mine-0.5.py", "--set", "sft.output_dir=").count("output_dir") == 1


def test_a_shipped_recipe_is_found_by_the_name_of_its_file() -> None:
    assert load("scratch_tiny.py").name == "scratch_tiny"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("configs = {}", "has no stages"),
        ("x = 1", "must define `configs`"),
        ("configs = 3", "given: 3"),
        ("raise RuntimeError('no licence')", "line 1: RuntimeError: no licence"),
        ("\nconfigs = {", "line 2"),
        ("import nowhere_at_all", "line 1: ModuleNotFoundError"),
        (
            "from algorithms import TrainingConfig\nconfigs = {'sft': TrainingConfig(learnign_rate=1)}",
            "line 2: TrainingConfig has no field 'learnign_rate', did you mean 'learning_rate'?",
        ),
        (
            "from algorithms import *\nc = dict(model_name='m', output_dir='o', dataset_name='d')\n"
            "configs = {'sft': TrainingConfig(**c, learnign_rate=1, bta=2),\n'dpo': TrainingConfig(**c, max_step=3)}\n"
            "grpo_extra = GRPOExtraConfig(num_generation=4)",
            "- line 3: TrainingConfig has no field 'learnign_rate', did you mean 'learning_rate'?\n"
            "- line 3: TrainingConfig has no field 'bta', did you mean 'beta'?\n"
            "- line 4: TrainingConfig has no field 'max_step', did you mean 'max_steps'?\n"
            "- line 5: GRPOExtraConfig has no field 'num_generation', did you mean 'num_generations'?\n",
        ),
        ("configs = {'sft': 1}\ngrpo_extra = 2", "grpo_extra must be a GRPOExtraConfig"),
        ("raise SystemExit(5)", "SystemExit: 5"),
    ],
)
def test_a_recipe_that_cannot_be_loaded_is_refused_with_the_line(
    source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.py").write_text(source)
    assert message in _refused(capsys, "--recipe", "bad.py")


def test_a_recipe_loads_by_path_with_dots_in_its_name_and_its_neighbours_importable(in_tmp: Path) -> None:
    (in_tmp / "neighbour.py").write_text("LENGTH = 7\n")
    (in_tmp / "mine-0.5.py").write_text(RECIPE + "import neighbour\nconfigs['length'] = neighbour.LENGTH\n")
    recipe = load("mine-0.5.py")
    assert recipe.configs["length"] == 7
    assert recipe.name == str(in_tmp / "mine-0.5.py")


def test_a_reward_function_may_import_its_neighbour_when_it_runs(in_tmp: Path) -> None:
    (in_tmp / "lazy_neighbour.py").write_text("LENGTH = 7\n")
    reward = "def reward(completions, **columns):\n    import lazy_neighbour\n    return [lazy_neighbour.LENGTH]\n"
    (in_tmp / "mine.py").write_text(f"{RECIPE}{reward}configs['reward'] = reward\n")
    assert load("mine.py").configs["reward"]([]) == [7]


def test_a_file_beside_the_recipe_that_ours_hides_is_named(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "utils.py").write_text("LENGTH = 7\n")
    (in_tmp / "mine.py").write_text(f"from utils import LENGTH\n{RECIPE}")
    assert "sixgig's own modules hide utils.py beside the recipe" in _refused(capsys, "--recipe", "mine.py")


@pytest.mark.parametrize("name", ["utils", "data"])
def test_a_file_beside_a_script_that_hides_ours_is_named(name: str, in_tmp: Path) -> None:
    (in_tmp / f"{name}.py").write_text("LENGTH = 7\n")
    (in_tmp / "mine.py").write_text(f"{RECIPE}from pipeline import run_pipeline\nrun_pipeline(configs)\n")
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, check=False, env=ON_PATH)
    assert done.returncode != 0
    assert f"{in_tmp / name}.py hides sixgig's package {name}: rename it" in done.stderr


def _script(*argv: str, source: str = RECIPE) -> subprocess.CompletedProcess[str]:
    """Run a recipe by itself, with these arguments."""
    Path("by-itself.py").write_text(f"{source}from run_all import run_script\nrun_script(__file__)\nprint('after')\n")
    command = [sys.executable, "by-itself.py", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ON_PATH)


def test_a_misspelt_field_of_a_recipe_run_as_a_script_is_told_in_one_message(in_tmp: Path) -> None:
    done = _script(source=RECIPE.replace("output_dir", "outptu_dir"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("TrainingConfig has no field 'outptu_dir', did you mean 'output_dir'? Fields: ")
    assert "Traceback" not in done.stderr


def test_a_recipe_run_as_a_script_takes_the_flags_of_one_recipe(in_tmp: Path) -> None:
    done = _script("--plan", "--set", "sft.num_train_epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row[:6] for row in _rows(done.stdout)] == [["sft", "model", "rows.jsonl", "48", "12", "6"]]
    assert "loading libraries\nsft: preparing rows.jsonl\n" in done.stdout
    assert "after" not in done.stdout
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--plann"], "unrecognized arguments: --plann, did you mean '--plan'? All flags: "),
        (["--test"], "by-itself.py is the recipe: leave out --test"),
        (["--resume", "latest"], "is not of "),
    ],
)
def test_a_recipe_run_as_a_script_refuses_wrong_flags_in_one_message(argv: list[str], message: str) -> None:
    record: dict[str, Any] = {"recipe": "another", "values": [], "from_run": None, "configs": {}}
    RunInfo(create(Path("runs"))).set(**record, status="interrupted", stages=[])
    done = _script(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["--plan"], ["--resume=latest"], ["--mine", "--set", "a=1"]])
def test_flags_of_a_script_that_calls_run_pipeline_itself_are_refused(argv: list[str], in_tmp: Path) -> None:
    done = _script(*argv, source=f"{RECIPE}from pipeline import run_pipeline\nrun_pipeline(configs)\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "by-itself.py reads no flags. Give them to run_all.py:\n" in done.stderr
    assert f"run_all.py --recipe by-itself.py {' '.join(argv)}\n" in done.stderr
    assert "`from run_all import run_script; run_script(__file__)`" in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize("ending", ["from pipeline import run_pipeline\nrun_pipeline(configs)\n", ""])
def test_a_script_that_was_stopped_goes_on_by_run_all(
    ending: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = "import chain.run_stage\ndef stop(*_):\n    raise KeyboardInterrupt\n"
    stopped += "if __name__ == '__main__':\n    chain.run_stage.train_within_memory = stop\n"  # not as a recipe of ours
    done = _script(source=RECIPE + stopped + ending)
    (run,) = Path("runs").iterdir()
    assert done.returncode == 130, done.stderr
    assert f"Continue with:\n  {resume_command(run.resolve())}\n" in done.stderr
    assert json.loads((run / "run_info.json").read_text())["recipe"] == str(in_tmp / "by-itself.py")
    assert main(["--resume", "latest", "--plan"]) == 0
    assert _rows(capsys.readouterr().out)[0][:2] == ["sft", "model"]


@pytest.mark.parametrize("wrong", ["configs, 3", "3", "None", "configs, runs_dir=''", "configs, stages='sft,sft'"])
def test_wrong_arguments_of_run_pipeline_end_a_script_with_a_message(wrong: str, in_tmp: Path) -> None:
    done = _script(source=f"{RECIPE}from pipeline import run_pipeline\nrun_pipeline({wrong})\n")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_to_type_names_the_interpreter_that_runs(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(in_tmp / ".venv/bin/python"))
    assert command(in_tmp / "mine.py", "--plan") == ".venv/bin/python mine.py --plan"
    assert resume_command(in_tmp / "runs/x").startswith(".venv/bin/python ")
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    assert command("mine.py") == "/opt/venv/bin/python mine.py"


def test_a_broken_file_among_the_recipes_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chain.recipe.RECIPES", tmp_path)
    (tmp_path / "broken.py").write_text('"""A recipe."""\nconfigs = {\n')
    (tmp_path / "sound-0.5.py").write_text(RECIPE)
    assert load("sound-0.5").name == "sound-0.5"
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "broken     cannot be read: line 2" in said
    assert "sound-0.5  A recipe of one stage." in said


@pytest.mark.parametrize("flag", ["--plan", "--download"])
def test_the_cache_that_env_names_is_used(flag: str, in_tmp: Path) -> None:
    cached = in_tmp / "hf/hub/models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    (cached / "snapshots").mkdir()
    (in_tmp / "model").rename(cached / "snapshots/abc")
    (in_tmp / "mine.py").write_text(RECIPE.replace('"model"', '"some/model"'))
    (in_tmp / ".env").write_text(f"HF_HOME={in_tmp / 'hf'}\n")
    words = [sys.executable, str(Path(run_all.__file__)), "--recipe", "mine.py", flag]
    keep = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=keep | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "some/model" in done.stdout


def _rows(said: str) -> list[list[str]]:
    """Return the cells of a plan's table."""
    return [[cell.strip() for cell in row.split("│")[1:-1]] for row in said.splitlines() if row.count("│") > 5]


def test_plan_shows_rows_steps_and_parameters_and_creates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path.cwd().rglob("*"))
    assert main(["--recipe", "mine-0.5.py", "--plan"]) == 0
    (cells,) = _rows(capsys.readouterr().out)
    # 48 of the 60 rows in batches of 8 are 6 steps, three times over; 3×4 + 5 weights
    assert cells[:7] == ["sft", "model", "rows.jsonl", "48", "12", "18", "17"]
    assert sorted(Path.cwd().rglob("*")) == before


def test_plan_tells_a_long_path_whole_and_in_one_line(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = in_tmp / ("deep" * 20) / ("down" * 20)
    shutil.copytree("model", deep / "model")
    assert main(["--recipe", "mine-0.5.py", "--plan", "--set", f"sft.model_name={deep}/model"]) == 0
    said = capsys.readouterr().out
    assert f"…/model: {deep}/model" in said.splitlines()
    assert _rows(said)[0][1] == "…/model"


def test_plan_of_a_run_to_resume_holds_what_is_left_of_it(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.py").write_text(
        f"{RECIPE}from algorithms import StageOutput\nfrom dataclasses import replace\n"
        "configs['reward'] = replace(configs['sft'], model_name=StageOutput('sft'), output_dir='reward',"
        " dataset_name='pairs.jsonl')\n"
    )
    pairs = [{"prompt": f"What is {n}+{n}?", "chosen": f" {2 * n}", "rejected": " 0"} for n in range(60)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    run = create(Path("runs"))
    shutil.copytree("model", run / "sft")
    entries = [
        {"name": "sft", "output_dir": "sft", "status": "passed"},
        {"name": "reward", "output_dir": "reward", "status": "pending"},
    ]
    asked: dict[str, Any] = {"recipe": str(in_tmp / "two.py"), "values": [], "from_run": None, "configs": {}}
    RunInfo(run).set(**asked, status="interrupted", stages=entries)
    assert main(["--resume", "latest", "--plan"]) == 0
    said = capsys.readouterr().out
    assert f"what is left of run {run.name}, in which sft passed" in " ".join(said.split())
    assert [(row[:2], row[6]) for row in _rows(said)] == [(["reward", "output of stage sft"], "17")]


def test_resume_takes_up_what_the_run_was_asked_for(in_tmp: Path) -> None:
    run, asked = create(Path("runs")), ["sft.weight_decay=1", "sft.seed=7"]
    record = {"recipe": str(in_tmp / "mine-0.5.py"), "values": asked, "from_run": "another", "configs": {}}
    RunInfo(run).set(**record, status="interrupted", stages=[{"name": "sft", "output_dir": "sft", "status": "pending"}])
    args = run_all.parser().parse_args(["--resume", "latest", "--set", "sft.max_steps=3", "--force"])
    request = run_all.request(args, run_all.recipe_of(resumable(Path(args.runs_dir), args.resume)))
    assert (request.recipe, request.values) == (record["recipe"], (*asked, "sft.max_steps=3"))
    assert (request.stages, request.from_run, request.resume) == (("sft",), "another", run.name)
    sft = request.configs["sft"]
    assert (sft.weight_decay, sft.seed, sft.max_steps) == (1, 7, 3)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record which recipes would run, instead of running them."""
    ran: list[str] = []

    monkeypatch.setattr(run_all, "act", lambda args, request: ran.append(request.recipe))
    monkeypatch.setattr(run_all, "check", lambda request: None)
    return ran


def test_the_bare_command_runs_test_then_prod(served: list[str]) -> None:
    assert main([]) == 0
    assert served == ["scratch_tiny", "qwen2.5_0.5b"]


def test_the_bare_command_runs_test_and_exits_2_if_prod_cannot_be_had(
    served: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(request: Request) -> None:
        if request.recipe == run_all.PROD:
            raise Refused("the Hub cannot be reached")

    monkeypatch.setattr(run_all, "check", check)
    assert main([]) == 2
    assert served == ["scratch_tiny"]
    said = capsys.readouterr()
    assert "the Hub cannot be reached" in said.out
    assert "the Hub cannot be reached" in said.err


def test_what_prod_needs_is_looked_for_and_named() -> None:
    with pytest.raises(Refused, match=r"HF_HUB_OFFLINE.*Qwen/Qwen2.5-0.5B.*trl-lib/Capybara"):
        run_all.check(run_all.request(run_all.parser().parse_args([]), run_all.PROD))


def test_a_failed_stage_exits_1_with_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(*_: object) -> None:
        raise StageFailed("stage sft failed: nothing was learnt")

    monkeypatch.setattr(run_all, "act", act)
    assert main(["--test"]) == 1
    assert capsys.readouterr().err == "stage sft failed: nothing was learnt\n"


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_all, "act", act)
    assert main(["--test"]) == 130


def test_plan_of_prod_tells_memory_without_a_network_by_what_the_recipe_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.hub.unreachable", lambda: "the Hub cannot be reached")
    monkeypatch.setattr("utils.hub.local_model", lambda *_: None)
    monkeypatch.setattr("utils.hub.has_dataset", lambda *_: False)
    assert main(["--prod", "--plan", "--memory-budget", "6GiB"]) == 0
    said = capsys.readouterr().out
    assert "15,016" in said  # 15,806 rows of Capybara less 5 %
    assert "494,032,768" in said
    assert "Forecast peak of GPU memory in MiB, of 6,144" in said
    assert "Every stage whose memory is forecast fits in 6.00 GiB" in said
    assert (
        "Not on this machine, so as the recipe states (the Hub cannot be reached): trl-lib/Capybara, Qwen/Qwen2.5-0.5B"
        in " ".join(said.split())
    )
    assert main(["--prod", "--plan", "--memory-budget", "3GiB"]) == 0
    said = capsys.readouterr().out
    assert "sft does not fit in 3.00 GiB" in said
    assert "whose memory is forecast fits" not in said
    assert "Time not measured: sft, reward, dpo, grpo: no GPU is here" in said


PUBLISHED = [name for name in shipped() if name != "scratch_tiny"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_recipe_records_the_size_of_all_that_it_names_on_the_hub(name: str) -> None:
    recipe = load(name)
    for config in recipe.configs.values():
        assert config.dataset_split in recipe.sizes[config.dataset_name]
        if isinstance(config.model_name, str):
            assert "model_type" in recipe.sizes[config.model_name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_plan_without_a_network_tells_the_memory_of_every_stage_of_a_shipped_recipe(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.hub.unreachable", lambda: "the Hub cannot be reached")
    monkeypatch.setattr("utils.hub.local_model", lambda *_: None)
    monkeypatch.setattr("utils.hub.has_dataset", lambda *_: False)
    assert main(["--recipe", name, "--plan", "--memory-budget", "99GiB"]) == 0
    said = capsys.readouterr().out
    (peaks,) = re.findall(r"^│peak .*$", said, flags=re.MULTILINE)
    assert len(re.findall(r"[\d,]+", peaks)) == len(load(name).configs)
    assert "cannot be forecast" not in said
