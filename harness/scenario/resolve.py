"""Resolving a scenario: defaults, absolute paths and seed filled in, then hashed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

import harness
from engines.models.gguf.as_folder import is_gguf
from engines.setting import is_newer_default
from harness.errors import StaleScenario
from harness.scenario.hub_prompts import HubPrompts, Prompts
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.schema import MAX_LOGPROB_DROP, READY_TIMEOUT_S, ModelSource, Scenario

ModelKind = Literal["path", "gguf", "hub", "s3", "shape"]

BUNDLED = Path(harness.__file__).resolve().parents[1] / "scenarios" / "assets"
"""Folder of the bundled models and prompts, beside the harness in a checkout."""
BUNDLED_MODEL = BUNDLED / "flan-t5-bench"
BUNDLED_DECODER = BUNDLED / "llama-bench"
BUNDLED_PROMPTS = BUNDLED / "prompts" / "tasks.jsonl"
BUNDLED_CORPUS = BUNDLED / "corpus" / "pride-and-prejudice.txt"

NO_FP32 = (
    "a GGUF file does not answer in fp32; name its model's folder by quality.reference_folder, or a server by "
    "quality.reference"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Where the weights come from. `value`: absolute folder or GGUF file, hub id, s3 prefix or shape name; `seed`: for
    a shape only."""

    kind: ModelKind
    value: str
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedScenario:
    """A scenario with its paths made absolute. `digest` (10 hex digits) names everything but the file's location.
    `prompts_path` is 'hub:ID' until a data set of the hub was read, then the file of its rows, which are of the commit
    `prompts_revision`. `corpus_path` is None where nothing is cut from one, and in runs stored before there was one:
    their traces cut or repeated the prompts."""

    scenario: Scenario
    path: Path
    prompts_path: Path
    model: ModelRef
    digest: str
    trace_path: Path | None = None
    locustfile_path: Path | None = None
    locustfile_sha256: str = ""
    reference_folder: Path | None = None
    corpus_path: Path | None = None
    prompts_revision: str = ""
    prompts_sha256: str = ""

    @property
    def has_own_reference(self) -> bool:
        """Whether the model answers in fp32 itself, or another folder does so for it."""
        return self.model.kind != "gguf" or self.reference_folder is not None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the scenario's own keys, defaults filled in, and 'resolved' with paths, model and digest."""
        return {
            **self.scenario.model_dump(mode="json"),
            "resolved": {
                "path": str(self.path),
                "prompts_path": str(self.prompts_path),
                "model": {"kind": self.model.kind, "value": self.model.value, "seed": self.model.seed},
                "digest": self.digest,
                "trace_path": str(self.trace_path) if self.trace_path else None,
                **({"reference_folder": str(self.reference_folder)} if self.reference_folder else {}),
                **({"corpus_path": str(self.corpus_path)} if self.corpus_path else {}),
                **(
                    {"locustfile_path": str(self.locustfile_path), "locustfile_sha256": self.locustfile_sha256}
                    if self.locustfile_path
                    else {}
                ),
                **(
                    {"prompts_revision": self.prompts_revision, "prompts_sha256": self.prompts_sha256}
                    if self.prompts_sha256
                    else {}
                ),
            },
        }


def resolve(scenario: Scenario, path: Path) -> ResolvedScenario:
    """`scenario` as read from `path`: relative paths start at its folder, absent ones are the bundled assets."""
    folder = path.parent.absolute()
    prompts, load = scenario.workload.prompts, scenario.workload.load
    measure, corpus = scenario.quality.reference_folder, scenario.workload.corpus
    return ResolvedScenario(
        scenario=scenario,
        path=path,
        prompts_path=_prompts_path(prompts, folder),
        model=_model_ref(scenario.model, folder),
        digest=digest_of(scenario),
        trace_path=_under(folder, load.path) if isinstance(load, TraceLoad) else None,
        locustfile_path=_under(folder, scenario.workload.locustfile) if scenario.workload.locustfile else None,
        reference_folder=_under(folder, measure) if measure else None,
        corpus_path=(_under(folder, corpus) if corpus else BUNDLED_CORPUS) if scenario.workload.cuts_inputs else None,
    )


def with_code(resolved: ResolvedScenario, sha256: str) -> ResolvedScenario:
    """`resolved` with the SHA-256 of its locustfile, which the digest then names too: other code, another run."""
    digest = hashlib.sha256(f"{resolved.digest} {sha256}".encode()).hexdigest()[:10]
    return replace(resolved, locustfile_sha256=sha256, digest=digest)


def with_hub_prompts(resolved: ResolvedScenario, path: Path, revision: str, sha256: str) -> ResolvedScenario:
    """`resolved` with the rows of a data set of the hub that were read into `path`, which the digest then names too."""
    digest = hashlib.sha256(f"{resolved.digest} {sha256}".encode()).hexdigest()[:10]
    return replace(resolved, prompts_path=path, prompts_revision=revision, prompts_sha256=sha256, digest=digest)


