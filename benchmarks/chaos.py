"""Breaks real runs of the embedded recipe, shortened, in every way that a machine has, and looks what comes of them.

    python benchmarks/chaos.py
    python benchmarks/chaos.py --faults kill,full-disk       # some of the faults
    python benchmarks/chaos.py --list                        # their names, and what must come of each

One run that nothing disturbs is made first. Each fault is then done to processes of `run_all.py` in a directory of its
own. "The reference's results" are that run's: the SHA-256 of each stage's weights; its metrics, each step once with the
same values, times apart; its events; and nothing half-written. Where a fault could come in any stage, the run has the
first two alone. Exit code 1 if anything else comes of a fault than what must. It runs on Linux; two of the faults mount
a disk, for which one must be root: without, they are skipped, which is said.
"""

import argparse
import ctypes
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.chaos_runs import Place, Process, Wrong, asked, check, events
from records.sealed import sealed
from utils.command_line import Parser
from utils.errors import Refused, did_you_mean, report
from utils.files import read_json, write_json

TWO = asked("pretrain", "sft")
DISK, LEFT_BYTES = "200m", 1_500_000
"""The disk that gets full holds the whole run; what another program then leaves of it holds no checkpoint."""
LARGEST_FILE_BYTES = 2_000_000
"""Less than the weights have, which are 2.6 MB."""
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
"""Of `prctl` and capabilities(7): what lets root write where nobody may."""
KILLS = 25
HUB_S = 20
"""In how many seconds a Hub that never answers is given up."""


class Skipped(Exception):
    """The fault cannot be done on this machine."""


MEASURING, SCORED = "evaluating", "evaluation_scores.json"
"""While a stage is measured: before anything is scored, and when its output is in part."""
MOMENTS = (
    ("pretrain", "CHECKPOINT"), ("pretrain", MEASURING), ("sft", "TRAIN_START"), ("sft", MEASURING), ("sft", SCORED),
    ("reward", "CHECKPOINT"), ("reward", MEASURING), ("reward", SCORED), ("dpo", "CHECKPOINT"), ("dpo", SCORED),
    ("grpo", "CHECKPOINT"), ("grpo", MEASURING), ("grpo", SCORED),
)  # fmt: skip


def kill(place: Place) -> str:
    """SIGKILL in each stage, and while they are measured."""
    words = asked()
    for stage, moment in MOMENTS:
        with place.process(*words) as process:
            _until(process, stage, moment)
            process.kill()
        words = ["--resume", "latest"]
    place.resume()
    return f"killed and resumed {len(MOMENTS)} times: the reference's results"


def _until(process: Process, stage: str, moment: str) -> None:
    if moment == MEASURING:
        process.until_said(f"{MEASURING} {stage}:")
    elif moment == SCORED:
        process.until_file(stage, SCORED)
    else:
        process.until_event(stage, moment)


def kill_anywhere(place: Place) -> str:
    """SIGKILL at random moments, spread evenly over the time that the whole run takes, one in each of so many runs."""
    record = read_json(place.reference / "run_info.json")
    began, ended = (datetime.fromisoformat(record[name]) for name in ("started_at", "finished_at"))
    chance, hit = random.Random(0), Counter[str]()
    while hit.total() < KILLS:
        one = place.beside("killed")
        with one.process(*asked()) as process:
            process.until_event("pretrain", "STAGE_START")
            time.sleep(chance.uniform(0, (ended - began).total_seconds()))
            running = _running(one)
            if process.popen.poll() is None:  # it may have been faster than the reference
                process.kill()
                hit[running] += 1
        if process.popen.returncode:
            one.resume()
        shutil.rmtree(one.directory)
    where = ", ".join(f"{name} {times}" for name, times in hit.items())
    return f"{KILLS} of {KILLS} killed and resumed ({where}): the reference's results"


def _running(place: Place) -> str:
    stages = read_json(place.run_dir / "run_info.json")["stages"]
    return next((entry["name"] for entry in stages if entry["status"] == "running"), "between stages")


