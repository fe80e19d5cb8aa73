"""llama.cpp's own server, launched on a GGUF file written from the model folder; decoder-only models.

It is found in this order: the option `command` or `image`, the wheel xllamacpp in the block's `python:`, here or in the
installed environment, a `llama-server` on the path. Batching, caching and HTTP are llama.cpp's; ours are the file, the
start and the end.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from engines.api import Availability, Capabilities, EngineSpec
from engines.environments.locate import installed_python, interpreter
from engines.environments.packages import package_availability
from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.foreign_servers.llamacpp.options import option_help, option_values, wheel_of
from engines.foreign_servers.llamacpp.start import (
    EFFECTIVE_DTYPES,
    MOST_CONTEXT,
    PROGRAM,
    WHEEL,
    Place,
    Start,
    check_model,
)
from engines.foreign_servers.llamacpp.vocabulary import why_no_vocabulary
from engines.foreign_servers.starting.docker_image import check_image
from engines.foreign_servers.starting.openai_engine import OpenAiServerEngine
from engines.hosted import CONVERTED_FEATURES
from engines.models.checkpoint.kind import DECODER, model_kind
from engines.models.gguf.architectures import ARCHITECTURES
from engines.models.gguf.as_folder import gguf_file
from engines.models.tokenizer import FAST_FILE

_FEATURES = {**CONVERTED_FEATURES, "model_kinds": "decoder-only"}


class LlamaCppEngine(OpenAiServerEngine):
    """Engine `llamacpp`: one server a trial, `batch_size` slots that requests join and leave as they come and end."""

    name = "llamacpp"
    features = _FEATURES

    def probe(self) -> Availability:
        """Whether the wheel or the program is there; neither is started."""
        try:
            place = _place(self.command, self.python, self.image)
        except (Unavailable, SpecInvalid) as error:
            return Availability(is_available=False, reason=str(error))
        if place is None:
            found = package_availability((WHEEL, "gguf"), self.name)
            reason = f"{found.reason}, or put {PROGRAM} on the path"
            return Availability(is_available=False, reason=reason, versions=found.versions)
        if place.python and place.python != sys.executable:
            return Availability(is_available=True)
        return package_availability(("gguf",) if not place.python else (WHEEL, "gguf"), self.name)

    def capabilities(self) -> Capabilities:
        """Decoder-only models that can be written as GGUF; options are those of the installed version."""
        place = _place(self.command, self.python, self.image)
        return Capabilities(
            effective_dtypes=EFFECTIVE_DTYPES,
            has_rolling_batch=True,
            has_minimum_length=False,  # see Dialect.exact_tokens
            ignored_parameters=("num_beams", "repetition_penalty", "no_repeat_ngram_size"),
            options=option_help(place.python if place else ""),
            option_values=option_values(place.python if place else ""),
            context_option="context",
            usual_context=MOST_CONTEXT,
            reasons={
                "tensor_parallel_degree": "llama.cpp splits layers over GPUs, not tensors over processes",
                "workers": "one server is a trial; ask for more slots with batch_size",
                "cuda": "the wheel computes on the CPU",
            },
            features=_FEATURES,
            model_kinds=(DECODER,),
            architectures=tuple(ARCHITECTURES),
            leaves_out={"sliding_window": tuple(name for name, each in ARCHITECTURES.items() if not each.has_window)},
            reads_gguf=True,
            max_workers=1,
            changes_answers={"batch_size": tuple(EFFECTIVE_DTYPES)},  # sums depend on how many tokens run at once
        )

    def check_folder(self, model_dir: Path) -> None:
        """Raises ModelInvalid, for example for a tokenizer that llama.cpp has no equal of."""
        check_model(model_dir)
        if not model_kind(model_dir).gguf_weights or (model_dir / FAST_FILE).is_file():
            return
        place, file = _place(self.command, self.python, self.image), gguf_file(model_dir)
        if place and (why := why_no_vocabulary(file, place.python, place.program)):
            raise ModelInvalid(f"{file}: llama.cpp does not read its vocabulary: {why}; another build may")

    def prepared(self, spec: EngineSpec) -> Start:
        """The GGUF file is written unless it is kept."""
        place = _place(self.command, self.python, self.image)
        if place is None:
            raise Unavailable(f"llamacpp cannot run here: {self.probe().reason}")
        return Start.of(spec, place)


def _place(command: str, python: str, image: str) -> Place | None:
    """What runs the server, in the order of the module's docstring; None where nothing can. Raises Unavailable for a
    named program, docker or environment that is not there, SpecInvalid for two names."""
    if command and image:
        raise SpecInvalid("llamacpp: options command and image: expected one of them")
    if image:
        check_image(LlamaCppEngine.name, image)
        return Place(image=image)
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
