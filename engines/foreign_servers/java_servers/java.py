"""The Java of this machine, which runs other people's servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

OLDEST_JAVA = 11


def java() -> Path | None:
    """JAVA_HOME's java, or the one on the path."""
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").is_file():
        return Path(home) / "bin" / "java"
    found = shutil.which("java")
    return Path(found) if found else None


def java_problem() -> str:
    """Why the Java of this machine cannot run it; '' where it can."""
    program, home = java(), os.environ.get("JAVA_HOME", "")
    if home and not (Path(home) / "bin" / "java").is_file():  # start scripts look nowhere else then
        return f"JAVA_HOME is {home}, which holds no bin/java: set it to a Java {OLDEST_JAVA} or newer, or unset it"
    if program is None:
        return (
            f"no java found: install a Java {OLDEST_JAVA} or newer (apt install default-jre-headless), or set JAVA_HOME"
        )
    try:
        done = subprocess.run([str(program), "-version"], capture_output=True, text=True, timeout=30.0, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} -version does not answer: {error}; set JAVA_HOME to a Java {OLDEST_JAVA} or newer"
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if found is None or int(found.group(1)) < OLDEST_JAVA:
        version = found.group(1) if found else "of no version"
        return f"{program} is Java {version}, and DJL Serving needs {OLDEST_JAVA} or newer: set JAVA_HOME to one"
    return ""
