"""Locust's web UI beside a load: it shows what the load processes did, changes nothing, and ends with its parent."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import EnvironmentFault
from harness.load.driver import drive
from harness.load.web_ui.launch import WebUi
from tests.harness.load.odd_server import Odd, echo, odd_server
from tests.harness.load.plans import plan_of
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

N = 60


def _get(url: str, **more: Any) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **more), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _shown(url: str) -> dict[str, Any]:
    """The page's numbers; it looks every half second."""
    found: dict[str, Any] = json.loads(_get(f"{url}/stats/requests")[1])
    return found


def _count(url: str) -> int:
    """Requests on the page."""
    return int(_shown(url)["stats"][-1]["num_requests"])


def test_the_page_shows_the_live_load_and_can_change_nothing(tmp_path: Path) -> None:
    def answer(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(0.005)
        echo(odd, body)

    with odd_server(answer) as endpoint, WebUi(0) as ui:
        offsets_ns = tuple(k * 50_000_000 for k in range(N))
        plan = plan_of(endpoint, users=1, warmup_requests=2, requests=0, offsets_ns=offsets_ns, window_s=3.0)
        ui.watch(tmp_path / "load", plan, "trial one")
        seen: list[int] = []
        result = drive(
            plan,
            tmp_path,
            should_stop=lambda: None,
            on_progress=lambda done: seen.append(_count(ui.url)),
        )
        eventually(lambda: _count(ui.url) >= N + 2, "every request on the page")
        found = _shown(ui.url)
        measured = sum(not record.is_warmup for record in result.records)
        assert measured == N
        counts = {row["name"]: row["num_requests"] for row in found["stats"]}
        assert counts == {"/": N, "/ (warm-up)": 2, "Aggregated": N + 2}
        assert found["state"] == "running"
        assert found["user_count"] >= 1
        assert any(0 < number < N + 2 for number in seen), "it grows while the load runs"
        assert "trial one" in _get(ui.url)[1]
        for path in ("/swarm", "/stop", "/stats/reset"):
            for method in ("POST", "GET"):
                status, text = _get(ui.url + path, method=method, data=b"user_count=9" if method == "POST" else None)
                assert status == 403, (path, method)
                assert "cannot change it" in text
        assert _get(ui.url, headers={"Host": "somewhere.example:80"})[0] == 403
        assert _count(ui.url) == N + 2
        assert ui._child is not None
        process = psutil.Process(ui._child.pid)
        assert {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert not process.is_running()


def test_a_taken_port_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            EnvironmentFault, match=rf"--locust-web-ui {port}: port {port} .*already in use; name another"
        ):
            WebUi(port).__enter__()
    assert not [p for p in psutil.Process().children(recursive=True) if "web_ui_server" in " ".join(p.cmdline())]
