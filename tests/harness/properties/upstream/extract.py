"""The keys that each release branch of djl-serving reads, extracted from a clone of it into facts/BRANCH.json.

    python -m tests.harness.properties.upstream.extract CLONE

CLONE is a clone or bare copy of deepjavalibrary/djl-serving with its release branches. Only facts are taken: names of
keys, files, classes and commits. Python is read by its syntax tree (fields of settings classes, look-ups in a mapping
of properties), Java by the calls that look a property or a variable up.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FACTS = Path(__file__).parent / "facts"
REPOSITORY = "deepjavalibrary/djl-serving"
_SOURCES = (".py", ".java", "Dockerfile", "entrypoint-with-cuda-compat.sh")
_BRANCH = re.compile(r"(\d+\.\d+\.\d+)(?:-lmi(\d+))?-dlc")

_TESTS = re.compile(r"/src/test/|/tests?/|/(test_model|inputs)\.py$")
_PYTHON = "engines/python/setup/djl_python/"
_CONVERTER = "serving/docker/partition/trt_llm_partition.py"
"""The one script of the partition folder that runs while a model loads; the others run by a command of their own."""

_SERVER = "serving/src/main/java/ai/djl/serving/ModelServer.java"
_JAVA_READERS = ("wlm/src/main/java/", "engines/python/src/main/java/", _SERVER)

_HANDLER_OF_FILE = (
    (r"partition/trt_llm_partition\.py", "tensorrt_llm"),
    (r"djl_python/(huggingface|properties_manager/hf_properties)\.py", "huggingface"),
    (r"djl_python/(deepspeed|properties_manager/ds_properties|rolling_batch/deepspeed_.*)\.py", "deepspeed"),
    (r"djl_python/fastertransformer\.py", "fastertransformer"),
    (
        r"djl_python/(transformers?.neuronx.*|neuron_utils/.*|rolling_batch/neuron_.*|properties_manager/tnx_.*)",
        "neuronx",
    ),
    (r"djl_python/(tensorrt_llm.*|lmi_trtllm/.*|rolling_batch/trtllm_.*|properties_manager/trt_.*)", "tensorrt_llm"),
    (r"djl_python/(stable.diffusion.*|properties_manager/sd_inf2_.*)", "stable_diffusion"),
    (r"djl_python/(lmi_vllm/.*|rolling_batch/vllm_.*|properties_manager/vllm_.*|lmcache_utils\.py)", "vllm"),
    (r"djl_python/(rolling_batch/lmi_dist_.*|properties_manager/lmi_dist_.*)", "lmi-dist"),
    (
        r"djl_python/(rolling_batch/scheduler_.*|properties_manager/scheduler_.*|seq_scheduler/.*|scheduler/.*)",
        "scheduler",
    ),
    (r"djl_python/(sklearn|xgboost)_handler\.py", "tabular"),
    (r"djl_python/.*", "python"),
)

_MAPPING = re.compile(r"(^|[._])(properties|props|prop|__pydantic_extra__)(\(\))?$")
_JAVA_LOOKUP = re.compile(r'(?:getProperty|intProperty|containsKey|intValue|getOrDefault)\((?:\s*\w+,)?\s*"([\w.]+)"')
_JAVA_OPTION = re.compile(r'(?:getInitParameters\(\)\s*\.\w+|options\s*\.\w+)\(\s*"([\w.]+)"')
_JAVA_CASE = re.compile(r'case "([\w.]+)":')
_JAVA_VARIABLE = re.compile(r'(?:getenv|getEnvOrSystemProperty|getDefaultTimeout)\(\s*"([A-Z][A-Z0-9_]+)"')
_JAVA_PREFIX = re.compile(r'startsWith\("([A-Z]+_)"\)')
_JAVA_SETTING = re.compile(r'static final String \w+ = "([a-z][a-z0-9_]+)"')
_SHELL_VARIABLE = re.compile(r'^ *translateTGIToLMI "(\w+)"|"\$(ENABLE_CUDA_GRAPHS)"', re.MULTILINE)
_WORKERS = ("minWorkers", "maxWorkers")
_NOT_KEYS = {
    *(
        "handler",
        "failed",
        "adapters",
        "adapter",
        "metric_dimension",
        "batchifier",
        "translator",
        "os.name",
        "requestId",
    ),
    *("pin", "preload", "configFile", "X-Amzn-SageMaker-Adapter-Identifier", "content"),
}
"""Names of requests, of the server's own state and of the JVM that are looked up by the same calls."""
_OWNERS = {
    "max_num_tokens": "tensorrt_llm",
    "backend": "tensorrt_llm",
    "trtllm_python_backend": "tensorrt_llm",
    "optimization": "onnxruntime",
}
"""Keys that Java looks up for one handler only."""


