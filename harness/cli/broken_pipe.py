"""Standard output that survives a closed pipe: `dyno gate ... | head -1` still ends with its verdict."""

from __future__ import annotations

import errno
import os
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has ended; the terminal has hung up."""


class Outlet:
    """A text stream that drops what nobody can read any more, and is otherwise the stream it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_gone = False

    def write(self, text: str) -> int:
        """Write as far as there is a reader."""
        if not self._is_gone:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._let_go(error)
        return len(text)

    def flush(self) -> None:
        """Flush as far as there is a reader."""
        if not self._is_gone:
            try:
                self._stream.flush()
            except OSError as error:
                self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        self._is_gone = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what is still buffered must not fail at the end of the process
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
