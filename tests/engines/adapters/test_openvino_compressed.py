"""int8 and int4 weights that lie beside the model, as in a container's folder, are served without their compressor."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.adapters.openvino import capabilities
from engines.models.cache import FORM
from engines.models.conversion.openvino_cache import CARRIED, T5_INT8, decoder_form


@pytest.mark.parametrize(
    ("dtype", "form"), [("int8", T5_INT8), ("int8", decoder_form("int8")), ("int4", decoder_form("int4"))]
)
def test_weights_compressed_already_need_no_compressor(
    dtype: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.adapters.openvino.find_spec", lambda name: None)
    assert "compressed by nncf" in capabilities(tmp_path).reasons[dtype]
    (tmp_path / CARRIED).mkdir()
    (tmp_path / CARRIED / FORM).write_text(f"{form}\n")
    assert dtype in capabilities(tmp_path).effective_dtypes
    assert "compressed by nncf" in capabilities(tmp_path).reasons["int4" if dtype == "int8" else "int8"]
    assert "compressed by nncf" in capabilities().reasons[dtype]
