"""Lint for the keys of a serving.properties file: known to this container version and to the handler that reads it."""

from __future__ import annotations

from collections.abc import Iterator

from engines.nearest import did_you_mean
from harness.properties.containers import format_version
from harness.properties.key_rules import KeyRule, key_rules
from harness.properties.lint.readers import JAVA_ENGINES, OWN_SCRIPT, backend_of
from harness.properties.lint.records import Finding, LintInput, relevant_rules

_BACKENDS = {"vllm": "vLLM's engine arguments", "tensorrt_llm": "TensorRT-LLM's tools"}

_NEED_PYTHON = {"engine", "option.entryPoint", "option.rolling_batch", "option.tensor_parallel_degree"}
"""Keys that settle the engine; without them a model in ONNX or PyTorch's own format may get a Java engine."""


def key_findings(given: LintInput) -> Iterator[Finding]:
    """Keys that this version does not know, no longer knows, or does not know yet."""
    known = key_rules(given.container)
    for key in given.values:
        rules = relevant_rules(given, key)
        if key not in known:
            yield from _unknown_key(given, key)
        elif given.container.is_own:
            yield from _known_to_own(given, key, rules)
        elif not any(rule.is_in(given.container) for rule in rules):
            yield from _not_read(given, key, rules)
        elif rules[0].deprecated_since is not None and given.container.version >= rules[0].deprecated_since:
            yield given.warning(key, rules[0].retired or f"deprecated; write {rules[0].replacement}")


def _unknown_key(given: LintInput, key: str) -> Iterator[Finding]:
    is_option = key.startswith("option.")
    where = f"in {given.container.name}"
    hint = _hint(given, key)
    backend = backend_of(given.container, given.handlers)
    engine = given.values.get("engine", "").strip()
    is_java = engine in JAVA_ENGINES or not (is_option or hint or _NEED_PYTHON & set(given.values))
    if is_option and OWN_SCRIPT in given.handlers:
        yield from _of_own_script(given, key, f"unknown key {where}: only your own script can read it{hint}")
    elif is_option and backend and not _is_slip(given, key):
        yield given.warning(key, f"not in our table: handed on to {_BACKENDS[backend]} unchecked{hint}")
    elif not given.container.is_own and is_java:
        reader = f"the {engine} engine" if is_option else "the model's translator"
        yield given.warning(key, f"not in our table: handed on to {reader} unchecked{hint}")
    else:
        effect = "it would be ignored without a word" if is_option else "the server does not read it"
        effect = "the server refuses it" if given.container.is_own else effect
        yield given.error(key, f"unknown key {where}; {effect}{hint}")


def _not_read(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> Iterator[Finding]:
    """A key that another handler or another version reads."""
    backend = backend_of(given.container, given.handlers)
    read_by = {rule.handler for rule in key_rules(given.container)[key] if rule.is_in(given.container)}
    if OWN_SCRIPT in given.handlers:
        yield from _of_own_script(given, key, f"in {given.container.name} only your own script can read it")
    elif rules and not read_by and (not backend or {rule.handler for rule in rules} == {"python"}):
        yield _out_of_range(given, key, rules)
    elif backend in {rule.handler for rule in rules}:
        yield given.warning(key, f"handed on to {_BACKENDS[backend]} unchecked")
    else:
        owners = ", ".join(sorted(read_by or {rule.handler for rule in key_rules(given.container)[key]}))
        others = ", ".join(sorted(given.handlers - {"python", "option"}))
        effect = f"no effect unless {_BACKENDS[backend]} have it" if backend else "no effect"
        yield given.warning(key, f"read by the {owners} handler only, not by {others}: {effect}")


def _of_own_script(given: LintInput, key: str, message: str) -> Iterator[Finding]:
    """A warning, unless the author's script names the option."""
    name = key.removeprefix("option.")
    if f'"{name}"' not in given.script and f"'{name}'" not in given.script:
        yield given.warning(key, message)


def _known_to_own(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> Iterator[Finding]:
    if rules and all(rule.handler == "ignored" for rule in rules):
        yield given.warning(key, "accepted for DJL's sake; changes nothing in our server")
    elif not rules:
        engine = given.values.get("option.entryPoint", "").removeprefix("engines.")
        owners = sorted({rule.handler for rule in key_rules(given.container)[key]})
        yield given.error(key, f"an option of engine {' or '.join(owners)}, not of {engine}: the engine refuses it")


def _out_of_range(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> Finding:
    version = given.container.release
    instead = next((f"; write {rule.replacement} instead" for rule in rules if rule.replacement), "")
    if any(rule.is_never for rule in rules):
        return given.error(key, f"no version reads {key} ({rules[0].retired}){instead}")
    later = [rule.since for rule in rules if rule.since > version]
    if later:
        return given.error(key, f"not known yet: first read by {format_version(min(later))}{instead}")
    newest = max(rules, key=lambda rule: rule.until)
    why = f" ({newest.retired})" if newest.retired else ""
    return given.error(key, f"retired: last read by {format_version(newest.until)}{why}{instead}")


def _hint(given: LintInput, key: str) -> str:
    folded = {_folded(name): name for name in key_rules(given.container)}
    plain = _folded(key)
    for candidate in (plain, f"option.{plain}", plain.removeprefix("option.")):
        if candidate in folded:
            return f"; did you mean {folded[candidate]!r}?"
    return did_you_mean(key, _readable(given), cutoff=0.8)


def _readable(given: LintInput) -> list[str]:
    rules = key_rules(given.container)
    return [key for key in rules if given.container.is_own or any(rule.is_in(given.container) for rule in rules[key])]


def _folded(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "").replace(" ", "")


def _is_slip(given: LintInput, key: str) -> bool:
    """Whether the key is a known one but for one letter, its capitals or its underscores: no backend has that option
    too."""
    plain = _folded(key)
    return any(_folded(name) == plain or _is_one_letter_off(name, key) for name in _readable(given))


def _is_one_letter_off(one: str, two: str) -> bool:
    """Whether one inserted, deleted, replaced or swapped letter makes the one of the other."""
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    left, right = one[at:], two[at:]
    is_swap = left[:2] == right[1::-1] and left[2:] == right[2:] and len(left) > 1
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or is_swap
