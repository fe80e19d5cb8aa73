"""A server as Kubernetes objects (`kubectl apply`): ConfigMap, Deployment and Service; and read back."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from harness.deploy.started import MODEL_MOUNT, Started
from harness.deploy.yaml_text import as_yaml

NAME = "model"
CLAIM = "model"
"""The PersistentVolumeClaim that holds the model folder: the user's."""
_READY_S = 1200
"""How long it may load before it is restarted."""


def as_kubernetes(server: Started, comment: str) -> str:
    """The text of kubernetes.yaml."""
    container: dict[str, Any] = {"name": NAME, "image": server.image}
    if server.command:
        container["command"] = [_escaped(word) for word in server.command]
    if server.environment:
        container["env"] = [{"name": name, "value": _escaped(text)} for name, text in server.environment.items()]
    container["ports"] = [{"containerPort": server.port}]
    probe = {"httpGet": {"path": server.health, "port": server.port}, "periodSeconds": 10}
    container["startupProbe"] = {**probe, "failureThreshold": _READY_S // 10}
    container["readinessProbe"] = probe
    if server.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": server.gpus}}
    mounts, volumes = _volumes(server)
    container["volumeMounts"] = mounts
    labels = {"app": NAME}
    documents = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME, "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME, "labels": labels},
            "spec": {"selector": labels, "ports": [{"port": server.port, "targetPort": server.port}]},
        },
    ]
    if server.files:
        data = {PurePosixPath(path).name: text for path, text in server.files.items()}
        documents.insert(0, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data})
    return as_yaml(documents, comment)


def _volumes(server: Started) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is mounted, and from where: a file of the ConfigMap each, the model, and shared memory beside GPUs."""
    mounts: list[dict[str, Any]] = [
        {"name": "files", "mountPath": path, "subPath": PurePosixPath(path).name} for path in server.files
    ]
    volumes: list[dict[str, Any]] = [{"name": "files", "configMap": {"name": NAME}}] if server.files else []
    if server.mounts_model:
        mounts.append({"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True})
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}})
    if server.gpus:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108 - the container's
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
    return mounts, volumes


def _escaped(text: str) -> str:
    """Kubernetes fills $(NAME) in, and reads $$ as one sign."""
    return text.replace("$", "$$")
