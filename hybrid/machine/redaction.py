"""Remove secrets from logs and failures before they are written into a shared folder."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY|_KEY$", re.IGNORECASE)
KNOWN_FORMS = re.compile(
    r"\b(?:hf_|sk-|ghp_|github_pat_|glpat-|xox[abp]-|AKIA|ya29\.)[A-Za-z0-9_\-.]{12,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
MIN_SECRET_LENGTH = 8


def redacted(text: str) -> str:
    """`text` with `***` for the values of environment variables named like secrets, and for tokens of known forms."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= MIN_SECRET_LENGTH:
            text = text.replace(value, "***")
    return KNOWN_FORMS.sub("***", text)
