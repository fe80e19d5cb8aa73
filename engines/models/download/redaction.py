"""Redaction of credentials in logs, messages and results: known values and lookalikes become [redacted]."""

from __future__ import annotations

import os
import re

MASK = "[redacted]"
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "HF_TOKEN")
MIN_SECRET_CHARS = 8
"""Shorter values (a dummy 'test') would blank out ordinary words."""

_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"  # access key ids
    r"|(?<=Signature=)[0-9a-fA-F]{16,}"
    r"|(?<=Credential=)[^/\s,&]+"
    r"|(?<=[Tt]oken=)[^&\s\"']{8,}",
)


class Redactor:
    """Takes the known secrets of this process, and those of the AWS session once it has some, out of texts."""

    def __init__(self) -> None:
        self._values = {os.environ.get(name, "") for name in SECRET_VARIABLES}

    def learn(self, *values: str | None) -> None:
        """Mask these from now on."""
        self._values.update(value for value in values if value)

    def __call__(self, text: str) -> str:
        for value in sorted(self._values, key=len, reverse=True):
            if len(value) >= MIN_SECRET_CHARS:
                text = text.replace(value, MASK)
        return _SHAPES.sub(MASK, text)


redact = Redactor()
"""The one of this process; every message that quotes AWS goes through it."""
