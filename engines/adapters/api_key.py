"""API keys for endpoints that somebody else runs: read from an environment variable, sent as bearer tokens."""

from __future__ import annotations

import os


def authorization(api_key_env: str) -> dict[str, str]:
    """The header that carries the key in this environment variable; none where there is no key."""
    key = os.environ.get(api_key_env, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def without_key(text: str, api_key_env: str) -> str:
    """`text` without the key, which a server's refusal may repeat."""
    key = os.environ.get(api_key_env, "")
    return text.replace(key, "[redacted]") if key else text
