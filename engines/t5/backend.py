"""The bundled T5 engine as a backend of our model server: static batches, or requests that join and leave in flight."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engines.api import (
    Availability,
    Capabilities,
    EngineFacts,
    EngineSpec,
    GenerateParams,
    GenerateRequest,
    RollingBackend,
    TokenEvent,
)
from engines.errors import RequestInvalid, SpecInvalid, Unavailable
from engines.hosted import HostedEngine
from engines.models.checkpoint.generation_defaults import model_notes
from engines.option_values import AT_LEAST_ONE, FLAG
from engines.processes.threads import compute_threads
from engines.spec_check import check_spec, flag, whole_number
from engines.t5 import cuda, native
from engines.t5.engine import NO_FP16_ON_CPU, Event, T5Engine, load
from engines.t5.params import Params
from engines.t5.partition import is_partition

# What multiplies what; sums are fp32, or exact int32 within a block (ops/linear.h). bf16 activations are fp32 rounded
# before each product, int16 ones per row and 128 inputs, int4's int8 ones per 32 inputs.
EFFECTIVE_DTYPES = {
    "fp32": "fp32",
    "bf16": "bf16 weights, bf16 activations",
    "int8": "int8 weights, int16 activations",
    "w8": "int8 weights, int16 activations",
    "w8a8": "int8 weights, int8 activations",
    "int4": "int4 weights (head int8), int8 activations",
}

# On a GPU activations and caches have 16 bits (fp32 weights: 32); sums and the residual are fp32.
CUDA_DTYPES = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "int8": "int8 weights, bf16 activations",
    "w8": "int8 weights, bf16 activations",
    "int4": "int4 weights (head int8), bf16 activations",
}

HINTS = {
    "int8": "w8a8 has the same weights beside 8-bit activations and is faster at several requests at once; on the "
    "bundled model its 4000 held-out answers are those of int8 and fp32, on yours the quality check decides"
}
"""Of the CPU's dtypes. The answers were compared for scenarios/assets/flan-t5-bench/README.md."""

MAX_RANKS = 16

# Decode steps between two looks for new requests, however fast they are.
MOST_STEPS = 16

# Slots of a rolling worker when the option is not given: DJL's max_rolling_batch_size.
ROLLING_SLOTS = 32


FEATURES = {
    "model_parallel": "tensor",
    "loads_hugging_face": "yes",
    "runtime_partition": "yes",
    "ahead_of_time_partition": "yes",
    "partition_on_cpu_memory": "yes",
    "streaming": "yes",
    "fast_loading": "memory-mapped shards",
    "hardware": "CPU, NVIDIA GPU (not yet run on one)",
    "model_kinds": "T5",
    "openai": "completions",
}


class T5HostedEngine(HostedEngine):
    """The bundled engine behind our model server."""

    name = "t5"
    features = FEATURES

    def probe(self) -> Availability:
        try:
            versions = {"t5k": f"abi {native.ABI}", "isa": native.isa(), "numpy": np.__version__}
        except (Unavailable, OSError, AttributeError) as error:
            return Availability(is_available=False, reason=str(error))
        return Availability(is_available=True, versions=versions)

    def capabilities(self) -> Capabilities:
        return capabilities()

    def check_model(self, model_dir: Path) -> None:
        """A partition is checked shard by shard when it is mapped; see engines/t5/partition.py."""
        if not is_partition(model_dir):
            super().check_model(model_dir)


def capabilities() -> Capabilities:
    """What the bundled engine accepts on this machine: any CPU, and a GPU if nothing it needs is missing."""
    gone = cuda.missing("cuda")
    return Capabilities(
        features=FEATURES,
        effective_dtypes=EFFECTIVE_DTYPES if gone else CUDA_DTYPES | EFFECTIVE_DTYPES,
        max_tensor_parallel_degree=MAX_RANKS,
        has_rolling_batch=True,
        devices=("cpu",) if gone else ("cpu", "cuda"),
        options={
            "exact_head": "true: an int8 copy of the head finds the same greedy tokens with fewer bytes (fp32, bf16)",
            "max_slots": f"requests in flight (default: batch_size, or {ROLLING_SLOTS} with rolling_batch)",
        },
        option_values={"exact_head": FLAG, "max_slots": AT_LEAST_ONE},
        changes_answers={"threads": ()},  # no token of 200 prompts in fp32, bf16 and int8
        hints=HINTS,
        reasons={
            "fp16": NO_FP16_ON_CPU,
            **({"cuda": gone} if gone else {}),
            "tensor_parallel_degree": f"at most {MAX_RANKS} ranks, and they must divide the model's heads and d_ff",
        },
    )


