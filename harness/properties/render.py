"""A measured candidate rendered as files for a container: serving.properties, model.py and requirements.txt.

`dynamometer-0.1` is our own server: the file states exactly what was measured. For an LMI container the file asks for
the same thing in that container's words, and its comment states that it was not measured there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from engines.api import START_FILE
from engines.models.checkpoint.kind import holds_decoder
from engines.registry import traits
from engines.sagemaker.plan import hosted
from engines.serving_properties.java_text import format_properties
from engines.serving_properties.write import (
    HF_DTYPES,
    MEASURED_WITH,
    carried_values,
    container_values,
    property_values,
    rolling_values,
)
from harness.errors import NothingToWrite, UsageError
from harness.measure.metrics import metric_of, metrics_in
from harness.properties.containers import (
    GENERAL_KINDS,
    Container,
    format_version,
    general_kind,
    image_tag,
    named_values,
    parse_container,
    python_version,
    vllm_in,
)
from harness.properties.key_rules import key_rules
from harness.properties.lint.combinations import LAST_LMI_WITH_TRANSFORMERS_4
from harness.properties.queue_order import order_notes
from harness.records import Candidate, Trial
from harness.store.formats import RunManifest
from harness.wording import claim, label

PROPERTIES = "serving.properties"
OLDEST_PYTHON = (3, 11)
"""Of this distribution, whose code a model folder carries."""
OWN = "dynamometer-0.1"
_DEATHS = (
    "Not written, and so 0: retry_threshold. There one dead worker, one request above 20 MiB, or one slower than",
    "option.predict_timeout (120 s, or the 240 s of an image's PREDICT_TIMEOUT) ends the model for good. With",
    "retry_threshold=3 and maxWorkers one above minWorkers a dead worker is replaced in 0.4 s (60 s without the spare",
    "one), for the memory of one more model.",
)
"""Seen on a real DJL Serving 0.36.0 (tests/engines/foreign_servers/djl/recorded/worker_death.json)."""

_AS_LAUNCHED = (
    f"It was measured with {' and '.join(f'{name}={value}' for name, value in MEASURED_WITH.items())}, which this file",
    "cannot hold (--format env, docker-compose and kubernetes do), and with the JVM options that the trial's notes",
    "name; AWS's images set JAVA_OPTS themselves.",
)

FIRST_PER_MODEL = (0, 21, 0)
"""From here a model's own file states its batch size, delay and devices; before, config.properties did for all."""
FIRST_TASK_FROM_HUB = (0, 23, 0)
"""Before it the handler inferred the task only from a config.json beside the file, not from a hub model's."""

FIRST_WITH_PEFT = (0, 23, 0)
HANDLER_IMPORTS = "numpy\npeft\npillow\npydantic\nrequests\ntorch\n"
"""What Hugging Face's handler of 0.34.0 imports, seen by starting it; of transformers 5 it cannot use T5. No versions:
what an image has, pip leaves as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The path of the evidence: the run's folder name, its manifest, and the trial."""

    run_name: str
    manifest: RunManifest
    trial: Trial

    @property
    def model(self) -> Mapping[str, Any]:
        """kind, value, seed of the served model."""
        resolved: Any = self.manifest.scenario.get("resolved", {})
        return resolved.get("model", {}) if isinstance(resolved, Mapping) else {}

    @property
    def has_lists(self) -> bool:
        """Whether a measured request may have held several inputs."""
        workload: Any = self.manifest.scenario.get("workload", {})
        asked = workload if isinstance(workload, Mapping) else {}
        return asked.get("inputs_per_request", 1) != 1 or asked.get("locustfile") is not None

    @property
    def is_decoder(self) -> bool:
        """Whether the model is known to be decoder-only: its folder is still where the run found it."""
        return self.model.get("kind") == "path" and holds_decoder(Path(str(self.model.get("value", ""))))

    @property
    def task(self) -> str:
        """The Hugging Face handler's word for what the model does."""
        return "text-generation" if self.is_decoder else "text2text-generation"


def scenario_container(manifest: RunManifest) -> str:
    """The container that the run's scenario is tuned for."""
    section = manifest.scenario.get("recommend")
    return str(section.get("container", OWN)) if isinstance(section, Mapping) else OWN


