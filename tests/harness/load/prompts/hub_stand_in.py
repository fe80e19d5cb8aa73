"""A stand-in for the Hugging Face hub on loopback: one public data set of JSON lines, with the routes that its client
and the library `datasets` ask for; and a stand-in for that library, for where it is not installed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

NAME = "someone/chats"
COMMIT = "5ca1ab1e" * 5

LIBRARY = '''
"""Stands in for the library: a split is the file of its name, read line by line."""
import json, os, urllib.error, urllib.request

def load_dataset(name, subset=None, *, split, revision, streaming):
    assert streaming
    if subset is not None:
        raise ValueError(f"BuilderConfig {subset!r} not found.\\nAvailable: ['default']")
    url = f"{os.environ['HF_ENDPOINT']}/datasets/{name}/resolve/{revision}/{split}.jsonl"
    try:
        lines = urllib.request.urlopen(url, timeout=5).read().splitlines()
    except urllib.error.HTTPError:
        raise ValueError(f"Bad split: {split}. Available splits: ['train']")
    return map(json.loads, lines)
'''


class _Hub(BaseHTTPRequestHandler):
    """A subclass has the `files` of the data set NAME in its one commit, COMMIT."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[Mapping[str, bytes]] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        kind, _, rest = path.partition(f"/{NAME}")
        if kind == path:
            self._refuse("RepoNotFound")
        elif kind == "/api/datasets" and rest in ("", "/revision/main", f"/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            self._json({"id": NAME, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})
        elif kind == "/api/datasets" and rest.startswith("/revision/"):
            self._refuse("RevisionNotFound")
        elif kind == "/api/datasets" and rest.startswith(f"/tree/{COMMIT}"):
            self._json([_entry(name, content) for name, content in self.files.items()])
        elif (name := rest.removeprefix(f"/resolve/{COMMIT}/")) in self.files:
            self._file(self.files[name])
        else:
            self._refuse("EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._json([_entry(name, self.files[name]) for name in asked["paths"] if name in self.files])

    def _file(self, content: bytes) -> None:
        begin, end = 0, len(content)
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(end, int(last) + 1 if last else end)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self._send("application/octet-stream", content[begin:end])

    def _json(self, value: Any) -> None:
        self.send_response(200)
        self._send("application/json", json.dumps(value).encode())

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self._send("text/plain", b"")

    def _send(self, kind: str, content: bytes) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a hub whose data set NAME has these files."""
    handler = type("Hub", (_Hub,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}
