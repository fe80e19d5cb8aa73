"""The start of llama.cpp's server for one specification: its arguments, its parameters, and a script for users."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.adapters.attach_servers import LLAMACPP_UNCACHED
from engines.api import Endpoint, EngineFacts, EngineSpec
from engines.cache_folder import cache_root
from engines.errors import LaunchFailed, ModelInvalid, SpecInvalid
from engines.foreign_servers.llamacpp.options import OPTIONS, OURS, flags, parameter, wheel_of
from engines.foreign_servers.llamacpp.tokenizer_check import check_tokens
from engines.foreign_servers.starting.docker_image import ANY_ADDRESS, MOUNT, NOT_YET_RUN, digest_of, in_container
from engines.foreign_servers.starting.openai_server import get_json, post_json, wait_for_model
from engines.foreign_servers.starting.program_start import protocol_of
from engines.foreign_servers.starting.start_script import ADDRESS, MODEL_NAME, PORT, script_text, shell_words
from engines.hosted import HOST
from engines.metrics_page import LLAMACPP, page_at
from engines.models.checkpoint.kind import ModelKind, kind_of, read_config, text_config
from engines.models.checkpoint.special_ids import special_ids
from engines.models.gguf.architectures import architecture, positions
from engines.models.gguf.as_folder import gguf_file
from engines.models.gguf.cache import gguf_model
from engines.models.gguf.tokenizer import ends_by_text, gguf_tokenizer
from engines.models.tokenizer import FAST_FILE
from engines.processes.child_environment import import_variables
from engines.processes.server_process import ServerProcess
from engines.processes.threads import compute_threads
from engines.setting import OptionValue
from engines.spec_check import flag, whole_number

WHEEL = "xllamacpp"
PROGRAM = "llama-server"
PROCESS = "engines.foreign_servers.llamacpp.process"
START_PORT = 8080
"""llama.cpp's own."""
ROLLING_SLOTS = 32
"""Slots with a rolling batch where the option is not given: DJL's max_rolling_batch_size."""
MOST_CONTEXT = 4096
"""Tokens in one slot where nobody names more: a cache for all that Llama 3 knows would take 16 GB a slot."""
CACHE_BLOCK = 32
"""Values of a head in one block of a quantized cache."""
HTTP_THREADS = 64
"""Each kept connection holds one; llama.cpp's own number, a few more than slots, makes other users wait."""

EFFECTIVE_DTYPES = {
    "fp32": "f32 weights, f32 KV",
    "fp16": "f16 weights, f16 KV",
    "bf16": "bf16 weights, f16 KV",
    "int8": "q8_0 weights, f16 KV",
    "int4": "q4_0 weights (q8_0 embeddings and head), f16 KV",
}

_NOT_LOADED = re.compile(r"error loading model: (?P<why>[^\n]{1,400})")
"""llama.cpp's own line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What runs the server: a `llama-server` program, a docker image of one, or a Python that has the wheel."""

    program: str = ""
    image: str = ""
    python: str = ""


def _weights(spec: EngineSpec, kind: ModelKind, place: Place) -> Path:
    """The GGUF file: the scenario's own, or one written from the folder, once."""
    if kind.gguf_weights:
        return gguf_file(spec.model_dir)
    python = place.python if place.python != sys.executable else None
    return gguf_model(spec.model_dir, spec.dtype, cache_root(), spec.engine, python)


def _encode(port: int, text: str) -> list[int]:
    """The ids that the server makes of a prompt."""
    body = {"content": text, "add_special": True, "parse_special": True}
    tokens: list[int] = post_json(port, "/tokenize", body)["tokens"]
    return tokens


def _ends_of_its_own(model_dir: Path, kind: ModelKind) -> list[str]:
    if kind.gguf_weights:
        return []  # the file is llama.cpp's own
    ends = special_ids(model_dir).eos
    others = [text for number, text in ends_by_text(model_dir).items() if number not in ends]
    return [f"llama.cpp also ends an answer at {', '.join(others)}, the model does not"] if others else []


