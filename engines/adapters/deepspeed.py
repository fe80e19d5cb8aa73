"""Adapter for DeepSpeed-Inference: Hugging Face's module with its layers sharded over ranks by AutoTP.

Every rank holds its share of every layer and runs the same steps; after the attention and feed-forward outputs the
ranks add up their parts. Rank 0 is the worker and chooses the tokens, the others follow it. On a CPU the sum goes
through DeepSpeed's shared-memory operator (`communication: shm`, compiled once and cached) or through gloo.

DeepSpeed has fused kernels and ahead-of-time shards for other architectures only; for T5 AutoTP shards while loading.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engines.adapters.transformers import dtypes_in_torch, has_native_bf16, torch_devices
from engines.api import Capabilities, EngineFacts, EngineSpec, GenerateParams
from engines.cache_folder import cache_root
from engines.environments.packages import package_availability
from engines.errors import SpecInvalid
from engines.generation.decoder_model import decode_model
from engines.generation.token_choice import Ids, Logits
from engines.generation.torch_loop import TorchBackend
from engines.generation.torch_model import DecodeModel
from engines.hosted import SHARDED_FEATURES, HostedEngine
from engines.models.checkpoint.generation_defaults import model_notes
from engines.models.checkpoint.kind import DECODER, SEQ2SEQ, SEQ2SEQ_TYPES, model_kind
from engines.models.checkpoint.special_ids import SpecialIds, special_ids
from engines.models.hugging_face import default_attention, load_model
from engines.option_values import FLAG, one_of
from engines.processes.call_in_child import answer_call, call_in_child
from engines.processes.rank_group import FOLLOW, Message, RankGroup, follow_rank_0
from engines.processes.threads import compute_threads, usable_cores
from engines.spec_check import check_spec, choice, flag

_PACKAGES = ("torch", "transformers", "deepspeed")
_SHM_BUFFERS = "deepspeed_allreduce_buffer_{uid}_{address}_{port}_*"
_ADDRESS = "127.0.0.1"
_DECODERS = ("llama", "opt", "gpt_neox", "qwen3", "gptj")
"""Decoder-only families that AutoTP shards over two ranks with Hugging Face's answers: tiny random checkpoints, behind
this adapter, sums by gloo, alone and in a batch; Llama by shared memory too."""
_OPTIONS = {
    "communication": "how ranks add up on a CPU: shm (DeepSpeed's operator, compiled at first use; default) or gloo",
    "kernel_inject": "true: DeepSpeed's fused kernels where it has them (GPU only; the facts count them)",
}
_VALUES = {"communication": one_of("shm", "gloo"), "kernel_inject": FLAG}
_FEATURES = {
    **SHARDED_FEATURES,
    "ahead_of_time_partition": "no (not for T5)",
    "partition_on_cpu_memory": "yes",
    "fast_loading": "no",
    "hardware": "CPU, NVIDIA GPU (not yet run on one)",
}


class DeepSpeedEngine(HostedEngine):
    """deepspeed behind our model server."""

    name = "deepspeed"
    packages = _PACKAGES
    features = _FEATURES

    def capabilities(self) -> Capabilities:
        return capabilities()

    def prepare(self, spec: EngineSpec) -> None:
        """Compile the shared-memory operator (about a minute, once) where this spec needs it."""
        if uses_shm(spec):
            call_in_child("engines.adapters.deepspeed", "compile_shm", [])


def capabilities() -> Capabilities:
    """The same for the engine and its backend."""
    in_torch = dtypes_in_torch()
    return Capabilities(
        features=_FEATURES,
        effective_dtypes={dtype: in_torch[dtype] for dtype in ("fp32", "bf16")},
        max_tensor_parallel_degree=max(2, usable_cores()),
        devices=torch_devices(),
        options=_OPTIONS,
        option_values=_VALUES,
        reasons={
            "fp16": "DeepSpeed casts T5's FFN output layer to fp16 too, where it overflows; use bf16",
            "int8": "DeepSpeed quantizes only models it has fused kernels for, and T5 is none",
            "int4": "DeepSpeed quantizes only models it has fused kernels for, and T5 is none",
            "cuda": "no NVIDIA driver on this machine, or torch is its CPU build",
            "bloom": "AutoTP shards it and leaves the ALiBi tensor whole, so that its forward pass fails",
            "gpt2": "AutoTP does not support it, and DeepSpeed's fused kernels for it need a GPU",
        },
        model_kinds=(SEQ2SEQ, DECODER),
        architectures=(*SEQ2SEQ_TYPES, *_DECODERS),
    )


def uses_shm(spec: EngineSpec) -> bool:
    """Whether the ranks of `spec` talk through shared memory. Raises SpecInvalid."""
    communication = choice(spec, "communication", _VALUES["communication"].choices, "shm")
    return communication == "shm" and spec.tensor_parallel_degree > 1 and spec.device == "cpu"


def extensions() -> Path:
    """Where DeepSpeed's operators are compiled to; kept."""
    return cache_root() / "torch_extensions"


