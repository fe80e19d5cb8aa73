"""Options of engine `llamacpp`: their names in llama.cpp's CommonParams, and the same as flags of `llama-server`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from engines.errors import SpecInvalid
from engines.foreign_servers.starting.openai_engine import PROTOCOLS
from engines.option_values import AT_LEAST_ONE, FLAG, OptionValues
from engines.processes.child_environment import child_environment
from engines.setting import OptionValue

_DESCRIBE_TIMEOUT_S = 60.0
AT_LEAST_ZERO = OptionValues(kind="int", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. `parameter` is its place in CommonParams, `flag` the command line's; a switch has `off` too, the flag
    that turns it off ('': it cannot). `values` is what it takes; `words` are those of one that takes a word, as members
    of the library's `enum`."""

    help: str
    parameter: str
    flag: str
    values: OptionValues = AT_LEAST_ONE
    off: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    enum: str = ""


def _switch(help_: str, parameter: str, flag: str, off: str = "") -> Option:
    return Option(help=help_, parameter=parameter, flag=flag, off=off, values=OptionValues(kind="switch"))


def _word(help_: str, parameter: str, flag: str, enum: str, words: Mapping[str, str]) -> Option:
    values = OptionValues(kind="text", choices=tuple(words))
    return Option(
        help=f"{', '.join(words)} ({help_})", parameter=parameter, flag=flag, values=values, enum=enum, words=words
    )


_NUMBER = OptionValues(kind="float")
_CACHE_TYPES = {
    word: f"GGML_TYPE_{word.upper()}"
    for word in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
}
_FLASH = {word: f"LLAMA_FLASH_ATTN_TYPE_{member}" for word, member in
          {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}.items()}  # fmt: skip
_LOADING = {word: f"LLAMA_LOAD_MODE_{word.upper()}" for word in ("auto", "mmap", "mlock", "mmap_mlock", "none")}
_NUMA = {word: f"GGML_NUMA_STRATEGY_{word.upper()}" for word in ("distribute", "isolate", "numactl")}

OPTIONS: Mapping[str, Option] = {
    "n_batch": Option(help="tokens of prompts in one step (2048)", parameter="n_batch", flag="--batch-size"),
    "n_ubatch": Option(help="of these, computed at once (512)", parameter="n_ubatch", flag="--ubatch-size"),
    "n_threads_batch": Option(
        help="threads for prompts (as the axis threads)", parameter="cpuparams_batch.n_threads", flag="--threads-batch"
    ),
    "poll": Option(
        help="0 to 100: how long threads wait awake (50)",
        parameter="cpuparams.poll",
        flag="--poll",
        values=OptionValues(kind="int", low=0, high=100),
    ),
    "cache_type_k": _word("f16; f32 with dtype fp32", "cache_type_k", "--cache-type-k", "ggml_type", _CACHE_TYPES),
    "cache_type_v": _word("f16; f32 with dtype fp32", "cache_type_v", "--cache-type-v", "ggml_type", _CACHE_TYPES),
    "flash_attn": _word(
        "auto; off with dtype fp32", "flash_attn_type", "--flash-attn", "llama_flash_attn_type", _FLASH
    ),
    "cont_batching": _switch(
        "a request joins while others run (true)", "cont_batching", "--cont-batching", "--no-cont-batching"
    ),
    "kv_unified": _switch(
        "slots share one cache instead of an equal part each (false)", "kv_unified", "--kv-unified", "--no-kv-unified"
    ),
    "swa_full": _switch("the whole cache for windowed layers too (false)", "swa_full", "--swa-full"),
    "n_cache_reuse": Option(
        help="with cache_prompt: shortest piece reused by shifting, 0: none (0)",
        parameter="n_cache_reuse",
        flag="--cache-reuse",
        values=AT_LEAST_ZERO,
    ),
    "load_mode": _word("auto", "load_mode", "--load-mode", "llama_load_mode", _LOADING),
    "no_extra_bufts": _switch("weights stay as the file has them (false)", "no_extra_bufts", "--no-repack"),
    "numa": _word("none", "numa", "--numa", "ggml_numa_strategy", _NUMA),
    "n_gpu_layers": Option(
        help="layers on the GPU (all that fit)",
        parameter="n_gpu_layers",
        flag="--n-gpu-layers",
        values=OptionValues(kind="int"),
    ),
    "n_threads_http": Option(help="threads that answer HTTP (64)", parameter="n_threads_http", flag="--threads-http"),
    "rope_freq_base": Option(
        help="rotary base (the model's)", parameter="rope_freq_base", flag="--rope-freq-base", values=_NUMBER
    ),
    "rope_freq_scale": Option(
        help="their scale (the model's)", parameter="rope_freq_scale", flag="--rope-freq-scale", values=_NUMBER
    ),
}  # fmt: skip
"""Handed over as they are; the defaults in brackets are llama.cpp's."""