def why_nothing_to_write(candidate: Candidate) -> str:
    """Why no serving.properties can express what was measured; '' when one can."""
    if traits(candidate.engine).is_elsewhere:
        return "an attached endpoint was measured: its server is configured elsewhere, nothing to write"
    if traits(candidate.engine).has_start_file:
        return f"{candidate.engine} reads no {PROPERTIES}: {START_FILE} starts it as it was measured"
    if traits(candidate.engine).has_own_front:
        also = (
            "; --container 0.36.0-lmi20 writes that folder for AWS" if traits(candidate.engine).has_model_folder else ""
        )
        return (
            f"{candidate.engine} was measured with its own front end, which reads no {PROPERTIES}: start it on "
            f"the files in the trial's log folder (config.properties and its model folder){also}"
        )
    return ""


def render(source: Source, container: str) -> dict[str, str]:
    """File name -> text for that container. Raises UsageError when it cannot serve the candidate, with what to choose
    instead."""
    target = parse_container(container)
    source = inside_the_endpoint(source)
    nothing = why_nothing_to_write(source.trial.candidate)
    is_rolling_batch = bool(traits(source.trial.candidate.engine).container_rolling_batch) and not target.is_own
    has_folder = is_carried(source.trial.candidate, is_decoder=source.is_decoder)
    if nothing and not is_rolling_batch and (target.is_own or not has_folder):
        raise NothingToWrite(nothing)
    if target.is_own:
        values = _own_values(source)
        return {PROPERTIES: _file(values, source, _own_note(source))}
    reason = unavailable(source.trial.candidate, target, is_decoder=source.is_decoder)
    if reason:
        raise UsageError(f"--container {container}: cannot serve {label(source.trial.candidate)}: {reason}")
    engine = source.trial.candidate.engine
    values = lmi_values(source, target)
    rendered = {PROPERTIES: _file(values, source, _lmi_note(source, target))}
    if traits(engine).container_entry_point and target.version >= FIRST_WITH_PEFT:
        rendered["requirements.txt"] = HANDLER_IMPORTS + ("transformers\n" if source.is_decoder else "transformers<5\n")
    elif not (traits(engine).container_entry_point or is_rolling_batch or has_folder):
        rendered["model.py"] = _handler(engine)
        rendered["requirements.txt"] = _requirements(source.trial)
    return rendered


def inside_the_endpoint(source: Source) -> Source:
    """A trial of a SageMaker endpoint is written as what ran inside it."""
    candidate = source.trial.candidate
    if not traits(candidate.engine).is_rented:
        return source
    engine, options = hosted(candidate.options)
    inside = replace(candidate, engine=engine, options=options)
    return replace(source, trial=replace(source.trial, candidate=inside))


def is_carried(candidate: Candidate, *, is_decoder: bool) -> bool:
    """Whether DJL's containers serve the candidate by our own code in the model folder: a launch wrote it, or the
    engine has no handler of ours that does without, for this kind of model."""
    engine = traits(candidate.engine)
    return engine.has_model_folder or engine.is_carried or (is_decoder and engine.container_python is not None)


def unavailable(candidate: Candidate, target: Container, *, is_decoder: bool = False) -> str:
    """Why that container cannot serve the candidate, and what to choose instead; '' when it can."""
    kind = general_kind(target)
    if kind not in GENERAL_KINDS:
        instead = "deepspeed" if target.version <= (0, 27, 0) else "lmi"
        return (
            f"the {kind} image is built around another backend than the measured {candidate.engine}; "
            f"choose {_versioned(target)}-{instead}, or measure that backend"
        )
    if traits(candidate.engine).container_entry_point:
        return _no_huggingface(candidate, target, is_decoder)
    if rolling := traits(candidate.engine).container_rolling_batch:
        found = named_values("rolling_batch")[rolling].is_in(target)
        return "" if found else f"it has no option.rolling_batch={rolling}; choose a newer one, such as 0.36.0-lmi20"
    if candidate.rolling_batch != "disable":
        return (
            f"DJL's server hands whole batches to {candidate.engine}: its rolling batch exists in our own server only"
        )
    if is_carried(candidate, is_decoder=is_decoder):
        return _no_wheels(f"the code of {candidate.engine}'s folder", OLDEST_PYTHON, target)
    needed = traits(candidate.engine).container_python
    if needed is not None:
        return _no_wheels(candidate.engine, needed, target)
    return f"{candidate.engine} exists in our own server only; choose --container dynamometer-0.1"


