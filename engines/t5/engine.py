"""The T5 engine's Python class: load a folder, generate, submit and step, encode."""

from __future__ import annotations

import contextlib
import ctypes as c
import os
import struct
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.t5 import cuda, native
from engines.t5.config import ACTIVATIONS, T5Config, read_config
from engines.t5.packing_plan import PackedModel, native_config, pack_in_memory, resolve_dtype
from engines.t5.params import Params, checked_ids, id_array, native_record
from engines.t5.partition import is_partition, open_partition

FloatArray = npt.NDArray[np.float32]

_OK, _INVALID, _NO_MEMORY = 0, 1, 2

NO_FP16_ON_CPU = "CPUs have no fp16 arithmetic worth using; bf16 halves the weights as well"

# native.Event, read as bytes: a ctypes record for each token costs as much as the rest of its way to the caller.
_EVENT = struct.Struct("=qiiif")

# Decode steps of generate() per crossing: long enough that Python costs nothing, short enough that Ctrl-C is answered.
STEPS_PER_CROSSING = 16


class Event(NamedTuple):
    """One new token of the request `handle`, or (token None) only its end.

    finish: None while the hypothesis continues, else 'eos', 'length', 'stop' or 'cancelled'. With beams all tokens come
    at the end, hypothesis by hypothesis, and the last event of each carries its score in `logprob`.
    """

    handle: int
    token: int | None
    finish: str | None
    hypothesis: int
    logprob: float


def load(
    path: str | os.PathLike[str],
    dtype: str = "fp32",
    device: str = "cpu",
    tensor_parallel_degree: int = 1,
    threads: int | None = None,
    max_slots: int = 8,
    *,
    exact_head: bool = False,
    admission: str = "in_flight",
    max_source: int = 8192,
    max_target: int = 8192,
) -> T5Engine:
    """A loaded engine for a Hugging Face folder or one written by `partition`. Close it, or use it in a `with`.

    `exact_head` keeps an int8 copy of an fp32 or bf16 head: greedy tokens, unchanged, at a quarter of the head's bytes.
    `device` is 'cpu', 'cuda' (kernels are compiled for the GPU on first use) or 'cuda-sim', the emulator of the tests.
    On CUDA rank r of `tensor_parallel_degree` runs on GPU r; where one GPU can be seen, all ranks run on it, one after
    another, and where there are several but fewer than ranks, the load is refused.
    `threads` counts all tensor-parallel ranks together (None: every core this process may use). `admission` is
    'in_flight' (requests join at token boundaries) or 'static' (a batch runs to its end before the next is admitted).
    `max_source` and `max_target` bound one request, in tokens. Raises ModelInvalid, SpecInvalid, Unavailable,
    MemoryError.
    """
    sizes = {"max_slots": max_slots, "max_source": max_source, "max_target": max_target}
    folder, dtype = _checked(path, dtype, device, admission, sizes, threads=threads, exact_head=exact_head)
    on = None if device == "cpu" else cuda.target(device)
    config = read_config(folder)
    if not is_partition(folder):
        model = pack_in_memory(folder, config, dtype, tensor_parallel_degree, exact_head=exact_head)
    elif exact_head:
        raise SpecInvalid(f"exact_head: {folder} is a partition, which holds no int8 copy; load the model folder")
    else:
        model = open_partition(folder, config, dtype, tensor_parallel_degree)
    roles = {record.role for record in model.records}
    record = native_config(config, degree=tensor_parallel_degree, has_decoder=native.ROLES.index("head") in roles)
    record.activation = ACTIVATIONS[config.activation]
    record.threads = threads if threads is not None else len(os.sched_getaffinity(0))
    record.max_slots, record.max_source, record.max_target = sizes.values()
    record.quantize_rows = dtype == "w8a8"
    record.is_static = admission == "static"
    if on is None:
        record.isa = native.forced_isa()
        record.caches = native.ACTIVATIONS["fp32" if dtype == "fp32" else "bf16"]
        return T5Engine(config, dtype, model, record)
    record.cuda_driver, record.cuda_image = on.driver.encode(), on.image
    record.activations = native.ACTIVATIONS[cuda.activations(dtype)]
    return T5Engine(config, dtype, model, record, on.name)


