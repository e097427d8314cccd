"""Environment for the Hugging Face libraries. They read it once, so this is imported before any of them.

Caches stay where Hugging Face keeps them (by default ~/.cache/huggingface), so that what was downloaded before is
found. `HF_HOME`, in the environment or in .env, moves them all: Hugging Face's libraries put theirs into it, and ours
and torch's go beside. Nothing here overrides what is already set, such as `HF_HUB_CACHE` or `HF_DATASETS_CACHE`.
"""

import os
from pathlib import Path

from dotenv import load_dotenv

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # its threads and forked data workers do not mix, which it warns of at length
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_HUB_ETAG_TIMEOUT": "5",  # seconds until a Hub that does not answer is given up
}

BESIDE = {"SIXGIG_CACHE": "sixgig", "TORCH_HOME": "torch", "TRITON_CACHE_DIR": "triton"}
"""Caches that know nothing of HF_HOME, and where in it they are if it is set."""

for env_file in (Path.cwd() / ".env", Path(__file__).resolve().parent / ".env"):
    load_dotenv(env_file, override=False)
home = os.environ.get("HF_HOME")
moved = {key: str(Path(home).expanduser() / name) for key, name in BESIDE.items()} if home else {}
for key, value in (QUIET | moved).items():
    os.environ.setdefault(key, value)
