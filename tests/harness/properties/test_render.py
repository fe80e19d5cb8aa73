"""The written files: what they say, that our linter passes them, and that Java reads them as meant."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.foreign_servers.djl import handler as djl_handler
from engines.serving_properties.java_text import parse_properties
from engines.serving_properties.read import spec_from_properties
from harness.errors import UsageError
from harness.properties.containers import container_names, parse_container
from harness.properties.lint.findings import lint
from harness.properties.render import PROPERTIES, Source, render, unavailable
from harness.records import Candidate, Trial
from harness.trial.launch import spec_of
from tests.harness.choose.runs import candidate, run_of, trial

ORACLE = Path(__file__).parents[2] / "engines" / "serving_properties" / "PropertiesOracle.java"
HANDLER = Path(djl_handler.__file__)
WHOLE = [name for name in container_names() if name != "dynamometer-0.1"]


def _source(what: Candidate, model: dict[str, Any] | None = None, **changes: Any) -> Source:
    scenario = {"resolved": {"model": model}} if model is not None else {}
    made: Trial = trial(3, what, (20.1, 19.8, 20.6), **changes)
    return Source(run_name="20260102T030405Z-abcdef0123", manifest=run_of(**scenario).manifest, trial=made)


def test_our_own_file_starts_exactly_what_was_measured() -> None:
    what = candidate(
        "transformers", dtype="bf16", workers=2, batch_size=4, max_batch_delay_ms=5, threads=1,
        options={"compile": True, "attn": "eager"},
    )  # fmt: skip
    text = render(_source(what), "dynamometer-0.1")[PROPERTIES]
    folder = Path("/models/flan-t5-bench")
    assert spec_from_properties(text, folder) == spec_of(what, folder)
    assert parse_properties(text)["option.model_id"] == str(folder)
    assert lint(text, "dynamometer-0.1") == []


def test_the_comment_names_run_trial_numbers_and_quality() -> None:
    text = render(_source(candidate("ctranslate2", dtype="int8")), "dynamometer-0.1")[PROPERTIES]
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "run 20260102T030405Z-abcdef0123, trial t0003-" in comment
    assert "latency_p50_ms: 20.1 ms [19.8, 20.6] (n=400)" in comment
    assert "data quality: Normal (64 of 64" in comment
    assert "2026-01-02T03:04:05Z" in comment
    assert render(_source(candidate("ctranslate2", dtype="int8")), "dynamometer-0.1")[PROPERTIES] == text


def test_the_hugging_face_handler_serves_t5_without_rolling_batch() -> None:
    files = render(_source(candidate(batch_size=4), {"kind": "hub", "value": "google/flan-t5-base"}), "0.36.0-lmi20")
    assert files["requirements.txt"].split() == [
        "numpy", "peft", "pillow", "pydantic", "requests", "torch", "transformers<5",
    ], "what the handler imports, and no versions that an image would have to fetch"  # fmt: skip
    assert set(files) == {PROPERTIES, "requirements.txt"}
    values = parse_properties(files[PROPERTIES])
    assert values["option.entryPoint"] == "djl_python.huggingface"
    assert values["option.rolling_batch"] == "disable"
    assert values["option.model_id"] == "google/flan-t5-base"
    assert values["load_on_devices"] == "-1"
    assert "NOT measured in that container" in files[PROPERTIES]
    assert "must have equal parameters" in files[PROPERTIES]
    assert lint(files[PROPERTIES], "0.36.0-lmi20") == []


@pytest.mark.parametrize(("threads", "expected"), [(None, "=4 (threads"), (3, "=3 (threads")])
def test_the_hugging_face_handler_is_given_the_threads_that_were_measured(threads: int | None, expected: str) -> None:
    """DJL's start script sets OMP_NUM_THREADS=1, whatever the scenario left open."""
    source = _source(candidate(workers=2, threads=threads))
    machine = replace(source.manifest, machine={"cores": 64, "cores_usable": 8})
    assert f"OMP_NUM_THREADS{expected}" in render(replace(source, manifest=machine), "0.36.0-lmi20")[PROPERTIES]


def test_a_decoder_only_model_gets_its_own_task_and_no_refusal_meant_for_t5(tmp_path: Path) -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    source = _source(candidate(), {"kind": "path", "value": str(tmp_path)})
    assert parse_properties(render(source, "0.22.1-deepspeed")[PROPERTIES])["option.task"] == "text-generation"
    assert unavailable(source.trial.candidate, parse_container("0.38.0")) != ""
    assert unavailable(source.trial.candidate, parse_container("0.38.0"), is_decoder=True) == ""
    assert unavailable(candidate("ctranslate2"), parse_container("0.31.0-lmi13"), is_decoder=True) == ""
    assert "the code of ctranslate2's folder needs 3.11" in unavailable(
        candidate("ctranslate2"), parse_container("0.29.0"), is_decoder=True
    )


def test_an_engine_of_ours_brings_its_handler_and_its_pinned_package() -> None:
    files = render(_source(candidate("ctranslate2", dtype="int8", threads=2)), "0.36.0-lmi20")
    assert set(files) == {PROPERTIES, "model.py", "requirements.txt"}
    assert files["requirements.txt"] == "ctranslate2==1.2.3\nnumpy\ntokenizers\n"
    assert "model.py reads config.json, tokenizer.json and ct2/ (the converted model)" in files[PROPERTIES]
    assert "What it names was\n# not tried on this image's Python 3.12." in files[PROPERTIES]
    assert parse_properties(files[PROPERTIES])["option.entryPoint"] == "model.py"
    assert "def handle(inputs" in files["model.py"]
    assert lint(files[PROPERTIES], "0.36.0-lmi20", script=files["model.py"]) == []


