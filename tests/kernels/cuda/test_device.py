"""`device="cuda"`: what is missing is said exactly, and kernels are compiled once per device, source and compiler.

The simulator stands in for libcuda, with the number of devices, the architecture and the version a test wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import t5
from engines.api import EngineSpec
from engines.errors import SpecInvalid, Unavailable
from engines.spec_check import check_spec
from engines.t5 import backend, cuda
from harness.cli import doctor
from tests.engines.t5 import checkpoints as ck
from tests.kernels.build import ensure_library
from tests.kernels.cuda import compilers
from tests.kernels.cuda.sim import BUILD, Sim

COMPILED: list[int] = []


def _compiler(name: str, cuda_major: int) -> cuda.Compiler:
    def compile_for(arch: int) -> bytes:
        COMPILED.append(arch)
        return b"\x7fELF"

    return cuda.Compiler(name, cuda_major, compile_for)


@pytest.fixture
def driver(sim: Sim, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sim]:
    """The simulator in libcuda's place, a cache of its own, and a compiler of CUDA 13."""
    ensure_library()
    monkeypatch.setattr(cuda, "DRIVER", str(BUILD / "cuda-sim/libcuda_sim.so"))
    monkeypatch.setattr(cuda, "compilers", lambda: [_compiler("nvrtc 13", 13)])
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    COMPILED.clear()
    yield sim
    sim.lib.sim_pretend(1, 80, 13000)


def test_without_a_driver_the_library_loads_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_library()
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-that-nobody-has.so.1")
    assert cuda.missing("cuda").startswith("no CUDA driver: libcuda-that-nobody-has.so.1: cannot open")
    able = backend.capabilities()
    assert able.devices == ("cpu",)
    assert able.reasons["cuda"] == cuda.missing("cuda")
    spec = EngineSpec(engine="t5", model_dir=Path(), device="cuda")
    with pytest.raises(SpecInvalid, match="device 'cuda' refused: no CUDA driver"):
        check_spec(spec, able)


def test_a_driver_without_our_functions_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_library()
    monkeypatch.setattr(cuda, "DRIVER", "libm.so.6")
    assert cuda.missing("cuda") == "libm.so.6 has no cuInit: a driver older than CUDA 12"


@pytest.mark.parametrize(
    ("devices", "arch", "version", "said"),
    [
        (0, 80, 13000, "finds no device"),
        (1, 75, 13000, "is sm_75: the kernels need sm_80"),
        (1, 80, 12040, "supports CUDA 12.4, the compilers here make kernels for CUDA 13: update the driver"),
    ],
)
def test_each_lack_has_its_sentence(driver: Sim, devices: int, arch: int, version: int, said: str) -> None:
    driver.lib.sim_pretend(devices, arch, version)
    assert said in cuda.missing("cuda")
    assert backend.capabilities().devices == ("cpu",)


