"""What llama.cpp could not serve: seen in the folder before a launch, or named in front of the log."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.api import Availability, Capabilities
from engines.errors import LaunchFailed, ModelInvalid
from engines.foreign_servers.llamacpp import start as llamacpp_start
from engines.foreign_servers.llamacpp.engine import LlamaCppEngine
from engines.foreign_servers.llamacpp.start import Start
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.space import capabilities
from harness.space.capabilities import capabilities_for


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "llama.cpp takes byte-level BPE or SentencePiece's"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "it splits text by Whitespace; known to llama.cpp and us"),
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer changes the text before it is split"),
    ],
)
def test_a_tokenizer_without_an_equal_leaves_it_out_of_the_plan(
    change: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = Capabilities(effective_dtypes={"fp32": "fp32"})
    monkeypatch.setattr(capabilities, "engine_capabilities", lambda *_: able)
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text((BUNDLED_DECODER / "config.json").read_text())
    tokenizer = json.loads((BUNDLED_DECODER / "tokenizer.json").read_text())
    scenario = Scenario.model_validate({"name": "s", "model": {"path": str(folder)}, "space": [{"engine": "llamacpp"}]})
    asked = capabilities_for(resolve(scenario, tmp_path / "s.yaml"))

    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert asked("llamacpp") is able
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **change}))
    found = asked("llamacpp")
    assert isinstance(found, Availability)
    assert why in found.reason
    assert asked("transformers") is able


def test_a_folder_of_another_kind_is_left_to_the_check_of_kinds(tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "num_heads": 1, "d_model": 8, "d_kv": 8, "vocab_size": 8}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **sizes}))
    LlamaCppEngine().check_folder(tmp_path)
    with pytest.raises(ModelInvalid):
        LlamaCppEngine().check_folder(tmp_path / "nowhere")


def test_what_could_not_be_loaded_stands_before_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LaunchFailed("it ended with status 1; its log ends: ...")

    monkeypatch.setattr(llamacpp_start, "wait_for_model", fail)
    log = "0.1 E llama_model_load: error loading model: unknown tokenizer: 'weird'\n0.2 E exiting\n"
    process: Any = SimpleNamespace(log_tail=lambda lines: log)
    start: Any = SimpleNamespace()
    with pytest.raises(LaunchFailed, match=r"^llamacpp: unknown tokenizer: 'weird'; it ended with status 1"):
        Start.wait(start, process, 1, "m", 1.0)
    process.log_tail = lambda lines: "nothing of note"
    with pytest.raises(LaunchFailed, match=r"^it ended with status 1"):
        Start.wait(start, process, 1, "m", 1.0)