Choices = dict[str, list[str]]
Fields = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A release branch: its name, its newest commit, and path -> text of its Python, Java and Docker sources."""

    name: str
    commit: str
    sources: Mapping[str, str]


def read_branch(clone: Path, ref: str) -> Branch:
    """The branch of `clone` that the git name `ref` means."""
    commit = _git(clone, "rev-parse", ref).decode().strip()
    packed = _git(clone, "archive", commit, "engines/python", "serving", "wlm")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        texts = {m.name: _text(tar, m) for m in tar.getmembers() if m.isfile() and m.name.endswith(_SOURCES)}
    sources = {path: text for path, text in texts.items() if not _TESTS.search(path)}
    return Branch(name=ref.rpartition("/")[2], commit=commit, sources=dict(sorted(sources.items())))


def _git(clone: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(clone), *words], capture_output=True, check=True).stdout


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read().decode() if file else ""


def branches(clone: Path) -> list[str]:
    """The release branches of the clone, oldest first."""
    names = _git(clone, "for-each-ref", "--format=%(refname)", "refs").decode().split()
    found = {name for name in names if _BRANCH.fullmatch(name.rpartition("/")[2])}
    return sorted(found, key=lambda name: sort_key(name.rpartition("/")[2]))


def sort_key(branch: str) -> tuple[int, ...]:
    """(0, 36, 0, 18) of '0.36.0-lmi18-dlc'."""
    match = _BRANCH.fullmatch(branch)
    assert match is not None, branch
    return (*(int(part) for part in match[1].split(".")), int(match[2] or 0))


def facts_of(branch: Branch) -> dict[str, object]:
    """What the branch reads: one entry per file and class with its keys, then modules, values and variables."""
    choices = _choices(branch)
    common = _common_fields(branch, choices)
    readers = [reader for path, text in branch.sources.items() for reader in _readers(path, text, choices, common)]
    return {
        "repository": REPOSITORY,
        "branch": branch.name,
        "commit": branch.commit,
        "readers": [reader for reader in readers if reader["keys"] or reader.get("passes_on")],
        "modules": _modules(branch),
        "rolling_batch": choices.get("RollingBatchEnum", []),
        "features": _features(branch),
        "variables": _variables(branch),
    }


def _choices(branch: Branch) -> Choices:
    """Name of an enumeration of the settings classes -> its values."""
    found: Choices = {}
    for path, text in branch.sources.items():
        if "/properties_manager/" in path:
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
                    found[node.name] = _members(node)
    return found


def _members(node: ast.ClassDef) -> list[str]:
    values = [line.value for line in node.body if isinstance(line, ast.Assign)]
    return [str(value.value) for value in values if isinstance(value, ast.Constant)]


def _readers(path: str, text: str, choices: Choices, common: Fields) -> Iterator[dict[str, object]]:
    if path.endswith(".java") and path.startswith(_JAVA_READERS):
        yield from _java_readers(path, text)
    elif path.endswith(".py") and (path.startswith(_PYTHON) or path == _CONVERTER):
        handler = next(name for pattern, name in _HANDLER_OF_FILE if re.search(pattern, path))
        tree = ast.parse(text)
        settings = [node for node in tree.body if isinstance(node, ast.ClassDef) and _is_settings(path, node)]
        yield from (_settings(handler, path, node, choices, common) for node in settings)
        yield _module(handler, path, [node for node in tree.body if node not in settings])


def _java_readers(path: str, text: str) -> Iterator[dict[str, object]]:
    name = Path(path).stem
    found = set(_JAVA_LOOKUP.findall(text)) - _NOT_KEYS
    options = {key.removeprefix("option.") for key in found if key.startswith("option.")}
    options |= set(_JAVA_OPTION.findall(text)) - _NOT_KEYS
    options |= set(_JAVA_CASE.findall(text)) if name == "PyModel" else set()
    plain = {key for key in found if not re.match(r"option\.|java\.|ai\.djl\.", key)} - options
    if path.startswith("engines/"):
        options |= {key for key in plain if not key.endswith(_WORKERS) and key not in _SERVER_IN_ENGINE}
        plain -= options
    if name in ("ModelInfo", "WorkLoadManager") and '"minWorkers"' in text:
        plain |= {f"{device}{key}" for device in ("", "cpu.", "gpu.", "nc.") for key in _WORKERS}
    if name == "ModelInfo":
        plain |= {word for word in ("translatorFactory", "application") if word in text}
    default = "neuronx" if name.startswith("Neuron") else "python"
    for handler in sorted({default, *(_OWNERS[key] for key in options if key in _OWNERS)}):
        keys = sorted(key for key in options if _OWNERS.get(key, default) == handler)
        yield {"handler": handler, "file": path, "class": name, "keys": dict.fromkeys(keys, "")}
    yield {"handler": "server", "file": path, "class": name, "keys": dict.fromkeys(sorted(plain), "")}


_SERVER_IN_ENGINE = ("log_request_metric", "log_model_metric", "metrics_aggregation", "retry_threshold")


def _is_settings(path: str, node: ast.ClassDef) -> bool:
    return "/properties_manager/" in path and node.name.endswith("Properties")


def _settings(handler: str, path: str, node: ast.ClassDef, choices: Choices, common: Fields) -> dict[str, object]:
    """What a settings class reads: its fields and what it looks up."""
    fields = {**_inherited(node, common), **_fields(node, choices)}
    keys = {**dict.fromkeys(set(_lookups(node)) - set(fields), ""), **fields}
    row: dict[str, object] = {"handler": handler, "file": path, "class": node.name}
    row["keys"] = dict(sorted((key, kind) for key, kind in keys.items() if key != "model_id_or_path"))
    return {**row, "passes_on": True} if "extra='allow'" in ast.unparse(node) else row


def _module(handler: str, path: str, body: list[ast.stmt]) -> dict[str, object]:
    """What the rest of a file looks up."""
    tree = ast.Module(body=body, type_ignores=[])
    looked_up = dict.fromkeys(sorted(set(_lookups(tree))), "")
    row: dict[str, object] = {"handler": handler, "file": path, "class": "", "keys": looked_up}
    return {**row, "passes_on": True} if handler == "tensorrt_llm" and _hands_on(tree) else row


def _inherited(node: ast.ClassDef, common: Fields) -> Fields:
    """Fields of the common Properties class that a settings class uses itself: self.dtype, or a validator of dtype."""
    used = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"}
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        if ast.unparse(call.func) in ("validator", "field_validator"):
            used |= {str(word.value) for word in call.args if isinstance(word, ast.Constant)}
    return {name: kind for name, kind in common.items() if name in used}


def _common_fields(branch: Branch, choices: Choices) -> Fields:
    """Fields of the Properties class that every settings class inherits; none before it existed."""
    tree = ast.parse(branch.sources.get(_PYTHON + "properties_manager/properties.py", ""))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Properties"]
    return _fields(classes[0], choices) if classes else {}


def _fields(node: ast.ClassDef, choices: Choices) -> dict[str, str]:
    """Field -> its annotation, aliases included; an enumeration is written as its values: 'one of a, b'."""
    fields = {}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = re.sub(r"^Optional\[(.*)\]$", r"\1", ast.unparse(line.annotation))
            literal = re.fullmatch(r"Literal\[(.*)\]", kind)
            values = re.findall(r"'([^']*)'", literal[1]) if literal else choices.get(kind, [])
            kind = f"one of {', '.join(values)}" if values else kind
            fields[line.target.id] = kind
            alias = re.search(r"alias='(\w+)'", ast.unparse(line.value)) if line.value else None
            if alias:
                fields[alias[1]] = kind
    return fields


def _lookups(tree: ast.AST) -> Iterator[str]:
    """Names looked up in a mapping that is called properties: get, pop, [...] and `in`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in ("get", "pop") and _is_mapping(node.func.value):
                yield from _word(node.args[0])
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_mapping(node.value):
            yield from _word(node.slice)
        elif isinstance(node, ast.Compare) and _is_mapping(node.comparators[0]):
            yield from _word(node.left)


