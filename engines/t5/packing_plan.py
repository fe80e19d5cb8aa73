"""The plan for packing a T5 checkpoint: its tensors, how each is cut over ranks, how its bytes are filled.

The plan is pure (shapes only). Filling reads one checkpoint tensor at a time, so packing to disk (partition.py) peaks
at a tensor, not at a model. The packed layout is the same for every ISA; see kernels/ops/panels.h.
"""

# ruff: noqa: N803, N806 - tensor letters (K, N, E) are the same here, in C++ and in the docs

from __future__ import annotations

import ctypes as c
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engines.errors import SpecInvalid
from engines.models.checkpoint.unservable import EMBEDDINGS
from engines.t5 import native
from engines.t5.bias import LANES, bias_table
from engines.t5.config import T5Config
from engines.t5.pack_rows import Bytes, FloatArray, pack_rows, round_table, screen_norms
from engines.t5.weights import Checkpoint

DTYPES = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "int8": "w8", "w8": "w8", "w8a8": "w8a8", "int4": "int4"}
"""Accepted dtype -> what it means: w8 is int8 weights with activations rounded to int16, w8a8 with int8.

fp16 is for the CUDA device; a partition of it can be made anywhere."""

_LINEAR_FORMATS = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "w8": "int8", "w8a8": "int8", "int4": "int4"}
_HEAD_FORMATS = {**_LINEAR_FORMATS, "int4": "int8"}  # the head decides ties between tokens: it keeps 8 bits

ALIGNMENT = 64

CHUNK_BYTES = 8 << 20
"""A checkpoint tensor is read and packed this much of it at a time, and what was read is given back."""


def resolve_dtype(dtype: str) -> str:
    """The canonical name of a dtype. Raises SpecInvalid."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SpecInvalid(f"dtype: the t5 engine knows {sorted(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]


def check_degree(config: T5Config, degree: int) -> None:
    """Raise SpecInvalid unless the tensor-parallel degree divides heads and d_ff."""
    is_whole = isinstance(degree, int) and not isinstance(degree, bool)
    if not is_whole or degree < 1 or degree > 64 or config.heads % degree or config.d_ff % degree:
        raise SpecInvalid(
            f"tensor_parallel_degree: expected a divisor of {config.heads} heads and d_ff {config.d_ff}, got {degree!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """One tensor of t5k.h: where it goes, how large it is, and how to fill its (zeroed) bytes.

    `mapped` gives the very same bytes in the checkpoint's own mapping, where they have the needed form there.
    """

    role: str
    is_decoder: bool
    layer: int
    rank: int
    format: str
    K: int
    N: int
    size_bytes: int
    fill: Callable[[Checkpoint, Bytes], None]
    mapped: Callable[[Checkpoint], Bytes | None] = field(default=lambda checkpoint: None)

    @property
    def name(self) -> str:
        """Unique in a plan; the key in a partition's manifest."""
        return f"{'decoder' if self.is_decoder else 'encoder'}.{self.layer}.{self.role}.{self.rank}"


@dataclass(frozen=True, slots=True)
class _Cut:
    """The rows (outputs) and columns (inputs) of one checkpoint matrix [N, K] that a rank holds."""

    name: str
    shape: tuple[int, int]
    rows: slice
    columns: slice = field(default_factory=lambda: slice(None))

    @property
    def height(self) -> int:
        return _length(self.rows, self.shape[0])

    @property
    def is_cut_inside(self) -> bool:
        """Whether the inputs of a row are shared out over ranks."""
        return _length(self.columns, self.shape[1]) < self.shape[1]

    def read(self, checkpoint: Checkpoint, first: int, last: int) -> tuple[FloatArray, FloatArray | None]:
        """Rows `first` to `last` of this cut, and max |row| of the uncut matrix when its inputs are cut."""
        start = self.rows.indices(self.shape[0])[0]
        whole = checkpoint.read(self.name, self.shape, slice(start + first, start + last))
        if not self.is_cut_inside:
            return whole, None
        return whole[:, self.columns], np.maximum(whole.max(axis=1), -whole.min(axis=1)).astype(np.float32)