def compile_shm() -> None:
    """Compile the shared-memory all-reduce, or find it compiled. Needs g++ and ninja."""
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions())
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load()


class DeepSpeedBackend(TorchBackend):
    """Rank 0 of one tensor-parallel group."""

    def load(self, spec: EngineSpec) -> EngineFacts:
        """Raises ModelInvalid, SpecInvalid, MemoryError."""
        began = time.monotonic()
        check_spec(spec, capabilities())
        degree = spec.tensor_parallel_degree
        check_heads(spec)
        if flag(spec, "kernel_inject", False) and spec.device == "cpu":
            raise SpecInvalid("deepspeed: option kernel_inject with device 'cpu' refused: its kernels are CUDA's")
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        # DeepSpeed names its shared memory by these two; the port is never opened, the process id keeps it unique.
        env = {"MASTER_ADDR": _ADDRESS, "MASTER_PORT": str(os.getpid()), "DYNO_RANKS": f"{self._folder.name}/store"}
        os.environ.update(env)
        self._group = RankGroup("engines.adapters.deepspeed", degree, env)
        self._group.send({"spec": spec.as_message()})
        special = special_ids(spec.model_dir)
        rank = _Rank(spec, 0)
        model = decode_model(rank.module, special, device=rank.device)
        if degree > 1:
            model = LeadingModel(model, self._group)
        self._use(model, special, model_kind(spec.model_dir))
        return EngineFacts(
            effective_dtype=capabilities().effective_dtypes[spec.dtype],
            versions=package_availability(_PACKAGES, "deepspeed").versions,
            load_s=time.monotonic() - began,
            notes=(*rank.notes, *model_notes(spec.model_dir)),
        )

    def close(self) -> None:
        super().close()
        self._group.close()
        self._folder.cleanup()


def check_heads(spec: EngineSpec) -> None:
    """Raises SpecInvalid unless the degree divides the heads, and those of keys and values."""
    kind = model_kind(spec.model_dir)
    for heads, what in ((kind.heads, "heads"), (kind.kv_heads, "key-value heads")):
        if heads % spec.tensor_parallel_degree:
            raise SpecInvalid(
                f"deepspeed: tensor_parallel_degree {spec.tensor_parallel_degree} refused: it does not divide the "
                f"{heads} {what} of {spec.model_dir}"
            )


class _Rank:
    """One rank, joined and loaded. `notes` state what DeepSpeed made of the module."""

    def __init__(self, spec: EngineSpec, rank: int) -> None:
        degree = spec.tensor_parallel_degree
        is_cpu = spec.device == "cpu"
        self.device = "cpu" if is_cpu else f"cuda:{rank}"
        threads = max(1, compute_threads(spec) // degree)
        os.environ |= _rank_environment(rank, degree, is_cpu)
        import torch

        torch.set_num_threads(threads)
        deepspeed = _joined(spec, rank)
        module = load_model(spec.model_dir, spec.dtype, default_attention(spec.model_dir))
        before = {type(part) for part in module.modules()}
        dtype = {"bf16": torch.bfloat16}.get(spec.dtype, torch.float32)
        engine = deepspeed.init_inference(
            module,
            tensor_parallel={"tp_size": degree},
            dtype=dtype,
            replace_with_kernel_inject=flag(spec, "kernel_inject", False),
        )
        self.module = engine.module.eval()
        self.notes = _notes(self.module, before, spec, threads, _sum_path(spec, deepspeed))


def _rank_environment(rank: int, degree: int, is_cpu: bool) -> dict[str, str]:
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(degree), "LOCAL_SIZE": str(degree)}
    env |= {"TORCH_EXTENSIONS_DIR": str(extensions()), "GLOO_SOCKET_IFNAME": "lo", "OMP_PROC_BIND": "false"}
    return env | ({"DS_ACCELERATOR": "cpu"} if is_cpu else {})


def _joined(spec: EngineSpec, rank: int) -> Any:
    """The deepspeed package, once this process is a member of the group."""
    import deepspeed
    import torch.distributed

    if not uses_shm(spec):  # DeepSpeed asks this table whether to compile its operator
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    kind = "gloo" if spec.device == "cpu" else "nccl"
    store = os.environ["DYNO_RANKS"]
    size = spec.tensor_parallel_degree
    torch.distributed.init_process_group(kind, init_method=f"file://{store}", rank=rank, world_size=size)
    deepspeed.init_distributed(dist_backend=kind, verbose=False)
    torch.distributed.barrier()
    if rank == 0:
        forget_shared_memory(os.environ["MASTER_PORT"])
    return deepspeed