_YOUNGER: Mapping[tuple[str, ...], object] = {
    ("workload", "locustfile"): None,
    ("workload", "spawn_per_s"): None,
    ("workload", "request"): None,
    ("workload", "chat"): False,
    ("workload", "lengths"): None,
    ("workload", "conversations"): None,
    ("workload", "conversations", "at_once"): None,
    ("workload", "conversations", "think_time_s"): 0.0,
    ("workload", "corpus"): None,
    ("workload", "corpus_may_repeat"): False,
    ("workload", "load", "name"): None,
    ("workload", "load", "time_unit"): None,
    ("workload", "load", "block_tokens"): 512,
    ("workload", "max_error_frac"): None,
    ("workload", "engine_metrics"): True,
    ("search", "race"): None,
    ("keep_texts",): True,
    ("quality", "reference"): None,
    ("quality", "reference_folder"): None,
    ("quality", "max_logprob_drop"): MAX_LOGPROB_DROP,
    ("ready_timeout_s",): READY_TIMEOUT_S,
}
"""Fields younger than the first stored runs: where they hold this value the digest stays what it was."""


def digest_of(scenario: Scenario) -> str:
    """First ten hex digits of SHA-256 over the scenario with its defaults filled in."""
    fields = scenario.model_dump(mode="json")
    fields["workload"]["parameters"] = {"min_new_tokens": 0, "num_beams": 1, **fields["workload"]["parameters"]}
    for (*above, name), unset in _YOUNGER.items():
        block = fields
        for part in above:
            block = block.get(part) or {}
        if name in block and block[name] == unset:
            del block[name]
    if scenario.workload.cuts_inputs:  # a trace's prompts were once cut or repeated: that was another load
        fields["workload"].setdefault("corpus", "")
    if fields["model"] and fields["model"]["bundled"] is None:
        del fields["model"]["bundled"]
    for block in fields["space"]:
        if not block["incumbent"]:
            del block["incumbent"]
        for name, values in list(block.items()):
            if isinstance(values, list) and len(values) == 1 and is_newer_default(name, values[0]):
                del block[name]
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


_STORED = TypeAdapter(ResolvedScenario)


def resolved_from_dict(stored: Mapping[str, Any]) -> ResolvedScenario:
    """The resolved scenario that `as_dict` stored in a run's manifest. Raises StaleScenario."""
    try:
        written = {name: value for name, value in stored.items() if name != "resolved"}
        resolved = _STORED.validate_python({**stored["resolved"], "scenario": written})
        if not (odd := _without_its_file(resolved)):
            return resolved
        where, why = f"scenario.resolved.{odd}", "does not fit what the scenario names"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = first["loc"] if first["loc"][:1] == ("scenario",) else ("scenario", "resolved", *first["loc"])
        where, why = ".".join(str(part) for part in place), first["msg"]
    except (AttributeError, KeyError, TypeError) as error:
        where, why = "scenario.resolved", f"not as this version writes it ({error!r:.200})"
    raise StaleScenario(f"{where}: {why}; measure the scenario again with this version")


def _without_its_file(resolved: ResolvedScenario) -> str:
    """'' or the field of a file that is not there though the scenario names one, or there though it names none."""
    workload, quality = resolved.scenario.workload, resolved.scenario.quality
    named = {
        "trace_path": isinstance(workload.load, TraceLoad),
        "locustfile_path": workload.locustfile is not None,
        "reference_folder": quality.reference_folder is not None,
    }
    odd = [name for name, is_named in named.items() if is_named != (getattr(resolved, name) is not None)]
    if resolved.locustfile_sha256 and not workload.locustfile:
        odd.append("locustfile_sha256")
    if bool(resolved.prompts_sha256) != isinstance(workload.prompts, HubPrompts):
        odd.append("prompts_sha256")
    return next(iter(odd), "")


def _model_ref(source: ModelSource | None, folder: Path) -> ModelRef:
    if source is None or source.bundled == "seq2seq":
        return ModelRef(kind="path", value=str(BUNDLED_MODEL))
    if source.bundled == "decoder":
        return ModelRef(kind="path", value=str(BUNDLED_DECODER))
    if source.path is not None:
        path = _under(folder, source.path)
        return ModelRef(kind="gguf" if is_gguf(path) else "path", value=str(path))
    if source.hub is not None:
        return ModelRef(kind="hub", value=source.hub)
    if source.s3 is not None:
        return ModelRef(kind="s3", value=source.s3)
    assert source.shape is not None
    return ModelRef(kind="shape", value=source.shape, seed=source.seed or 0)


def _prompts_path(prompts: Prompts | None, folder: Path) -> Path:
    if isinstance(prompts, HubPrompts):
        return Path(f"hub:{prompts.hub}")
    return _under(folder, prompts) if prompts else BUNDLED_PROMPTS


def _under(folder: Path, written: str) -> Path:
    return Path(os.path.normpath(folder / written))
