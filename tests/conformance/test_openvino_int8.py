"""OpenVINO's int8, in the environment that brings nncf: what it computes in, what it answers, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.adapters.openvino import OpenVinoBackend, capabilities
from engines.api import EngineSpec
from engines.cache_folder import cache_root
from engines.environments.locate import installed_python
from engines.errors import SpecInvalid
from engines.launching import load_engine
from tests.conformance.engine_suite import PROMPTS, EngineCase, serve


@pytest.fixture(scope="module")
def case(own_cache: None, model_dir: Path) -> EngineCase:
    """The engine in its installed environment."""
    if installed_python("openvino") is None:
        pytest.skip("openvino has no separate environment here: `dyno engine install openvino` makes it")
    spec = EngineSpec(engine="openvino", model_dir=model_dir, dtype="int8", batch_size=4, threads=1, python="auto")
    return EngineCase(engine=load_engine("openvino", "auto"), spec=spec, prompts=PROMPTS)


def test_int8_weights_answer_as_fp32_does_from_a_quarter_of_the_bytes(
    case: EngineCase, reference: list[list[int]], tmp_path: Path
) -> None:
    with serve(case, tmp_path) as served:
        assert served.running.facts.effective_dtype == "int8 weights, fp32 activations"
        assert [served.tokens(prompt, max_new_tokens=24) for prompt in PROMPTS] == reference
    small, whole = (
        sum(path.stat().st_size for path in cache_root().glob(pattern))
        for pattern in ("openvino/*-int8-*/*.bin", "onnx/*-fp32-*/*.data")
    )
    assert 0.2 * whole < small < 0.3 * whole


def test_without_nncf_int8_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.adapters.openvino.find_spec", lambda name: None)
    able = capabilities()
    assert "int8" not in able.effective_dtypes
    assert "`dyno engine install openvino`, then python: auto" in able.reasons["int8"]


def test_int8_activations_go_with_int8_weights(model_dir: Path) -> None:
    spec = EngineSpec(engine="openvino", model_dir=model_dir, options={"activations": "int8"})
    with pytest.raises(SpecInvalid, match="goes with dtype int8 or int4, not fp32"):
        OpenVinoBackend().load(spec)
