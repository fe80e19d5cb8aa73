"""LitServe around one of our backends; runs in LitServe's own environment. argv: spec as JSON, port, batch size."""

from __future__ import annotations

import json
import sys
from typing import Any

import litserve

from engines.foreign_servers.java_servers.mms_handler import replies
from engines.server.worker import load_of


class Handler(litserve.LitAPI):  # type: ignore[misc]
    """What Multi Model Server's workers run, in LitServe's words."""

    def setup(self, device: str) -> None:
        """Load the backend."""
        found = load_of({"spec": json.loads(sys.argv[1])})
        assert not isinstance(found, tuple), found
        self._loaded = found

    def predict(self, request: Any) -> Any:
        """One request, or a list of them where LitServe batches."""
        requests = request if isinstance(request, list) else [request]
        bodies = [json.loads(reply.body) for reply in replies(self._loaded, requests)]
        return bodies if isinstance(request, list) else bodies[0]


if __name__ == "__main__":
    batch = int(sys.argv[3])
    api = Handler(max_batch_size=batch, batch_timeout=0.0, api_path="/invocations")
    litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning"
    )
