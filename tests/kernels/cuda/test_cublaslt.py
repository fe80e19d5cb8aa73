"""Large products by cuBLASLt, asked for by name: what it is told, that tokens stay, and what is said when it fails.

The library is a fake (fake_cublaslt.cpp) that multiplies truthfully on the simulator and writes down its arguments.
NVIDIA's own has not been run by us.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import t5
from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.t5 import cuda
from engines.t5.memory_model import row_major_bytes
from engines.t5.partition import partition
from tests.kernels.build import ensure_library
from tests.kernels.cuda.groups import devices, fake_cublaslt, live
from tests.kernels.cuda.sim import BUILD, Sim
from tests.kernels.cuda.test_steps import calls

Family = Callable[[str], tuple[Any, Path]]
PROMPTS = [[5, 9, 17, 1], [40, 8, 1]]
TILED_SLOTS = 17
R_32F, R_16F, R_16BF, COMPUTE_32F, COMPUTE_TF32, DEFAULT, RELU = 0, 2, 14, 68, 77, 1, 2


class Product(c.Structure):
    """What the fake wrote down of one cublasLtMatmul."""

    _fields_ = [(name, c.c_int64) for name in ("rows", "K", "N", "ldw", "ldx", "ldy")]
    _fields_ += [(name, c.c_int) for name in ("type", "out", "compute", "scale", "epilogue", "is_capturing")]
    _fields_ += [("alpha", c.c_float), ("beta", c.c_float), ("workspace", c.c_int64)]


class Fake:
    """The fake library's own account."""

    def __init__(self, path: Path) -> None:
        self._lib = c.CDLL(str(path))
        self._lib.fake_product.restype = c.POINTER(Product)
        self.forget = self._lib.fake_forget

    def counts(self) -> tuple[int, ...]:
        """(objects alive, handles alive, heuristics asked, of them while recording, products)."""
        five = (c.c_size_t * 5)()
        self._lib.fake_counts(five)
        return tuple(five)

    def products(self) -> list[Product]:
        return [Product.from_buffer_copy(self._lib.fake_product(c.c_size_t(i))[0]) for i in range(self.counts()[4])]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ensure_library()
    return fake_cublaslt(tmp_path_factory.mktemp("cublaslt"))