def interrupt(place: Place) -> str:
    """SIGINT, as of Ctrl-C, in the stage that samples completions, which must be used up first."""
    return _stop(place, signal.SIGINT, "grpo", asked())


def terminate(place: Place) -> str:
    """SIGTERM in pretraining, whose loop is the project's own."""
    return _stop(place, signal.SIGTERM, "pretrain", TWO)


def hangup(place: Place) -> str:
    """SIGHUP, as of a terminal that goes away, in a stage that TRL trains."""
    return _stop(place, signal.SIGHUP, "sft", TWO)


def _stop(place: Place, number: signal.Signals, stage: str, words: Sequence[str]) -> str:
    with place.process(*words) as process:
        process.until_event(stage, "CHECKPOINT")
        process.send(number)
        process.must_end_with(130)
    _must_be_interrupted(place)
    said = re.search(r"stopped after step (\d+) of \d+, with a checkpoint\. Continue with:\n +(.+)", process.text)
    if said is None:
        raise Wrong(f"exit 130, but neither step nor command: {process.last_words()}")
    checkpoint = f"checkpoint-{said[1]}"
    check(checkpoint in [path.name for path in sealed(place.stage_dir(stage))], f"exit 130, but no {checkpoint}")
    with Process(place, shlex.split(said[2])) as resumed:
        resumed.must_end_with(0)
    _must_have_resumed(place, stage, checkpoint)
    place.must_equal_the_reference()
    return f"exit 130, {checkpoint} of {stage}; resumed as printed: the reference's results"


def _must_be_interrupted(place: Place) -> None:
    status = read_json(place.run_dir / "run_info.json")["status"]
    check(status == "interrupted", f"exit 130, but the run's status is {status!r}")
    place.must_be_whole()


def _must_have_resumed(place: Place, stage: str, checkpoint: str) -> None:
    taken = [text for kind, text in events(place.stage_dir(stage)) if kind == "RESUME"]
    check(taken and checkpoint in taken[-1].split(), f"{stage} went on from {taken}, not from {checkpoint}")


def interrupt_twice(place: Place) -> str:
    """A second SIGINT as soon as the first one is noted."""
    with place.process(*TWO) as process:
        process.until_event("sft", "TRAIN_START")
        process.send(signal.SIGINT)
        process.until_said("a second Ctrl-C stops at once")
        process.send(signal.SIGINT)
        process.must_end_with(130)
    _must_be_interrupted(place)
    place.resume()
    return "exit 130; resumed: the reference's results"


def closed_screen(place: Place) -> str:
    """Whoever reads what is printed closes it after a line, as `head -1` does."""
    with place.process(*TWO, stdout=subprocess.PIPE) as process:
        assert process.popen.stdout is not None
        process.popen.stdout.readline()
        process.popen.stdout.close()
        process.must_end_with(0)
    log = (place.run_dir / "console_output.log").read_text(encoding="utf-8")
    wanted = ("pretrain passed in", "sft passed in", "Held-out results", f"run {place.run_dir.name} passed", "Talk to")
    lacking = [words for words in wanted if words not in log]
    check(not lacking, f"exit 0, but console_output.log lacks {lacking}")
    place.must_equal_the_reference()
    return "exit 0, console_output.log complete: the reference's results"


def full_disk(place: Place) -> str:
    """The directory of runs is a disk of its own, which another program fills while a stage trains."""
    place.runs_dir.mkdir()
    with mounted(place.runs_dir, "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs"):
        with place.process(*TWO) as process:
            process.until_event("pretrain", "TRAIN_START")
            other = place.runs_dir / "other"
            with suppress(OSError):  # the run may have written in between: it is full all the same
                other.write_bytes(bytes(shutil.disk_usage(place.runs_dir).free - LEFT_BYTES))
            _must_ask_for_room(process)
        other.unlink()
        place.resume()
    return "exit 1, one message, nothing half-written; resumed: the reference's results"


