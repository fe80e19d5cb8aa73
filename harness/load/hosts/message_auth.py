"""Authentication of the messages between load hosts by HMAC-SHA256, over Locust's unauthenticated protocol.

Both sides know a secret; each connection makes a key of it and of two nonces, and every message carries a rising
number, so neither an old message nor one of another connection is accepted. Nothing is encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

SECRET_VARIABLE = "DYNO_LOAD_SECRET"  # noqa: S105  the name of the variable, not the secret
NONCE_BYTES = 16


class Seal:
    """One side ('master' or 'worker') of one connection."""

    def __init__(self, secret: str, side: str, worker_nonce: str, master_nonce: str) -> None:
        nonces = f"{worker_nonce}:{master_nonce}".encode()
        self._key = hmac.new(secret.encode(), nonces, hashlib.sha256).digest()
        self._side = side
        self._sent = self._seen = 0

    def wrap(self, kind: str, value: Any) -> dict[str, Any]:
        """The message's data: a JSON value, its number, its MAC."""
        self._sent += 1
        body = json.dumps(value, separators=(",", ":"))
        return {"body": body, "number": self._sent, "mac": self._mac(self._side, kind, self._sent, body)}

    def unwrap(self, kind: str, data: Any) -> Any:
        """The value the other side sent. Raises ValueError for whatever it did not send, or sent before."""
        other = "worker" if self._side == "master" else "master"
        try:
            body, number, mac = str(data["body"]), int(data["number"]), str(data["mac"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a sealed message") from error
        if not hmac.compare_digest(mac, self._mac(other, kind, number, body)):
            raise ValueError(f"the seal is not right: is {SECRET_VARIABLE} the same on both hosts?")
        if number <= self._seen:
            raise ValueError("a message that was sent before")
        self._seen = number
        return json.loads(body)

    def _mac(self, side: str, kind: str, number: int, body: str) -> str:
        text = f"{side}\n{kind}\n{number}\n{body}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
