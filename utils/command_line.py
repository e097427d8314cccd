"""What every command line of the project has: one message where it refuses, and commands as one types them."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from utils.errors import Refused, did_you_mean


class Parser(argparse.ArgumentParser):
    """Refuses in one message, with the nearest right flag, instead of printing the usage."""

    words: tuple[str, ...] = ()
    """What follows the program's name: the command, of a program that has several."""

    def error(self, message: str) -> NoReturn:
        """Raise Refused."""
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        unknown = [word for word in message.split() if word.startswith("--")] if "unrecognized" in message else []
        near = "".join(did_you_mean(word.partition("=")[0], flags) for word in unknown[:1])
        raise Refused(f"{message}{near or '.'} All flags: {this_command(*self.words, '--help')}")


def refuse(*rules: tuple[object, str]) -> None:
    """Raise Refused with what is said of each rule that is broken."""
    problems = [said for broken, said in rules if broken]
    if problems:
        raise Refused("\n".join(problems))


def command(script: Path | str, *words: str) -> str:
    """Return a command for the interpreter that is running, as it must be typed in the working directory."""
    return shlex.join([relative(sys.executable), script if script == "-m" else relative(script), *words])


def this_command(*words: str) -> str:
    """Return the command that is running, with other words: of a script, or of a module run by `python -m`."""
    spec = sys.modules["__main__"].__spec__
    return command("-m", spec.name.removesuffix(".__main__"), *words) if spec else command(sys.argv[0], *words)


def relative(path: Path | str) -> str:
    """Return a path as one types it in the working directory."""
    inside = os.path.relpath(path)
    return str(path) if inside.startswith("..") else inside


def resume_command(run_dir: Path) -> str:
    """Return the command that continues a run, as it must be typed in the working directory."""
    words = ["--resume", run_dir.name]
    if run_dir.parent != Path("runs").resolve():
        words += ["--runs-dir", relative(run_dir.parent)]
    return command(RUN_ALL, *words)


RUN_ALL = Path(__file__).resolve().parent.parent / "run_all.py"


def refuse_unread_flags(*, is_recipe: bool) -> None:
    """Raise Refused if a script was given flags that it does not read: `--plan` must not start a run.

    A script that is no recipe (`is_recipe`) may have flags of its own, such as `--seed`.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    ours = RUN_FLAGS if is_recipe else STARTS_NOTHING
    flags = [word for word in sys.argv[1:] if word.partition("=")[0] in ours]
    if script and Path(script).resolve() != RUN_ALL and flags:
        name = Path(script).name
        raise Refused(
            f"{', '.join(flags)}: {name} reads no flags. Give them to run_all.py:\n"
            f"  {command(RUN_ALL, '--recipe', relative(script), *sys.argv[1:])}\n"
            "or end the recipe with `from run_all import run_script; run_script(__file__)` in place of run_pipeline(…)."
        )


STARTS_NOTHING = frozenset({"--plan", "--check-data", "--download"})
RUN_FLAGS = STARTS_NOTHING | frozenset(
    "--resume --stages --from --set --seed --force --memory-budget --max-hours --runs-dir".split()
)
"""The flags of one recipe on the command line of run_all.py."""