@pytest.mark.parametrize(
    ("what", "container", "message"),
    [
        (candidate(), "0.36.0", "transformers 5.*choose 0.36.0-lmi20"),
        (candidate(dtype="int8"), "0.36.0-lmi20", "no CPU int8"),
        (candidate(options={"compile": True}), "0.28.0", "no equal of option compile"),
        (candidate("ctranslate2"), "0.24.0-fastertransformer", "choose 0.24.0-deepspeed"),
        (candidate("ctranslate2"), "0.29.0-neuronx", "choose 0.29.0-lmi"),
        (candidate("onnxruntime"), "0.28.0", "holds Python 3.10 and onnxruntime needs 3.11.*choose 0.31.0"),
        (candidate("ctranslate2"), "0.20.0", "choose 0.22.1 or newer"),
        (candidate("fake"), "0.28.0", "choose --container dynamometer-0.1"),
        (candidate("t5"), "0.30.0", "holds Python 3.10 and the code of t5's folder needs 3.11.*choose 0.31.0"),
        (candidate("openvino"), "0.20.0", "choose 0.31.0 or newer"),
        (candidate("t5", rolling_batch="auto"), "0.36.0", "hands whole batches to t5"),
        (candidate("djl"), "dynamometer-0.1", "start it on the files in the trial's log folder"),
        (candidate("attach"), "dynamometer-0.1", "configured elsewhere"),
    ],
)
def test_a_container_that_cannot_serve_it_says_why_and_what_to_choose(
    what: Candidate, container: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        render(_source(what), container)


@pytest.mark.parametrize("container", WHOLE)
@pytest.mark.parametrize("engine", ["transformers", "ctranslate2", "onnxruntime", "t5", "openvino"])
def test_every_file_we_write_passes_our_own_linter_for_its_version(engine: str, container: str) -> None:
    what = candidate(engine, batch_size=4, workers=2, threads=1)
    try:
        files = render(_source(what, {"kind": "hub", "value": "google/flan-t5-base"}), container)
    except UsageError:
        return
    script = files.get("model.py", HANDLER.read_text() if engine in ("t5", "openvino") else "")
    assert lint(files[PROPERTIES], container, script=script) == []


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("java") is None, reason="no java on this machine")
def test_java_reads_every_file_as_we_do() -> None:
    odd = {"kind": "path", "value": "/models/a b\\c=d#e:f ü\U0001f600"}
    sources = [_source(candidate(engine, threads=2), odd) for engine in ("transformers", "ctranslate2", "onnxruntime")]
    texts = [render(source, name)[PROPERTIES] for source in sources for name in ("dynamometer-0.1", "0.35.0")]
    encoded = "\n".join(base64.b64encode(text.encode("utf-16-be")).decode() for text in texts)
    done = subprocess.run(["java", str(ORACLE)], input=encoded, capture_output=True, text=True, check=True)
    for text, answer in zip(texts, done.stdout.splitlines(), strict=True):
        assert answer.startswith("=")
        pairs = [pair.split(":") for pair in answer[1:].split(",")]
        read = {_decoded(key): _decoded(value) for key, value in pairs}
        assert read == parse_properties(text)
    assert parse_properties(texts[0])["option.model_id"] == odd["value"]


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode("utf-16-be")


@pytest.mark.parametrize(
    ("changes", "at_once"),
    [
        ({"batch_size": 8}, "8"),
        ({"rolling_batch": "auto"}, "32"),
        ({"rolling_batch": "auto", "options": {"max_rolling_batch_size": 5}}, "5"),
        ({"options": {"max_num_seqs": 6}}, "6"),
    ],
)
def test_an_engine_that_is_an_lmi_container_s_rolling_batch_is_written_as_it(
    changes: dict[str, Any], at_once: str
) -> None:
    options = {
        "max_num_batched_tokens": 512,
        "enforce_eager": True,
        "VLLM_CPU_KVCACHE_SPACE": 2,
        **changes.pop("options", {}),
    }
    what = Candidate(block=0, engine="vllm", dtype="bf16", tensor_parallel_degree=2, options=options, **changes)
    rendered = render(_source(what), "0.36.0-lmi20")
    assert list(rendered) == ["serving.properties"]
    values = parse_properties(rendered["serving.properties"])
    assert {key: values[key] for key in values if key.startswith("option.") and "timeout" not in key} == {
        "option.rolling_batch": "vllm", "option.dtype": "bf16", "option.tensor_parallel_degree": "2",
        "option.max_rolling_batch_size": at_once, "option.max_num_batched_tokens": "512",
        "option.enforce_eager": "true",
    }  # fmt: skip
    assert "It was measured on a CPU" in rendered["serving.properties"]
    assert not [each for each in lint(rendered["serving.properties"], "0.36.0-lmi20") if each.severity == "error"]
    with pytest.raises(UsageError, match=r"has no option\.rolling_batch=vllm; choose a newer one"):
        render(_source(what), "0.22.1-deepspeed")
