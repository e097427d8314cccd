"""Keys, tokens and passwords, taken out of what is shown and written."""

import json
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
"""What stands in a secret's place."""
SHORTEST = 8
"""Shorter values of the environment are no secrets worth the name, and words of every text."""
WORD = re.compile(r"[^\W\d_]{1,15}|\d{1,11}")
"""A word such as `postgres`, or a number, is in ordinary text, whoever has it for a password."""
SECRET_NAME = re.compile(
    r"(^|[_.-])([A-Z0-9]*(KEY|TOKEN|SECRET|PASS(WORD|WD|PHRASE|CODE)?|CREDENTIAL|CRED|AUTH(ORIZATION)?|COOKIE)"
    r"|PAT|PW|SAS|JWT)S?([_.\d-]|$)|(?<!^)(?<!^OLD)PWD(_|\d|$)",
    re.IGNORECASE,
)
"""WANDB_API_KEY, HF_TOKEN, PGPASSWORD, GITHUB_PAT, DB_PWD; not TOKENIZERS_PARALLELISM, PATH, PWD."""
SHAPES = re.compile(
    r"""(?x) (?<![A-Za-z0-9]) (?:
    (?:hf|api_org|gh[oprsu]|gsk|r8|fw|e2b|KGAT|ntn|npm|jina|whsec)_[A-Za-z0-9]{16,}     # Hugging Face, GitHub, npm
    | (?:github_pat|tgp_v1|wandb_v1|pcsk|lsv2_pt|lsv2_sk|dckr_[po]at|lin_api|sntry[su])_[\w+/=-]{20,}
    | gl(?:pat|dt|ft|soat|rt|cbt|ptt|agent|imt|oas)-[\w-]{20,} | gl(?:sa|c)_[\w+/=]{20,} # GitLab, Grafana
    | (?:sk|xai|pplx|csk)-[A-Za-z0-9]{20,} | (?:nvapi|tvly)-[\w-]{20,}                  # OpenAI and others
    | sk-(?:proj|svcacct|admin|ant|or|lf)-[\w-]{16,}                                    # OpenAI, Anthropic, OpenRouter
    | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9]) | ABSK[\w+/]{60,}=*            # Amazon
    | AIza[\w-]{35} | ya29\.[\w-]{20,} | GOCSPX-[\w-]{20,} | 1//0[\w-]{30,}             # Google
    | (?:LTAI[A-Za-z0-9]{16,20}|AKID[A-Za-z0-9]{32})(?![A-Za-z0-9]) | [\w.~-]{3}\dQ~[\w.~-]{31,34}  # Alibaba, Azure
    | xox[a-z](?:\.xox[a-z])?-[\w-]{10,} | xapp-\d-[\w-]{10,}                           # Slack
    | [rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,} | sq0[a-z]{3}-[\w-]{20,}                # Stripe, Square
    | SG\.[\w-]{16,}\.[\w-]{16,} | SK[a-f0-9]{32} | shp[a-z]{2}_[a-fA-F0-9]{32}         # SendGrid, Twilio, Shopify
    | pypi-AgE[\w-]{16,} | dapi[a-f0-9]{32} | ATATT3[\w=-]{20,} | \d{8,10}:AA[\w-]{33}  # PyPI, Databricks, Telegram
    | do[opr]_v1_[a-f0-9]{40,} | hv[brs]\.[\w-]{20,} | sbp_[a-f0-9]{40}                 # DigitalOcean, Vault, Supabase
    | NRAK-[A-Z0-9]{20,} | PMAK-[a-f0-9-]{30,} | AGE-SECRET-KEY-1[A-Z0-9]{40,}          # New Relic, Postman, age
    | eyJhcGlfYWRkcmVzcyI6[\w+/-]{8,}=* | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*            # Neptune, JSON web tokens
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY(?:(?!-----END)[\s\S])*(?:-----END[A-Z -]*)?
    ) | (?<=hooks\.slack\.com/services/)[\w/]{16,} | (?<=/api/webhooks/)\d{8,}/[\w-]{16,}"""
)
"""What services make their keys of: the prefixes by which they are meant to be found; docs/decisions.md says whence."""
CALLED = (
    r"(?i:password|passwd|pwd|passphrase|(?:client|app)[_-]?secret|secret|(?:hub|access|auth|refresh|session)[_-]?token"
    r"|(?:api|access|account|private|secret)[_-]?(?:access[_-]?)?key)"
)
"""Names of fields whose values are secrets; not `token` or `key`, which are words of language models."""
NAMED = re.compile(
    r"""(?x)
    ( \w\w:/{1,2} ) (?: [^\s/:@\[]+ : (?!\d{1,5}\b(?!@)) \S*(?=@) | [^\s/?\#"<>]+(?=@) )
    | ( (?i: \bBearer[ ]+ | \bAuthorization["']?\s*[:=]\s*["']?(?:Basic|Token|Digest)[ ]+ ) )
      (?: [\w.~+/-]{20,} | (?=[\w.~+/-]*\d)[\w.~+/-]{8,} )=*
    | ( (?:[?&;](?i:[\w.-]*[_-])?(?i:token|key|sig|signature|credential|auth|code|jwt|pat) | CALLED)
        (?: = | \\?["']\s*:\s*\\?["'] ) ) [^\s&"'<>,;\\}\])]{4,}""".replace("CALLED", CALLED)
)
"""What the text itself calls a secret: before the host of a URL, in its query, in a header, by a field's name.

A path made of a URL has one slash; a password may have one, where no port could stand. After each name that is kept
follows what is hidden."""


def hide(text: str) -> str:
    """Return `text` with `***` in place of secrets.

    Those are the values of environment variables whose names say so, what has the shape of a service's keys, and what
    the text itself calls one: a password in a URL or in its query, and what authorises a request.
    """
    if any(sign in text for sign in ("@", "=", ":", "earer")):
        text = NAMED.sub(lambda found: f"{found[found.lastindex or 0]}{HIDDEN}", text)
    return _of_environment().sub(HIDDEN, SHAPES.sub(HIDDEN, text))


def hidden(value: Any) -> Any:
    """Return a value of JSON's types with `hide` done to every text in it, but for the names of its fields."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {name: _hidden_field(name, item) for name, item in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list | tuple) else value


def _hidden_field(name: str, value: Any) -> Any:
    return HIDDEN if value and isinstance(value, str) and re.fullmatch(CALLED, str(name)) else hidden(value)


@cache
def _of_environment() -> re.Pattern[str]:
    """Return the pattern of the secrets of the environment when first asked, also as they are in URLs and quotes.

    A variable may also name the file of a key, such as SSH_KEY_PATH: where it lies is none. And no password of the sort
    of `postgres` may change the paths of a run.
    """
    here = f"{os.environ.get('PWD')} {os.environ.get('HOME')} {sys.prefix}"
    named = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    own = {
        value
        for value in named
        if value not in here and not WORD.fullmatch(value) and not os.path.exists(value)  # noqa: PTH110  never raises
    }
    forms = {form for one in own for form in (one, quote(one, safe=""), repr(one)[1:-1], json.dumps(one)[1:-1])}
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)")
