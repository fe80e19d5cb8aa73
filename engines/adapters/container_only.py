"""Engines that exist only inside AWS's LMI containers: nothing launches them here, but their files can be written.

Facts of the container versions: djl-serving's release branches 0.21.0-dlc to 0.36.0-lmi27-dlc.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from engines.api import Availability, Capabilities, EngineSpec, RunningEngine
from engines.errors import SpecInvalid, Unavailable
from engines.setting import DTYPES

Version = tuple[int, ...]
T5_FAMILY = ("t5", "mt5", "umt5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Container versions (inclusive) in which one set of keys serves this engine. `t5_refusal` says why they do not
    serve T5; '' when they do. `values` are the keys that choose the engine there."""

    since: Version
    until: Version
    values: Mapping[str, str]
    t5_refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEngine:
    """What is known about one engine of the containers. `instead` ends every refusal: what to use now."""

    name: str
    missing: str
    instead: str
    generations: tuple[Generation, ...]
    dtypes: tuple[str, ...]
    features: Mapping[str, str]
    max_tensor_parallel_degree: int
    devices: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    def probe(self) -> Availability:
        """Never available: `missing` says what would be needed."""
        return Availability(is_available=False, reason=f"{self.missing}; {self.instead}")

    def capabilities(self) -> Capabilities:
        """What the containers' documentation says, not what was run."""
        reasons = {dtype: f"{self.name} in the containers takes {', '.join(self.dtypes)}" for dtype in DTYPES}
        return Capabilities(
            effective_dtypes={dtype: dtype for dtype in self.dtypes},
            max_tensor_parallel_degree=self.max_tensor_parallel_degree,
            devices=self.devices,
            reasons={**{dtype: why for dtype, why in reasons.items() if dtype not in self.dtypes}, **self.refused},
            features=self.features,
        )

    def launch(self, spec: EngineSpec, workdir: Path, ready_timeout_s: float) -> AbstractContextManager[RunningEngine]:
        """Raises Unavailable."""
        raise Unavailable(f"{self.name} cannot run here: {self.probe().reason}")

    def properties(self, spec: EngineSpec, container: str) -> dict[str, str]:
        """serving.properties of `spec` for a container version such as '0.24.0'.

        Raises SpecInvalid with what to use instead where that version does not serve it.
        """
        version = _version(container)
        generation = next((each for each in self.generations if each.since <= version <= each.until), None)
        if generation is None:
            spans = ", ".join(f"{_text(each.since)} to {_text(each.until)}" for each in self.generations)
            raise SpecInvalid(f"{self.name}: container {container} does not have it (it is in {spans}); {self.instead}")
        kind = _model_type(spec.model_dir)
        if generation.t5_refusal and kind in T5_FAMILY:
            raise SpecInvalid(f"{self.name}: container {container}: {generation.t5_refusal}; {self.instead}")
        if spec.dtype not in self.dtypes or spec.dtype in self.refused:
            why = self.refused.get(spec.dtype, f"it takes {', '.join(self.dtypes)}")
            raise SpecInvalid(f"{self.name}: dtype {spec.dtype!r} refused: {why}")
        return {
            **generation.values,
            "option.model_id": str(spec.model_dir),
            "option.dtype": spec.dtype,
            "option.tensor_parallel_degree": str(spec.tensor_parallel_degree),
            "batch_size": str(spec.batch_size),
            "max_batch_delay": str(spec.max_batch_delay_ms),
            "job_queue_size": str(spec.job_queue_size),
            "minWorkers": str(spec.workers),
            "maxWorkers": str(spec.workers),
        }


def _version(container: str) -> Version:
    parts = container.partition("-")[0].split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise SpecInvalid(f"container {container!r}: expected a version such as 0.24.0")
    return tuple(int(part) for part in parts)


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _model_type(model_dir: Path) -> str:
    try:
        return str(json.loads((model_dir / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError) as error:
        raise SpecInvalid(f"{model_dir}: no config.json that says what kind of model it is: {error}") from error