def _no_huggingface(candidate: Candidate, target: Container, is_decoder: bool) -> str:
    release = target.lmi_release
    if release is not None and release > LAST_LMI_WITH_TRANSFORMERS_4 and not is_decoder:
        return (
            f"LMI {release} may hold transformers 5, where the Hugging Face handler's T5 path ends with "
            "'Unknown task text2text-generation'; choose 0.36.0-lmi20 or older"
        )
    if candidate.dtype not in HF_DTYPES:
        return (
            f"the Hugging Face handler has no CPU {candidate.dtype} (its bitsandbytes needs a GPU and computes "
            f"otherwise); choose a candidate with {', '.join(HF_DTYPES)}, or --container dynamometer-0.1"
        )
    if target.version < FIRST_PER_MODEL:
        return "its server reads no batch_size and no load_on_devices from a model's file; choose 0.21.0 or newer"
    switched_on = [name for name, value in candidate.options.items() if value not in (False, "", "none", "false")]
    if switched_on:
        return (
            f"the Hugging Face handler has no equal of option {', '.join(sorted(switched_on))}; choose a candidate "
            "without it, or --container dynamometer-0.1"
        )
    return ""


def _no_wheels(engine: str, needed: tuple[int, int], target: Container) -> str:
    found = python_version(target)
    if found >= needed:
        return ""
    has = f"Python {format_version(found)}" if found else "an older Python"
    first = next(v for v in ("0.22.1", "0.26.0", "0.31.0") if python_version(parse_container(v)) >= needed)
    return f"it holds {has} and {engine} needs {format_version(needed)} or newer; choose {first} or newer"


def _own_values(source: Source) -> dict[str, str]:
    candidate = source.trial.candidate
    model_id = _model_id(source, is_own=True)
    return property_values(candidate, f"engines.{candidate.engine}", model_id=model_id, python=candidate.python)


def lmi_values(source: Source, target: Container) -> dict[str, str]:
    """Key -> value of the file for a DJL container that can serve the candidate."""
    candidate = source.trial.candidate
    can_disable = named_values("rolling_batch")["disable"].is_in(target)
    if rolling := traits(candidate.engine).container_rolling_batch:
        return rolling_values(candidate, rolling, model_id=_model_id(source, is_own=False))
    entry_point = traits(candidate.engine).container_entry_point
    if not entry_point:
        if is_carried(candidate, is_decoder=source.is_decoder):
            return carried_values(replace(candidate, threads=None), can_disable=can_disable)  # backend.json has them
        return container_values(candidate, "model.py", can_disable=can_disable)
    values = container_values(
        replace(candidate, options={}, threads=None),
        entry_point,
        can_disable=can_disable,
        model_id=_model_id(source, is_own=False),
        extra={"option.task": source.task} if target.version < FIRST_TASK_FROM_HUB else {},
    )
    known = key_rules(target)
    return {key: value for key, value in values.items() if key in known}


def _model_id(source: Source, *, is_own: bool) -> str:
    kind, value = source.model.get("kind"), str(source.model.get("value", ""))
    return value if kind in ("hub", "s3") or (kind == "path" and is_own) else ""


def _file(values: Mapping[str, str], source: Source, note: str) -> str:
    return format_properties(values, comment=f"{evidence(source)}\n{note}")


def evidence(source: Source) -> str:
    """Lines on where the candidate and its numbers come from."""
    trial, manifest = source.trial, source.manifest
    numbers = []
    for row in metrics_in("file"):
        metric = metric_of(trial, row.name)
        if metric is not None:
            counted = "" if metric.high is None and metric.low is not None else f" (n={metric.n})"
            numbers.append(f"  {row.name}: {claim(metric)}{counted}")
    quality = f"{trial.quality.verdict} ({trial.quality.reason})" if trial.quality is not None else "not checked"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(trial.versions.items()))
    machine = manifest.machine
    where = ", ".join(str(machine[key]) for key in ("cpu_model", "cpu", "kernel") if machine.get(key))
    lines = [
        "Written by `dyno recommend` from a measurement.",
        f"run {source.run_name}, trial {trial.trial_id}, {manifest.created_utc}",
        f"candidate: {label(trial.candidate)}; computed in {trial.effective_dtype or trial.candidate.dtype}",
        f"model: {source.model.get('kind', 'unknown')} {source.model.get('value', '')}".rstrip(),
        "measured under the run's load:",
        *numbers,
        f"  data quality: {quality}",
        f"measured with {_server(trial)} {manifest.dyno_version}".rstrip()
        + (f" ({versions})" if versions else "")
        + (f" on {where}" if where else ""),
    ]
    lines.extend(f"in doubt: {doubt.sentence}" for doubt in trial.doubts)
    return "\n".join(lines)


def _server(trial: Trial) -> str:
    engine = trial.candidate.engine
    return f"{engine}'s own server by dynamometer" if traits(engine).has_own_front else "dynamometer's model server"


