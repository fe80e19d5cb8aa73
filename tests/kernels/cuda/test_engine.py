"""The whole engine on device cuda-sim: the model's own sources, the CUDA device, every kernel on the simulator.

Tiny checkpoints of every family member give the same ids as the CPU device, and as Hugging Face, token for token.
The same cases run on device cuda where there is a GPU (marker `gpu`); there has been none yet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import t5
from tests.engines.t5 import checkpoints as ck

NAMES = [member.name for member in ck.FAMILY]


def _on(device: str, folder: Path, work: Callable[[Any], Any], **options: Any) -> Any:
    with t5.load(folder, device=device, threads=1, **options) as engine:
        assert (engine.isa == "cuda-sim") == (device == "cuda-sim")
        assert (" (sm_" in engine.isa) == (device == "cuda")
        return work(engine)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_ids_equal_hugging_face(name: str, family: Callable[..., Any], device: str) -> None:
    model, folder = family(name)
    prompts = ck.prompts(3, model.config.vocab_size, seed=21, longest=24)
    expected = ck.generated(model, prompts, max_new_tokens=10, do_sample=False, num_beams=1)
    got = _on(device, folder, lambda engine: engine.generate(prompts, max_new_tokens=10), max_slots=2)
    assert got == expected


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ({"tensor_parallel_degree": 2}, {}),
        ({"max_slots": 3}, {"num_beams": 3, "num_return_sequences": 2}),
        ({}, {"do_sample": True, "seed": 5, "top_k": 20, "top_p": 0.9, "temperature": 1.2}),
        ({}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4}),
    ],
    ids=lambda each: "-".join(map(str, each.values())) or "greedy",
)
def test_every_mode_gives_the_cpu_device_s_ids(
    options: dict[str, Any], params: dict[str, Any], family: Callable[..., Any], device: str
) -> None:
    model, folder = family("umt5")
    prompts = ck.prompts(3, model.config.vocab_size, seed=22, longest=20)

    def work(engine: Any) -> list[list[int]]:
        return engine.generate(prompts, max_new_tokens=8, **params)

    got = _on(device, folder, work, **({"max_slots": 2} | options))
    assert got == _on("cpu", folder, work, **({"max_slots": 2} | options))


def test_encoder_rows_and_scores_are_the_cpu_device_s(family: Callable[..., Any], device: str) -> None:
    _, folder = family("odd")
    prompts = [[5, 9, 1], list(range(2, 40)), [7]]

    def work(engine: Any) -> tuple[list[np.ndarray], np.ndarray]:
        return engine.encode(prompts), engine.score(prompts[1], [0, 3, 4, 5])

    rows, scores = _on(device, folder, work)
    cpu_rows, cpu_scores = _on("cpu", folder, work)
    for got, want in zip(rows, cpu_rows, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
    np.testing.assert_allclose(scores, cpu_scores, atol=2e-5 * np.ptp(cpu_scores))


def test_ids_do_not_depend_on_what_else_runs(family: Callable[..., Any], device: str) -> None:
    model, folder = family("byt5")
    prompts = ck.prompts(3, model.config.vocab_size, seed=23, longest=16)
    for params in ({}, {"num_beams": 2}):

        def work(engine: Any, params: dict[str, int] = params) -> list[list[int]]:
            alone = [engine.generate([p], max_new_tokens=6, **params)[0] for p in prompts]
            assert engine.generate(prompts, max_new_tokens=6, **params) == alone
            return alone

        _on(device, folder, work, max_slots=6)


def test_w8a8_is_refused_by_name(family: Callable[..., Any], device: str) -> None:
    _, folder = family("flan")
    with pytest.raises(Exception, match="w8a8: not on the cuda device"):
        _on(device, folder, lambda engine: engine.encode([[5, 1]]), dtype="w8a8")
