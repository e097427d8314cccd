"""Environment for the Hugging Face libraries. They read it once, so this is imported before any of them.

Caches stay where Hugging Face keeps them (`HF_HOME`, by default ~/.cache/huggingface), so that models downloaded before
are found; `HF_HOME` in the environment or in .env moves them. Nothing here overrides what is already set.
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

for env_file in (Path.cwd() / ".env", Path(__file__).resolve().parent / ".env"):
    load_dotenv(env_file, override=False)
for key, value in QUIET.items():
    os.environ.setdefault(key, value)