@pytest.fixture
def lt(sim: Sim, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """Asked for every tiled product; nothing of it is left afterwards."""
    monkeypatch.setenv("T5K_CUDA_SIM", str(BUILD / "cuda-sim/libcuda_sim.so"))
    monkeypatch.setenv("T5K_CUBLASLT", str(library))
    monkeypatch.setenv("T5K_CUBLASLT_ROWS", "1")
    fake, before = Fake(library), live(sim)
    fake.forget()
    yield fake
    assert live(sim) == before
    assert fake.counts()[:2] == (0, 0)


def _load(folder: Path, dtype: str = "fp32", **options: Any) -> Any:
    return t5.load(folder, dtype=dtype, device="cuda-sim", threads=1, **options)


def _tokens(engine: Any) -> list[list[int]]:
    """Long enough to run, record and replay a step."""
    found: list[list[int]] = engine.generate(PROMPTS, max_new_tokens=5, ignore_eos=True)
    return found


@pytest.mark.parametrize("name", ["flan", "t5-1.0", "odd", "umt5"])
def test_tokens_are_the_cpu_device_s_in_fp32(name: str, lt: Fake, sim: Sim, family: Family) -> None:
    """Gates, ReLU, GELU without a gate; encoder and a recorded step of 17 slots, whose shapes were met before."""
    _, folder = family(name)
    with t5.load(folder, threads=1, max_slots=TILED_SLOTS) as engine:
        expected, rows = _tokens(engine), engine.encode(PROMPTS)
    with _load(folder, max_slots=TILED_SLOTS) as engine:
        assert engine.about.startswith("cuBLASLt 13.1.3 multiplies from 1 rows on (in an order of its own), from 1 MB")
        for got, want in zip(engine.encode(PROMPTS), rows, strict=True):
            np.testing.assert_allclose(got, want, atol=2e-5 * np.ptp(want))
        before = calls(sim)
        assert _tokens(engine) == expected
        assert _tokens(engine) == expected
        assert calls(sim).replays > before.replays
        assert any(each.is_capturing for each in lt.products())
        _, _, asked, captured, _ = lt.counts()
        assert captured == 0
        _tokens(engine)
        assert lt.counts()[2] == asked, "an algorithm is asked for once per shape"


def _expected(folder: Path, rows: int) -> list[tuple[Any, ...]]:
    """(rows, K, N, ldw, ldx, ldy, out is fp32, epilogue, beta) of one encoder layer of flan, E 64, I 48, F 96, bf16."""
    strides = {48: 80, 64: 80, 96: 112, 144: 176, 192: 208}
    return [
        (rows, 64, 144, 64, strides[64], strides[144], False, DEFAULT, 0.0),
        (rows, 48, 64, 48, strides[48], strides[64], True, DEFAULT, 1.0),
        (rows, 64, 192, 64, strides[64], 192, True, DEFAULT, 0.0),
        (rows, 96, 64, 96, strides[96], strides[64], True, DEFAULT, 1.0),
    ]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_what_it_is_told_of_an_encoder_layer(dtype: str, lt: Fake, family: Family) -> None:
    _, folder = family("flan")
    with _load(folder, dtype) as engine:
        engine.encode([[5, 9, 17, 1], [8, 1]])
        told = lt.products()
        layers = engine.config.encoder_layers
    assert len(told) == 4 * layers
    found = [
        (p.rows, p.K, p.N, p.ldw, p.ldx, p.ldy, p.out == R_32F, p.epilogue, p.beta) for p in told
    ]  # fmt: skip
    assert found == _expected(folder, 6) * layers
    assert {p.type for p in told} == {R_16F if dtype == "fp16" else R_16BF}
    assert {(p.compute, p.scale, p.workspace) for p in told} == {(COMPUTE_32F, R_32F, 32 << 20)}
    hidden = [np.frexp(p.alpha)[0] for p in told]
    assert set(hidden) == {0.5}, "powers of two"


def test_relu_is_its_own_epilogue_and_tf32_only_when_asked(
    lt: Fake, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = family("t5-1.0")
    monkeypatch.setenv("T5K_CUBLASLT_TF32", "1")
    with _load(folder) as engine:
        assert "multiplies from 1 rows on in TF32 (in an order" in engine.about
        engine.encode(PROMPTS)
        told = lt.products()
    assert [p.epilogue for p in told[:4]] == [DEFAULT, DEFAULT, RELU, DEFAULT]
    assert {(p.type, p.out, p.compute) for p in told} == {(R_32F, R_32F, COMPUTE_TF32)}
    lt.forget()
    with _load(folder, "bf16") as engine:
        assert "TF32" not in engine.about
        engine.encode(PROMPTS)
        assert {p.compute for p in lt.products()} == {COMPUTE_32F}


@pytest.mark.parametrize(("name", "dtype"), [("flan", "fp16"), ("odd", "bf16"), ("byt5", "bf16"), ("t5-1.0", "fp16")])
def test_16_bit_rows_are_near_our_own(
    name: str, dtype: str, lt: Fake, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = family(name)
    with _load(folder, dtype, max_slots=TILED_SLOTS) as engine:
        got, ids = engine.encode(PROMPTS), _tokens(engine)
        assert lt.counts()[4] > 0
    monkeypatch.setenv("T5K_CUBLASLT", "0")
    with _load(folder, dtype, max_slots=TILED_SLOTS) as engine:
        assert engine.about == ""
        want = engine.encode(PROMPTS)
        assert ids == _tokens(engine)
    for a, b in zip(got, want, strict=True):
        assert np.sqrt(((a - b) ** 2).mean() / b.var()) < (0.002 if dtype == "fp16" else 0.015)


def test_fewer_rows_and_row_by_row_decoding_stay_ours(
    lt: Fake, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = family("flan")
    monkeypatch.setenv("T5K_CUBLASLT_ROWS", "20")
    with _load(folder, max_slots=2) as engine:
        _tokens(engine)
        assert lt.counts()[4] == 0
        engine.encode([list(range(2, 25))])
        layers = engine.config.encoder_layers
        assert lt.counts()[4] == 4 * layers
        lt.forget()
        engine.generate([list(range(2, 25))], max_new_tokens=3, ignore_eos=True)
        assert {p.rows for p in lt.products()} == {23}
        assert lt.counts()[4] == 4 * layers + engine.config.decoder_layers, "cross keys and values too"


def test_integer_weights_leave_it_nothing_and_that_is_said(lt: Fake, family: Family) -> None:
    _, folder = family("flan")
    with _load(folder, "int8", max_slots=TILED_SLOTS) as engine:
        assert engine.about == ("cuBLASLt 13.1.3 has nothing to multiply: int8 and int4 weights stay with our kernels")
        _tokens(engine)
    assert lt.counts()[4] == 0


@pytest.mark.parametrize("count", [1, 2])
def test_every_rank_has_its_own(count: int, lt: Fake, sim: Sim, family: Family, tmp_path: Path) -> None:
    _, folder = family("umt5")
    packed = tmp_path / "packed"
    partition(folder, "fp32", 2, packed)
    with t5.load(folder, threads=1, max_slots=TILED_SLOTS) as engine:
        expected = _tokens(engine)
    with (
        devices(sim, count, peers=False, schedule=3),
        _load(packed, tensor_parallel_degree=2, max_slots=TILED_SLOTS) as engine,
    ):
        assert lt.counts()[1] == count
        assert "cuBLASLt 13.1.3 multiplies" in engine.about
        assert _tokens(engine) == expected
        assert _tokens(engine) == expected


def test_the_second_copy_has_the_size_that_is_stated(lt: Fake, family: Family) -> None:
    """Encoder and cross keys and values always, the decoder too where it takes tiles; never the head."""
    _, folder = family("flan")
    for slots in (2, TILED_SLOTS):
        with _load(folder, "bf16", max_slots=slots) as engine:
            wanted = row_major_bytes(engine.config, "bf16", has_tiled_decoder=slots == TILED_SLOTS)
            assert f"from {-(-wanted // 1_000_000):.0f} MB of weights" in engine.about
    # 2 layers of E 64, I 48, F 96: encoder 64 (144 + 192) + 48 64 + 96 64; cross 64 96
    assert row_major_bytes(engine.config, "bf16", has_tiled_decoder=False) == 2 * 2 * (
        64 * (144 + 192) + 48 * 64 + 96 * 64 + 64 * 96
    )


def test_a_library_that_is_not_there_is_refused(sim: Sim, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = family("flan")
    monkeypatch.setattr(cuda, "_library", lambda name, wheels: "")
    monkeypatch.setenv("T5K_CUBLASLT", "1")
    with pytest.raises(
        Unavailable, match=r"T5K_CUBLASLT=1, but libcublasLt\.so\.13 or .* is not here: pip install nvid"
    ):
        _load(folder)
    monkeypatch.setenv("T5K_CUBLASLT", "/nowhere/libcublasLt.so.13")
    with pytest.raises(SpecInvalid, match=r"no cuBLASLt: /nowhere/libcublasLt\.so\.13: cannot open"):
        _load(folder)
    monkeypatch.setenv("T5K_CUBLASLT", "libm.so.6")
    with pytest.raises(SpecInvalid, match=r"libm\.so\.6 has no cublasLtGetVersion: cuBLASLt 12 or newer is needed"):
        _load(folder)
    monkeypatch.setenv("T5K_CUBLASLT_ROWS", "many")
    with pytest.raises(SpecInvalid, match="T5K_CUBLASLT_ROWS: expected a number of rows, got 'many'"):
        _load(folder)


def test_the_newest_library_that_the_driver_runs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_library", lambda name, wheels: f"{wheels[0]}/{name}")
    assert cuda.cublaslt_library(13) == "nvidia-cublas/libcublasLt.so.13"
    assert cuda.cublaslt_library(12) == "nvidia-cublas-cu12/libcublasLt.so.12"
    assert cuda.cublaslt_library(11) == ""


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        ("cublasLtCreate=1", ModelInvalid, r"cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED \(1\)"),
        ("cublasLtCreate=3", MemoryError, r"cublasLtCreate: CUBLAS_STATUS_ALLOC_FAILED \(3\)"),
        ("heuristic=1", ModelInvalid, r"has no algorithm for 7 rows, K 64, N 144 in fp32: load without T5K_CUBLASLT"),
        ("cublasLtMatmulAlgoGetHeuristic=15", ModelInvalid, r"for 7 rows, K 64, N 144 in fp32: CUBLAS_STATUS_NOT_SUPP"),
        ("cublasLtMatmul=7", ModelInvalid, r"cublasLtMatmul for 7 rows, K 64, N 144 in fp32: CUBLAS_STATUS_INVALID"),
    ],
)
def test_a_failure_is_one_sentence(
    failure: str, kind: type[Exception], sentence: str, lt: Fake, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = family("flan")
    monkeypatch.setenv("FAKE_CUBLASLT_FAILS", failure)
    with pytest.raises(kind, match=r"^(.*: )?cuBLASLt 13\.1\.3:? .*" + sentence) as raised, _load(folder) as engine:
        engine.encode(PROMPTS)
    assert "\n" not in str(raised.value)
