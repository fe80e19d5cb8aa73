"""The gate's check that two runs were measured under the same conditions, or a refusal that names the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from harness.measure.machine.machine_class import deciding
from harness.store.formats import Imported
from harness.store.reader import Run

MAY_DIFFER = ("kernel", "os", "clock_source", "swap_mib", "memory_mib", "python")
"""Facts that may move a result a little: reported, not refused. A kernel update on every runner image must not switch
the gate off. Package versions are part of what is judged: a change may be an upgrade."""
MEMORY_TOLERANCE_FRAC = 0.02
"""The same instance type reports a few MiB more or less from boot to boot."""
WORKLOAD_MUST_MATCH = (
    "inputs_per_request", "parameters", "stream", "template", "request", "load", "slo",
    "locustfile", "spawn_per_s", "conversations", "lengths",
)  # fmt: skip
WORKLOAD_MAY_DIFFER = ("warmup_requests", "requests", "max_duration_s", "request_timeout_s")
NO_MACHINE = (
    "both runs are imported, and no file of theirs names the machine or the prompts: the verdict holds if they were "
    "the same"
)
BUSY_LOAD_PER_CORE = 1.0
"""A load average above this when a run began: something else was already using the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparability:
    """`machine`: facts that differ and forbid comparing; `question`: differences in what was asked, which forbid it
    too; `notes`: differences worth knowing."""

    machine: tuple[str, ...]
    question: tuple[str, ...]
    notes: tuple[str, ...]


def compare_conditions(baseline: Run, candidate: Run) -> Comparability:
    """What differs between the conditions of two runs."""
    one, other = baseline.manifest, candidate.manifest
    machine = [_differs(name, one.machine, other.machine) for name in deciding(one.machine, other.machine)]
    notes = [_differs(name, one.machine, other.machine) for name in MAY_DIFFER if not _is_about_equal(name, one, other)]
    notes += _versions(one.versions, other.versions)
    notes += [_busy(run) for run in (baseline, candidate)]
    first, second = _workload(one.scenario), _workload(other.scenario)
    question = [_differs(f"workload.{name}", first, second, name) for name in WORKLOAD_MUST_MATCH]
    notes += [_differs(f"workload.{name}", first, second, name) for name in WORKLOAD_MAY_DIFFER]
    own, others = _mapping(one.scenario, "resolved"), _mapping(other.scenario, "resolved")
    question.append(_differs("workload.locustfile (SHA-256)", own, others, "locustfile_sha256"))
    question += [_model(one.scenario, other.scenario), _prompts(one.scenario, other.scenario)]
    question += _measured_by(one.imported, other.imported)
    if one.imported is not None and other.imported is not None:
        notes.append(NO_MACHINE)
    return Comparability(machine=_listed(machine), question=_listed(question), notes=_listed(notes))


def _differs(name: str, one: Mapping[str, object], other: Mapping[str, object], key: str | None = None) -> str:
    """'name: baseline X, candidate Y' where both have a value and the values differ; '' otherwise."""
    left, right = one.get(key or name), other.get(key or name)
    if _plain(left) == _plain(right):
        return ""
    if isinstance(left, list) and isinstance(right, list):
        gone = [str(item) for item in left if item not in right]
        new = [str(item) for item in right if item not in left]
        parts = [*(f"-{item}" for item in gone), *(f"+{item}" for item in new)]
        return f"{name}: {' '.join(parts)}" if parts else ""
    return f"{name}: baseline {_shown(left)}, candidate {_shown(right)}"


def _plain(value: object) -> object:
    """A list for a tuple, and no field that is None: a run of an earlier version may not have it at all."""
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _is_about_equal(name: str, one: Any, other: Any) -> bool:
    left, right = one.machine.get(name), other.machine.get(name)
    if isinstance(left, int | float) and isinstance(right, int | float):
        return abs(left - right) <= MEMORY_TOLERANCE_FRAC * max(left, right)
    return bool(left == right)


def _versions(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [_differs(name, one, other) for name in sorted({*one, *other})]


def _busy(run: Run) -> str:
    load, cores = run.manifest.machine.get("load_1min"), run.manifest.machine.get("cores_usable")
    if not isinstance(load, int | float) or not isinstance(cores, int) or load <= BUSY_LOAD_PER_CORE * cores:
        return ""
    return f"{run.root.name}: the machine was busy when it began (load average {load:.1f} on {cores} cores)"


def _model(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    left, right = (_mapping(_mapping(each, "resolved"), "model") for each in (one, other))
    if left.get("kind") == right.get("kind") in ("path", "gguf"):  # a checkout elsewhere holds the same folder
        left, right = ({**each, "value": PurePath(str(each.get("value"))).name} for each in (left, right))
    return "" if left == right else f"model: baseline {_model_name(left)}, candidate {_model_name(right)}"


def _model_name(model: Mapping[str, object]) -> str:
    return f"{model.get('kind')} {model.get('value')}"


def _prompts(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    left, right = (PurePath(str(_mapping(each, "resolved").get("prompts_path", ""))).name for each in (one, other))
    if left != right:
        return f"workload.prompts: baseline {left}, candidate {right}"
    count, others = _mapping(one, "quality").get("prompts"), _mapping(other, "quality").get("prompts")
    return "" if count == others else f"quality.prompts: baseline {count}, candidate {others}"


def _measured_by(one: Imported | None, other: Imported | None) -> list[str]:
    """Another tool, or another version, measures otherwise; another model answers otherwise."""
    left, right = ({"by": each.by if each else "dyno", "model": each.model if each else ""} for each in (one, other))
    found = [_differs("measured by", left, right, "by")]
    return [*found, _differs("model", left, right)] if one is not None and other is not None else found


def _mapping(outer: Mapping[str, object], name: str) -> Mapping[str, Any]:
    inner = outer.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _workload(scenario: Mapping[str, object]) -> Mapping[str, object]:
    """The workload, its parameters as runs were stored when two of them were always sent."""
    workload = _mapping(scenario, "workload")
    if "parameters" not in workload:
        return workload
    return {**workload, "parameters": {"min_new_tokens": 0, "num_beams": 1, **_mapping(workload, "parameters")}}


def _listed(sentences: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in sentences if each))