def _chunks(checkpoint: Checkpoint, cuts: Sequence[_Cut]) -> Iterator[tuple[int, FloatArray, FloatArray | None]]:
    """(first row, rows, peaks) of the cuts laid end to end, a few panels at a time; each chunk is given back after."""
    total, start = sum(cut.height for cut in cuts), 0
    step = max(LANES, CHUNK_BYTES // (4 * cuts[0].shape[1]) // LANES * LANES)
    while start < total:
        end, begin = min(start + step, total), 0
        pieces, peaks = [], []
        for cut in cuts:
            low, high = max(start, begin) - begin, min(end, begin + cut.height) - begin
            begin += cut.height
            if low < high:
                rows, peak = cut.read(checkpoint, low, high)
                pieces.append(rows)
                peaks.append(peak)
        whole = [peak for peak in peaks if peak is not None]
        yield start, pieces[0] if len(pieces) == 1 else np.concatenate(pieces), np.concatenate(whole) if whole else None
        checkpoint.release()
        start = end


def _pack_cuts(
    form: str, checkpoint: Checkpoint, cuts: Sequence[_Cut], total: int, out: Bytes, panels: tuple[int, int] = (0, 1)
) -> None:
    """Pack cuts laid end to end into `out`, a matrix of `total` outputs; `panels`: their first and the step."""
    start, step = panels
    for first, rows, peaks in _chunks(checkpoint, cuts):
        pack_rows(form, rows, total, out, first_panel=start + first // LANES * step, step=step, peaks=peaks)


def plan(
    config: T5Config, dtype: str, degree: int, names: frozenset[str], *, exact_head: bool = False
) -> list[PlannedTensor]:
    """Every tensor of the model for this dtype and degree, in the order a pass uses them.

    `names` are the checkpoint's tensor names: they decide whether the head is its own and which layers own a bias.
    `exact_head` adds an int8 copy of an fp32 or bf16 head, with which greedy tokens are found at int8 cost. SpecInvalid
    if the head is int8 already.
    """
    check_degree(config, degree)
    dtype = resolve_dtype(dtype)
    if exact_head and _HEAD_FORMATS[dtype] not in ("fp32", "bf16"):
        raise SpecInvalid(
            f"exact_head: expected dtype 'fp32' or 'bf16' beside it, got {dtype!r}: its head is {_HEAD_FORMATS[dtype]}"
        )
    return list(_Planner(config, dtype, degree, names, exact_head).tensors())


class _Planner:
    def __init__(self, config: T5Config, dtype: str, degree: int, names: frozenset[str], exact_head: bool) -> None:
        self.exact_head = exact_head
        self.config, self.degree, self.names = config, degree, names
        self.linear_format, self.head_format = _LINEAR_FORMATS[dtype], _HEAD_FORMATS[dtype]
        self.embed_format = dtype if dtype in ("fp32", "fp16") else "bf16"
        self.embed_name = next((name for name in EMBEDDINGS if name in names), EMBEDDINGS[0])
        self.has_decoder = any(name.startswith("decoder.block.") for name in names)

    def tensors(self) -> Iterator[PlannedTensor]:
        yield self._embed()
        yield from self._stack("encoder", self.config.encoder_layers)
        if self.has_decoder:
            yield from self._stack("decoder", self.config.decoder_layers)
            for rank in range(self.degree):
                yield from self._head(rank)

    def _stack(self, stack: str, layers: int) -> Iterator[PlannedTensor]:
        for layer in range(layers):
            yield from self._layer(stack, layer)
        yield self._vector(stack, 0, "norm_final", f"{stack}.final_layer_norm.weight")

    def _layer(self, stack: str, layer: int) -> Iterator[PlannedTensor]:
        block = f"{stack}.block.{layer}.layer"
        yield self._vector(stack, layer, "norm_att", f"{block}.0.layer_norm.weight")
        yield from self._attention(stack, layer, f"{block}.0.SelfAttention", ("qkv", "out"))
        bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
        if bias in self.names or layer == 0:
            for rank in range(self.degree):
                yield self._bias(stack, layer, rank, bias)
        last = 1
        if stack == "decoder":
            last = 2
            yield self._vector(stack, layer, "norm_cross", f"{block}.1.layer_norm.weight")
            yield from self._attention(stack, layer, f"{block}.1.EncDecAttention", ("cross_q", "cross_kv", "cross_out"))
        yield self._vector(stack, layer, "norm_ff", f"{block}.{last}.layer_norm.weight")
        for rank in range(self.degree):
            yield self._ff_in(stack, layer, rank, f"{block}.{last}.DenseReluDense")
            yield self._ff_out(stack, layer, rank, f"{block}.{last}.DenseReluDense")

    def _attention(self, stack: str, layer: int, prefix: str, roles: Sequence[str]) -> Iterator[PlannedTensor]:
        config, width = self.config, self.config.inner // self.degree
        parts = {"qkv": "qkv", "cross_q": "q", "cross_kv": "kv"}
        for rank in range(self.degree):
            mine = slice(rank * width, (rank + 1) * width)
            for role in roles:
                if role in parts:
                    cuts = [_Cut(f"{prefix}.{p}.weight", (config.inner, config.d_model), mine) for p in parts[role]]
                    yield self._linear(stack, layer, rank, role, cuts)
                else:
                    cut = _Cut(f"{prefix}.o.weight", (config.d_model, config.inner), slice(None), mine)
                    yield self._linear(stack, layer, rank, role, [cut])

    def _ff_in(self, stack: str, layer: int, rank: int, prefix: str) -> PlannedTensor:
        config, width = self.config, self.config.d_ff // self.degree
        mine, shape = slice(rank * width, (rank + 1) * width), (config.d_ff, config.d_model)
        if not config.is_gated:
            return self._linear(stack, layer, rank, "ff_in", [_Cut(f"{prefix}.wi.weight", shape, mine)])
        cuts = [_Cut(f"{prefix}.wi_{i}.weight", shape, mine) for i in (0, 1)]
        K, N = config.d_model, 2 * -(-width // LANES) * LANES

        def fill(checkpoint: Checkpoint, out: Bytes) -> None:
            for first, cut in enumerate(cuts):
                _pack_cuts(self.linear_format, checkpoint, [cut], N, out, (first, 2))

        return self._planned(stack, layer, rank, "ff_in", self.linear_format, K, N, fill)

    def _ff_out(self, stack: str, layer: int, rank: int, prefix: str) -> PlannedTensor:
        config, width = self.config, self.config.d_ff // self.degree
        mine = slice(rank * width, (rank + 1) * width)
        cut = _Cut(f"{prefix}.wo.weight", (config.d_model, config.d_ff), slice(None), mine)
        return self._linear(stack, layer, rank, "ff_out", [cut])

    def _head(self, rank: int) -> Iterator[PlannedTensor]:
        """The head's own matrix when the checkpoint holds one, else the shared table; rows cut over the ranks."""
        config = self.config
        name = "lm_head.weight" if "lm_head.weight" in self.names else self.embed_name
        step = LANES * self.degree
        width = config.vocab if self.degree == 1 else -(-config.vocab // step) * step // self.degree
        cut = _Cut(name, (config.vocab, config.d_model), slice(rank * width, (rank + 1) * width))

        def packed_as(form: str) -> Callable[[Checkpoint, Bytes], None]:
            def fill(checkpoint: Checkpoint, out: Bytes) -> None:
                _pack_cuts(form, checkpoint, [cut], width, out)

            return fill

        K, form = config.d_model, self.head_format
        yield self._planned("decoder", 0, rank, "head", form, K, width, packed_as(form))
        if self.exact_head:
            padded = -(-width // LANES) * LANES
            yield self._planned("decoder", 0, rank, "head_screen", "int8", K, width, packed_as("int8"))

            def norms(checkpoint: Checkpoint) -> FloatArray:
                found = np.zeros((2, padded), dtype=np.float32)
                for first, rows, _ in _chunks(checkpoint, [cut]):
                    found[:, first : first + len(rows)] = screen_norms(rows, form)
                return found

            yield self._plain("decoder", 0, rank, "screen_norms", (2, padded), norms)

    def _linear(self, stack: str, layer: int, rank: int, role: str, cuts: Sequence[_Cut]) -> PlannedTensor:
        def fill(checkpoint: Checkpoint, out: Bytes) -> None:
            _pack_cuts(self.linear_format, checkpoint, cuts, total, out)

        total = sum(cut.height for cut in cuts)
        K = _length(cuts[0].columns, cuts[0].shape[1])
        return self._planned(stack, layer, rank, role, self.linear_format, K, total, fill)

    def _planned(
        self, stack: str, layer: int, rank: int, role: str, form: str, K: int, N: int,
        fill: Callable[[Checkpoint, Bytes], None],
    ) -> PlannedTensor:  # fmt: skip
        size = int(native.library().t5k_packed_bytes(native.FORMATS[form], K, N))
        return PlannedTensor(
            role=role, is_decoder=stack == "decoder", layer=layer, rank=rank, format=form, K=K, N=N,
            size_bytes=size, fill=fill,
        )  # fmt: skip

    def _plain(
        self, stack: str, layer: int, rank: int, role: str, shape: tuple[int, int],
        read: Callable[[Checkpoint], FloatArray],
    ) -> PlannedTensor:  # fmt: skip
        def fill(checkpoint: Checkpoint, out: Bytes) -> None:
            out[:] = np.ascontiguousarray(read(checkpoint)).reshape(-1).view(np.uint8)

        return PlannedTensor(
            role=role, is_decoder=stack == "decoder", layer=layer, rank=rank, format="fp32", K=shape[0], N=shape[1],
            size_bytes=shape[0] * shape[1] * 4, fill=fill,
        )  # fmt: skip

    def _vector(self, stack: str, layer: int, role: str, name: str) -> PlannedTensor:
        E = self.config.d_model
        return self._plain(stack, layer, 0, role, (1, E), lambda checkpoint: checkpoint.read(name, (E,)))

    def _bias(self, stack: str, layer: int, rank: int, name: str) -> PlannedTensor:
        config, heads = self.config, self.config.heads // self.degree

        def read(checkpoint: Checkpoint) -> FloatArray:
            weight = checkpoint.read(name, (config.buckets, config.heads))
            table = bias_table(weight, bidirectional=stack == "encoder", max_distance=config.max_distance)
            return table[rank * heads : (rank + 1) * heads]

        return self._plain(stack, layer, rank, "bias", (heads, 2 * config.max_distance + 2 * LANES), read)

    def _embed(self) -> PlannedTensor:
        config, is_half = self.config, self.embed_format != "fp32"
        shape = (config.vocab, config.d_model)

        def fill(checkpoint: Checkpoint, out: Bytes) -> None:
            row_bytes = config.d_model * (2 if is_half else 4)
            for first, rows, _ in _chunks(checkpoint, [_Cut(self.embed_name, shape, slice(None))]):
                table = np.ascontiguousarray(rows).reshape(-1)
                data = round_table(self.embed_format, table)
                out[first * row_bytes : first * row_bytes + len(data)] = data

        return PlannedTensor(
            role="embed", is_decoder=False, layer=0, rank=0, format=self.embed_format, K=config.d_model,
            N=config.vocab, size_bytes=config.vocab * config.d_model * (2 if is_half else 4), fill=fill,
            mapped=lambda checkpoint: checkpoint.mapped(self.embed_name, shape, self.embed_format),
        )  # fmt: skip


def _length(part: slice, whole: int) -> int:
    return len(range(*part.indices(whole)))


class PackedModel:
    """Packed tensors in one block of memory, with the C records that point into it."""

    def __init__(self, tensors: Sequence[PlannedTensor], buffers: Sequence[Bytes], owner: object) -> None:
        self._buffers, self._owner = buffers, owner
        self.size_bytes = sum(t.size_bytes for t in tensors)
        self.records = (native.Tensor * len(tensors))()
        for record, tensor, buffer in zip(self.records, tensors, buffers, strict=True):
            record.role, record.is_decoder = native.ROLES.index(tensor.role), tensor.is_decoder
            record.layer, record.rank = tensor.layer, tensor.rank
            record.format, record.K, record.N = native.FORMATS[tensor.format], tensor.K, tensor.N
            record.data, record.bytes = buffer.ctypes.data, tensor.size_bytes


def offsets_of(tensors: Sequence[PlannedTensor]) -> tuple[list[int], int]:
    """The aligned offset of each tensor when laid end to end, and the total size, in bytes."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end += -(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


def pack_in_memory(folder: Path, config: T5Config, dtype: str, degree: int, *, exact_head: bool = False) -> PackedModel:
    """Pack a Hugging Face folder into huge-page memory, which peaks at little more than the packed model.

    A table of token embeddings that is stored as it is needed stays in the folder's file, mapped: only the rows of
    tokens that occur take memory. Raises ModelInvalid, SpecInvalid, MemoryError.
    """
    checkpoint = Checkpoint(folder)
    checkpoint.check_head(has_own_head=config.has_own_head)
    tensors = plan(config, dtype, degree, checkpoint.names(), exact_head=exact_head)
    in_place = {t.name: mapped for t in tensors if (mapped := t.mapped(checkpoint)) is not None}
    filled = [t for t in tensors if t.name not in in_place]
    offsets, total = offsets_of(filled)
    try:
        block = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{folder}: its packed weights need {total / 1e9:.2f} GB of memory: {error}") from error
    block.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(block, dtype=np.uint8)
    buffers = in_place | {t.name: memory[o : o + t.size_bytes] for o, t in zip(offsets, filled, strict=True)}
    for tensor in filled:
        tensor.fill(checkpoint, buffers[tensor.name])
    return PackedModel(tensors, [buffers[t.name] for t in tensors], block)


def native_config(config: T5Config, *, degree: int, has_decoder: bool) -> native.Config:
    """The C record of the model's shape; the caller adds threads and limits."""
    record = native.Config(
        abi=native.ABI, vocab=config.vocab, d_model=config.d_model, d_kv=config.d_kv, d_ff=config.d_ff,
        heads=config.heads, encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers if has_decoder else 0, is_gated=config.is_gated,
        bias_window=config.max_distance, pad_id=config.pad_id, start_id=config.start_id, eps=config.eps,
        head_scale=config.head_scale, ranks=degree, eos_count=len(config.eos_ids),
    )  # fmt: skip
    record.eos_ids = (c.c_int32 * 8)(*config.eos_ids)
    return record
