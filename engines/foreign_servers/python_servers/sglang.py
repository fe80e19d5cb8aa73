"""SGLang's own server, launched on a model folder on an NVIDIA GPU; decoder-only models. It was not yet run here.

Its arguments are those of one pinned version, read from its source into sglang_arguments.json
(tests/engines/foreign_servers/python_servers/sglang_facts.py), because it can be installed on machines with a GPU only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engines.adapters.attach_servers import SERVERS
from engines.api import Capabilities, Endpoint, EngineFacts, EngineSpec
from engines.errors import SpecInvalid
from engines.foreign_servers.starting.arguments import Argument
from engines.foreign_servers.starting.docker_image import ANY_ADDRESS, in_container
from engines.foreign_servers.starting.openai_engine import PROTOCOLS
from engines.foreign_servers.starting.program_place import Place, Program, versions_at
from engines.foreign_servers.starting.program_start import ProgramEngine, ProgramStart, protocol_of
from engines.foreign_servers.starting.start_script import ADDRESS, MODEL_NAME, PORT, script_text
from engines.hosted import HOST, SHARDED_FEATURES
from engines.metrics_page import SGLANG, page_at
from engines.models.checkpoint.kind import DECODER, model_kind
from engines.option_values import AT_LEAST_ONE, FLAG
from engines.serving_properties.write import at_once
from engines.setting import OptionValue
from engines.spec_check import flag, whole_number

USUAL_PORT = 30000
"""SGLang's own; the start script names it."""
FACTS = Path(__file__).with_name("sglang_arguments.json")
NOT_YET_RUN = "SGLang was not yet run here: its launch is untried"
PROGRAM = Program(
    engine="sglang",
    title="SGLang",
    name="sglang",
    by_module=("sglang.launch_server", "--model-path"),
    by_program=("serve", "--model-path"),
    by_command=("--model-path",),
    by_image=("python3", "-m", "sglang.launch_server", "--model-path"),
    packages=("sglang", "torch", "transformers"),
    advice="on a machine with an NVIDIA GPU, pip install sglang into an environment, and name python: or "
    "options.command in the block, or put it on PATH",
)

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_AXIS, _SECRET = "it follows from an axis or from the model", "a secret is stored in no scenario"
_OURS = {
    **dict.fromkeys(("model_path", "dtype", "tp_size", "device", "max_running_requests"), _AXIS),
    **dict.fromkeys(("api_key", "admin_api_key", "ssl_keyfile_password"), _SECRET),
    **dict.fromkeys(("host", "port"), "dyno chooses the address"),
    "served_model_name": "dyno names the model, to know its server from another on the port",
    "disable_radix_cache": "its prefix cache is off; radix_cache: true keeps it",
    "trust_remote_code": "code that comes with a checkpoint is never run",
}
"""Arguments that are no options here, and why."""
_OPTIONS = {
    "image": "docker image to run instead of a program here",
    "command": "the SGLang program to start, with its first arguments, instead of the one that was found",
    "protocol": "'openai' (completions; the default) or 'openai-chat' (the model's chat template)",
    "max_rolling_batch_size": "requests at once in a rolling batch (default 32): SGLang's max_running_requests",
    "radix_cache": "true: repeated beginnings of prompts come from SGLang's prefix cache (default false)",
}
_VALUES = {
    "protocol": PROTOCOLS,
    "max_rolling_batch_size": AT_LEAST_ONE,
    "radix_cache": FLAG,
}
_FEATURES = {**SHARDED_FEATURES, "hardware": "NVIDIA GPU (not yet run)", "model_kinds": "decoder-only"}
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@cache
def known_arguments() -> tuple[str, Mapping[str, Argument]]:
    """The version that the arguments are from, and option -> argument."""
    found = json.loads(FACTS.read_text(encoding="utf-8"))
    rows = {name: Argument.from_row(row) for name, row in found["arguments"].items()}
    return found["version"], rows


