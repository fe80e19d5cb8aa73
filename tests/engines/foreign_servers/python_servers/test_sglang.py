"""SGLang's command line and refusals, known without a SGLang, which needs a GPU: its launch was not yet run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.api import EngineSpec
from engines.errors import SpecInvalid
from engines.foreign_servers.python_servers.sglang import FACTS, NOT_YET_RUN, Served, SglangEngine, known_arguments
from engines.foreign_servers.starting.arguments import Argument
from engines.foreign_servers.starting.program_place import Place
from engines.launching import load_engine
from engines.spec_check import why_not
from tests.engines.foreign_servers.python_servers.sglang_facts import arguments_in, text_of

SOURCE = """
WORDS = ["a", "b"]
class ServerArgs:
    tp_size: A[int, Arg(help="x", aliases=["--tensor-parallel-size"]), NS("p")] = 1
    share: A[Optional[float], "a share", NS("p")] = None
    is_on: A[bool, "a switch", NS("p")] = False
    both: A[Optional[bool], Arg(help="x", action=argparse.BooleanOptionalAction), NS("p")] = None
    word: A[str, Arg(help="x", choices=WORDS), NS("p")] = "a"
    one_of: A[Optional[Literal["c", "d"]], "x", NS("p")] = None
    several: A[Optional[List[int]], "x", NS("p")] = None
    long: A[Optional[int], Arg(help=f"x {y}", type_parser=human_readable_int), NS("p")] = None
    named: A[str, Arg(help="x", cli_name="--other"), NS("p")] = ""
    python_only: A[str, Arg(help="x", no_cli=True), NS("p")] = ""
    by_hand: A[Optional[str], NS("p")] = None
    steps: A[int, "x", NS("p")] = 1
    port: A[Optional[int], "x", NS("p")] = None
    rows: A[Optional[int], "x", NS("p")] = None
    plain: int = 3
    def check(self):
        assert self.tp_size > 0, "why"
        if not 0 < self._resolved().share <= 1.0:
            raise ValueError
        assert self.rows is None or self.rows >= 1
        if self.port is not None:
            if self.port < 1:
                raise ValueError
            assert self.steps > 5, "only beside a port"
        if self.is_on:
            return
        assert self.steps > 7, "only without is_on"
    def add_cli_args(parser):
        parser.add_argument("--by-hand", type=str, choices=["auto"] + computed)
        parser.add_argument("--old-name", action=Deprecated)
        parser.add_argument("--config", type=str)
"""
PLACE = Place(argv=("python", "-m", "sglang.launch_server", "--model-path"), where="a test")
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64, "vocab_size": 8,
    "max_position_embeddings": 64,
}  # fmt: skip


def test_arguments_are_read_from_the_source_as_sglang_makes_them() -> None:
    found = arguments_in(SOURCE)
    assert {name: row["kind"] for name, row in found.items()} == {
        "tp_size": "int", "share": "float", "is_on": "switch", "both": "flag", "word": "text", "one_of": "text",
        "several": "list", "long": "text", "named": "text", "by_hand": "text", "steps": "int", "port": "int",
        "rows": "int",
    }  # fmt: skip
    ranges = {name: Argument.from_row(found[name]).expected for name in ("tp_size", "share", "rows", "port", "steps")}
    assert ranges == {
        "tp_size": "a whole number > 0", "share": "a number > 0 and <= 1", "rows": "a whole number >= 1",
        "port": "a whole number >= 1", "steps": "a whole number",
    }  # fmt: skip
    assert (found["word"]["choices"], found["one_of"]["choices"]) == (("a", "b"), ("c", "d"))
    assert (found["both"]["negative"], found["named"]["flag"]) == ("--no-both", "--other")


def test_the_facts_are_of_one_version_and_as_their_reader_writes_them() -> None:
    text = FACTS.read_text()
    assert text_of(json.loads(text)) == text
    version, known = known_arguments()
    assert version == "0.5.17"  # AWS's image has this one
    assert known["tp_size"].kind == "int"
    assert "fcfs" in known["schedule_policy"].choices


def served(folder: Path, **changes: Any) -> Served:
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return Served.of(EngineSpec(engine="sglang", model_dir=folder, device="cuda", **changes), PLACE)


def test_the_axes_become_its_arguments_and_no_prompt_comes_from_its_cache(tmp_path: Path) -> None:
    one = served(tmp_path, dtype="bf16", tensor_parallel_degree=2, batch_size=8, options={"schedule_policy": "fcfs"})
    assert one.argv("m", 1, "h") == [
        "python", "-m", "sglang.launch_server", "--model-path", str(tmp_path), "--served-model-name", "m", "--host",
        "h", "--port", "1", "--dtype", "bfloat16", "--tp-size", "2", "--max-running-requests", "8", "--schedule-policy",
        "fcfs", "--disable-radix-cache",
    ]  # fmt: skip
    cached = served(tmp_path, rolling_batch="auto", options={"radix_cache": True})
    assert cached.argv()[-2:] == ["--max-running-requests", "32"]
    assert "--enable-cache-report --enable-metrics\n" in cached.script()
    assert "not yet run by dyno" in cached.script()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tensor_parallel_degree": 3}, "tensor_parallel_degree 3 refused: it does not divide the model's 8 heads"),
        ({"options": {"schedule_policy": "fcf"}}, "expected one of lpm, .*did you mean 'fcfs'"),
        ({"options": {"mem_fraction_static": "much"}}, "option mem_fraction_static is 'much', expected a number"),
        ({"options": {"protocol": "openai-chat"}}, "has no chat template"),
        ({"options": {"max_rolling_batch_size": 0}}, "expected a whole number, 1 or more"),
    ],
)
def test_a_wrong_value_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecInvalid, match=sentence):
        served(tmp_path, **changes)


def test_it_is_named_as_not_yet_run_and_options_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = load_engine("sglang").probe()
    assert (found.is_available, found.note) == (False, NOT_YET_RUN)
    assert "SGLang not found: on a machine with an NVIDIA GPU" in found.reason
    (tmp_path / "sglang").write_text("#!/bin/sh\n")
    (tmp_path / "sglang").chmod(0o755)
    assert load_engine("sglang").probe().note == NOT_YET_RUN
    able = SglangEngine().capabilities()
    assert "did you mean 'schedule_policy'" in why_not("sglang", "options.schedul_policy", "fcfs", able)
    assert why_not("sglang", "options.api_key", "x", able) == "a secret is stored in no scenario"
    assert "radix_cache: true" in why_not("sglang", "options.disable_radix_cache", False, able)
    note = served(tmp_path).facts(1, 0.0).notes
    assert NOT_YET_RUN in note