def _own_note(source: Source) -> str:
    if source.model.get("kind") == "shape":
        seed = source.model.get("seed", 0)
        return (
            f"The model was a stand-in: random weights of shape {source.model.get('value')}, seed {seed}.\n"
            "Start it on a model folder of that shape: dyno serve --properties serving.properties --model-dir FOLDER"
        )
    notes = order_notes(source.trial.queue_order, parse_container(OWN), has_lists=source.has_lists)
    return "\n".join([*notes, "Start it: dyno serve --properties serving.properties"])


def server_notes(source: Source, target: Container) -> list[str]:
    """Lines on what a DJL container's own server does otherwise than the measured one, whatever form starts it."""
    return [*order_notes(source.trial.queue_order, target, has_lists=source.has_lists), *_DEATHS]


def _lmi_note(source: Source, target: Container) -> str:
    candidate = source.trial.candidate
    tag = image_tag(target)
    lines = [
        f"Written for djl-inference:{tag}. NOT measured in that container: its front end, transformers and thread",
        "settings differ from our server's. Measure it there before relying on these numbers.",
    ]
    is_rolling_batch = traits(candidate.engine).container_rolling_batch != ""
    lines.extend(server_notes(source, target))
    if is_rolling_batch and (version := vllm_in(target)):
        measured = next((v for name, v in source.trial.versions.items() if name.startswith(candidate.engine)), "")
        lines.append(f"It holds vLLM {version} in AWS's own build{f'; {measured} was measured' if measured else ''}.")
    if is_rolling_batch and candidate.device == "cpu":
        lines.append("It was measured on a CPU: this image computes on GPUs, with its own version of the engine.")
    lines.extend(_beside(source, target))
    if traits(candidate.engine).container_entry_point:
        lines.extend(_handler_notes(source))
    return "\n".join(lines)


def _beside(source: Source, target: Container) -> list[str]:
    """What the model folder holds beside the file, and what was not tried of it."""
    candidate = source.trial.candidate
    index = [
        "requirements.txt is installed when the worker starts: the container needs a package index. What it names was",
        f"not tried on this image's Python {format_version(python_version(target))}.",
    ]
    if is_carried(candidate, is_decoder=source.is_decoder):
        is_its_own = traits(candidate.engine).has_model_folder
        first = "This folder is the one that was measured: our code" if is_its_own else "Beside this file: our code"
        held = [f"{first}, backend.json (which has batch_size too)", "and the weights as they were measured."]
        return [*held, *(_AS_LAUNCHED if is_its_own else ()), *index]
    if traits(candidate.engine).container_python is not None:
        reads = f"model.py reads config.json, tokenizer.json and {traits(candidate.engine).container_weights},"
        return [reads, "as they were measured, beside this file, or in the folder of option.model_id.", *index]
    if source.model.get("kind") in ("path", "gguf", "shape"):
        random = ", whose weights are random," if source.model["kind"] == "shape" else ""
        return [f"The measured model's files{random} are beside this file, or in the folder of option.model_id."]
    return []


def _handler_notes(source: Source) -> list[str]:
    """What somebody else's handler makes of the candidate: its threads, and batches of unlike requests."""
    candidate = source.trial.candidate
    threads = measured_threads(source)
    notes = [
        "requirements.txt names what the handler imports: the LMI images hold it, the -cpu-full image numpy alone.",
    ]
    if threads:
        notes.append(f"Set the container's environment: OMP_NUM_THREADS={threads} (threads per worker, as measured;")
        notes.append("DJL's start script sets 1).")
    if candidate.batch_size > 1:
        notes.append(
            "Requests of one batch must have equal parameters: the handler answers 424 to all of it otherwise."
        )
    return notes


def measured_threads(source: Source) -> int:
    """Threads per worker as measured: the candidate's, else an equal share of that machine's cores; 0: not known."""
    candidate, machine = source.trial.candidate, source.manifest.machine
    cores = machine.get("cores_usable", machine.get("cores"))
    return candidate.threads or (max(1, cores // candidate.workers) if isinstance(cores, int) else 0)


def _handler(engine: str) -> str:
    return files("harness.properties").joinpath("handlers", f"{engine}_model.py.txt").read_text(encoding="utf-8")


def _requirements(trial: Trial) -> str:
    version = trial.versions.get(trial.candidate.engine)
    pin = f"=={version}" if version else ""
    return f"{trial.candidate.engine}{pin}\nnumpy\ntokenizers\n"


def _versioned(target: Container) -> str:
    return format_version(target.version)