class SglangEngine(ProgramEngine):
    """Engine `sglang`: one server a trial."""

    name = PROGRAM.engine
    program = PROGRAM
    features = _FEATURES

    def note(self, versions: Mapping[str, str]) -> str:
        """The same of every one."""
        return NOT_YET_RUN

    def capabilities(self) -> Capabilities:
        """Options are the arguments of the pinned version, whichever is found."""
        version, known = known_arguments()
        return Capabilities(
            effective_dtypes={dtype: dtype for dtype in _DTYPES},
            max_tensor_parallel_degree=1 << 8,
            has_rolling_batch=True,
            max_workers=1,
            devices=("cuda",) if Path("/dev/nvidiactl").exists() else (),
            options={
                **{name: f"SGLang {version}'s {name}" for name in known if name not in _OURS},
                **_OPTIONS,
            },
            option_values={**known, **_VALUES},
            context_option="context_length",
            reasons={
                **dict.fromkeys(("int8", "int4"), "serve a folder that holds quantized weights, or name quantization"),
                "workers": "one server is a trial, and its requests share one batch",
                "cpu": "SGLang's engine for CPUs is for Intel AMX, built from its source",
                "cuda": "no NVIDIA driver on this machine",
                **{f"options.{name}": why for name, why in _OURS.items()},
            },
            features=_FEATURES,
            model_kinds=(DECODER,),
        )

    def prepared(self, spec: EngineSpec) -> Served:
        """What is started, found in the order of program_place."""
        return Served.of(spec, self.place())


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(ProgramStart):
    """One spec, understood: what the server is started with."""

    @classmethod
    def of(cls, spec: EngineSpec, place: Place) -> Served:
        """Raises SpecInvalid for what can be known before anything runs."""
        kind, degree = model_kind(spec.model_dir), spec.tensor_parallel_degree
        if kind.heads % degree:
            raise SpecInvalid(
                f"sglang: tensor_parallel_degree {degree} refused: it does not divide the model's {kind.heads} heads"
            )
        protocol = protocol_of(spec, has_template=kind.has_chat_template or "chat_template" in spec.options)
        whole_number(spec, "max_rolling_batch_size", 1)
        return cls(spec=spec, place=place, arguments=_words(spec), protocol=protocol)

    def argv(self, name: str = MODEL_NAME, port: int | str = PORT, address: str = ADDRESS) -> list[str]:
        """The whole command line; a start script's, unless name, port and address are given."""
        fixed = {
            "--served-model-name": name, "--host": address, "--port": port, "--dtype": _DTYPES[self.spec.dtype],
            "--tp-size": self.spec.tensor_parallel_degree, "--max-running-requests": at_once(self.spec),
        }  # fmt: skip
        return self.command_line(fixed)

    def script(self) -> str:
        """The start script; cached prompt tokens are counted, and there are metrics."""
        title = f"SGLang's server: {self.spec.model_dir.name}, {self.spec.dtype}; not yet run by dyno"
        more = ("--enable-cache-report", "--enable-metrics")
        if self.place.image:
            words = [*self.argv(MODEL_NAME, USUAL_PORT, ANY_ADDRESS), *more]
            return script_text(title, in_container(self.place.image, words, USUAL_PORT, self.spec, _QUIET), USUAL_PORT)
        words = [*self.argv(), *more]
        return script_text(title, words, USUAL_PORT, {**_QUIET, "PYTHONPATH": ""})

    def endpoint(self, port: int, name: str) -> Endpoint:
        """Where and how to ask it: in the words of its documents."""
        dialect = SERVERS["sglang"].dialect
        url = f"http://{HOST}:{port}"
        page = page_at(url, SGLANG)
        return Endpoint(url=url, protocol=self.protocol, model_name=name, dialect=dialect, metrics=page)

    def facts(self, port: int, load_s: float) -> EngineFacts:
        """What runs, as far as it is known from outside."""
        versions, (read, _) = versions_at(self.place, PROGRAM.packages), known_arguments()
        notes = [f"SGLang found by {self.place.where}", NOT_YET_RUN, f"metrics at http://{HOST}:{port}/metrics"]
        if versions.get("sglang") != read:
            notes.append(f"options were checked as {read} has them, and {versions.get('sglang', 'another')} runs")
        return EngineFacts(effective_dtype=self.spec.dtype, versions=versions, load_s=load_s, notes=tuple(notes))


def _words(spec: EngineSpec) -> tuple[str, ...]:
    """The options on the command line. Raises SpecInvalid for a value that one does not take."""
    _, known = known_arguments()
    options: dict[str, OptionValue] = {name: value for name, value in spec.options.items() if name not in _OPTIONS}
    if not flag(spec, "radix_cache", False):
        options["disable_radix_cache"] = True
    return tuple(word for name, value in options.items() for word in known[name].words(spec.engine, name, value))
