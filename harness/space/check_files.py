"""The check of files and container that a scenario names, before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engines.cache_folder import cache_root
from engines.environments.locate import installed_python
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid
from engines.registry import REFERENCE_ENGINE, REFERENCE_PACKAGES
from harness.errors import ScenarioError, UsageError
from harness.load.prompts.hub import read_hub
from harness.load.prompts.prompts_file import read_prompts
from harness.load.schedule.estimate import load_s
from harness.properties.containers import container_names, parse_container
from harness.scenario.fields import did_you_mean, sentence
from harness.scenario.hub_prompts import HubPrompts
from harness.scenario.load import as_written, load_scenario
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.problems import dotted, line_of, read_text
from harness.scenario.resolve import NO_FP32, ResolvedScenario, resolve, with_hub_prompts
from harness.scenario.yaml_nodes import parse
from harness.space.check_model import check_folder, check_model
from harness.space.check_options import option_problems
from harness.space.check_requests import request_problems
from harness.space.check_texts import check_texts, check_turns


def checked_scenario(path: Path, overrides: Sequence[str] = (), *, reads_models: bool = False) -> ResolvedScenario:
    """The scenario in `path`, `overrides` applied, whose files are there; `reads_models` as in `check_files`. Raises
    ScenarioError, and EnvironmentFault where prompts of the hub cannot be read here."""
    resolved = _with_hub_prompts(resolve(load_scenario(path, overrides), path))
    check_files(resolved, reads_models=reads_models)
    return resolved


def _places(resolved: ResolvedScenario) -> Callable[..., str]:
    """A field's path -> 'file:line: field.path: '."""
    document = parse(read_text(resolved.path, "scenario"))

    def at(*path: str | int) -> str:
        path = as_written(document.value, path)
        return f"{resolved.path}:{line_of(document.lines, path)}: {dotted(path)}"

    return at


def _with_hub_prompts(resolved: ResolvedScenario) -> ResolvedScenario:
    """`resolved` with the file of its prompts where they are a data set of the hub."""
    asked = resolved.scenario.workload.prompts
    if not isinstance(asked, HubPrompts):
        return resolved
    at = _places(resolved)
    file = read_hub(asked, cache_root(), lambda field: at("workload", "prompts", field))
    return with_hub_prompts(resolved, file.path, file.revision, file.sha256)


def _no_reference(resolved: ResolvedScenario) -> str:
    """Why there are no reference answers; '' when there are, or when none are needed."""
    scenario = resolved.scenario
    if scenario.quality.reference is not None:
        return ""
    if not scenario.knows_model:
        return (
            "the attached server's model is not known here: name it by model:, or a server that has the answers by "
            "quality.reference"
        )
    if not scenario.reads_model:
        return ""
    if not resolved.has_own_reference:
        return NO_FP32
    availability = package_availability(REFERENCE_PACKAGES, REFERENCE_ENGINE)
    is_here = availability.is_available or installed_python(REFERENCE_ENGINE) is not None
    return "" if is_here else f"{REFERENCE_ENGINE}: {availability.reason}"


def check_files(resolved: ResolvedScenario, *, reads_models: bool = False) -> None:
    """Raises ScenarioError, one line per problem: what the prompts file and the trace hold, a file or folder that is
    not there, a container nobody knows, or a quality that cannot be measured here. `reads_models`: a damaged model
    folder too, which is otherwise refused where the model is made ready."""
    at = _places(resolved)
    wrong = list(_file_problems(resolved, at))
    if reads_models and not wrong:
        wrong += _model_problems(resolved, at)
    wrong += request_problems(resolved, at)
    wrong += option_problems(resolved, at)
    wrong += _clock_problems(resolved, at)
    if resolved.scenario.constraints.get("quality") == "Normal" and (missing := _no_reference(resolved)):
        wrong.append(
            f"{at('constraints', 'quality')}Normal cannot be shown without the reference's answers: "
            f"{missing}; or write quality: any"
        )
    container = resolved.scenario.recommend.container
    try:
        parse_container(container)
    except UsageError:
        hint = did_you_mean(container, container_names()) or f"known: {', '.join(container_names())}"
        wrong.append(f"{at('recommend', 'container')}{sentence('a known container', container, hint)}")
    if wrong:
        raise ScenarioError("\n".join(wrong))


def _clock_problems(resolved: ResolvedScenario, at: Callable[..., str]) -> Iterator[str]:
    """A clock in which the load of one trial does not fit; how long a trace is shows when it is read."""
    workload, limit_s = resolved.scenario.workload, resolved.scenario.search.max_minutes * 60
    if not isinstance(workload.load, TraceLoad) and load_s(workload) > limit_s:
        what = f"at least {load_s(workload) / 60:.3g} minutes, which the load of one trial alone may take"
        hint = "raise it, or lower workload.max_duration_s"
        yield f"{at('search', 'max_minutes')}{sentence(what, resolved.scenario.search.max_minutes, hint)}"


def _file_problems(resolved: ResolvedScenario, at: Callable[..., str]) -> Iterator[str]:
    """What is wrong with the files that a scenario names; prompts and trace are read to their ends."""
    if not resolved.prompts_path.is_file():
        yield f"{at('workload', 'prompts')}{_not_there('a JSONL file', resolved.prompts_path)}"
    else:
        yield from _problems_of(lambda: read_prompts(resolved.prompts_path, is_chat=resolved.scenario.workload.chat))
    in_trace: list[str] = []
    if resolved.trace_path is not None:
        if not resolved.trace_path.is_file():
            in_trace = [
                f"{at('workload', 'load', 'path')}{_not_there('a JSONL, CSV or Parquet file', resolved.trace_path)}"
            ]
        else:
            in_trace = list(_problems_of(lambda: check_turns(resolved, at)))
        yield from in_trace
    corpus = resolved.corpus_path
    if corpus is not None and not corpus.is_file():
        yield f"{at('workload', 'corpus')}{_not_there('a text file', corpus)}"
    elif not in_trace:
        yield from _problems_of(lambda: check_texts(resolved, at), at("workload", "corpus"))
    code = resolved.locustfile_path
    if code is not None and not code.is_file():
        yield f"{at('workload', 'locustfile')}{_not_there('a Python file with User classes', code)}"
    model = resolved.model
    if model.kind == "path" and not Path(model.value).is_dir():
        yield f"{at('model', 'path')}{_not_there('a Hugging Face model folder', model.value)}"
    if model.kind == "gguf" and not Path(model.value).is_file():
        yield f"{at('model', 'path')}{_not_there('a GGUF file', model.value)}"
    folder = resolved.reference_folder
    if folder is not None and not folder.is_dir():
        yield f"{at('quality', 'reference_folder')}{_not_there('a Hugging Face model folder', folder)}"


def _model_problems(resolved: ResolvedScenario, at: Callable[..., str]) -> Iterator[str]:
    """What is wrong inside the folders of the model and of the reference, whose files and prompts are there."""
    yield from _problems_of(lambda: check_model(resolved), at("model", "path"))
    if (folder := resolved.reference_folder) is not None:
        yield from _problems_of(lambda: check_folder(folder), at("quality", "reference_folder"))


def _not_there(what: str, path: Path | str) -> str:
    return f"expected {what}, got {str(path)!r} (not there); the path is relative to the scenario file"


def _problems_of(read: Callable[[], object], place: str = "") -> Iterator[str]:
    try:
        read()
    except ScenarioError as error:
        yield str(error)
    except ModelInvalid as error:
        yield f"{place}{error}"