def _hands_on(tree: ast.Module) -> bool:
    """Whether every property is handed on by name to TensorRT-LLM's own tools, which are not in this repository."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(
        word.arg is None and ast.unparse(word.value) in ("kwargs", "properties")
        for call in calls
        if not ast.unparse(call.func).endswith("Properties")
        for word in call.keywords
    )


def _is_mapping(node: ast.AST) -> bool:
    return _MAPPING.search(ast.unparse(node)) is not None


def _word(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in _NOT_KEYS:
        yield node.value.removeprefix("option.")


def _modules(branch: Branch) -> list[str]:
    """djl_python modules with a function `handle`: what option.entryPoint can name."""
    handling = [
        path.removeprefix(_PYTHON).removesuffix(".py").replace("/", ".")
        for path, text in branch.sources.items()
        if path.startswith(_PYTHON) and re.search(r"^(async )?def handle\(", text, re.MULTILINE)
    ]
    return [f"djl_python.{name}" for name in handling]


def _features(branch: Branch) -> dict[str, str]:
    """Dockerfile -> its SERVING_FEATURES, by which the server chooses a handler."""
    found = {
        Path(path).name.removesuffix(".Dockerfile"): re.findall(r"^ENV SERVING_FEATURES=(\S+)", text, re.MULTILINE)
        for path, text in branch.sources.items()
        if path.endswith(".Dockerfile")
    }
    return {name: values[0] for name, values in found.items() if values}


def _variables(branch: Branch) -> dict[str, str]:
    """Environment variable -> the first class or script that reads it; SERVING_* names are of the server's settings."""
    found: dict[str, str] = {}
    for path, text in branch.sources.items():
        name = Path(path).stem
        if path.endswith(".java"):
            names = [*_JAVA_VARIABLE.findall(text), *(f"{prefix}*" for prefix in _JAVA_PREFIX.findall(text))]
            if name == "ConfigManager":
                names += [f"SERVING_{word.upper()}" for word in _JAVA_SETTING.findall(text)]
        else:
            names = _shell_variables(text) if path.endswith(".sh") else []
        for variable in names:
            found.setdefault(variable, name)
    return dict(sorted(found.items()))


def _shell_variables(text: str) -> list[str]:
    return [first or second for first, second in _SHELL_VARIABLE.findall(text)]


def main(clone: Path) -> None:
    """Write facts/BRANCH.json for every release branch."""
    for ref in branches(clone):
        facts = facts_of(read_branch(clone, ref))
        path = FACTS / f"{facts['branch']}.json"
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
