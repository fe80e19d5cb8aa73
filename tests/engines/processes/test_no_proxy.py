"""A proxy in the user's environment never sees what this machine says to itself."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import boto3
import botocore.utils
import httpx
import pytest

from engines.processes.no_proxy import HOSTS, keep_direct, open_here
from tests.engines.proxies import proxy

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "x")  # so that what the test sets is taken back
        monkeypatch.delenv(name)


def test_nothing_changes_where_no_proxy_is_set() -> None:
    keep_direct()
    assert "NO_PROXY" not in os.environ


@pytest.mark.parametrize(
    ("given", "lower", "upper"),
    [
        ({}, "", ""),
        ({"NO_PROXY": "a.example, b"}, "a.example,b", "a.example,b"),
        ({"no_proxy": "a"}, "a", "a"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a", "b"),
    ],
)
def test_what_was_exempt_stays_exempt_in_either_spelling(
    given: dict[str, str], lower: str, upper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HTTPS_PROXY": "http://p", **given}.items():
        monkeypatch.setenv(name, value)
    keep_direct()
    keep_direct()
    for name, message in (("no_proxy", lower), ("NO_PROXY", upper)):
        assert os.environ[name] == ",".join([*message.split(","), *HOSTS]).lstrip(",")


def test_a_star_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://p")
    monkeypatch.setenv("NO_PROXY", "*")
    keep_direct()
    assert os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_every_client_here_goes_direct_to_loopback_and_through_the_proxy_elsewhere(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as trap, proxy(refusal="HTTP/1.1 204 Mine\r\n\r\n") as server:
        url = server.url.replace("127.0.0.1", host)
        monkeypatch.setenv("HTTP_PROXY", trap.url)
        monkeypatch.setenv("ALL_PROXY", trap.url)
        monkeypatch.setattr(urllib.request, "_opener", None)  # made once, with this proxy, for every later test too
        monkeypatch.setenv("REQUEST_METHOD", "")  # urllib ignores HTTP_PROXY under CGI
        monkeypatch.delenv("REQUEST_METHOD")
        with open_here(url, 10.0) as answer:  # without any preparation
            assert answer.status == 204
        keep_direct()
        assert httpx.get(url).status_code == 204
        assert urllib.request.urlopen(url, timeout=10).status == 204
        assert botocore.utils.get_environ_proxies(url) == {}
        s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b")
        s3.delete_object(Bucket="b", Key="k")
        assert len(server.heads) == 4
        assert trap.heads == []
        assert httpx.get("http://hub.example/x").status_code == 502
        assert trap.heads[0].startswith("GET http://hub.example/x ")


@pytest.mark.heavy
def test_a_whole_run_on_loopback_never_asks_the_proxy(tmp_path: Path) -> None:
    scenario = ROOT / "scenarios" / "smoke" / "fake-tiny.yaml"
    with proxy() as trap:
        output = {name: trap.url for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")}
        env = {**os.environ, **output, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "harness", "tune", str(scenario), "--results", str(tmp_path)]
        argv += ["--set", "search.trials=1", "--set", "workload.requests=20", "--no-verify"]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, 4), done.stderr
        assert '"outcome": "ok"' in next(tmp_path.rglob("trials.jsonl")).read_text().replace('":"', '": "')
        assert trap.heads == []