def _checked(
    path: object,
    dtype: str,
    device: str,
    admission: str,
    sizes: Mapping[str, object],
    *,
    threads: object,
    exact_head: object,
) -> tuple[Path, str]:
    """The folder and the dtype that are asked for. Raises SpecInvalid for what can be known before anything is read."""
    if device not in ("cpu", *cuda.DEVICES):
        raise SpecInvalid(f"device: expected 'cpu', 'cuda' or 'cuda-sim', got {device!r}")
    if admission not in ("in_flight", "static"):
        raise SpecInvalid(f"admission: expected 'in_flight' or 'static', got {admission!r}")
    folder = _checked_folder(path)
    for name, value in {**sizes, **({} if threads is None else {"threads": threads})}.items():
        _check_whole(name, value)
    if not isinstance(exact_head, bool):
        raise SpecInvalid(f"exact_head: expected True or False, got {exact_head!r}")
    dtype = resolve_dtype(dtype)
    if dtype == "fp16" and device == "cpu":
        raise SpecInvalid(f"dtype: the t5 engine has no fp16 on the CPU: {NO_FP16_ON_CPU}")
    return folder, dtype


def _checked_folder(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)) or isinstance(path, bytes):
        raise SpecInvalid(f"path: expected a model folder, got {path!r}")
    return Path(path)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise SpecInvalid(f"{name}: expected a whole number from 1 on, got {value!r}")


