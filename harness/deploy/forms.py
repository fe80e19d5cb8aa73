"""The forms of a recommendation beside serving.properties: variables, containers, command lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engines.cache_folder import cache_root
from engines.errors import EngineError
from engines.foreign_servers.djl.folder import SPEC_FILE, spec_text
from engines.foreign_servers.python_servers.sglang import SglangEngine
from engines.foreign_servers.python_servers.vllm import VllmEngine
from engines.foreign_servers.written_commands import CONFIG, WRITERS
from engines.models.checkpoint.kind import model_kind
from engines.models.folder import resolve_model
from engines.registry import traits
from harness.deploy.compose import as_compose
from harness.deploy.kubernetes import CLAIM, as_kubernetes
from harness.deploy.started import (
    MODEL_MOUNT,
    SGLANG,
    Started,
    sagemaker_environment,
    sglang_started,
    started,
    vllm_started,
)
from harness.deploy.yaml_text import as_yaml
from harness.errors import UsageError
from harness.properties.containers import parse_container
from harness.properties.model_folder import measured_spec
from harness.properties.render import (
    PROPERTIES,
    Source,
    evidence,
    inside_the_endpoint,
    is_carried,
    render,
    server_notes,
)
from harness.trial.launch import spec_of
from harness.wording import label

SM_VLLM_IMAGE = "public.ecr.aws/deep-learning-containers/vllm:server-sagemaker-cuda"
SM_SGLANG_IMAGE = "public.ecr.aws/deep-learning-containers/sglang:server-sagemaker-cuda"
FORMS = (PROPERTIES, "env", "docker-compose", "kubernetes", "vllm-command", "sm-vllm-env", "sm-sglang-env", *WRITERS)
FILES = {
    "env": "container.env",
    "docker-compose": "compose.yaml",
    "kubernetes": "kubernetes.yaml",
    "vllm-command": "vllm.sh",
    "sm-vllm-env": "sagemaker-vllm.env",
    "sm-sglang-env": "sagemaker-sglang.env",
    "trtllm-serve-command": "trtllm-serve.sh",
    "tgi-command": "tgi.sh",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The files of one form, the one that starts the server first; `next_command` is what to type then. `needs_model`:
    the container's handler reads the measured model beside them. `note`: what to know before it is used."""

    files: Mapping[str, str]
    next_command: str
    needs_model: bool = False
    note: str = ""


def form(source: Source, name: str, container: str, folder: Path) -> Form:
    """The recommendation in form `name` for `container`, to be written to `folder`. Raises UsageError for what the form
    cannot express."""
    source = inside_the_endpoint(source)
    model_dir = _model_dir(source, needs_sizes=name in WRITERS)
    path = folder / FILES[name]
    if name in WRITERS:
        return _not_yet_run(source, name, model_dir, path)
    comment = f"{evidence(source)}\nStarted from here: {MODEL_MOUNT} is the model's folder."
    if name == "vllm-command":
        return _command(source, model_dir, comment, path)
    if name in ("sm-vllm-env", "sm-sglang-env"):
        if name == "sm-vllm-env":
            variables, image = sagemaker_environment(vllm_started(source, model_dir)), SM_VLLM_IMAGE
        else:
            variables, image = sagemaker_environment(sglang_started(source, model_dir), SGLANG), SM_SGLANG_IMAGE
        run = f"docker run --rm -p 8080:8080 --env-file {shlex.quote(str(path))} -v MODEL_FOLDER:{MODEL_MOUNT}"
        return Form(files={path.name: env_text(variables, comment)}, next_command=f"{run} {image}")
    if name == "env" and parse_container(container).is_own:
        raise UsageError(
            f"--format env: {container} reads no variables, only a file; name a DJL container such as "
            "--container 0.36.0-lmi20, or use docker-compose"
        )
    server, target = started(source, container, model_dir), parse_container(container)
    comment = comment if target.is_own else "\n".join([comment, *server_notes(source, target)])
    beside, note = _beside(source, container, model_dir), ""
    if name == "docker-compose":
        text, run = as_compose(server, comment), f"docker compose -f {shlex.quote(str(path))} up"
        is_model_s = server.mounts_model and beside is None
        run = f"MODEL_DIR={shlex.quote(str(model_dir))} {run}" if is_model_s else run
    elif name == "kubernetes":
        claimed = "the folder of this file" if beside is not None else "the model's folder"
        note = f"the PersistentVolumeClaim {CLAIM!r} must hold {claimed}" if server.mounts_model else ""
        comment += f"\n{note}." if note else ""
        text, run = as_kubernetes(server, comment), f"kubectl apply -f {shlex.quote(str(path))}"
    else:
        text = env_text(server.environment, comment)
        mounted = folder.resolve() if beside is not None else model_dir
        mount = f" -v {shlex.quote(str(mounted))}:{MODEL_MOUNT}" if server.mounts_model else ""
        run = f"docker run --rm -p 8080:8080 --env-file {shlex.quote(str(path))}{mount} {server.image}"
    files = {path.name: text, **(beside or {})}
    return Form(files=files, next_command=run, needs_model=beside is not None, note=note)


