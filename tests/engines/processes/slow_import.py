"""A program whose import never ends, after it has written its process id; run by test_call_in_child.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

if __name__ == "__main__":
    Path(os.environ["SLOW_IMPORT_PID"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)
