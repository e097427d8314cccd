"""What catches a stage that is sabotaged: an alarm, a gate, a refusal, a failed stage – or nothing.

    python benchmarks/sabotage.py --from 20260131_101500_k3x9 --seeds 42,43,44,45,46

Each sabotage is a stage of the embedded recipe, started from the same healthy run, with its data, its options or its
reward changed; held-out rows are changed as those trained on are, as they are in life. Beside it the same stage runs as
it is, which must raise no alarm, once for each seed. Prints a table. A run on 2 cores takes a minute in the mean.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chain import recipe as recipes
from data import made
from pipeline import run_pipeline
from recipes.arithmetic import made_strict
from records.stage_log import StageLog
from utils.errors import Refused, StageFailed

Rows = list[dict[str, Any]]
DEMO = recipes.load("scratch_tiny")
ROWS = {"sft": ("conversations", 500, 120), "reward": ("preferences", 1920, 240), "dpo": ("preferences", 320, 120)}
"""The made data of each stage, and how many of its rows are trained on and held out."""
COLUMNS = ("messages", "prompt", "completion", "chosen", "rejected", "tools")


@dataclass(frozen=True)
class Sabotage:
    """One thing that is done to a stage."""

    stage: str
    name: str
    rows: Callable[[Rows], Rows] | None = None
    config: Mapping[str, Any] | None = None
    """Fields of its configuration; `trainer_args` are added to those there are."""
    reward: Callable[..., Any] | None = None


def answers_shuffled(rows: Rows) -> Rows:
    """Give each question the last answer of another row."""
    answers = [row["messages"][-1] for row in rows]
    random.Random(0).shuffle(answers)
    return [{**row, "messages": [*row["messages"][:-1], one]} for row, one in zip(rows, answers, strict=True)]


def answers_emptied(rows: Rows) -> Rows:
    """Leave nothing of every second answer but letters that cannot be seen."""
    unseen = {"role": "assistant", "content": "\u200b"}
    return [{**row, "messages": [*row["messages"][:-1], unseen]} if n % 2 else row for n, row in enumerate(rows)]


def exchanged(rows: Rows) -> Rows:
    """Exchange the sides of every pair."""
    return [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


def by_a_coin(rows: Rows) -> Rows:
    """Exchange the sides of half of the pairs."""
    coin = random.Random(0)
    return [exchanged([row])[0] if coin.random() < 0.5 else row for row in rows]


def longer_chosen(rows: Rows) -> Rows:
    """Choose the longer answer of every pair, whatever it says."""

    def length(row: Mapping[str, Any], side: str) -> int:
        return len(str(row[side][-1]))

    differing = [row for row in rows if length(row, "chosen") != length(row, "rejected")]
    return [row if length(row, "chosen") > length(row, "rejected") else exchanged([row])[0] for row in differing]


def alike(rows: Rows) -> Rows:
    """Make the rejected answer the chosen one."""
    return [{**row, "rejected": row["chosen"]} for row in rows]


def constant(completions: Sequence[Any], **_: Any) -> list[float]:
    """Reward everything alike."""
    return [1.0 for _ in completions]


def silent(completions: Sequence[Any], **_: Any) -> list[None]:
    """Say nothing of any completion."""
    return [None for _ in completions]


def length(completions: Sequence[Any], **_: Any) -> list[float]:
    """Reward length."""
    return [float(len(str(completion[-1]["content"]))) for completion in completions]


def wrong(**given: Any) -> list[float]:
    """Reward what is wrong."""
    return [-one for one in made_strict(**given)]


SABOTAGES = (
    Sabotage("sft", "answers shuffled among the questions", rows=answers_shuffled),
    Sabotage("sft", "half of the answers are zero-width letters", rows=answers_emptied),
    Sabotage("sft", "a learning rate that rounds away", config={"learning_rate": 1e-12}),
    Sabotage("sft", "a learning rate of 10", config={"learning_rate": 10.0}),
    Sabotage("sft", "max_length cuts the answers off", config={"max_length": 24}),
    Sabotage("reward", "all pairs exchanged", rows=exchanged),
    Sabotage("reward", "half of the pairs exchanged", rows=by_a_coin),
    Sabotage("reward", "the longer answer is always chosen", rows=longer_chosen),
    Sabotage("dpo", "all pairs exchanged", rows=exchanged),
    Sabotage("dpo", "both answers of each pair alike", rows=alike),
    Sabotage("dpo", "a learning rate of 0.1", config={"learning_rate": 0.1}),
    Sabotage("grpo", "a constant reward", reward=constant),
    Sabotage("grpo", "a reward that says nothing", reward=silent),
    Sabotage("grpo", "length is rewarded", reward=length),
    Sabotage("grpo", "wrong answers are rewarded", reward=wrong),
)


def data_of(stage: str, change: Callable[[Rows], Rows], name: str, folder: Path) -> str:
    """Write the stage's rows, changed on both sides, and return their folder."""
    data_set, train, held_out = ROWS[stage]
    place = folder / f"{stage}-{name.replace(' ', '-')}"
    place.mkdir(parents=True, exist_ok=True)
    for side, file, count in (("train", "train.jsonl", train), ("eval", "test.jsonl", held_out)):
        rows = change(
            [{key: row[key] for key in COLUMNS if key in row} for row in made.rows(data_set, side, count, 42)]
        )
        (place / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(place)


def run(sabotage: Sabotage, seed: int, from_run: str, runs_dir: Path) -> str:
    """Run the stage, and return what caught it, `nothing` if nothing did."""
    config = replace(DEMO.configs[sabotage.stage], seed=seed, max_dropped_fraction=None)
    extra = DEMO.grpo_extra
    if sabotage.stage == "reward":
        config = replace(config, max_steps=120)  # enough, of half the rows
    if sabotage.stage in ROWS:
        change = sabotage.rows or (lambda rows: rows)
        config = replace(config, dataset_name=data_of(sabotage.stage, change, sabotage.name, runs_dir / "data"))
    config = replace(config, **sabotage.config or {})
    if sabotage.reward:
        extra = replace(extra, reward_func=sabotage.reward, reward_weights=None)
    configs = {**DEMO.configs, sabotage.stage: config}
    before = set(runs_dir.glob("*/run_info.json"))
    caught = []
    try:
        run_pipeline(
            configs, extra, verifier=DEMO.verifier, runs_dir=runs_dir, stages=[sabotage.stage], from_run=from_run
        )
    except Refused as refused:
        return f"refused: {_first(str(refused).partition('- ')[2] or str(refused))}"
    except StageFailed as failed:
        caught = [
            "a gate" if "gate" in str(failed) else f"the stage fails: {_first(str(failed).partition('failed: ')[2])}"
        ]
    written = max(set(runs_dir.glob("*/run_info.json")) - before)
    alarms = StageLog(written.parent / str(config.output_dir)).read_info().get("alarms") or []
    names = dict.fromkeys(f"`{alarm['name']}`" for alarm in alarms)
    return "; ".join([*caught, *names]) or "nothing"


def _first(text: str) -> str:
    """Return the beginning of a message, without the folder that it is about."""
    return re.sub(r"^(\w+: )?\S*/\S+: ", "", " ".join(text.split())).partition(". ")[0].partition(" (read as")[0][:110]


def main() -> None:
    """Run everything, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="from_run", required=True, help="a healthy run of the embedded recipe")
    parser.add_argument("--seeds", default="42", help="of the healthy runs beside the sabotaged ones")
    parser.add_argument("--only", default="", help="stages, such as sft,reward; all of them")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    given = parser.parse_args()
    stages = given.only.split(",") if given.only else ["sft", "reward", "dpo", "grpo"]
    healthy = [(Sabotage(one, "none"), int(seed)) for one in stages for seed in given.seeds.split(",")]
    lines = []
    for sabotage, seed in [*((one, 42) for one in SABOTAGES if one.stage in stages), *healthy]:
        lines.append(
            f"| {sabotage.stage} | {sabotage.name} | {seed} | {run(sabotage, seed, given.from_run, given.runs_dir)} |"
        )
        print(lines[-1], flush=True)
    print("\n| stage | sabotage | seed | caught by |\n| --- | --- | --- | --- |", *lines, sep="\n")


if __name__ == "__main__":
    main()
