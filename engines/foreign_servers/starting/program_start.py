"""The start of a server that is a Python program, from one specification: its place, its arguments, its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.api import Availability, EngineSpec
from engines.errors import SpecInvalid, Unavailable
from engines.foreign_servers.starting.docker_image import MOUNT
from engines.foreign_servers.starting.openai_engine import PROTOCOLS, OpenAiServerEngine
from engines.foreign_servers.starting.openai_server import wait_for_model
from engines.foreign_servers.starting.program_place import Place, Program, versions_at
from engines.option_values import OptionValues
from engines.processes.server_process import ServerProcess
from engines.spec_check import choice


class ProgramEngine(OpenAiServerEngine):
    """An engine whose server is `program`."""

    program: Program

    def place(self) -> Place:
        """What starts it, found in the order of program_place. Raises Unavailable, SpecInvalid."""
        return self.program.place(self.command, self.python, self.image)

    def probe(self) -> Availability:
        """Whether there is a server to start with all that it serves with, and its versions; nothing is imported."""
        try:
            place = self.place()
        except (Unavailable, SpecInvalid) as error:
            return Availability(is_available=False, reason=str(error), note=self.note({}))
        versions = versions_at(place, self.program.packages)
        missing = self.missing(versions) if place.python else []
        reason = f"{place.python} has no {', '.join(missing)}: {self.program.advice}" if missing else ""
        return Availability(is_available=not missing, reason=reason, versions=versions, note=self.note(versions))

    def missing(self, versions: Mapping[str, str]) -> list[str]:
        """The packages that it cannot serve without and that are not among those of its place."""
        return [name for name in self.program.packages if name not in versions]

    def note(self, versions: Mapping[str, str]) -> str:
        """What a user should know of the server with these versions; none: of any."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStart:
    """One spec, understood: what the server is started with."""

    spec: EngineSpec
    place: Place
    arguments: tuple[str, ...]
    protocol: str

    def command_line(self, fixed: Mapping[str, object]) -> list[str]:
        """The program, the model (mounted, in a docker image), the fixed arguments with their values, the options."""
        pairs = (str(word) for pair in fixed.items() for word in pair)
        model = MOUNT if self.place.image else str(self.spec.model_dir)
        return [*self.place.argv, model, *pairs, *self.arguments]

    def wait(self, process: ServerProcess, port: int, name: str, timeout_s: float) -> None:
        """Until it serves this model."""
        wait_for_model(process, port, (name,), timeout_s)


def protocol_of(spec: EngineSpec, *, has_template: bool, protocols: OptionValues = PROTOCOLS) -> str:
    """The one of `protocols`, completions first, that the spec asks for. Raises SpecInvalid: a chat without a chat
    template."""
    protocol = choice(spec, "protocol", protocols.choices, protocols.choices[0])
    if protocol != protocols.choices[0] and not has_template:
        raise SpecInvalid(f"{spec.engine}: option protocol is {protocol!r}, and {spec.model_dir} has no chat template")
    return protocol