def file_limit(place: Place) -> str:
    """No file may become as large as the weights."""
    limits = (LARGEST_FILE_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    _must_ask_for_room(place.run(*TWO, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)))
    place.resume()
    return "exit 1, one message, nothing half-written; resumed: the reference's results"


def _must_ask_for_room(process: Process) -> None:
    process.must_end_with(1)
    said = process.text.lower().count("make room")
    check(said == 1, f"exit 1, but {said} times 'make room': {process.last_words()}")
    process.place.must_be_whole()


UNWRITABLE_AT = (("pretrain", "TRAIN_START"), ("pretrain", MEASURING), ("sft", "TRAIN_START"), ("sft", MEASURING))


def read_only(place: Place) -> str:
    """The disk becomes read-only while a stage trains, or is measured, as the system makes one that has errors."""
    words = TWO
    for stage, moment in UNWRITABLE_AT:
        with place.process(*words) as process:
            _until(process, stage, moment)
            run_dir = place.run_dir
            with mounted(run_dir, "--bind", str(run_dir)):
                _mount("-o", "remount,bind,ro", str(run_dir))
                _must_fail_once(process, stage)
        words = ["--resume", "latest"]
    place.resume()
    return f"{len(UNWRITABLE_AT)} times exit 1, one message; resumed: the reference's results"


def no_permission(place: Place) -> str:
    """The run's directories may no longer be written while a stage trains, or is measured."""
    words = TWO
    for stage, moment in UNWRITABLE_AT:
        try:
            process = place.process(*words, preexec_fn=_give_up_override)
        except subprocess.SubprocessError as error:
            raise Skipped("root may write everything, and cannot give that up here") from error
        with process:
            _until(process, stage, moment)
            with unwritable(place.run_dir):
                _must_fail_once(process, stage)
        words = ["--resume", "latest"]
    place.resume()
    return f"{len(UNWRITABLE_AT)} times exit 1, one message; resumed: the reference's results"


def _give_up_override() -> None:
    """Let the permissions of files hold for root too, in the program that takes this process over."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError("CAP_DAC_OVERRIDE stays")


def _must_fail_once(process: Process, stage: str) -> None:
    process.must_end_with(1)
    told = re.findall(rf"stage {stage} failed: [^\n]*", process.text)
    check(len(told) == 1, f"exit 1, but {len(told)} times 'stage {stage} failed': {process.last_words()}")
    for words in (str(process.place.run_dir), "let it be written", "resume"):
        check(words in told[0], f"exit 1, but not a word of {words!r}: {told[0]}")
    process.place.must_be_whole()


def damaged_checkpoint(place: Place) -> str:
    """Killed, and a file of the newest checkpoint is cut in half."""
    words = [*TWO, "--set", "pretrain.save_total_limit=2", "--set", "sft.save_total_limit=2"]
    for stage, written, file in (
        ("pretrain", "checkpoint-10", "model.safetensors"),
        ("sft", "checkpoint-4", "optimizer.pt"),
    ):
        with place.process(*words) as process:
            process.until_event(stage, "CHECKPOINT", written)
            process.kill()
        *_, before, newest = sealed(place.stage_dir(stage))
        os.truncate(newest / file, (newest / file).stat().st_size // 2)
        words = ["--resume", "latest"]
        with place.process(*words) as process:
            process.until_event(stage, "RESUME")
            process.kill()
        check(process.says(f"{newest.name} is damaged"), f"{newest.name} is not told of: {process.last_words()}")
        _must_have_resumed(place, stage, before.name)
    place.resume()
    return "in pretraining and in SFT: told, the one before taken: the reference's results"


def altered_output(place: Place) -> str:
    """A bit of a finished stage's weights is another one."""
    with place.process(*TWO) as process:
        process.until_event("sft", "TRAIN_START")
        process.kill()
    weights = place.stage_dir("pretrain") / "model.safetensors"
    _flip_last_bit(weights)
    process = place.run("--resume", "latest")
    process.must_end_with(2)
    check("\n- pretrain: " in process.text, f"exit 2, but the stage is not named: {process.last_words()}")
    _flip_last_bit(weights)
    place.resume()
    return "exit 2, naming the stage; resumed with the bit put back: the reference's results"


