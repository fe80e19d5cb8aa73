"""Migration of a serving.properties file from one container version to another, every change with its reason.

What the target cannot do is never guessed: a retired engine or handler is refused with what replaces it, unless the
caller asks for the replacement. Keys that the source container read and the target does not are renamed where the table
names a successor and left out otherwise. What was wrong before stays, and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engines.serving_properties.java_text import format_properties, parse_lines
from harness.errors import UsageError
from harness.properties.containers import Container, NamedValue, format_version, named_values
from harness.properties.key_rules import KeyRule, key_rules
from harness.properties.lint.combinations import LAST_LMI_WITH_TRANSFORMERS_4, TRANSFORMERS_4
from harness.properties.lint.findings import lint, lint_input
from harness.properties.lint.readers import OWN_SCRIPT, backend_of, is_vllm_by_default
from harness.properties.lint.records import Finding, LintInput, ModelFacts, relevant_rules

ENGINE, ENTRY, ROLLING = "engine", "option.entryPoint", "option.rolling_batch"
HF_HANDLER = "djl_python.huggingface"
ROLLING_DISABLE_SINCE = (0, 27, 0)
LAST_T5_BACKEND = (0, 32, 0)
"""The last version whose lmi-dist or TensorRT-LLM serves T5."""
REQUIREMENTS = "requirements.txt"

_VALUES_OF_RENAMED = {
    ("option.load_in_8bit", "true"): "bitsandbytes8",
    ("option.load_in_4bit", "true"): "bitsandbytes4",
}
"""What a renamed key's new value is, where it is not the old one; a 'false' of these has nothing to become."""


_RESPELLED = {"bitsandbytes8": ("static_int8",), "static_int8": ("bitsandbytes8",)}
"""Values of a key that one handler calls by another name in other versions (NeuronX' 8 bits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of one key. `before` or `after` is None where the key was or becomes absent."""

    key: str
    before: str | None
    after: str | None
    why: str

    @property
    def action(self) -> Literal["added", "dropped", "changed"]:
        """What happened to the key."""
        if self.before is None:
            return "added"
        return "dropped" if self.after is None else "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The new text, the files that belong beside it, what changed, and what the target still objects to."""

    text: str
    files: Mapping[str, str]
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True, kw_only=True)
class _Draft:
    values: dict[str, str]
    source: Container
    target: Container
    model: ModelFacts
    script: str
    steps: list[Step] = field(default_factory=list)

    def set(self, key: str, value: str, why: str) -> None:
        if self.values.get(key) != value:
            self.steps.append(Step(key=key, before=self.values.get(key), after=value, why=why))
            self.values[key] = value

    def drop(self, key: str, why: str) -> None:
        if key in self.values:
            self.steps.append(Step(key=key, before=self.values.pop(key), after=None, why=why))

    def given(self, container: Container) -> LintInput:
        return lint_input(container, self.model, parse_lines(format_properties(self.values)), self.script)

    @property
    def is_t5(self) -> bool:
        return self.given(self.target).model.family == "t5"

    @property
    def is_own_script(self) -> bool:
        return OWN_SCRIPT in self.given(self.target).handlers


def migrate(
    values: Mapping[str, str],
    source: Container,
    target: Container,
    model: ModelFacts,
    *,
    replace_engine: bool = False,
    script: str = "",
) -> Migration:
    """The file for `target`; `script` is the model.py beside it. Raises UsageError for a retired engine or handler
    unless `replace_engine`."""
    for container in (source, target):
        if container.is_own:
            raise UsageError(f"{container.name}: migration goes between DJL container versions; use `dyno recommend`")
    draft = _Draft(values=dict(values), source=source, target=target, model=model, script=script)
    read_before = _keys_read(draft.given(source))
    _engine(draft, replace_engine)
    _handler(draft, replace_engine)
    _rolling_batch(draft)
    _mpi(draft)
    _keys(draft, read_before)
    files = _t5(draft)
    text = format_properties(draft.values)
    findings = lint(text, target.name, model, script, requirements=files.get(REQUIREMENTS, ""))
    return Migration(text=text, files=files, steps=tuple(draft.steps), findings=tuple(findings))


