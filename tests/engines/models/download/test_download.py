"""Models from the hub, with the network and the package played by stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from engines.errors import ModelInvalid, Unavailable
from engines.models.download.hub_and_s3 import download_hub
from engines.models.folder import resolve_model
from engines.models.random_weights.folders import write_random_model
from engines.models.random_weights.t5_shapes import T5Shape

SHAPE = T5Shape(d_model=8, d_ff=16, num_heads=2, num_layers=1, d_kv=4, vocab_size=200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_random_model(folder, SHAPE, 0)
    return folder


def test_hub_gives_the_snapshot_of_a_revision(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, "*.safetensors" in allow_patterns))
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    assert resolve_model("hub", "google/flan-t5-small@abc", 0, tmp_path) == model.resolve()
    assert asked == [("google/flan-t5-small", "abc", True)]


def test_hub_faults_tell_a_wrong_name_from_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> None:
        def snapshot(*_: object, **__: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    raising(RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None)))  # type: ignore[arg-type]
    with pytest.raises(ModelInvalid, match="no such repository"):
        download_hub("google/flan-t5-smal")
    raising(LocalEntryNotFoundError("outgoing traffic has been disabled\nsecond line"))
    with pytest.raises(Unavailable, match=r"outgoing traffic has been disabled\); check the network"):
        download_hub("google/flan-t5-small")


def test_hub_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(Unavailable, match="pip install"):
        download_hub("google/flan-t5-small")