def _positions(config: Mapping[str, Any], kind: ModelKind) -> int:
    """Tokens of prompt and answer that it computes rightly. Raises ModelInvalid for a model that it would not."""
    if kind.gguf_weights:
        return kind.max_positions or MOST_CONTEXT
    architecture(config, kind)
    return positions(config, kind)


def check_model(model_dir: Path) -> None:
    """Nothing, for a decoder-only folder that can be written as a GGUF file, as far as config and tokenizer show.
    Raises ModelInvalid."""
    config = read_config(model_dir)
    kind = kind_of(config, model_dir)
    if kind.is_decoder and not kind.gguf_weights:
        _positions({**config, **text_config(config)}, kind)
        gguf_tokenizer(model_dir, kind.vocab_size)


def _check_options(spec: EngineSpec, head_dim: int) -> None:
    """Raises SpecInvalid for a value that an option does not take, or this model does not."""
    for name, value in spec.options.items():
        if name in OPTIONS:
            parameter(name, value)
        if name in ("cache_type_k", "cache_type_v") and str(value).startswith(("q", "iq")) and head_dim % CACHE_BLOCK:
            raise SpecInvalid(
                f"llamacpp: option {name} is {value!r}: heads of {head_dim} do not fill its blocks of {CACHE_BLOCK}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One spec, understood: what the server is started with."""

    spec: EngineSpec
    place: Place
    file: Path
    slots: int
    context: int
    kind: ModelKind
    protocol: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, spec: EngineSpec, place: Place) -> Start:
        """Raises SpecInvalid and ModelInvalid for what can be known before anything runs."""
        config = read_config(spec.model_dir)
        kind = kind_of(config, spec.model_dir)
        known = _positions({**config, **text_config(config)}, kind)
        context = whole_number(spec, "context", min(known, MOST_CONTEXT))
        if context > known:
            why = "its window, which llama.cpp leaves out" if known != kind.max_positions else "its positions"
            raise SpecInvalid(f"llamacpp: option context is {context}, expected at most {known}: {why}")
        _check_options(spec, kind.head_dim)
        rolling = spec.rolling_batch != "disable"
        return cls(
            spec=spec,
            place=place,
            slots=whole_number(spec, "n_parallel", ROLLING_SLOTS if rolling else spec.batch_size),
            context=context,
            kind=kind,
            protocol=protocol_of(spec, has_template=kind.has_chat_template),
            notes=(f"{context} tokens of prompt and answer in each slot", *_ends_of_its_own(spec.model_dir, kind)),
            file=_weights(spec, kind, place),  # last: it may take minutes, and everything else is checked by then
        )

    def script(self) -> str:
        """The start script of the server."""
        name = self.spec.model_dir.name
        title = f"llama.cpp's server: {name}, {self.effective_dtype}, {self.slots} slot(s) of {self.context} tokens"
        if self.place.image:
            words = ["", *self._arguments(MOUNT, ANY_ADDRESS, str(START_PORT))]
            return script_text(
                title, in_container(self.place.image, words, START_PORT, self.spec, {}, self.file), START_PORT
            )
        arguments = self._arguments(str(self.file))
        if self.place.program:
            return script_text(title, [self.place.program, *arguments], START_PORT)
        title += f"\nFrom the wheel {WHEEL}; a {PROGRAM} takes the same as:\n  {PROGRAM} {shell_words(arguments)}"
        words = [self.place.python, "-u", "-m", PROCESS, ADDRESS, PORT, MODEL_NAME]
        parameters = json.dumps(self._parameters(), indent=2)
        return script_text(title, words, START_PORT, import_variables(self.place.python), parameters)

    def _arguments(self, file: str, address: str = ADDRESS, port: str = PORT) -> list[str]:
        """What `llama-server` is started with."""
        threads = str(compute_threads(self.spec))
        fixed = {
            "--model": file, "--alias": MODEL_NAME, "--host": address, "--port": port,
            "--ctx-size": str(self.slots * self.context), "--parallel": str(self.slots),
            "--threads": threads, "--threads-batch": threads, "--threads-http": str(HTTP_THREADS),
        }  # fmt: skip
        argv = [part for pair in fixed.items() for part in pair] + ["--metrics"]
        argv += [] if self.caches_prompts else ["--no-cache-prompt", "--cache-ram", "0"]
        return argv + [part for name, value in self._options.items() for part in flags(name, value)]

    def _parameters(self) -> dict[str, object]:
        """The same for the wheel."""
        threads = compute_threads(self.spec)
        return {
            "model.path": str(self.file), "n_ctx": self.slots * self.context, "n_parallel": self.slots,
            "cpuparams.n_threads": threads, "cpuparams_batch.n_threads": threads, "n_threads_http": HTTP_THREADS,
            "endpoint_metrics": True, "cache_prompt": self.caches_prompts,
            **({} if self.caches_prompts else {"cache_ram_mib": 0}),
            **dict(parameter(name, value) for name, value in self._options.items()),
        }  # fmt: skip

    @property
    def caches_prompts(self) -> bool:
        """Whether a prompt's beginning may come from a cache."""
        return flag(self.spec, "cache_prompt", False)

    @property
    def _options(self) -> dict[str, OptionValue]:
        """What is handed over as it is: what fp32 means here, then what was asked for."""
        exact = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"} if self.spec.dtype == "fp32" else {}
        return {**exact, **{name: value for name, value in self.spec.options.items() if name not in OURS}}

    def wait(self, process: ServerProcess, port: int, name: str, timeout_s: float) -> None:
        """Until it serves this model; what llama.cpp could not load is put before the end of its log."""
        try:
            wait_for_model(process, port, (name,), timeout_s)
        except LaunchFailed as error:
            found = _NOT_LOADED.search(process.log_tail(400))
            raise (type(error)(f"llamacpp: {found['why']}; {error}") if found else error) from None

    def endpoint(self, port: int, name: str) -> Endpoint:
        """Where and how to ask it."""
        dialect = replace(LLAMACPP_UNCACHED, fields={}) if self.caches_prompts else LLAMACPP_UNCACHED
        url = f"http://{HOST}:{port}"
        page = page_at(url, LLAMACPP, slots="/props" if self.caches_prompts else "")
        return Endpoint(url=url, protocol=self.protocol, model_name=name, dialect=dialect, metrics=page)

    def facts(self, port: int, load_s: float) -> EngineFacts:
        """What runs: the wheel's version, or the build that the program names. Raises ModelInvalid where its tokenizer
        is not the folder's; that of a GGUF file is llama.cpp's own matter."""
        estimated = self._tokenizer_note(port)
        wheel = wheel_of(self.place.python) if self.place.python else None
        build = (get_json(port, "/props") or {}).get("build_info", "unknown")  # the wheel does not know its own
        versions = {WHEEL: wheel.version} if wheel else {"llama.cpp": str(build)}
        if self.place.image:
            versions["image"] = digest_of(self.place.image)
        return EngineFacts(
            effective_dtype=self.effective_dtype,
            versions=versions,
            load_s=load_s,
            notes=(*self.notes, *estimated, *((NOT_YET_RUN,) if self.place.image else ())),
            converted_dir="" if self.kind.gguf_weights else str(self.file.parent),
        )

    def _tokenizer_note(self, port: int) -> tuple[str, ...]:
        folder = self.spec.model_dir
        if self.kind.gguf_weights and not (folder / FAST_FILE).is_file():
            return ("the file's tokenizer is not known here: tokens were not counted before the load",)
        try:
            check_tokens(folder, lambda text: _encode(port, text), "llama.cpp")
        except ModelInvalid:
            if not self.kind.gguf_weights:
                raise
            return (
                "llama.cpp splits some texts otherwise than its file was read here: counts before the load may be off",
            )
        return ()

    @property
    def effective_dtype(self) -> str:
        """Types of the weights and of the cache."""
        made, _, _ = EFFECTIVE_DTYPES[self.spec.dtype].rpartition(", ")
        weights = f"{self.kind.gguf_weights} weights" if self.kind.gguf_weights else made
        keys, values = (str(self._options.get(f"cache_type_{letter}", "f16")) for letter in "kv")
        return f"{weights}, {keys if keys == values else f'{keys} and {values}'} KV"
