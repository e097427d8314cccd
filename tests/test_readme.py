"""README and docs say what is true: their commands run, their recipes load, their tables and tree are the code's.

Commands that train are run with `--plan` and few documents; those that need the Hub, up to the refusal that names what
is not on this machine; `make`, `pip` and `tensorboard` up to what they would call.
"""

import inspect
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import chat
import run_all
from evaluation import __main__ as evaluating
from pretrain import PretrainConfig
from pretrain import __main__ as pretraining
from records.run_directory import RunInfo
from tests import tree
from utils.files import jsonable, weights_sha256, write_json

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in "recipes runs evidence pretraining results speed tree decisions".split()),
]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
README = "\n".join(TEXTS[name] for name in PAGES if name not in ("docs/decisions.md", "docs/tree.md"))
DECISIONS = " ".join(TEXTS["docs/decisions.md"].split())
EXAMPLE_RUN = "20260131_101500_k3x9"
OTHER_FLAGS = set(
    "--logdir --help --nproc-per-node --multi --num --cpu --config".split()  # of libraries' commands
    + "--seeds --device --quick --pairs --recipes --text --steps --tuning-seconds --faults".split()  # of benchmarks
    + "--megabytes --items --run --reruns --seconds".split()
)
FEW_DOCUMENTS = ["--set", "pretrain.max_samples=300"]  # so that planning generates 300 documents instead of 25,000


def blocks(language: str, text: str = README) -> list[str]:
    """Return the fenced blocks in `language`, of README and docs unless it is a section that is given."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """Return the text below a heading, up to the next one."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^##? [A-Z]|\Z)", README, re.DOTALL | re.MULTILINE)
    return str(found)


def table(text: str) -> list[list[str]]:
    """Return the cells of the body of the first Markdown table in `text`."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
RECIPES = [block for block in blocks("python") if "configs = {" in block]
ROWS = [json.loads(line) for block in blocks("json", section("Data")) for line in block.splitlines()]
TASK_ROWS = [line for block in blocks("json", section("Measuring any checkpoint")) for line in block.splitlines()]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as the README assumes it: `my_recipe.py`, `.env.example`, and an interrupted run."""
    import numpy
    from safetensors.numpy import save_file

    (tmp_path / "my_recipe.py").write_text(RECIPES[0])
    (tmp_path / ".env.example").write_bytes((ROOT / ".env.example").read_bytes())
    run_dir = tmp_path / "runs" / EXAMPLE_RUN
    stages = []
    for name in ("pretrain", "sft", "reward", "dpo", "grpo"):
        done = name in ("pretrain", "sft", "reward")
        stages.append({"name": name, "output_dir": name, "status": "passed" if done else "pending"})
        if done:
            (run_dir / name).mkdir(parents=True)
            save_file({"weight": numpy.zeros((2, 3), "float32")}, run_dir / name / "model.safetensors")
            write_json(run_dir / name / "stage_info.json", {"output": {"sha256": weights_sha256(run_dir / name)}})
    asked: dict[str, Any] = {"recipe": "scratch_tiny", "values": [], "from_run": None, "configs": {}}
    RunInfo(run_dir).set(**asked, status="interrupted", stages=stages)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def needs_the_hub(argv: list[str]) -> bool:
    """Return whether a command of run_all.py names models or data that are on the Hub."""
    asked = run_all.parser().parse_args(argv)
    return asked.prod or not (asked.test or asked.resume or asked.list)


