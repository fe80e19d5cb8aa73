"""transformers serve: its command line and refusals, known without it; tests/conformance starts the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.foreign_servers.python_servers import transformers_serve
from engines.foreign_servers.python_servers.transformers_serve import Served, arguments_in
from engines.foreign_servers.starting.openai_server import pinned_model
from engines.foreign_servers.starting.program_place import Place
from tests.harness.load.odd_server import odd_server

SOURCE = """
class Serve:
    def __init__(
        self,
        force_model: Annotated[str | None, typer.Argument(help="the model")] = None,
        compile: Annotated[bool, typer.Option(help="a switch")] = False,
        cb_num_blocks: Annotated[int | None, typer.Option(help="a number")] = None,
        cb_max_memory_percent: Annotated[float | None, typer.Option(help="a share")] = None,
        reasoning: Annotated[ReasoningMode, typer.Option(help="a word")] = "auto",
    ) -> None: ...
"""
PLACE = Place(argv=("python", "-m", "transformers.cli.transformers", "serve"), where="a test", python="python")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_serve, "arguments_of", lambda python: arguments_in(SOURCE))


def served(folder: Path, **changes: Any) -> Served:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8,
                                                    "num_attention_heads": 1, "vocab_size": 8, "eos_token_id": [2, 3],
                                                    "max_position_embeddings": 64}))  # fmt: skip
    return Served.of(EngineSpec(engine="transformers_serve", model_dir=folder, threads=2, **changes), PLACE)


def test_its_arguments_are_read_from_its_source() -> None:
    found = {name: argument.kind for name, argument in arguments_in(SOURCE).items()}
    assert found == {"compile": "flag", "cb_num_blocks": "int", "cb_max_memory_percent": "float", "reasoning": "text"}


def test_the_script_links_the_folder_under_the_models_name(tmp_path: Path) -> None:
    folder = tmp_path / "it's a model"
    folder.mkdir()
    script = served(folder, dtype="bf16", options={"compile": False, "reasoning": "off"}).script()
    linked = str(folder).replace("'", "'\"'\"'")
    assert f"""cd "$(mktemp -d)" && ln -s '{linked}' "$MODEL_NAME" || exit 1""" in script
    assert (
        'exec python -m transformers.cli.transformers serve "$MODEL_NAME" --host "$ADDRESS" --port "$PORT" '
        "--device cpu --dtype bfloat16 --no-compile --reasoning off\n"
    ) in script
    assert "export OMP_NUM_THREADS=2" in script


def test_a_rolling_batch_is_its_continuous_batching_which_masks_no_end_token(tmp_path: Path) -> None:
    one, several = served(tmp_path), served(tmp_path, rolling_batch="auto", options={"cb_num_blocks": 64})
    assert "--continuous-batching --cb-num-blocks 64" in several.script()
    assert "--continuous-batching" not in one.script()
    assert one.endpoint(1, "m").dialect.exact_tokens == "min_tokens"
    assert several.endpoint(1, "m").dialect.exact_tokens == "no_end"
    assert several.endpoint(1, "m").dialect.end_ids == (2, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cb_num_blocks": "many"}, "option cb_num_blocks is 'many', expected a whole number"),
        ({"compile": "perhaps"}, "option compile is 'perhaps', expected true or false"),
        ({"protocol": "djl"}, "option protocol is 'djl', expected one of openai, openai-chat"),
        ({"protocol": "openai-chat"}, "has no chat template"),
    ],
)
def test_a_wrong_value_is_one_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecInvalid, match=sentence):
        served(tmp_path, options=options)


def test_the_model_that_it_is_pinned_to_stands_in_its_refusal() -> None:
    def pinned(odd: Any, body: Any) -> None:
        assert body["messages"] == []
        odd.answer(b"{\"detail\": \"Server is pinned to 'mine-12'; requested 'which-one'.\"}", status=400)

    def other(odd: Any, body: object) -> None:
        odd.answer(b'{"error": "no messages"}', status=400)

    for answer, names in ((pinned, ("mine-12",)), (other, ())):
        with odd_server(answer) as url:
            assert pinned_model(int(url.rpartition(":")[2])) == names