def forget_shared_memory(port: str) -> None:
    """Unlink the names of the group's buffers, which DeepSpeed leaves behind; the mapped memory stays until the ranks
    end, however they end."""
    pattern = _SHM_BUFFERS.format(uid=os.getuid(), address=_ADDRESS, port=port)
    for path in Path("/dev/shm").glob(pattern):  # noqa: S108 - the kernel's own mount
        path.unlink(missing_ok=True)


def _sum_path(spec: EngineSpec, deepspeed: Any) -> str:
    """How the ranks really add up; without the vector instructions DeepSpeed goes from shared memory to gloo."""
    if spec.tensor_parallel_degree == 1:
        return "no sums: one rank"
    if spec.device != "cpu":
        return "sums by nccl"
    if not uses_shm(spec):
        return "sums by gloo"
    level = getattr(deepspeed.comm.comm.cdb, "shm_vector_kernel_level", 0)
    is_fast = level >= (1 if spec.dtype == "fp32" else 2)
    return "sums by shared memory" if is_fast else f"sums by gloo: this CPU has no {spec.dtype} shared-memory kernel"


def _notes(module: Any, before: set[type], spec: EngineSpec, threads: int, sums: str) -> list[str]:
    parts = list(module.modules())
    made = [type(part).__name__ for part in parts if type(part) not in before]
    sharded = {name: made.count(name) for name in sorted(set(made))}
    notes = [f"{spec.tensor_parallel_degree} ranks of {threads} threads", sums]
    notes.append(f"AutoTP replaced {json.dumps(sharded)}" if sharded else "AutoTP replaced nothing at degree 1")
    if flag(spec, "kernel_inject", False):
        fused = sum("DeepSpeed" in name for name in made)
        notes.append(f"kernel injection replaced {fused} modules" + ("" if fused else ": it has none for this model"))
    if spec.dtype == "bf16" and not has_native_bf16():
        notes.append("this CPU has no bf16 instructions: torch converts to fp32 and back")
    return notes


class LeadingModel(DecodeModel):
    """Rank 0's model; every call is first sent to the followers, because the sums need all ranks."""

    can_select = True

    def __init__(self, model: DecodeModel, group: RankGroup) -> None:
        self._model = model
        self._group = group

    def _send(self, call: str, *arguments: Any) -> None:
        self._group.send({"call": call, "arguments": [_sent(argument) for argument in arguments]})

    def begin(self, ids: Ids, mask: Ids, target: int) -> None:
        self._send("begin", ids, mask, target)
        self._model.begin(ids, mask, target)

    def step(self, next_ids: Ids) -> Logits:
        self._send("step", next_ids)
        return self._model.step(next_ids)

    def select(self, positions: Ids) -> None:
        self._send("select", positions)
        self._model.select(positions)

    def beams(self, ids: Ids, mask: Ids, params: GenerateParams) -> Ids:
        self._send("beams", ids, mask, params)
        return self._model.beams(ids, mask, params)

    def teacher_forced(self, ids: Ids, mask: Ids, rows: Ids) -> Logits:
        self._send("teacher_forced", ids, mask, rows)
        return self._model.teacher_forced(ids, mask, rows)


def _sent(argument: Any) -> Any:
    if isinstance(argument, GenerateParams):
        return {"params": asdict(argument)}
    return {"ids": argument.tolist()} if isinstance(argument, np.ndarray) else argument


def _received(argument: Any) -> Any:
    if not isinstance(argument, dict):
        return argument
    return GenerateParams(**argument["params"]) if "params" in argument else np.asarray(argument["ids"], np.int64)


def follow(rank: int, messages: Iterator[Message]) -> None:
    """A following rank: load, then mirror every call of rank 0."""
    first = next(messages, None)
    if first is None:
        return
    spec = EngineSpec.from_message(first["spec"])
    special: SpecialIds = special_ids(spec.model_dir)
    mine = _Rank(spec, rank)
    model = decode_model(mine.module, special, device=mine.device)
    for message in messages:
        getattr(model, message["call"])(*(_received(argument) for argument in message["arguments"]))
    with contextlib.suppress(Exception):  # rank 0 is gone: there is nobody left to tell
        import torch.distributed

        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[2] == FOLLOW:
        follow_rank_0(follow)
    else:
        answer_call(compile_shm)