def call_run_all(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Serve a command of run_all.py: as it is, or with `--plan` where it would train."""
    asked = run_all.parser().parse_args(argv)
    if asked.init is not None:
        call_init(argv, capsys)
        return
    run_all.refuse_combinations(asked, None)
    if not (asked.list or asked.plan or asked.download):
        argv = [*argv, "--plan"]
    if asked.test or asked.resume:
        argv = [*argv, *FEW_DOCUMENTS]
    code = run_all.main(argv)
    said = capsys.readouterr()
    if code == 0:  # what is on the Hub may have been downloaded to this machine
        assert asked.list or asked.download or "Plan of " in said.out
        return
    assert needs_the_hub(argv), said.err
    assert code == 2
    assert "these are not on this machine" in said.err, said.err
    assert said.err.count("\n- ") <= 1, "refused for something else too"


def call_init(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Serve a command of `--init`: what it names is written before, and a run's stage stands for a model of the Hub."""
    write_model(Path())
    Path("my_recipe.py").unlink()  # the user's own, which would not be overwritten
    rows = {
        "my_rows.jsonl": {"question": "Which prime comes after 13?", "answer": "17"},
        "gsm8k.jsonl": {"question": "What is 40 + 32?", "answer": "40 + 32 = 72\n#### 72"},
        "my_pairs.jsonl": {"question": "Name a prime above 10.", "chosen": "11", "rejected": "12"},
    }
    for name, row in rows.items():
        Path(name).write_text(
            "".join(json.dumps(row).replace("?", f" of {n}?").replace("10.", f"{n}.") + "\n" for n in range(60))
        )
    code = run_all.main(["latest/sft" if "/SmolLM2" in word else word for word in argv])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert Path("my_recipe.py").exists()
    assert "Plan of " in said.out


def write_model(work: Path) -> Path:
    """Write a small random model as the SFT stage of the interrupted run; return its directory."""
    from data.chat import CHAT_TEMPLATE
    from data.made import rows
    from pretrain.model import random_model
    from pretrain.tokenizer import train_tokenizer

    documents = [row["text"] for row in rows("documents", "train", 300)]
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": 4096,
    }
    sft = work / "runs" / EXAMPLE_RUN / "sft"
    tokenizer = train_tokenizer(documents, 512, sft)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(sft)
    random_model(PretrainConfig(output_dir="", dataset_name="", **shape), tokenizer, "cpu").save_pretrained(sft)
    return sft