def env_text(variables: Mapping[str, str], comment: str) -> str:
    """NAME=VALUE lines, as docker's --env-file reads them: no quotes, no escapes."""
    return _commented(comment) + "".join(f"{name}={value}\n" for name, value in variables.items())


def command_text(server: Started, comment: str) -> str:
    """A shell script that exports the variables and becomes the server."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in server.environment.items())
    return f"#!/bin/sh\n{_commented(comment)}{exports}exec {shlex.join(server.command)}\n"


def _command(source: Source, model_dir: Path, comment: str, path: Path) -> Form:
    server = vllm_started(source, model_dir)
    words = list(server.command)
    words[2] = str(model_dir) if words[2] == MODEL_MOUNT else words[2]
    words[words.index("--host") + 1] = "127.0.0.1"
    text = command_text(replace(server, command=tuple(words)), comment.replace(MODEL_MOUNT, words[2]))
    return Form(files={path.name: text}, next_command=f"sh {shlex.quote(str(path))}")


def _not_yet_run(source: Source, name: str, model_dir: Path, path: Path) -> Form:
    """The start command of a server that was not yet run, stated in the file."""
    candidate = source.trial.candidate
    what, command_of = WRITERS[name]
    if traits(candidate.engine).is_elsewhere or traits(candidate.engine).is_rented:
        raise UsageError(
            f"{label(candidate)} was measured as it was found: nothing is known of what {what.title} needs"
        )
    options = {option: value for option, value in candidate.options.items() if option not in ("command", "image")}
    try:
        command = command_of(spec_of(replace(candidate, options=options), model_dir), model_kind(model_dir))
    except EngineError as error:
        raise UsageError(f"--format {name}: {error}") from None
    note = (
        f"{what.title} was not yet run by dyno: its words are those of {what.read_in}, read and not run; measure it "
        f"with engine attach, options.server: {what.name}"
    )
    config = path.with_suffix(".yaml")
    words = tuple(str(config) if word == CONFIG else word for word in command.words)
    server = Started(image="", port=0, health="", command=words, environment=command.env)
    files = {path.name: command_text(server, f"{evidence(source)}\n{note}.")}
    if command.config:
        files[config.name] = as_yaml([dict(command.config)], "")
    return Form(files=files, next_command=f"sh {shlex.quote(str(path))}", note=note)


def _beside(source: Source, container: str, model_dir: Path) -> dict[str, str] | None:
    """What a DJL container needs in the model's folder beside its variables; None where the model's own will do."""
    candidate = source.trial.candidate
    engine = traits(candidate.engine)
    if parse_container(container).is_own or engine.container_rolling_batch or engine.container_entry_point:
        return None
    if engine.has_model_folder:
        return {}  # the measured folder, copied as it is
    if is_carried(candidate, is_decoder=source.is_decoder):
        return {SPEC_FILE: spec_text(measured_spec(source, model_dir))}
    return {name: text for name, text in render(source, container).items() if name != PROPERTIES}


def _model_dir(source: Source, *, needs_sizes: bool) -> Path:
    """The model's folder here; of one that the container fetches only vLLM's and SGLang's arguments depend."""
    model = source.model
    kind, value = str(model.get("kind", "")), str(model.get("value", ""))
    needs_sizes = needs_sizes or source.trial.candidate.engine in (VllmEngine.name, SglangEngine.name)
    is_fetched_there = kind in ("hub", "s3") and not needs_sizes
    if is_fetched_there or kind in ("", "path"):
        return Path(value)
    return resolve_model(kind, value, int(model.get("seed") or 0), cache_root())


def _commented(comment: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