class T5Backend(RollingBackend):
    """One engine in this process."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Pack (or map) the weights and run one token. Raises ModelInvalid, SpecInvalid, Unavailable, MemoryError."""
        check_spec(spec, capabilities())
        _check_device(spec)
        is_rolling = spec.rolling_batch != "disable"
        self._slots = whole_number(spec, "max_slots", ROLLING_SLOTS if is_rolling else spec.batch_size)
        threads = compute_threads(spec)
        began = time.monotonic()
        self._engine: T5Engine = load(
            spec.model_dir,
            dtype=spec.dtype,
            device=spec.device,
            tensor_parallel_degree=spec.tensor_parallel_degree,
            threads=threads,
            max_slots=self._slots,
            exact_head=flag(spec, "exact_head", False),
        )
        self._engine.generate([[2, self._engine.config.eos_ids[0]]], max_new_tokens=2)
        self._wants_logprob: dict[int, bool] = {}
        self._step_s = 1.0
        return EngineFacts(
            effective_dtype=(EFFECTIVE_DTYPES if spec.device == "cpu" else CUDA_DTYPES)[spec.dtype],
            versions=T5HostedEngine().probe().versions,
            load_s=time.monotonic() - began,
            notes=(
                f"isa {self._engine.isa}, {threads} threads, {spec.tensor_parallel_degree} tensor-parallel rank(s)",
                *([self._engine.about] if self._engine.about else []),
                f"{self._engine.weight_bytes / 1e6:.0f} MB of weights",
                *([HINTS[spec.dtype]] if spec.device == "cpu" and spec.dtype in HINTS else []),
                *model_notes(spec.model_dir),
            ),
        )

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        indices: dict[int, int] = {}
        try:
            for index, request in enumerate(batch):
                indices[self._submit(request)] = index
        except RequestInvalid:
            self._cancel(indices)
            raise
        return self._events(indices)

    def _events(self, indices: dict[int, int]) -> Iterator[Sequence[TokenEvent]]:
        left = set(indices)
        try:
            while left:
                events = self._engine.step()
                left -= {event.handle for event in events if event.finish}
                yield [self._token_event(event, indices[event.handle]) for event in events if event.handle in indices]
        finally:
            self._cancel(left)

    def admit(self, request: GenerateRequest) -> int | None:
        """Take the request into a free slot; None when every slot is taken. Raises RequestInvalid."""
        return self._submit(request) if len(self._wants_logprob) < self._slots else None

    def step(self, count: int = 1) -> Sequence[TokenEvent]:
        """One decode step over all slots, or up to `count` until a request ends; empty when idle."""
        events = self._engine.step(count)
        return [self._token_event(event, event.handle) for event in events if event.finish != "cancelled"]

    def several_steps(self, at_most_s: float) -> Sequence[TokenEvent]:
        """As many decode steps as the last ones' pace puts into `at_most_s`, at least one, until a request ends."""
        count = min(MOST_STEPS, max(1, int(at_most_s / self._step_s)))
        began = time.perf_counter()
        events = self.step(count)
        if events:
            ran = sum(event.index == events[0].index for event in events)  # each request running has one in each step
            self._step_s = max(1e-6, (time.perf_counter() - began) / ran)
        return events

    def cancel(self, index: int) -> None:
        """End a request and free its slot."""
        self._cancel({index})

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _submit(self, request: GenerateRequest) -> int:
        try:
            handle = self._engine.submit(request.input_ids, params_of(request.params))
        except ValueError as error:
            raise RequestInvalid(str(error)) from error
        self._wants_logprob[handle] = request.params.return_logprobs
        return handle

    def _cancel(self, handles: Sequence[int] | set[int] | dict[int, int]) -> None:
        for handle in handles:
            if self._wants_logprob.pop(handle, None) is not None:
                self._engine.cancel(handle)
        self._engine.step(0)

    def _token_event(self, event: Event, index: int) -> TokenEvent:
        """NaN is passed on whether wanted or not: it shows that the model's logits were not finite."""
        handle, token, finish, _, logprob = event
        is_shown = self._wants_logprob[handle] or logprob != logprob
        if finish is not None:
            del self._wants_logprob[handle]
            finish = "eos" if finish == "stop" else finish
        return TokenEvent(index=index, token_id=token, logprob=logprob if is_shown else None, finish=finish)


def _check_device(spec: EngineSpec) -> None:
    """What a GPU does not do, refused before anything is loaded."""
    if spec.device == "cpu":
        if spec.dtype not in EFFECTIVE_DTYPES:
            raise SpecInvalid(f"t5: dtype {spec.dtype!r} on device 'cpu' refused: {NO_FP16_ON_CPU}")
        return
    gpus = cuda.group(spec.device).devices
    if spec.tensor_parallel_degree > gpus:
        raise SpecInvalid(
            f"t5: tensor_parallel_degree {spec.tensor_parallel_degree} on device {spec.device!r} refused: every rank "
            f"needs its own GPU, and {gpus} can be seen here; ranks that share one are slower than degree 1"
        )
    if spec.dtype not in CUDA_DTYPES:
        raise SpecInvalid(
            f"t5: dtype {spec.dtype!r} on device {spec.device!r} refused: int8 weights meet activations that are not "
            "rounded there; use int8"
        )


@functools.lru_cache(maxsize=256)
def params_of(params: GenerateParams) -> Params:
    """The engine's parameters for a request's. Raises ValueError."""
    return Params(**asdict(params))
