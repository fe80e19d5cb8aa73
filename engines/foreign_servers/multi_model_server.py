"""Multi Model Server (AWS): the Java front end of SageMaker's older containers, around our handler."""

from __future__ import annotations

from collections.abc import Mapping

from engines.api import EngineSpec
from engines.foreign_servers.java_server import JavaServerEngine, Ports


class MultiModelServerEngine(JavaServerEngine):
    """Engine `multi-model-server`: batches of up to batch_size requests, 503 when job_queue_size are waiting."""

    name = "multi-model-server"
    package = "mms"
    main_class = "com.amazonaws.ml.mms.ModelServer"

    def config(self, spec: EngineSpec, ports: Ports) -> Mapping[str, str]:
        return {"job_queue_size": str(spec.job_queue_size), "enable_envvars_config": "false"}
