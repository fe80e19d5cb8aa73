"""One server in a container: its image, command line, environment and files; made from a recommendation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engines.api import EngineSpec
from engines.foreign_servers.python_servers import sglang
from engines.foreign_servers.python_servers.sglang import SglangEngine
from engines.foreign_servers.python_servers.vllm import PROGRAM, USUAL_PORT, Served, VllmEngine
from engines.foreign_servers.starting.docker_image import ANY_ADDRESS
from engines.foreign_servers.starting.program_place import Place, Program
from engines.registry import traits
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.write import property_values
from harness.choose.text import image_here
from harness.errors import UsageError
from harness.properties.containers import Container, image_tag, parse_container
from harness.properties.environment_variables import MAX_BYTES, MAX_ENTRIES, to_environment
from harness.properties.model_folder import variables_beside
from harness.properties.render import PROPERTIES, Source, lmi_values, unavailable
from harness.records import Candidate
from harness.trial.launch import spec_of
from harness.wording import label

MODEL_MOUNT = "/opt/ml/model"
"""Where SageMaker and DJL's images have the model folder; ours and vLLM's get it at the same place."""
OWN_IMAGE = "dynamometer:0.1"
"""No registry has one: an image of the user's that holds dyno."""
OWN_FILE = f"/opt/dynamometer/{PROPERTIES}"
OWN_PORT = 8080
OWN_COMMAND = (
    "dyno", "serve", "--properties", OWN_FILE, "--host", "0.0.0.0", "--port", str(OWN_PORT)  # noqa: S104
)  # fmt: skip
VLLM_IMAGES = {VllmEngine.name: "vllm/vllm-openai", "vllm-cpu": "public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo"}
"""vLLM's own images; the second is the project's build for CPUs."""
SM_PREFIX = "SM_VLLM_"
_HERE_ONLY = ("VLLM_CACHE_ROOT",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How AWS's image of a server takes its arguments: variables with a prefix, one of which names the model."""

    form: str
    prefix: str
    model: str


VLLM = Door(form="sm-vllm-env", prefix=SM_PREFIX, model=f"{SM_PREFIX}MODEL")
SGLANG = Door(form="sm-sglang-env", prefix="SM_SGLANG_", model="SM_SGLANG_MODEL_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """One server in a container. `files` are path in the container -> text; `mounts_model` whether the user's model
    folder is at MODEL_MOUNT; `health` answers 200 once it serves."""

    image: str
    port: int
    health: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    mounts_model: bool = True
    gpus: int = 0


def started(source: Source, container: str, model_dir: Path) -> Started:
    """What serves the trial's candidate: our server, a DJL container, or vLLM where that was measured and `container`
    is ours. Raises UsageError for what cannot be expressed."""
    candidate, target = source.trial.candidate, parse_container(container)
    if not target.is_own:
        return _in_djl(source, target)
    if candidate.engine == VllmEngine.name:
        return vllm_started(source, model_dir)
    if traits(candidate.engine).has_own_front or traits(candidate.engine).is_elsewhere:
        raise UsageError(
            f"{label(candidate)}: no container form is known for {candidate.engine}; use serving.properties"
        )
    if candidate.python:
        raise UsageError(
            f"{label(candidate)} ran in another Python environment ({candidate.python}), which an image lacks; measure "
            "it without python: in an environment like the image's"
        )
    hub = _named_model(source)
    values = property_values(candidate, f"engines.{candidate.engine}", model_id=hub)
    return Started(
        image=OWN_IMAGE,
        port=OWN_PORT,
        health="/ping",
        command=OWN_COMMAND if hub else (*OWN_COMMAND, "--model-dir", MODEL_MOUNT),
        files={OWN_FILE: format_properties(values)},
        mounts_model=not hub,
        gpus=_gpus(candidate),
    )


def _in_djl(source: Source, target: Container) -> Started:
    candidate = source.trial.candidate
    if reason := unavailable(candidate, target, is_decoder=source.is_decoder):
        raise UsageError(f"--container {target.name}: cannot serve {label(candidate)}: {reason}")
    values = lmi_values(source, target)
    variables = {}
    if traits(candidate.engine).container_rolling_batch:
        if candidate.device == "cpu":
            raise UsageError(
                f"{label(candidate)} was measured on a CPU, and {target.name} computes on GPUs only; "
                "--container dynamometer-0.1 starts vLLM's own image for CPUs"
            )
        variables = {name: str(value) for name, value in candidate.options.items() if name.startswith("VLLM_")}
    else:
        variables = variables_beside(source, target)
    return Started(
        image=image_here(image_tag(target))[0],
        port=OWN_PORT,
        health="/ping",
        environment={**to_environment(values, target), **variables},
        mounts_model=not _named_model(source) or not traits(candidate.engine).container_entry_point,
        gpus=_gpus(candidate),
    )


def vllm_started(source: Source, model_dir: Path) -> Started:
    """vLLM's own server, with the command line and the variables of the trial."""
    candidate = source.trial.candidate
    served = Served.of(_in_image(source, model_dir, VllmEngine.name, PROGRAM), _place(PROGRAM))
    package = "vllm-cpu" if candidate.device == "cpu" else VllmEngine.name
    version = source.trial.versions.get(package, source.trial.versions.get(VllmEngine.name, "latest"))
    return Started(
        image=f"{VLLM_IMAGES[package]}:{version if version == 'latest' else f'v{version}'}",
        port=USUAL_PORT,
        health="/health",
        command=_on_model(source, served.argv("model", USUAL_PORT, ANY_ADDRESS)),
        environment={name: value for name, value in served.env.items() if _is_of_vllm(name)},
        mounts_model=not _named_model(source),
        gpus=_gpus(candidate),
    )


def sglang_started(source: Source, model_dir: Path) -> Started:
    """SGLang's own server, with the command line of the trial."""
    served = sglang.Served.of(_in_image(source, model_dir, SglangEngine.name, sglang.PROGRAM), _place(sglang.PROGRAM))
    return Started(
        image="",
        port=sglang.USUAL_PORT,
        health="/health",
        command=_on_model(source, served.argv("model", sglang.USUAL_PORT, ANY_ADDRESS)),
        mounts_model=not _named_model(source),
        gpus=_gpus(source.trial.candidate),
    )


def _in_image(source: Source, model_dir: Path, engine: str, program: Program) -> EngineSpec:
    """What was measured, for the server in its image. Raises UsageError for another engine's candidate."""
    candidate = source.trial.candidate
    if candidate.engine != engine:
        raise UsageError(
            f"{label(candidate)} is no {program.title}: choose another --format, or measure engine {engine}"
        )
    options = {name: value for name, value in candidate.options.items() if name not in ("command", "image")}
    return spec_of(replace(candidate, options=options), model_dir)


def _place(program: Program) -> Place:
    return Place(argv=(program.name, "serve"), where="the image")


def _on_model(source: Source, argv: Sequence[str]) -> tuple[str, ...]:
    """The command line on the model's own name, or on the folder where it is mounted."""
    return (*argv[:2], _named_model(source) or MODEL_MOUNT, *argv[3:])


def sagemaker_environment(server: Started, door: Door = VLLM) -> dict[str, str]:
    """The variables with which AWS's image starts the same server: its entry script makes an argument of each variable
    with the prefix, bare for true, none for false. Raises UsageError for what it cannot pass on."""
    words = server.command[3:]
    _refuse_lists(words, door)
    variables = {door.model: server.command[2], **server.environment}
    for flag, value in arguments_in(words).items():
        name = door.prefix + flag.upper().replace("-", "_")
        if flag in ("host", "port"):
            continue  # the script's own
        if value is not None and (value.lower() in ("", "true", "false") or value.endswith("=") or "\n" in value):
            raise UsageError(f"{name}: AWS's entry script cannot pass on the value {value!r}; use vllm-command")
        variables[name] = "true" if value is None else value
    if len(variables) > MAX_ENTRIES:
        raise UsageError(f"{door.form}: SageMaker takes {MAX_ENTRIES} variables, got {len(variables)}")
    for name, value in variables.items():
        if len(value.encode()) > MAX_BYTES:
            raise UsageError(f"{door.form}: {name}: SageMaker takes {MAX_BYTES} bytes, got {len(value.encode())}")
    return variables


def _refuse_lists(words: tuple[str, ...], door: Door) -> None:
    """Raises UsageError for an argument of several words: a variable is passed on as one."""
    for first, second in itertools.pairwise(words):
        if not first.startswith("--") and not second.startswith("--"):
            raise UsageError(
                f"{door.form}: AWS's entry script cannot pass on {second!r} after {first!r}: a list of words"
            )


def arguments_in(words: tuple[str, ...]) -> dict[str, str | None]:
    """Name of an argument -> its value, None for a bare one; in the order of the command line."""
    found: dict[str, str | None] = {}
    for at, word in enumerate(words):
        if re.match(r"--[a-z]", word):
            has_value = at + 1 < len(words) and not re.match(r"--[a-z]", words[at + 1])
            found[word.removeprefix("--")] = words[at + 1] if has_value else None
    return found


def _is_of_vllm(name: str) -> bool:
    return name.startswith("VLLM_") and name not in _HERE_ONLY


def _named_model(source: Source) -> str:
    """What the container downloads by itself; '' where a folder is mounted."""
    return str(source.model.get("value", "")) if source.model.get("kind") in ("hub", "s3") else ""


def _gpus(candidate: Candidate) -> int:
    return candidate.tensor_parallel_degree * candidate.workers if candidate.device != "cpu" else 0