def call_chat(argv: list[str], work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve a command of chat.py: the stages of the interrupted run are small random models, asked for few tokens."""
    sft = write_model(work)
    shutil.copytree(sft, work / "base")
    shutil.copytree(sft, sft / "checkpoint-60")

    command = r"\$\(python -c '(.+)'\)"
    for place, word in enumerate(argv):
        if quoted := re.fullmatch(command, word):
            done = subprocess.run(
                [sys.executable, "-c", quoted[1]], cwd=ROOT, capture_output=True, text=True, check=True
            )
            argv[place] = done.stdout.strip()
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nclear\nquit\n"))
    code = chat.main([*argv, "--max-tokens", "3"])
    said = capsys.readouterr()
    if not argv:
        assert EXAMPLE_RUN in said.out
    elif code:
        assert "/" in argv[0]
        assert f"'{argv[0]}' is no run in runs and no directory, and no model of the Hub" in said.err
    else:
        assert "loading " + ("base" if argv[0] == "base" else f"{EXAMPLE_RUN}/sft") in said.err
        assert said.out.strip()


def call_measuring(argv: list[str], work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Serve a command of evaluation on a small random model, two examples a task; of lm-eval up to the Hub's data."""
    write_model(work)
    (work / "questions.jsonl").write_text(TASK_ROWS[0])
    code = evaluating.main(["run", *argv, "--limit", "2"])
    said = capsys.readouterr()
    if any(word.startswith("lm-eval:") for word in argv):
        assert code == 2
        assert "needs lm-eval, which is not installed" in said.err or "lm-eval cannot load" in said.err
    else:
        assert code == 0, said.err
        assert f"{EXAMPLE_RUN}/sft" in said.out


def call_recipe(path: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan a recipe as a script, or run it up to `run_pipeline`, whose arguments are then checked as it checks them."""
    from chain.stages import stages_of

    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(run_all, "run_pipeline", lambda *arguments, **_: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", [path, *argv, *(FEW_DOCUMENTS if "--plan" in argv else [])])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / path if (ROOT / path).exists() else Path(path)), run_name="__main__")
    assert "--plan" in argv or stages_of(*calls[0])


def call_pretrain(argv: list[str], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve a command of pretraining up to the training, which then would have what the command says."""
    calls: list[tuple[Any, Path]] = []
    monkeypatch.setattr(pretraining, "train", lambda config, out: calls.append((config, out)))
    stopped_run = work / "runs" / "base"
    config = {field.name: getattr(STOPPED, field.name) for field in fields(STOPPED)}
    for directory in (stopped_run, work / "base") if "--resume" in argv else ():
        directory.mkdir(parents=True)
        write_json(directory / "stage_info.json", {"name": "pretrain", "status": "interrupted", "config": config})
    if "--help" in argv:
        with pytest.raises(SystemExit, match="0"):
            pretraining.main(argv)
        return
    assert pretraining.main(argv) == 0
    ((asked, out),) = calls
    assert asked == STOPPED if "--resume" in argv else asked.dataset_name == argv[argv.index("--data") + 1]
    assert out.name == "base" or out.parent.name == "runs"


def call_on_runs(argv: list[str], work: Path) -> None:
    """Serve a command of evaluation as it is: on the interrupted run, of few made rows, and on copies of it."""
    from algorithms import StageOutput
    from chain.recipe import load

    info = RunInfo(work / "runs" / EXAMPLE_RUN)
    configs = {}
    for kind, config in load("scratch_tiny").configs.items():
        configs[kind] = jsonable(replace(config, max_samples=200, eval_samples=20))
        if isinstance(model := getattr(config, "model_name", None), StageOutput):
            configs[kind]["model_name"] = f'StageOutput("{model.name}")'
    info.set(configs=configs)
    for other in set(re.findall(r"\d{8}_\d{6}_\w{4}", " ".join(argv))) - {EXAMPLE_RUN}:
        shutil.copytree(info.run_dir, work / "runs" / other)
    (work / "questions.jsonl").write_text(TASK_ROWS[0])
    assert evaluating.main(argv) == 0
    for flag in {"--html", "--out"} & set(argv):
        assert (work / argv[argv.index(flag) + 1]).stat().st_size


STOPPED = PretrainConfig(output_dir="pretrain", dataset_name="notes/")


def call_make(target: str) -> None:
    """Ask make what it would do."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = {"demo": "run_all.py --test", "test": "-m pytest", "check": "ruff check"}[target]
    assert wanted in done.stdout


def test_setting_up_says_beforehand_what_is_downloaded(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "setup", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said, install = done.stdout.index("GB to download"), done.stdout.index("pip install")
    assert said < install


def call_benchmark(words: list[str]) -> None:
    """Let the benchmark parse its help, which must name the flags that the README gives it."""
    done = subprocess.run(
        [sys.executable, str(ROOT / words[0]), *takewhile(lambda word: word[0] != "-", words[1:]), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for word in words[1:]:
        assert not word.startswith("--") or word in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=[line.partition("  #")[0].strip() for line in COMMANDS])
def test_a_command_of_the_readme_runs(
    command: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    match words:
        case ["make", target]:
            call_make(target)
        case ["python", "run_all.py", *argv]:
            call_run_all(argv, capsys)
        case ["python", "chat.py", *argv]:
            call_chat(argv, work, capsys, monkeypatch)
        case ["python", "-m", "evaluation", "run", *argv]:
            call_measuring(argv, work, capsys)
        case ["pip", "install", "-e", extra]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert extra in [f".[{name}]" for name in project["optional-dependencies"]]
        case ["python", "-m", "pretrain", *argv]:
            call_pretrain(argv, work, monkeypatch)
        case ["python", "-m", "evaluation", "report", *argv]:
            assert evaluating.main(["report", *argv]) == 0, capsys.readouterr().err
        case ["python", "-m", "evaluation", *argv]:
            call_on_runs(argv, work)
        case ["torchrun" | "accelerate" as launcher, *launched]:
            assert entry_points(group="console_scripts", name=launcher)
            if "run_all.py" in launched:
                call_run_all(launched[launched.index("run_all.py") + 1 :], capsys)
                return
            place = launched.index("-m")
            assert launched[place + 1] == "pretrain"
            assert all((ROOT / word).exists() for word in launched[:place] if word.endswith(".yaml"))
            call_pretrain(launched[place + 2 :], work, monkeypatch)
        case ["python", script, *_] if script.startswith("benchmarks/"):
            call_benchmark(words[1:])
        case ["python", recipe, *argv]:
            call_recipe(recipe, argv, monkeypatch)
        case ["python3.11", "-m", module, ".venv"]:
            assert module == "venv"
        case [".", activate]:
            assert activate == ".venv/bin/activate"
        case ["pip", "install", "-r", requirements]:
            pins = [line.partition("#")[0].strip() for line in (ROOT / requirements).read_text().splitlines()]
            assert all(re.match(r"-e \.$|[\w-]+==[\w.]+($|;)", pin) for pin in pins if pin)
        case ["tensorboard", "--logdir", "runs"]:
            assert entry_points(group="console_scripts", name="tensorboard")
        case ["cp", source, target]:
            subprocess.run(["cp", source, target], cwd=work, check=True)
            assert (work / target).exists()
        case _:
            pytest.fail(f"no test knows how to try the README's command {command!r}")


@pytest.mark.parametrize("source", RECIPES, ids=["documented", "labels", "grpo_extra", "verifier"])
def test_a_recipe_of_the_readme_is_refused_only_for_what_is_not_on_this_machine(source: str, work: Path) -> None:
    from chain.fetch import missing
    from chain.recipe import load
    from chain.stages import stages_of

    (work / "from_readme.py").write_text(source)
    recipe = load("from_readme.py")
    stages = stages_of(recipe.configs, recipe.grpo_extra, verifier=recipe.verifier)
    for problem in missing(stages):
        assert "these are not on this machine" in problem


def test_the_rows_shown_suit_the_stages_that_they_are_for(work: Path) -> None:
    from algorithms.rewards import exact_match, missing_columns
    from chain.recipe import load
    from data.sources import load as load_data

    (work / "from_readme.py").write_text(next(one for one in RECIPES if "def brief" in one))
    configs = load("from_readme.py").configs
    assert len(ROWS) == len(configs)
    for row, (kind, config) in zip(ROWS, configs.items(), strict=True):
        many = [json.dumps(row).replace("prime", f"prime number {n}") for n in range(100)]
        Path(config.dataset_name).write_text("\n".join(many))
        data = load_data(config.dataset_name, kind, eval_fraction=0.2)
        assert len(data.train) > 0
        if kind == "grpo":
            assert missing_columns([exact_match], data.train) == []


@pytest.mark.parametrize("row", TASK_ROWS)
def test_a_row_shown_is_a_task_of_ones_own(row: str, tmp_path: Path) -> None:
    from evaluation.own import own_task

    (tmp_path / "own.jsonl").write_text(row)
    (read,) = own_task(tmp_path / "own.jsonl", 8).held_out.rows
    assert read == json.loads(row)


def test_the_table_of_stages_is_the_embedded_recipe() -> None:
    from algorithms import StageOutput
    from chain.recipe import load

    actual = []
    for kind, config in load("scratch_tiny").configs.items():
        model = getattr(config, "model_name", None)
        start = f"`{model.name}`" if isinstance(model, StageOutput) else "random weights"
        actual.append(f"| `{kind}` | {start} | `{config.dataset_name}` | {config.max_samples} | {config.max_steps} |")
    shown = [line for line in section("What the embedded recipe teaches").splitlines() if line.startswith("| `")]
    assert shown == actual, "the recipe's table is\n" + "\n".join(actual)


def test_figures_about_the_embedded_recipe_are_those_of_the_recipe() -> None:
    from chain.recipe import load
    from pretrain.model import parameter_count
    from recipes.arithmetic.conversations import RAMBLING_SHARE

    recipe = load("scratch_tiny")
    pretraining, grpo, extra = recipe.configs["pretrain"], recipe.configs["grpo"], recipe.grpo_extra
    parameters = parameter_count(pretraining, pretraining.vocab_size)
    assert extra is not None
    assert f"{parameters / 1e6:.1f} M parameters" in README
    assert f"{parameters:,}" in DECISIONS
    assert RAMBLING_SHARE == 0.25
    assert extra.num_generations == 8
    completions = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
    groups = completions // extra.num_generations
    assert (grpo.per_device_train_batch_size, grpo.gradient_accumulation_steps) == (64, 2)
    assert f"{groups} groups of {extra.num_generations}" in DECISIONS


def test_the_examples_of_the_skills_are_what_is_taught() -> None:
    from recipes.arithmetic import tools, verify
    from recipes.arithmetic.problems import digit_steps, tally

    shown = section("What the embedded recipe teaches").replace("\n  ", "\n")
    trace, totals = tally(["hello", "world", "hello"])
    for text, skill, answer in (
        (f"<think>{digit_steps(34, '+', 57)}</think>\nAnswer: 91", "arithmetic", "91"),
        (f"<think>Words: {trace}</think>\nAnswer: {totals}", "counting", totals),
        (tools.call("348*27"), "calculator", "9396"),
        ("Answer: 9396", "calculator_answer", "9396"),
    ):
        assert f"\n{text}\n" in shown
        assert verify.strict(text, skill, answer)


def test_the_table_of_layouts_is_that_of_the_code() -> None:
    from data.converters import LAYOUTS
    from kinds import KINDS, named

    shown = {}
    for stages, layouts in table(section("Data")):
        for stage in stages.split(", "):
            shown[stage] = [layout.strip("`") for layout in layouts.split("; ")]
    assert shown == {
        kind: [", ".join(columns) for columns, *_ in LAYOUTS[named(kind).layout].layouts] for kind in KINDS
    }


def test_built_in_rewards_and_data_suffixes_are_all_named() -> None:
    from algorithms.rewards import BUILT_IN
    from data.local_files import READERS

    for title, names in (("Rewards", BUILT_IN), ("Data", (*READERS, ".parquet"))):
        assert [name for name in names if f"`{name}`" not in section(title)] == []


def test_the_table_of_alarms_names_all_that_the_code_can_raise() -> None:
    from watching import alarms

    named = {name for row in table(section("Alarms")) for name in re.findall(r"`(\w+)`", row[0])}
    parts = ("algorithms", "chain", "pretrain", "watching")
    source = "".join(path.read_text(encoding="utf-8") for part in parts for path in (ROOT / part).glob("*.py"))
    of_functions = {check.__name__ for check in alarms.CHECKS} | set(re.findall(r'yield "(\w+)", message', source))
    raised = set(re.findall(r'alarm\(\s*(?:\w+(?:\[-1\]\["step"\]|\.step)?|0),\s*"(\w+)"', source)) | {"skipped_step"}
    assert raised >= {"merge_differs", "slow_steps", "zero_gradient", "gradient", "reward_hacking", "cut_off_examples"}
    tasks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "evaluation").glob("*.py"))
    measured = set(re.findall(r'return \(\s*"(\w+)",\s*f"', tasks))
    assert measured >= {"answers_ignore_questions", "length_alone"}
    assert named == raised | of_functions | measured


def test_every_flag_is_documented_and_every_documented_flag_exists() -> None:
    parsers = [made.parser() for made in (run_all, chat, pretraining)]
    (commands,) = (action.choices for action in evaluating.parser()._actions if isinstance(action.choices, dict))
    actions = [action for parser in [*parsers, *commands.values()] for action in parser._actions]
    flags = {flag for action in actions for flag in action.option_strings if flag.startswith("--")}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert shown - OTHER_FLAGS == flags - {"--help"}


def test_the_page_of_files_says_what_their_first_lines_say() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    assert tree.PAGE.read_text(encoding="utf-8") == tree.page(), "write it anew: python -m tests.tree"


def test_the_readme_names_every_room() -> None:
    (text,) = re.findall(r"```text\n(.*?)```", section("The packages"), re.DOTALL)
    rooms = {line.split()[0] for line in text.splitlines()}
    assert not [room for room in rooms if not (ROOT / room).exists()]
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")} | {"recipes/", "benchmarks/", "docs/"}
    assert folders <= rooms
    assert {path.name for path in ROOT.glob("*.py")} - {"cache_config.py"} <= rooms
    assert len(TEXTS["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("name", TEXTS)
def test_paths_and_links_exist(name: str) -> None:
    text = TEXTS[name]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []
    paths = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|txt|toml)|[\w-]+(?:/[\w-]+)*/)`", text)
    assert paths or name == "docs/runs.md"
    for path in paths:
        assert (ROOT / path).exists() or path.startswith("my_"), path


def test_keys_of_the_environment_are_explained_in_env_example() -> None:
    keys = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", README)) | {"REPORT_TO"}
    explained = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert keys <= explained


def test_the_results_have_their_place() -> None:
    results = section("Results")
    assert results.count("<!-- results -->") == results.count("<!-- /results -->") == 1
    assert results.index("<!-- results -->") < results.index("<!-- /results -->")


def test_the_documented_call_is_the_signature_of_run_pipeline() -> None:
    from pipeline import run_pipeline

    assert list(inspect.signature(run_pipeline).parameters)[:2] == ["configs", "grpo_extra"]


@pytest.mark.parametrize("name", TEXTS)
def test_prose_is_plain(name: str) -> None:
    assert not re.search(r"[\U0001F000-\U0001FAFF☀-➿]", TEXTS[name]), "an emoji"
    assert "@@" not in TEXTS[name], "a figure that is still to be filled in"
    assert max(map(len, (line for line in TEXTS[name].splitlines() if not line.startswith("|")))) <= 160
