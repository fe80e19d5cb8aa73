"""A server as a compose file (`docker compose up`), and read back."""

from __future__ import annotations

from typing import Any

from harness.deploy.started import MODEL_MOUNT, Started
from harness.deploy.yaml_text import as_yaml

SERVICE = "model"
_CONFIG = "file{}"


def as_compose(server: Started, comment: str) -> str:
    """The text of compose.yaml. The model folder is MODEL_DIR, or the folder of the file."""
    service: dict[str, Any] = {"image": server.image}
    if server.command:
        service |= {"entrypoint": [_dollars(server.command[0])], "command": [_dollars(w) for w in server.command[1:]]}
    if server.environment:
        service["environment"] = {name: _dollars(value) for name, value in server.environment.items()}
    service["ports"] = [f"{server.port}:{server.port}"]
    if server.mounts_model:
        service["volumes"] = [
            {"type": "bind", "source": "${MODEL_DIR:-.}", "target": MODEL_MOUNT, "read_only": True},
        ]
    if server.files:
        service["configs"] = [
            {"source": _CONFIG.format(number), "target": path} for number, path in enumerate(server.files)
        ]
    if server.gpus:
        devices = [{"driver": "nvidia", "count": server.gpus, "capabilities": ["gpu"]}]
        service |= {"deploy": {"resources": {"reservations": {"devices": devices}}}, "ipc": "host"}
    document: dict[str, Any] = {"services": {SERVICE: service}}
    if server.files:
        texts = enumerate(server.files.values())
        document["configs"] = {_CONFIG.format(number): {"content": _dollars(text)} for number, text in texts}
    return as_yaml([document], comment)


def _dollars(text: str) -> str:
    """Compose fills variables in, unless the sign is doubled."""
    return text.replace("$", "$$")
