"""TorchServe: PyTorch's model server (no longer developed upstream), its Java front end around our handler."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from engines.api import Availability, EngineSpec
from engines.foreign_servers.java_server import JavaServerEngine, Ports


class TorchServeEngine(JavaServerEngine):
    """Engine `torchserve`: batches of up to batch_size requests, 503 when job_queue_size are waiting."""

    name = "torchserve"
    package = "ts"
    main_class = "org.pytorch.serve.ModelServer"

    def probe(self) -> Availability:
        """Also torch: without it TorchServe's workers die while its /ping stays healthy."""
        found = super().probe()
        if found.is_available and find_spec("torch") is None:
            return Availability(is_available=False, reason="torch not installed: its workers cannot start without it")
        return found

    def config(self, spec: EngineSpec, ports: Ports) -> Mapping[str, str]:
        metrics, inference, management = ports.others
        return {
            "job_queue_size": str(spec.job_queue_size),
            "metrics_address": f"http://127.0.0.1:{metrics}",
            "grpc_inference_address": "127.0.0.1",
            "grpc_management_address": "127.0.0.1",
            "grpc_inference_port": str(inference),
            "grpc_management_port": str(management),
            "disable_token_authorization": "true",  # its management port is on loopback and known to nobody else
            "enable_model_api": "true",
            "disable_system_metrics": "true",
            "enable_envvars_config": "false",
        }
