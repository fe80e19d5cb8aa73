"""s5cmd's command language as its 2.3.0 was seen to take it, for machines without it; uploads by boto3.

What `s5cmd --help`, `cp --help` and trials with odd names showed: options before `run FILE`; one command a line, words
as in a shell; `cp [options] SOURCE TARGET`; without --raw a source with * ? [ is a pattern; errors on standard error
as `ERROR "cp SOURCE TARGET": why`, status 1, the other lines still carried out.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

GLOBAL = {"--endpoint-url", "--log", "--retry-count", "--numworkers"}
CP_VALUES = {"--part-size", "--concurrency"}


def _options(words: list[str], with_value: set[str], flags: set[str]) -> tuple[dict[str, str], list[str]]:
    found = {}
    while words and words[0].startswith("-"):
        name = words.pop(0)
        if name not in with_value | flags:
            sys.exit(f"ERROR Incorrect Usage: flag provided but not defined: {name}")
        found[name] = words.pop(0) if name in with_value else ""
    return found, words


def _cp(line: str, endpoint: str) -> str:
    words = shlex.split(line)
    assert words.pop(0) == "cp", line
    options, (source, target) = _options(words, CP_VALUES, {"--raw"})
    if "--raw" not in options and any(sign in source for sign in "*?["):
        return f'ERROR "cp {source} {target}": it is a pattern'
    bucket, _, key = target.removeprefix("s3://").partition("/")
    try:
        client = boto3.client("s3", endpoint_url=endpoint or None)
        client.put_object(Bucket=bucket, Key=key, Body=Path(source).read_bytes())
    except ClientError as error:
        return f'ERROR "cp {source} {target}": {error.response["Error"]["Code"]}: {os.environ["AWS_ACCESS_KEY_ID"]}'
    return ""


def main() -> None:
    """Run the commands of a file."""
    options, (verb, commands) = _options(sys.argv[1:], GLOBAL, {"--json"})
    assert verb == "run"
    if os.environ.get("RECORDED_S5CMD_HANGS"):
        Path(os.environ["RECORDED_S5CMD_HANGS"]).write_text(str(os.getpid()))
        time.sleep(600)
    lines = Path(commands).read_text(encoding="utf-8").splitlines()
    failed = [said for line in lines if (said := _cp(line, options.get("--endpoint-url", "")))]
    print("\n".join(failed), file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
