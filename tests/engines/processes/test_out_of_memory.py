"""The signs that memory ran out, as Python, C++, Java, CUDA, torch and the kernel print them."""

from __future__ import annotations

import pytest

from engines.processes.out_of_memory import shows_out_of_memory


@pytest.mark.parametrize(
    "line",
    [
        "MemoryError",
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 1.2 GiB",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "java.lang.OutOfMemoryError: Java heap space",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "bash: fork: Cannot allocate memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 68719476736 bytes",
        "failed to allocate memory",
    ],
)
def test_a_sign_is_seen(line: str) -> None:
    assert shows_out_of_memory(f"loading\n{line}\n")


@pytest.mark.parametrize("line", ["", "memory-mapped shards", "room for 4 workers", "allocated memory: 3 MiB"])
def test_other_words_of_memory_are_no_sign(line: str) -> None:
    assert not shows_out_of_memory(line)