def _keys_read(given: LintInput) -> frozenset[str]:
    """Keys of the file that its own container and handler read or hand on."""
    return frozenset(
        key for key in given.values if _is_read(given, key) or _is_handed_on(given, key, relevant_rules(given, key))
    )


def _is_read(given: LintInput, key: str) -> bool:
    return any(rule.is_in(given.container) for rule in relevant_rules(given, key))


def _is_handed_on(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> bool:
    """Whether a handler passes the option on to its backend: one that the table does not have, or once its field."""
    backend = backend_of(given.container, given.handlers)
    is_unknown = key.startswith("option.") and key not in key_rules(given.container)
    return bool(backend) and (is_unknown or backend in {rule.handler for rule in rules})


def _engine(draft: _Draft, replace_engine: bool) -> None:
    name = draft.values.get(ENGINE, "").strip()
    row = named_values("engines").get(name)
    if row is None or row.is_in(draft.target):
        return
    if not replace_engine:
        raise UsageError(f"{_gone(ENGINE, row, draft.target)}. Pass --replace-engine to have that done")
    why = f"{name} is not in {draft.target.name}"
    draft.set(ENGINE, "Python", why)
    if draft.is_own_script:
        return  # it loads the model by itself: what it imports is its author's to replace
    draft.set(ENTRY, HF_HANDLER, why)
    _spread(draft, name)


def _spread(draft: _Draft, backend: str) -> None:
    """Layers over several GPUs, where the backend that is left split tensors over them."""
    is_split = draft.values.get("option.tensor_parallel_degree", "1").strip() != "1"
    if is_split and "option.device_map" not in draft.values:
        why = f"the Hugging Face handler spreads layers over GPUs, {backend} split tensors"
        draft.set("option.device_map", "auto", why)


def _handler(draft: _Draft, replace_engine: bool) -> None:
    name = draft.values.get(ENTRY, "").strip()
    rows = named_values("handlers")
    row = rows.get(name)
    if row is None or row.is_in(draft.target):
        return
    respelled = [r.name for r in rows.values() if r.handler == row.handler and r.is_in(draft.target)]
    if respelled:
        draft.set(ENTRY, respelled[0], f"its name in {draft.target.name}")
    elif replace_engine:
        draft.set(ENTRY, HF_HANDLER, f"{name} is not in {draft.target.name}")
    else:
        raise UsageError(f"{_gone(ENTRY, row, draft.target)}. Pass --replace-engine to write {HF_HANDLER}")


def _gone(key: str, row: NamedValue, target: Container) -> str:
    if row.since and target.version < row.since:
        return f"{key}={row.name}: first container {format_version(row.since)}, asked for {target.name}"
    last = (
        f"last container {format_version(row.until)}" if row.until else f"in the {' or '.join(row.images)} image only"
    )
    return f"{key}={row.name}: {last}, asked for {target.name}; {row.retired}"


def _rolling_batch(draft: _Draft) -> None:
    kind = draft.values.get(ROLLING, "").strip()
    row = named_values("rolling_batch").get(kind)
    if row is None or row.is_in(draft.target):
        return
    if row.since and draft.target.version < row.since:
        draft.drop(ROLLING, f"{kind}: {row.early or f'first read by {format_version(row.since)}'}")
    elif draft.is_t5:
        draft.set(ROLLING, "disable", f"{kind}: {row.retired}; no rolling batch that is left serves T5")
    elif kind in ("lmi-dist", "scheduler"):
        draft.set(ROLLING, "vllm", f"{kind}: {row.retired}")
    else:
        draft.set(ROLLING, "auto", f"{kind}: {row.retired}")


def _mpi(draft: _Draft) -> None:
    """engine=MPI was lmi-dist's: the vLLM handler, which replaces it, refuses every engine but Python."""
    is_vllm = draft.values.get(ROLLING, "").strip() == "vllm" or is_vllm_by_default(draft.target, draft.values)
    if is_vllm and not draft.is_own_script and draft.values.get(ENGINE, "").strip() == "MPI":
        draft.set(ENGINE, "Python", "the vLLM handler refuses every other engine")
        draft.drop("option.mpi_mode", "the vLLM handler starts its own processes")


def _keys(draft: _Draft, read_before: frozenset[str]) -> None:
    for key in list(draft.values):
        given = draft.given(draft.target)
        rules = relevant_rules(given, key)
        alive = [rule for rule in rules if rule.is_in(draft.target)]
        is_deprecated = any(
            rule.deprecated_since is not None and draft.target.version >= rule.deprecated_since for rule in alive
        )
        successor = next((rule.replacement for rule in rules if rule.replacement), "")
        if successor and (not alive or is_deprecated) and _is_read(given, successor):
            _rename(draft, key, successor)
        elif not alive and key in read_before and not _is_handed_on(given, key, rules):
            draft.drop(key, _why_not_read(given, key))
        elif alive and draft.values[key].strip() in _RESPELLED and draft.values[key].strip() not in alive[0].choices:
            _respell(draft, key, alive[0].choices)


def _respell(draft: _Draft, key: str, choices: tuple[str, ...]) -> None:
    new = next((word for word in _RESPELLED[draft.values[key].strip()] if word in choices), "")
    if new:
        draft.set(key, new, f"its name in {draft.target.name}")


def _rename(draft: _Draft, key: str, successor: str) -> None:
    value = draft.values[key].strip()
    is_flag = any(name == key for name, _ in _VALUES_OF_RENAMED)
    becomes = _VALUES_OF_RENAMED.get((key, value.lower()), "" if is_flag else draft.values[key])
    draft.drop(key, f"now {successor}")
    if becomes and successor not in draft.values:
        draft.set(successor, becomes, f"was {key}")


def _why_not_read(given: LintInput, key: str) -> str:
    rules = relevant_rules(given, key)
    if not rules:
        readers = ", ".join(sorted(given.handlers - {"python"})) or "this file's"
        return f"not read by the {readers} handler"
    newest = max(rules, key=lambda rule: rule.until)
    if newest.until and given.container.version > newest.until:
        return f"last read by {format_version(newest.until)}" + (f" ({newest.retired})" if newest.retired else "")
    return f"first read by {format_version(min(rules, key=lambda rule: rule.since).since)}"


def _t5(draft: _Draft) -> dict[str, str]:
    """What T5 needs in recent containers: no rolling batch, the Hugging Face handler, and transformers 4."""
    entry = draft.values.get(ENTRY, "").strip()
    is_ours = draft.values.get(ENGINE, "Python").strip() in ("Python", "MPI") and entry in ("", HF_HANDLER)
    is_late = draft.target.version >= ROLLING_DISABLE_SINCE
    if not draft.is_t5 or not is_ours or not is_late or draft.is_own_script or _has_t5_backend(draft):
        return {}
    why = "left to itself the container picks a backend that cannot serve T5"
    if draft.values.get(ENGINE, "").strip() == "MPI":
        draft.set(ENGINE, "Python", "under MPI every process would load the whole model")
        draft.drop("option.mpi_mode", "under MPI every process would load the whole model")
        _spread(draft, "lmi-dist")
    draft.set(ENTRY, HF_HANDLER, why)
    draft.set(ROLLING, "disable", why)
    release = draft.target.lmi_release
    if release is not None and release > LAST_LMI_WITH_TRANSFORMERS_4:
        return {REQUIREMENTS: f"{TRANSFORMERS_4}\n"}
    return {}


def _has_t5_backend(draft: _Draft) -> bool:
    """Whether the target serves T5 by the backend that the file names or leaves open: lmi-dist or TensorRT-LLM's."""
    if draft.target.version > LAST_T5_BACKEND or ENTRY in draft.values:
        return False
    rolling = draft.values.get(ROLLING, "").strip()
    is_mpi = draft.values.get(ENGINE, "").strip() == "MPI"
    return draft.target.kind == "tensorrtllm" or (is_mpi and rolling in ("lmi-dist", "auto"))