def _flip_last_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cache_removed(place: Place) -> str:
    """Another process removes the cache while a stage trains."""
    place = place.beside("alone", place.directory / "cache")
    with place.process(*TWO) as process:
        process.until_event("pretrain", "CHECKPOINT")
        shutil.rmtree(place.cache)
        code = process.wait()
    if code:
        process.must_end_with(1)
        place.must_be_whole()
        place.resume()
        return "exit 1; resumed: the reference's results"
    place.must_equal_the_reference()
    return "exit 0: the reference's results"


def silent_tracker(place: Place) -> str:
    """The server of a tracker takes every call, and answers none."""
    with silent_server() as url:
        tracked = {"REPORT_TO": "wandb", "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "HOME": str(place.directory)}
        process = place.run(*TWO, environment=tracked)
    process.must_end_with(0)
    check(process.says("records nothing more"), f"exit 0, but it is not told: {process.last_words()}")
    place.must_equal_the_reference()
    return "told, exit 0: the reference's results"


def silent_hub(place: Place) -> str:
    """The Hub takes every call, and answers none."""
    with silent_server() as url:
        online = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(place.directory / "home")}
        started = time.monotonic()
        process = place.run("--recipe", "smollm2_135m", environment=online)
        took_s = time.monotonic() - started
    process.must_end_with(2)
    check(took_s <= HUB_S, f"exit 2, but after {took_s:.0f} s")
    check(not list(place.runs_dir.glob("*")), f"exit 2, but something is left in {place.runs_dir}")
    return f"exit 2 after {took_s:.0f} s, nothing left"


def two_at_once(place: Place) -> str:
    """Two runs with one cache, empty at first, and a resume of one that is live."""
    cache = place.directory / "cache"
    first, second = place.beside("first", cache), place.beside("second", cache)
    with first.process(*TWO) as one, second.process(*TWO) as other:
        one.until_event("pretrain", "TRAIN_START")
        third = first.run("--resume", first.run_dir.name)
        third.must_end_with(2)
        check(third.says("is still running"), f"exit 2, but not for that: {third.last_words()}")
        one.must_end_with(0)
        other.must_end_with(0)
    first.must_equal_the_reference()
    second.must_equal_the_reference()
    return "exit 0 twice: the reference's results; the resume: exit 2"


def kill_between(place: Place) -> str:
    """SIGKILL when a stage's own record says that it has passed, and the run's record does not yet."""
    with place.process(*TWO) as process:
        process.until_event("sft", "STAGE_START")
        process.kill()
    file = place.run_dir / "run_info.json"
    record = read_json(file)
    record["stages"][0] |= {"status": "running", "duration_s": None}
    write_json(file, record)
    resumed = place.resume()
    check(resumed.says("Held-out results"), f"exit 0, but no table: {resumed.last_words()}")
    return "resumed: the table, the reference's results"


@contextmanager
def silent_server() -> Iterator[str]:
    """Give the address of a server on this machine that accepts connections, and sends nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:  # the system accepts them
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Take away the permission to write into a directory and those in it."""
    directories = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
    for one in directories:
        one.chmod(0o555)
    try:
        yield
    finally:
        for one in directories:
            if one.exists():
                one.chmod(0o755)