def test_fp16_needs_the_gpu_and_runs_on_it(driver: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu, on_cpu = (EngineSpec(engine="t5", model_dir=Path(), device=d, dtype="fp16") for d in ("cuda", "cpu"))
    check_spec(on_gpu, backend.capabilities())
    backend._check_device(on_gpu)
    with pytest.raises(SpecInvalid, match="dtype 'fp16' on device 'cpu' refused: CPUs have no fp16 arithmetic"):
        backend._check_device(on_cpu)
    monkeypatch.setattr(cuda, "DRIVER", "libcuda-that-nobody-has.so.1")
    with pytest.raises(SpecInvalid, match="t5: dtype 'fp16' refused: CPUs have no fp16 arithmetic"):
        check_spec(on_cpu, backend.capabilities())


def test_without_a_compiler_the_wheel_is_named(driver: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compilers", list)
    assert "pip install nvidia-cuda-nvrtc" in cuda.missing("cuda")


def test_the_compiler_that_fits_the_driver_is_taken(driver: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [_compiler("nvrtc 13", 13), _compiler("nvrtc 12", 12)]
    monkeypatch.setattr(cuda, "compilers", lambda: both)
    driver.lib.sim_pretend(1, 90, 12040)
    cuda.target("cuda")
    assert "cuda" in backend.capabilities().devices
    kept = [path.name for path in (Path(str(cuda.cache_root())) / "cubins").glob("sm_*")]
    assert COMPILED == [90]
    assert len(kept) == 1
    assert kept[0].startswith("sm_90-")


def test_kernels_are_compiled_once_per_source_arch_and_compiler(driver: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda.target("cuda").image == cuda.target("cuda").image
    assert COMPILED == [80]
    driver.lib.sim_pretend(1, 86, 13000)
    cuda.target("cuda")
    assert COMPILED == [80, 86]
    monkeypatch.setattr(cuda, "compilers", lambda: [_compiler("nvrtc 13.1", 13)])
    cuda.target("cuda")
    assert COMPILED == [80, 86, 86]
    changed = {**cuda.sources(), "ops/embed.cu": b"// changed"}
    monkeypatch.setattr(cuda, "sources", lambda: changed)
    cuda.target("cuda")
    assert COMPILED == [80, 86, 86, 86]


def test_a_failed_compilation_leaves_nothing_behind(driver: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    library = cuda.nvrtc_library()
    if library is None:
        pytest.skip("the nvidia-cuda-nvrtc wheel is not installed")
    monkeypatch.setattr(
        cuda, "compilers", lambda: [cuda.Compiler("x", 13, lambda a: cuda.nvrtc_compile(library, a)[0])]
    )
    monkeypatch.setattr(cuda, "sources", lambda: {"ops/bad.cu": b"this is no program"})
    with pytest.raises(Unavailable, match="NVRTC cannot compile the kernels for sm_80"):
        cuda.target("cuda")
    assert not list((cuda.cache_root() / "cubins").glob("sm_*"))


@pytest.mark.skipif(cuda.nvrtc_library() is None, reason="the nvidia-cuda-nvrtc wheel is not installed")
def test_device_cuda_goes_all_the_way_to_tokens(sim: Sim, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Driver, NVRTC, cache, module, engine: as on a GPU, but for the driver library's name."""
    member = ck.FAMILY[1]
    model = ck.build(member)
    folder = ck.save(model, tmp_path, member)
    monkeypatch.setattr(cuda, "DRIVER", str(BUILD / "cuda-sim/libcuda_sim.so"))
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))
    library = cuda.nvrtc_library()
    assert library
    # The engine's own call of NVRTC, its result shared with the other tests.
    made = cuda.Compiler("nvrtc", 13, lambda arch: compilers.nvrtc_compile(library, arch)[0])
    monkeypatch.setattr(cuda, "compilers", lambda: [made])
    with t5.load(folder, device="cuda", threads=1) as engine:
        assert engine.isa == "cuda-sim (sm_80)"
        got = engine.generate([[5, 9, 1]], max_new_tokens=5)
    assert got == ck.generated(model, [[5, 9, 1]], max_new_tokens=5, do_sample=False, num_beams=1)
    assert cuda.target("cuda").image.startswith(b"\x7fELF")


@pytest.mark.parametrize("gpus", [1, 3])
def test_more_ranks_than_gpus_are_refused_in_words(driver: Sim, gpus: int) -> None:
    driver.lib.sim_pretend(gpus, 80, 13000)
    spec = EngineSpec(engine="t5", model_dir=Path("nowhere"), device="cuda", tensor_parallel_degree=4)
    with pytest.raises(SpecInvalid, match=f"tensor_parallel_degree 4 on device 'cuda' refused: .* {gpus} can be seen"):
        backend.T5Backend().load(spec)
    assert cuda.group("cuda") == cuda.Group(gpus, are_peers=gpus > 1, cuda_major=13)


def test_the_doctor_counts_gpus_and_says_how_they_meet(driver: Sim) -> None:
    assert doctor._gpus().found == "1 GPU"
    driver.lib.sim_pretend(4, 80, 13000)
    assert doctor._gpus().found == "4 GPUs, each reaches the others' memory"
    driver.lib.sim_set_peers(0)
    try:
        assert doctor._gpus().found == "4 GPUs, no peer access: sums are copied between them"
    finally:
        driver.lib.sim_set_peers(1)
    driver.lib.sim_pretend(0, 80, 13000)
    assert (doctor._gpus().status, doctor._gpus().found) == ("unavailable", cuda.missing("cuda"))


def test_a_simulator_that_was_not_built_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T5K_CUDA_SIM", str(tmp_path / "none.so"))
    assert "cmake -S kernels/sim" in cuda.missing("cuda-sim")
