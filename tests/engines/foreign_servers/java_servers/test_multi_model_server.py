"""Multi Model Server: its batching, its full queue, and what a failed load says."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from engines.api import EngineSpec, RunningEngine
from engines.errors import ModelInvalid, SpecInvalid, Unavailable
from engines.foreign_servers.java_servers import multi_model_server
from engines.foreign_servers.java_servers.multi_model_server import MultiModelServerEngine, low_ports

pytestmark = pytest.mark.heavy

SERVICE_MS = 300
READY_S = 120.0


@pytest.fixture
def engine() -> MultiModelServerEngine:
    found = MultiModelServerEngine()
    availability = found.probe()
    if not availability.is_available:
        pytest.skip(f"{found.name} cannot run here: {availability.reason}")
    return found


def _spec(engine: MultiModelServerEngine, folder: Path) -> EngineSpec:
    return EngineSpec(
        engine=engine.name, model_dir=folder, batch_size=4, max_batch_delay_ms=100, job_queue_size=100,
        options={"backend": "fake", "law": "constant", "service_ms": SERVICE_MS},
    )  # fmt: skip


def _ask(running: RunningEngine) -> int:
    with httpx.Client(timeout=60.0, trust_env=False) as client:
        return client.post(
            running.endpoint.url, json={"inputs": "a b", "parameters": {"max_new_tokens": 2}}
        ).status_code


def _at_once(running: RunningEngine, count: int) -> tuple[Counter[int], float]:
    begin = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        codes = Counter(pool.map(lambda _: _ask(running), range(count)))
    return codes, time.monotonic() - begin


def test_requests_that_come_together_are_answered_in_one_batch(
    engine: MultiModelServerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a run's folder is named from there, as `dyno tune` does by default
    with engine.launch(_spec(engine, tmp_path), Path("work"), READY_S) as running:
        codes, batched_s = _at_once(running, 4)
        assert codes == {200: 4}
    alone = replace(_spec(engine, tmp_path), batch_size=1, max_batch_delay_ms=0)
    with engine.launch(alone, tmp_path / "alone", READY_S) as running:
        codes, single_s = _at_once(running, 4)
        assert codes == {200: 4}
    assert single_s >= 4 * SERVICE_MS / 1e3
    assert batched_s < single_s - SERVICE_MS / 1e3


def test_a_full_queue_is_a_503_and_two_workers_share_the_load(engine: MultiModelServerEngine, tmp_path: Path) -> None:
    spec = replace(_spec(engine, tmp_path), batch_size=1, max_batch_delay_ms=0, job_queue_size=2, workers=2)
    with engine.launch(spec, tmp_path / "work", READY_S) as running:
        assert len(running.pids) >= 3
        codes, _ = _at_once(running, 12)
        assert set(codes) == {200, 503}
        assert codes[200] >= 4  # two in work, two waiting
        assert running.failure() is None


def test_a_model_that_cannot_be_loaded_is_named(engine: MultiModelServerEngine, tmp_path: Path) -> None:
    spec = EngineSpec(engine=engine.name, model_dir=tmp_path, batch_size=1)
    with pytest.raises(ModelInvalid, match=r"config\.json"), engine.launch(spec, tmp_path / "work", READY_S):
        pass


def test_what_no_backend_takes_is_refused_before_anything_starts(
    engine: MultiModelServerEngine, tmp_path: Path
) -> None:
    for change, sentence in (
        ({"options": {"backend": "vllm"}}, "option backend is 'vllm'"),
        ({"rolling_batch": "auto"}, "rolling_batch 'auto' refused"),
        ({"options": {"backend": "fake", "lw": "constant"}}, f"'constant' refused: {engine.name} has no such option"),
    ):
        spec = replace(_spec(engine, tmp_path), **change)
        with pytest.raises(SpecInvalid, match=sentence), engine.launch(spec, tmp_path / "work", READY_S):
            pass
    assert not (tmp_path / "work").exists()


def test_without_java_the_engine_says_so(
    engine: MultiModelServerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_model_server, "java", lambda: None)
    assert "install a Java runtime" in engine.probe().reason
    with pytest.raises(Unavailable, match="java not found"), engine.launch(_spec(engine, tmp_path), tmp_path, READY_S):
        pass


def test_ports_are_different_and_low_enough_for_multi_model_server() -> None:
    ports = low_ports(5)
    assert len(set(ports)) == 5
    assert all(20_000 <= port < 32_000 for port in ports)
