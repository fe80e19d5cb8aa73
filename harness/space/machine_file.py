"""A machine described in a file: what a search is planned for where nobody can ask the machine itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from engines.api import Availability, Capabilities
from engines.registry import traits
from harness.errors import ScenarioError
from harness.scenario.cost import Usd
from harness.scenario.fields import AtLeastOne, AtLeastZero, Strict, Word, expected
from harness.scenario.problems import dotted, explained, line_of, read_text, yaml_problems
from harness.scenario.resolve import ResolvedScenario
from harness.scenario.yaml_nodes import parse
from harness.space.candidates import GpuRoom, SpacePlan
from harness.space.capabilities import engine_capabilities
from harness.units import BYTES_PER_GIB

_Gib = Annotated[float, Field(gt=0.0)]


class DescribedMachine(Strict):
    """The facts of a machine that a plan needs. `gpu` names the kind of its GPUs, `gpu_memory_gib` is each one's."""

    name: Word
    cores: AtLeastOne
    memory_gib: _Gib
    gpus: AtLeastZero = 0
    gpu: Word | None = None
    gpu_memory_gib: _Gib | None = None
    usd_per_hour: Usd | None = None

    @model_validator(mode="after")
    def _knows_its_gpus(self) -> DescribedMachine:
        if (self.gpus > 0) != (self.gpu is not None and self.gpu_memory_gib is not None):
            got = f"gpus: {self.gpus}, gpu: {self.gpu}, gpu_memory_gib: {self.gpu_memory_gib}"
            raise expected("gpus, gpu and gpu_memory_gib together, or none of them", got)
        return self

    def planned(self, plan: SpacePlan) -> SpacePlan:
        """The plan, for this machine's memory."""
        gpus = None
        if self.gpu is not None and self.gpu_memory_gib is not None:
            each = self.gpu_memory_gib * BYTES_PER_GIB
            gpus = GpuRoom(name=self.gpu, largest_bytes=each, total_bytes=self.gpus * each)
        return replace(plan, host=f"{self.name} has", host_bytes=self.memory_gib * BYTES_PER_GIB, gpus=gpus)

    @property
    def text(self) -> str:
        """'h100: 16 cores, 256 GiB, 1 x H100 with 80 GiB, 8.5 USD/h'."""
        gpus = f", {self.gpus} x {self.gpu} with {self.gpu_memory_gib:g} GiB" if self.gpu_memory_gib else ", no GPU"
        price = f", {self.usd_per_hour:g} USD/h" if self.usd_per_hour else ", no price"
        return f"{self.name}: {self.cores} cores, {self.memory_gib:g} GiB{gpus}{price}"


def read_machine(path: Path) -> DescribedMachine:
    """The machine in `path`. Raises ScenarioError, one line per problem."""
    document = parse(read_text(path, "machine"))
    if document.problems:
        raise ScenarioError("\n".join(text for _, text in yaml_problems(path, document)))
    if not isinstance(document.value, dict):
        raise ScenarioError(
            f"{path}:1: expected 'key: value' lines ({', '.join(DescribedMachine.model_fields)}), "
            f"got {document.value!r:.400}"
        )
    try:
        return DescribedMachine.model_validate(document.value)
    except ValidationError as error:
        wrong = []
        for details in error.errors(include_url=False):
            place = details["loc"]
            text = explained(details, place[-1] if place else "", tuple(DescribedMachine.model_fields))
            wrong.append(f"{path}:{line_of(document.lines, place)}: {dotted(place)}{text}")
        raise ScenarioError("\n".join(dict.fromkeys(wrong))) from error


def capabilities_there(
    machine: DescribedMachine, resolved: ResolvedScenario
) -> Callable[..., Capabilities | Availability]:
    """What an engine can do on `machine`, as far as its facts show: every dtype and option of the scenario is taken to
    be possible, since only the engine there could refuse one."""
    dtypes = {dtype: dtype for block in resolved.scenario.space for dtype in block.dtype}
    few = f"{machine.name} has {machine.gpus} GPU{'' if machine.gpus == 1 else 's'}"

    def able(engine: str, *place: str) -> Capabilities | Availability:
        if traits(engine).is_elsewhere or traits(engine).is_rented:
            return engine_capabilities(engine, *place)
        return Capabilities(
            effective_dtypes=dtypes,
            max_tensor_parallel_degree=machine.gpus or machine.cores,
            has_rolling_batch=True,
            has_open_options=True,
            devices=("cpu", "cuda") if machine.gpus else ("cpu",),
            model_kinds=traits(engine).model_kinds,
            reasons={"cuda": few, "tensor_parallel_degree": few} if machine.gpus else {"cuda": few},
        )

    return able
