"""s5cmd's command language as its 2.3.0 was seen to take it, for machines without it; transfers by boto3.

What `s5cmd --help`, `cp --help` and trials with odd names showed: options before `run FILE`; one command a line, words
as in a shell; `cp [options] SOURCE TARGET`; without --raw a source with * ? [ is a pattern; errors on standard error
as `ERROR "cp SOURCE TARGET": why`, status 1, the other lines still carried out. With --json, `ls [--etag] s3://b/p/`
prints one record for each object and folder directly there and errors are records too; nothing there is one of them
('no object found'). Under `--log error`, `ls` prints nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

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


def _cp(words: list[str], client: Any) -> str:
    options, (source, target) = _options(words, CP_VALUES, {"--raw"})
    if "--raw" not in options and any(sign in source for sign in "*?["):
        return f'ERROR "cp {source} {target}": it is a pattern'
    try:
        if source.startswith("s3://"):
            bucket, _, key = source.removeprefix("s3://").partition("/")
            Path(target).write_bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        else:
            bucket, _, key = target.removeprefix("s3://").partition("/")
            client.put_object(Bucket=bucket, Key=key, Body=Path(source).read_bytes())
    except ClientError as error:
        return f'ERROR "cp {source} {target}": {error.response["Error"]["Code"]}: {os.environ["AWS_ACCESS_KEY_ID"]}'
    return ""


def _ls(words: list[str], client: Any) -> str:
    options, (uri,) = _options(words, set(), {"--etag"})
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    try:
        answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        return json.dumps({"operation": "ls", "command": f"ls {uri}", "error": f"{code}: {error}"})
    start = f"s3://{bucket}/"
    rows = [{"key": start + each["Prefix"], "type": "directory"} for each in answer.get("CommonPrefixes", [])]
    for item in answer.get("Contents", []):
        etag = {"etag": item["ETag"].strip('"')} if "--etag" in options else {}
        rows.append({"key": start + item["Key"], **etag, "type": "file", "size": item["Size"]})
    for row in rows:
        print(json.dumps(row))
    return "" if rows else json.dumps({"operation": "ls", "command": f"ls {uri}", "error": "no object found"})


def _carry_out(line: str, options: dict[str, str]) -> str:
    client = boto3.client("s3", endpoint_url=options.get("--endpoint-url") or os.environ.get("S3_ENDPOINT_URL"))
    verb, *words = shlex.split(line)
    if verb == "ls":
        assert "--json" in options
        assert "--log" not in options
        return _ls(words, client)
    assert verb == "cp", line
    return _cp(words, client)


def main() -> None:
    """Run the commands of a file."""
    options, (verb, commands) = _options(sys.argv[1:], GLOBAL, {"--json"})
    assert verb == "run"
    lines = Path(commands).read_text(encoding="utf-8").splitlines()
    if os.environ.get("RECORDED_S5CMD_HANGS") and lines[0].startswith("cp"):
        Path(os.environ["RECORDED_S5CMD_HANGS"]).write_text(str(os.getpid()))
        time.sleep(600)
    failed = [message for line in lines if (message := _carry_out(line, options))]
    print("\n".join(failed), file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
