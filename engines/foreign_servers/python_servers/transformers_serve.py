"""Hugging Face's own server, `transformers serve`, launched on a model folder; decoder-only models.

It computes one request after another, or with a rolling batch several at once (its continuous batching).
"""

from __future__ import annotations

import ast
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engines.api import Capabilities, Dialect, Endpoint, EngineFacts, EngineSpec
from engines.errors import Unavailable
from engines.foreign_servers.starting.arguments import Argument
from engines.foreign_servers.starting.openai_engine import PROTOCOLS
from engines.foreign_servers.starting.program_place import Place, Program, versions_at
from engines.foreign_servers.starting.program_start import ProgramEngine, ProgramStart, protocol_of
from engines.foreign_servers.starting.start_script import ADDRESS, MODEL_NAME, PORT, script_text
from engines.hosted import HOST, LOADED_FEATURES
from engines.models.checkpoint.kind import DECODER, model_kind
from engines.models.checkpoint.special_ids import special_ids
from engines.processes.threads import compute_threads
from engines.setting import AXES

USUAL_PORT = 8000
"""Its own; the start script names it."""
SERVE = ("transformers", "cli", "serve.py")
"""Where its arguments stand, below the folder of packages."""
PROGRAM = Program(
    engine="transformers_serve",
    title="transformers serve",
    name="transformers",
    by_module=("transformers.cli.transformers", "serve"),
    by_program=("serve",),
    by_command=(),
    packages=("transformers", "torch", "accelerate", "fastapi", "uvicorn", "openai", "pydantic"),
    advice="`dyno engine install transformers_serve`, pip install 'transformers[serving]', or name python: in the "
    "block",
    may_be_here=True,
)

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_OURS = {
    **{axis.name: f"it is an axis: {axis.name}" for axis in AXES},
    "continuous_batching": "it is an axis: rolling_batch, auto or disable",
    "quantization": "its bitsandbytes is in no environment of dyno's",
    "trust_remote_code": "code that comes with a checkpoint is never run",
    "model_timeout": "the one model of a trial stays loaded",
    "image": "no docker image of it is known; name command or python:",
    "enable_cors": "no browser asks it",
    "non_blocking": "it is for transformers' own tests",
    **dict.fromkeys(("host", "port"), "dyno chooses the address"),
}
"""Arguments that are no options here, and why."""
_OPTIONS = {
    "command": "the transformers program to start, with its first arguments, instead of the one that was found",
    "protocol": "'openai' (completions; the default) or 'openai-chat' (the model's chat template)",
}
_FEATURES = {
    **LOADED_FEATURES,
    "hardware": "CPU, NVIDIA GPU (not yet run on one)",
    "model_kinds": "decoder-only",
}
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Environment variables with which it asks no model hub, not for a newer version of itself either."""


class TransformersServeEngine(ProgramEngine):
    """Engine `transformers_serve`: one server a trial."""

    name = PROGRAM.engine
    program = PROGRAM
    features = _FEATURES

    def capabilities(self) -> Capabilities:
        """Options are the arguments of the installed version."""
        place = self.place()
        known = arguments_of(place.python) if place.python else None
        return Capabilities(
            effective_dtypes={dtype: dtype for dtype in _DTYPES},
            has_rolling_batch=True,
            has_minimum_length=False,  # with a rolling batch: see Dialect.exact_tokens
            ignored_parameters=("num_beams",),
            max_workers=1,
            max_batch_size=1,
            has_open_options=known is None,
            devices=("cpu", "cuda") if Path("/dev/nvidiactl").exists() else ("cpu",),
            options={**{name: f"transformers serve's {name}" for name in known or ()}, **_OPTIONS},
            option_values={**(known or {}), "protocol": PROTOCOLS},
            reasons={
                **dict.fromkeys(("int8", "int4"), _OURS["quantization"]),
                "tensor_parallel_degree": "transformers serve splits no layer over processes",
                "workers": "one server is a trial",
                "batch_size": "it computes one request after another; several at once with rolling_batch: auto",
                **{f"options.{name}": why for name, why in _OURS.items()},
            },
            features=_FEATURES,
            model_kinds=(DECODER,),
        )

    def prepared(self, spec: EngineSpec) -> Served:
        """What is started, found in the order of program_place. Raises Unavailable where it lacks packages."""
        availability = self.probe()
        if not availability.is_available:
            raise Unavailable(f"{self.name} cannot run here: {availability.reason}")
        return Served.of(spec, self.place())


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(ProgramStart):
    """One spec, understood: what the server is started with."""

    @classmethod
    def of(cls, spec: EngineSpec, place: Place) -> Served:
        """Raises SpecInvalid for what can be known before anything runs."""
        protocol = protocol_of(spec, has_template=model_kind(spec.model_dir).has_chat_template)
        known = arguments_of(place.python) if place.python else None
        words: list[str] = []
        for name, value in spec.options.items():
            if name not in _OPTIONS:
                argument = known[name] if known else Argument(flag=f"--{name.replace('_', '-')}", kind="text")
                words += argument.words(spec.engine, name, value)
        return cls(spec=spec, place=place, arguments=tuple(words), protocol=protocol)

    @property
    def rolls(self) -> bool:
        """Whether it computes several requests at once."""
        return self.spec.rolling_batch != "disable"

    def script(self) -> str:
        """The start script. The server has no word for the model's name: it is called by its folder, so the folder is
        linked under that name."""
        words = [*self.place.argv, MODEL_NAME, "--host", ADDRESS, "--port", PORT, "--device", self.spec.device]
        words += ["--dtype", _DTYPES[self.spec.dtype], *(["--continuous-batching"] if self.rolls else [])]
        env = {**_QUIET, "OMP_NUM_THREADS": str(compute_threads(self.spec)), "PYTHONPATH": ""}
        folder = shlex.quote(str(self.spec.model_dir.absolute()))
        return script_text(
            f"transformers serve: {self.spec.model_dir.name}, {self.spec.dtype}",
            [*words, *self.arguments],
            USUAL_PORT,
            env,
            before=[f'cd "$(mktemp -d)" && ln -s {folder} "$MODEL_NAME" || exit 1'],
        )

    def endpoint(self, port: int, name: str) -> Endpoint:
        """Where and how to ask it."""
        dialect = Dialect(
            exact_tokens="no_end" if self.rolls else "min_tokens",
            takes_generation_config=True,
            end_ids=special_ids(self.spec.model_dir).eos if self.rolls else (),
        )
        return Endpoint(url=f"http://{HOST}:{port}", protocol=self.protocol, model_name=name, dialect=dialect)

    def facts(self, port: int, load_s: float) -> EngineFacts:
        """What runs, as far as it is known from outside."""
        return EngineFacts(
            effective_dtype=self.spec.dtype,
            versions=versions_at(self.place, PROGRAM.packages),
            load_s=load_s,
            notes=(f"transformers serve found by {self.place.where}",),
        )


def arguments_of(python: str) -> Mapping[str, Argument]:
    """Option -> argument of the transformers that `python` imports, read from its source. Raises Unavailable."""
    return _read(python, Path(python).resolve().stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(python: str, _changed_ns: int) -> Mapping[str, Argument]:
    asked = "import importlib.util as u; print(u.find_spec('transformers').submodule_search_locations[0])"
    try:
        done = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, timeout=30.0, check=True)
        source = Path(done.stdout.strip()).parent.joinpath(*SERVE).read_text(encoding="utf-8")
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"transformers_serve: {python} has no transformers with a server (5 or newer)") from error
    return {name: argument for name, argument in arguments_in(source).items() if name not in _OURS}


def arguments_in(source: str) -> dict[str, Argument]:
    """The options of the command, which its source states as typer wants them: Annotated[type, typer.Option(...)]."""
    nodes = list(ast.walk(ast.parse(source)))
    starting = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    enums = {node.name: _members(node) for node in nodes if isinstance(node, ast.ClassDef)}
    found: dict[str, Argument] = {}
    for each in starting.args.args:
        kind_and_option = each.annotation.slice if isinstance(each.annotation, ast.Subscript) else None
        if isinstance(kind_and_option, ast.Tuple) and "typer.Option" in ast.unparse(kind_and_option):
            word = ast.unparse(kind_and_option.elts[0]).removesuffix(" | None")
            kind = {"bool": "flag", "int": "int", "float": "float"}.get(word, "text")
            flag = each.arg.replace("_", "-")
            negative = f"--no-{flag}" if kind == "flag" else ""
            found[each.arg] = Argument(flag=f"--{flag}", kind=kind, negative=negative, choices=enums.get(word, ()))
    return found


def _members(node: ast.ClassDef) -> tuple[str, ...]:
    """The words of an enum's members; none of any other class."""
    if not any(ast.unparse(base).endswith("Enum") for base in node.bases):
        return ()
    values = (each.value for each in node.body if isinstance(each, ast.Assign))
    return tuple(str(value.value) for value in values if isinstance(value, ast.Constant))
