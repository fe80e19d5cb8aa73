"""The cache folder ($DYNO_CACHE), which keeps converted models, downloads, environments and journals."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$DYNO_CACHE, else ~/.cache/dynamometer. Not created here."""
    configured = os.environ.get("DYNO_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "dynamometer"