class T5Engine:
    """A loaded model. Closing frees the memory; a closed engine refuses calls.

    Any thread may call: a call waits for the step that another has begun. `generate` keeps the events of requests that
    are not its own for the next `step`.
    """

    def __init__(
        self, config: T5Config, dtype: str, model: PackedModel, record: native.Config, isa: str | None = None
    ) -> None:
        """Take over packed weights; `isa` states what runs them (None: the CPU's). Raises ModelInvalid, SpecInvalid,
        MemoryError."""
        self.config, self.dtype, self.isa = config, dtype, isa or native.isa()
        self.weight_bytes = model.size_bytes
        self._model: PackedModel | None = model
        self._library, self._error, self._engine = native.library(), native.Error(), c.c_void_p()
        self._lock = threading.RLock()
        self._requests: dict[int, int] = {}  # handle -> hypotheses that have not ended
        self._kept: list[Event] = []  # events that a generate() met and that are not its own
        status = self._library.t5k_create(
            c.byref(record), model.records, len(model.records), c.byref(self._engine), c.byref(self._error)
        )
        if status == _INVALID:
            raise SpecInvalid(self._message())
        self._check(status)
        self.about: str = self._library.t5k_about(self._engine).decode()

    # ---- whole requests -----------------------------------------------------------------------------------------

    def generate(self, input_ids: Sequence[Sequence[int]], max_new_tokens: int = 64, **params: Any) -> list[list[int]]:
        """New ids of each input: without the start token, ending after eos (included).

        `params` are those of `Params`. With num_return_sequences = n there are n lists per input, best first, inputs in
        order; with do_sample they are n draws. Raises ValueError for a bad input or parameter, before any work.
        """
        wanted = _params(max_new_tokens=max_new_tokens, **params)
        copies = 1
        if wanted.do_sample and wanted.num_beams == 1:
            copies, wanted = wanted.num_return_sequences, replace(wanted, num_return_sequences=1)
            if copies < 1:
                raise ValueError(f"num_return_sequences: expected 1 or more, got {copies}")
        handles = self._submit_all(input_ids, wanted, copies)
        outputs: dict[tuple[int, int], list[int]] = {
            (h, i): [] for h in handles for i in range(wanted.num_return_sequences)
        }
        mine, goes_on = set(handles), bool(handles)
        try:
            while goes_on:
                events, goes_on = self._step_of(mine)
                for event in events:
                    if event.token is not None:
                        outputs[event.handle, event.hypothesis].append(event.token)
        except BaseException:
            self._abandon(handles)
            raise
        return list(outputs.values())

    def _step_of(self, handles: set[int]) -> tuple[list[Event], bool]:
        """The events of these handles, and whether more will come; others' are kept for whoever steps next."""
        with self._lock:
            events = self.step(STEPS_PER_CROSSING)
            mine = [event for event in events if event.handle in handles]
            self._kept = [event for event in events if event.handle not in handles]
            goes_on = not handles.isdisjoint(self._requests)
            if goes_on and not events and self.load() == (0, 0):
                raise Unavailable("the requests have left the engine without an answer: another thread's step failed")
        return mine, goes_on

    def _submit_all(self, input_ids: Sequence[Sequence[int]], params: Params, copies: int) -> list[int]:
        _check_batch(input_ids)
        handles: list[int] = []
        try:
            for index, ids in enumerate(input_ids):
                for copy in range(copies):
                    own = params if params.seed is None or copy == 0 else replace(params, seed=params.seed + copy)
                    handles.append(self._submit(ids, own, f"input_ids[{index}]"))
        except ValueError:
            self._abandon(handles)
            raise
        return handles

    def _abandon(self, handles: Sequence[int]) -> None:
        """End these requests and forget their events; what fails meanwhile is less than what came before it."""
        with self._lock, contextlib.suppress(Unavailable):  # closed by another thread
            for handle in handles:
                if handle in self._requests:
                    with contextlib.suppress(ValueError):  # a failed step has ended it already
                        self.cancel(handle)
            self._kept = [event for event in self.step(0) if event.handle not in handles]

    # ---- requests that join and leave -----------------------------------------------------------------------------

    def submit(self, ids: Sequence[int], params: Params | None = None) -> int:
        """Queue a request and return its handle. Raises ValueError naming the index and the limit."""
        if params is not None and not isinstance(params, Params):
            raise ValueError(f"params: expected engines.t5.Params, got {params!r}")
        return self._submit(ids, params or Params(), "ids")

    def _submit(self, ids: Sequence[int], params: Params, name: str) -> int:
        numbers, handle, record = array("i", checked_ids(name, ids)), c.c_int64(), native_record(params)
        with self._lock:
            status = self._library.t5k_submit(
                self._open(), numbers.buffer_info()[0], len(numbers), c.byref(record), c.byref(handle),
                c.byref(self._error),
            )  # fmt: skip
            self._check(status, name)
            self._requests[handle.value] = params.num_return_sequences
        return handle.value

    def step(self, max_steps: int = 1) -> list[Event]:
        """Admit what fits, run up to `max_steps` decode steps, fewer when a request ends, and return their events in
        order; [] when idle."""
        steps, events, count = _int("max_steps", max_steps), c.POINTER(native.Event)(), c.c_int64()
        with self._lock:
            engine = self._open()
            status = self._library.t5k_step(engine, steps, c.byref(events), c.byref(count), c.byref(self._error))
            if count.value:
                for raw in _EVENT.iter_unpack(c.string_at(events, count.value * _EVENT.size)):
                    handle, token, number, hypothesis, logprob = raw
                    finish = native.FINISHES[number]
                    if finish is not None:
                        self._has_ended(handle, finish)
                    self._kept.append(Event(handle, token if token >= 0 else None, finish, hypothesis, logprob))
            self._check(status)
            found, self._kept = self._kept, []
        return found

    def _has_ended(self, handle: int, finish: str) -> None:
        """Count a hypothesis that ended; its request is over with the last one, or when it is cancelled."""
        if finish == "cancelled":
            self._requests.pop(handle, None)
            return
        self._requests[handle] -= 1
        if self._requests[handle] == 0:
            del self._requests[handle]

    def cancel(self, handle: int) -> None:
        """End a request; the next step reports it as cancelled and its slot is free. Raises ValueError if unknown."""
        number = _int("handle", handle, bits=64)
        with self._lock:
            self._check(self._library.t5k_cancel(self._open(), number, c.byref(self._error)), "handle")

    def load(self) -> tuple[int, int]:
        """Requests waiting and running; one whose last event no step has given yet runs."""
        waiting, running = c.c_int32(), c.c_int32()
        with self._lock:
            self._library.t5k_load(self._open(), c.byref(waiting), c.byref(running))
            ended = {event.handle for event in self._kept} - self._requests.keys()
        return waiting.value, running.value + len(ended)

    # ---- numbers --------------------------------------------------------------------------------------------------

    def encode(self, input_ids: Sequence[Sequence[int]]) -> list[FloatArray]:
        """The encoder's final-normed states of each input, [S, E] fp32."""
        _check_batch(input_ids)
        arrays = [id_array(f"input_ids[{i}]", ids) for i, ids in enumerate(input_ids)]
        lengths = (c.c_int32 * len(arrays))(*(len(a) for a in arrays))
        flat = (c.c_int32 * sum(lengths))(*(v for a in arrays for v in a))
        out = np.empty((sum(lengths), self.config.d_model), dtype=np.float32)
        with self._lock:
            status = self._library.t5k_encode(
                self._open(), flat, lengths, len(arrays), out.ctypes.data, c.byref(self._error)
            )
            self._check(status, "input_ids")
        return np.split(out, np.cumsum(lengths)[:-1]) if arrays else []

    def score(self, ids: Sequence[int], target: Sequence[int]) -> FloatArray:
        """Teacher-forced logits [T, V] for the decoder inputs `target` (start token first)."""
        source, forced = id_array("ids", ids), id_array("target", target)
        out = np.empty((len(forced), self.config.vocab), dtype=np.float32)
        with self._lock:
            status = self._library.t5k_score(
                self._open(), source, len(source), forced, len(forced), out.ctypes.data, c.byref(self._error)
            )
            self._check(status, "ids or target")
        return out

    def process(self, params: Params, history: Sequence[int], scores: FloatArray) -> FloatArray:
        """`scores` [V] after the logits processors of `params`, given the decoder ids so far (start token first)."""
        past, out = id_array("history", history), np.array(scores, dtype=np.float32)
        if out.shape != (self.config.vocab,):
            raise ValueError(f"scores: expected shape ({self.config.vocab},), got {out.shape}")
        for index, token in enumerate(past):  # the library trusts a history, which its own requests have made
            if not 0 <= token < self.config.vocab:
                raise ValueError(f"history: id at index {index}: expected 0 to {self.config.vocab - 1}, got {token}")
        with self._lock:
            status = self._library.t5k_process(
                self._open(), c.byref(params.to_native()), past, len(past), out.ctypes.data, c.byref(self._error)
            )
            self._check(status, "params")
        return out

    # ---- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the engine and its weights, after a step that another thread has begun; harmless when closed already."""
        with self._lock:
            if self._engine:
                self._library.t5k_destroy(self._engine)
                self._engine, self._model = c.c_void_p(), None
                self._requests.clear()
                self._kept.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_engine", None):
            self.close()

    def _open(self) -> c.c_void_p:
        if not self._engine:
            raise Unavailable("this t5 engine has been closed")
        return self._engine

    def _message(self) -> str:
        return str(self._error.message.decode(errors="replace"))

    def _check(self, status: int, where: str = "") -> None:
        if status == _OK:
            return
        message = f"{where}: {self._message()}" if where else self._message()
        if status == _INVALID:
            raise ValueError(message)
        if status == _NO_MEMORY:
            raise MemoryError(message)
        raise ModelInvalid(f"the native engine failed: {message}")


def _int(name: str, value: object, bits: int = 32) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise ValueError(f"{name}: expected an int of {bits} bits, got {value!r}")
    return value


def _check_batch(input_ids: object) -> None:
    if isinstance(input_ids, (str, bytes)) or not hasattr(input_ids, "__iter__"):
        raise ValueError(f"input_ids: expected a list of id lists, got {input_ids!r}")


def _params(**values: Any) -> Params:
    unknown = set(values) - {*Params.__dataclass_fields__}
    if unknown:
        raise ValueError(
            f"unknown parameters {sorted(unknown)}: expected some of {sorted(Params.__dataclass_fields__)}"
        )
    return Params(**values)
