"""llama.cpp's own server, launched on a GGUF file written from the model folder; decoder-only models.

It is found in this order: the option `command`, the wheel xllamacpp in the block's `python:`, here or in the installed
environment, a `llama-server` on the path. Batching, caching and HTTP are llama.cpp's; ours are the file, the start and
the end.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

from engines.api import Availability, Capabilities, EngineSpec
from engines.cache_folder import cache_root
from engines.environments.locate import installed_python, interpreter
from engines.environments.packages import package_availability
from engines.errors import Unavailable
from engines.foreign_servers.llamacpp_options import option_help, wheel_of
from engines.foreign_servers.llamacpp_start import EFFECTIVE_DTYPES, PROGRAM, WHEEL, Place, Start
from engines.foreign_servers.openai_server import RunningOpenAiServer, post_json, wait_for_model
from engines.foreign_servers.start_script import start, write_script
from engines.foreign_servers.tokenizer_check import check_tokens
from engines.hosted import CONVERTED_FEATURES, STOP_GRACE_S
from engines.models.folder import check_model_folder
from engines.models.gguf_architectures import ARCHITECTURES
from engines.models.gguf_cache import gguf_model
from engines.models.gguf_model import gguf_file
from engines.models.kind import DECODER
from engines.processes.server_process import free_port
from engines.spec_check import check_spec

_FEATURES = {**CONVERTED_FEATURES, "model_kinds": "decoder-only"}


class LlamaCppEngine:
    """Engine `llamacpp`: one server a trial, `batch_size` slots that requests join and leave as they come and end.

    `python` and `command` are the block's, '' where it names none.
    """

    name = "llamacpp"
    needs_model = True
    features = _FEATURES

    def __init__(self, python: str = "", command: str = "") -> None:
        self._python = python
        self._command = command

    def placed(self, python: str, command: str) -> LlamaCppEngine:
        """The same engine, looked for in the place that a block names."""
        return LlamaCppEngine(python, command)

    def probe(self) -> Availability:
        """Whether the wheel or the program is there; neither is started."""
        try:
            place = _place(self._command, self._python)
        except Unavailable as error:
            return Availability(is_available=False, reason=str(error))
        if place is None:
            found = package_availability((WHEEL, "gguf"), self.name)
            reason = f"{found.reason}, or put {PROGRAM} on the path"
            return Availability(is_available=False, reason=reason, versions=found.versions)
        if place.python and place.python != sys.executable:
            return Availability(is_available=True)
        return package_availability(("gguf",) if place.program else (WHEEL, "gguf"), self.name)

    def capabilities(self) -> Capabilities:
        """Decoder-only models that can be written as GGUF; options are those of the installed version."""
        place = _place(self._command, self._python)
        return Capabilities(
            effective_dtypes=EFFECTIVE_DTYPES,
            has_rolling_batch=True,
            has_minimum_length=False,  # see Dialect.exact_tokens
            ignored_parameters=("num_beams", "repetition_penalty", "no_repeat_ngram_size"),
            options=option_help(place.python if place else ""),
            reasons={
                "tensor_parallel_degree": "llama.cpp splits layers over GPUs, not tensors over processes",
                "workers": "one server is a trial; ask for more slots with batch_size",
                "cuda": "the wheel computes on the CPU",
            },
            features=_FEATURES,
            model_kinds=(DECODER,),
            architectures=tuple(ARCHITECTURES),
            reads_gguf=True,
            max_workers=1,
        )

    def launch(
        self, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> AbstractContextManager[RunningOpenAiServer]:
        """Write the GGUF file unless it is kept, start the server on it, compare its tokenizer with the folder's."""
        return self._run(None, spec, workdir, ready_timeout_s)

    def launch_script(
        self, script: Path, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> AbstractContextManager[RunningOpenAiServer]:
        """The same with a script that an earlier launch of `spec` wrote."""
        return self._run(script, spec, workdir, ready_timeout_s)

    @contextmanager
    def _run(
        self, script: Path | None, spec: EngineSpec, workdir: Path, ready_timeout_s: float
    ) -> Iterator[RunningOpenAiServer]:
        check_model_folder(spec.model_dir)
        named, command = spec.python or self._python, str(spec.options.get("command", self._command))
        check_spec(spec, self.placed(named, command).capabilities())
        place = _place(command, named)
        if place is None:
            raise Unavailable(f"llamacpp cannot run here: {self.probe().reason}")
        begun = Start.of(spec, place)
        python = place.python if place.python != sys.executable else None
        if is_made := not begun.kind.gguf_weights:
            file = gguf_model(spec.model_dir, spec.dtype, cache_root(), self.name, python)
        else:
            file = gguf_file(spec.model_dir)
        script = script or write_script(workdir, begun.script(file))
        port = free_port()
        begin = time.monotonic()
        process = start(script, workdir, name=begun.alias, port=port)
        try:
            wait_for_model(process, port, (begun.alias,), ready_timeout_s)
            load_s = time.monotonic() - begin
            if is_made or (spec.model_dir / "tokenizer.json").is_file():
                check_tokens(spec.model_dir, lambda text: _encode(port, text), "llama.cpp")
            yield RunningOpenAiServer(process, begun.endpoint(port), begun.facts(port, load_s, file))
        finally:
            process.stop(STOP_GRACE_S)


def _place(command: str, python: str) -> Place | None:
    """What runs the server, in the order of the module's docstring; None where nothing can. Raises Unavailable for a
    named program or environment that is not there."""
    if command:
        program = shutil.which(command)
        if program is None:
            raise Unavailable(f"llamacpp: option command={command!r}: no such program")
        return Place(program=program)
    if python:
        there = str(interpreter(python, LlamaCppEngine.name))
        if wheel_of(there) is None:
            raise Unavailable(f"llamacpp: python {python!r} has no {WHEEL}: {there} -m pip install {WHEEL} gguf")
        return Place(python=there)
    if find_spec(WHEEL) is not None:
        return Place(python=sys.executable)
    if (installed := installed_python(LlamaCppEngine.name)) is not None:
        return Place(python=str(installed))
    program = shutil.which(PROGRAM)
    return Place(program=program) if program else None


def _encode(port: int, text: str) -> list[int]:
    """The ids that the server makes of a prompt."""
    body = {"content": text, "add_special": True, "parse_special": True}
    tokens: list[int] = post_json(port, "/tokenize", body)["tokens"]
    return tokens
