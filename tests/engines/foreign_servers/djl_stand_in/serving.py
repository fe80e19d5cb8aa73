"""A stand-in for the `djl-serving` command: it plays the recorded conversation around the folder's own model.py.

    serving.py -f CONFIG -m NAME::Python=file:///FOLDER

Recorded: /ping 200 while pending and when ready, 500 once a model failed; GET /models/NAME as DJL Serving prints it.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from djl_python import Input

STATE: dict[str, Any] = {"status": "Pending", "handle": None, "properties": {}}
TURN = threading.Lock()


def read(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}


def load(folder: Path) -> None:
    settings = read(folder / "serving.properties")
    options = {key.removeprefix("option."): value for key, value in settings.items() if key.startswith("option.")}
    STATE.update(settings=settings, properties={**options, "model_dir": str(folder), "device_id": -1})
    sys.path.insert(0, str(folder))
    scope: dict[str, Any] = {"__name__": "model"}
    try:
        exec(compile((folder / "model.py").read_text(), "model.py", "exec"), scope)
        scope["handle"](Input([], STATE["properties"]))
        STATE.update(status="Healthy", handle=scope["handle"])
    except Exception as error:
        print(f"model failed: {error}", flush=True)
        STATE["status"] = "FAILED"


def described(name: str) -> list[dict[str, Any]]:
    workers = int(STATE["settings"]["minWorkers"])
    state = "READY" if STATE["status"] == "Healthy" else "PENDING"
    return [
        {
            "modelName": name, "modelUrl": "file:///opt/ml/model/", "batchSize": int(STATE["settings"]["batch_size"]),
            "maxBatchDelayMillis": int(STATE["settings"]["max_batch_delay"]), "maxIdleSeconds": 60,
            "queueSize": int(STATE["settings"]["job_queue_size"]), "requestInQueue": 0, "status": STATE["status"],
            "loadedAtStartup": True,
            "workerGroups": [
                {
                    "device": {"deviceType": "cpu", "deviceId": -1}, "minWorkers": workers, "maxWorkers": workers,
                    "workers": [
                        {"id": n + 1, "startTime": "2026-01-01T00:00:00.000Z", "status": state}
                        for n in range(workers)
                    ],
                }
            ],
        }
    ]  # fmt: skip


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/ping":
            self.reply(500 if STATE["status"] == "FAILED" else 200, {"status": STATE["status"]})
        elif self.path == "/models/model":
            self.reply(200, described("model"))
        else:
            self.reply(404, {"code": 404})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with TURN:
            output = STATE["handle"](Input([body], STATE["properties"]))
        self.reply(output.code, next(iter(output.answers.values())))

    def reply(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


def main() -> None:
    config = read(Path(sys.argv[sys.argv.index("-f") + 1]))
    name, _, url = sys.argv[sys.argv.index("-m") + 1].partition("::Python=")
    assert name == "model"
    port = int(config["inference_address"].rpartition(":")[2])
    folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    STATE["settings"] = read(folder / "serving.properties")
    threading.Thread(target=load, args=(folder,), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