@contextmanager
def mounted(directory: Path, *words: str) -> Iterator[None]:
    """Mount something on a directory, and take it away again.

    Raises:
        Skipped: that is not permitted.
    """
    _mount(*words, str(directory))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _mount(*words: str) -> None:
    try:
        subprocess.run(["mount", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Skipped("there is no mount here") from error
    except subprocess.CalledProcessError as error:
        raise Skipped(" ".join(error.stderr.split())) from error


class Fault(NamedTuple):
    """One way to break a run."""

    expected: str
    function: Callable[[Place], str]
    """Returns what happened; raises Wrong if that is not what is expected, and Skipped."""


FAULTS = {
    "kill": Fault("in each stage and while it is measured; resumed each time: the reference's results", kill),
    "kill-anywhere": Fault(f"at {KILLS} random moments; resumed: the reference's results", kill_anywhere),
    "interrupt": Fault("exit 130, a checkpoint; resumed as printed: the reference's results", interrupt),
    "interrupt-twice": Fault("exit 130; resumed: the reference's results", interrupt_twice),
    "terminate": Fault("exit 130, a checkpoint; resumed as printed: the reference's results", terminate),
    "hangup": Fault("exit 130, a checkpoint; resumed as printed: the reference's results", hangup),
    "closed-screen": Fault("exit 0, console_output.log complete: the reference's results", closed_screen),
    "full-disk": Fault("exit 1, one message, nothing half-written; resumed: the reference's results", full_disk),
    "file-limit": Fault("exit 1, one message, nothing half-written; resumed: the reference's results", file_limit),
    "read-only": Fault("exit 1, one message with the way out; resumed: the reference's results", read_only),
    "no-permission": Fault("exit 1, one message with the way out; resumed: the reference's results", no_permission),
    "damaged-checkpoint": Fault("told, the one before taken: the reference's results", damaged_checkpoint),
    "altered-output": Fault("exit 2, naming the stage", altered_output),
    "cache-removed": Fault("exit 0, or exit 1 and resumed: the reference's results", cache_removed),
    "silent-tracker": Fault("told, exit 0: the reference's results", silent_tracker),
    "silent-hub": Fault(f"exit 2 within {HUB_S} s, nothing left", silent_hub),
    "two-at-once": Fault("exit 0 twice: the reference's results; the resume of a live one: exit 2", two_at_once),
    "kill-between": Fault("resumed: the table, the reference's results", kill_between),
}


def reference(scratch: Path) -> Path:
    """Make the run that nothing disturbs, and return its directory.

    Raises:
        Wrong: it does not pass.
    """
    place = Place(scratch / "reference", scratch / "cache", Path())
    place.run(*asked()).must_end_with(0)
    return place.run_dir


def outcome(name: str, place: Place) -> tuple[str, bool]:
    """Return what came of a fault, and whether that may be."""
    try:
        return FAULTS[name].function(place), True
    except (Wrong, OSError, ValueError, LookupError) as error:  # what cannot be read is no less wrong
        return f"WRONG: {error}", False
    except Skipped as error:
        return f"skipped: {error}", True


def main(argv: Sequence[str] | None = None) -> int:
    """Do the faults that are asked for; return the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default=",".join(FAULTS), metavar="NAMES", help="some of them, as kill,full-disk")
    parser.add_argument("--list", action="store_true", help="name them, and what must come of each; do nothing")
    try:
        args = parser.parse_args(argv)
        chosen = args.faults.split(",")
        for name in set(chosen) - set(FAULTS):
            raise Refused(
                f"--faults: there is no {name!r}{did_you_mean(name, FAULTS) or '.'} Allowed: {', '.join(FAULTS)}"
            )
    except Refused as error:
        return report(error)
    if args.list:
        width = max(map(len, FAULTS))
        print(*(f"{name:<{width}}  {fault.expected}" for name, fault in FAULTS.items()), sep="\n")
        return 0
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored in the background, or under nohup: but not by the runs
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    lines, all_right = ["| fault | expected | happened | seconds |", "| --- | --- | --- | --- |"], True
    with tempfile.TemporaryDirectory(prefix="sixgig-chaos-", ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        undisturbed = reference(scratch)
        for name in chosen:
            started = time.monotonic()
            happened, right = outcome(name, Place(scratch / name, scratch / "cache", undisturbed))
            all_right &= right
            print(f"{name}: expected {FAULTS[name].expected}; happened: {happened}", flush=True)
            cell = happened.replace("|", "\\|")
            lines.append(f"| `{name}` | {FAULTS[name].expected} | {cell} | {time.monotonic() - started:.0f} |")
    print("", *lines, sep="\n")
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
