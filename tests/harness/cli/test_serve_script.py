"""`dyno serve` on the start script of another project's server: on its port, known to be ours, nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from engines.foreign_servers.starting.start_script import ADDRESS, MODEL_NAME, PORT, script_text
from engines.processes.no_proxy import open_here
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

DYNO = [sys.executable, "-m", "harness", "serve"]
ROOT = Path(__file__).parents[3]
STAND_IN = """
import http.server, json, subprocess, sys
address, port, name = sys.argv[1:]
child = subprocess.Popen(["sleep", "600"])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": name}], "child": child.pid}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.HTTPServer((address, int(port)), Handler).serve_forever()
"""


def script(folder: Path, *, name: str = MODEL_NAME, program: str = STAND_IN) -> Path:
    path = folder / "start.sh"
    path.write_text(script_text("a stand-in", [sys.executable, "-c", program, ADDRESS, PORT, name], 9000))
    return path


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[int]]]:
    argv = [*DYNO, str(folder), "--port", "0", "--name", "mine"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+), OpenAI's protocol, model 'mine'\n", line)
        assert found, line
        with open_here(f"{found[1]}/v1/models", 10.0) as answer:
            served = json.loads(answer.read())
        assert served["data"] == [{"id": "mine"}]
        pids = [served["child"], *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        try:
            yield process, found[1], pids
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_a_script_is_served_until_a_signal_and_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    script(tmp_path)
    with serving(tmp_path) as (process, _, pids):
        process.send_signal(number)
        assert process.wait(timeout=60) == status
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_a_port_that_is_taken_and_a_server_that_fails_are_one_sentence(tmp_path: Path) -> None:
    script(tmp_path)
    with serving(tmp_path) as (_, url, _):
        done = _served(tmp_path, "--port", url.rpartition(":")[2])
        assert done == (3, f"dyno: port {url[17:]} on 127.0.0.1 is in use by another process; choose another with "
                           "--port, or --port 0 for any\n")  # fmt: skip
    (tmp_path / "other").mkdir()
    status, text = _served(script(tmp_path / "other", name="another"), "--port", "0")
    assert status == 3
    assert "it serves another, expected model" in text
    (tmp_path / "broken").mkdir()
    status, text = _served(script(tmp_path / "broken", program="raise SystemExit('no such model')"), "--port", "0")
    assert status == 3
    assert "the server ended with status 1" in text
    assert text.endswith("no such model\n")


def _served(*arguments: object) -> tuple[int, str]:
    done = subprocess.run([*DYNO, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=ROOT)
    return done.returncode, done.stderr


def test_what_cannot_be_served_names_what_is_expected(tmp_path: Path) -> None:
    assert _served() == (
        2, "dyno: serve: expected one PATH: a serving.properties, a start.sh, or the folder that holds it\n"
    )  # fmt: skip
    path = script(tmp_path)
    assert _served(path, "--model-dir", "x")[1].startswith("dyno: --model-dir belongs to serving.properties")
    assert "no such file; `dyno recommend` writes one" in _served(tmp_path / "none.sh")[1]


def test_what_the_caller_decides_is_left_open_and_the_rest_is_quoted() -> None:
    env = {"A": "it's", "PATH": "/x/bin", "PYTHONPATH": ""}
    text = script_text("model a\necho b", ["serve", "--port", PORT, "$HOME"], 9000, env, "line one")
    assert "exec serve --port \"$PORT\" '$HOME' <<'END_OF_INPUT'\nline one\nEND_OF_INPUT\n" in text
    assert "export PYTHONPATH=''\n" in text
    assert "# model a\n# echo b\n" in text
    run = ["/bin/sh", "-c", text.replace("exec serve", "echo $A $PATH")]
    done = subprocess.run(run, capture_output=True, text=True, env={"PORT": "7", "PATH": "/bin"}, check=True)
    assert done.stdout == "it's /x/bin:/bin --port 7 $HOME\n"