OURS: Mapping[str, str] = {
    "context": "tokens of prompt and answer in one slot (what the model knows, at most 4096)",
    "n_parallel": "slots: requests that run at once (batch_size, or 32 with a rolling batch)",
    "cache_prompt": "true or false: a prompt's beginning may come from a cache (false: it would flatter)",
    "protocol": "openai (completions) or openai-chat, where the folder has a chat template (openai)",
    "image": "docker image of llama.cpp's server to run instead",
    "command": "path of a llama-server to run instead of the wheel xllamacpp",
}
"""Options that mean more than one parameter, or none."""
_OUR_VALUES: Mapping[str, OptionValues] = {
    "context": AT_LEAST_ONE,
    "n_parallel": AT_LEAST_ONE,
    "cache_prompt": FLAG,
    "protocol": PROTOCOLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """An installed xllamacpp: its version, the names in its CommonParams, dotted where they lie deeper, and the members
    of its enums."""

    version: str
    names: frozenset[str]
    members: Mapping[str, Sequence[str]]


@lru_cache(maxsize=8)
def wheel_of(python: str) -> Wheel | None:
    """The wheel in the environment of `python`, which is asked in a child process; None where there is none."""
    argv = [python, "-m", "engines.foreign_servers.llamacpp.process", "describe"]
    env = {**os.environ, **child_environment(python)}
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=_DESCRIBE_TIMEOUT_S, check=False)
        found = json.loads(done.stdout.splitlines()[-1])
        return Wheel(version=found["version"], names=frozenset(found["names"]), members=found["members"])
    except (OSError, subprocess.TimeoutExpired, LookupError, ValueError):
        return None


def option_values(python: str) -> dict[str, OptionValues]:
    """What every option takes in the installed version; `python` as in `option_help`."""
    wheel = wheel_of(python) if python else None
    return {**_OUR_VALUES, **{name: _values(one, wheel) for name, one in OPTIONS.items()}}


def _values(option: Option, wheel: Wheel | None) -> OptionValues:
    if wheel is None or not option.words:
        return option.values
    words = tuple(word for word, member in option.words.items() if member in wheel.members.get(option.enum, ()))
    return replace(option.values, choices=words)


def option_help(python: str) -> dict[str, str]:
    """Every option of the installed version with its line of help; `python` is the environment of its wheel, '' where
    a program is run."""
    wheel = wheel_of(python) if python else None
    return {
        **OURS,
        **{name: one.help for name, one in OPTIONS.items() if wheel is None or one.parameter in wheel.names},
    }


def parameter(name: str, value: OptionValue) -> tuple[str, object]:
    """(place in CommonParams, value) of an option. Raises SpecInvalid for a value that it does not take."""
    option = OPTIONS[name]
    checked = _checked(name, value)
    return option.parameter, {"enum": [option.enum, option.words[str(checked)]]} if option.words else checked


def flags(name: str, value: OptionValue) -> list[str]:
    """The option as arguments of `llama-server`. Raises SpecInvalid for a value that it does not take."""
    option = OPTIONS[name]
    checked = _checked(name, value)
    if not isinstance(checked, bool):
        return [option.flag, str(checked)]
    return [option.flag] if checked else [option.off] if option.off else []


def _checked(name: str, value: OptionValue) -> OptionValue:
    option = OPTIONS[name]
    if why := option.values.why_not(value):
        raise SpecInvalid(f"llamacpp: option {name} is {value!r}, {why}")
    text = option.values.text(value)
    if option.values.kind == "switch":
        return text == "true"
    return int(text) if option.values.kind == "int" else float(text) if option.values.kind == "float" else text
