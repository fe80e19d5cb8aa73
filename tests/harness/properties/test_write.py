"""Where the files go, and that nothing is written for a container that cannot serve it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engines.models.cache import carried
from engines.models.conversion import ctranslate2_cache
from engines.serving_properties.java_text import parse_properties
from harness.choose.recommendation import choose
from harness.choose.text import next_command
from harness.errors import NothingToWrite, UsageError
from harness.properties import model_folder
from harness.properties.write import write_recommendation, written_for
from harness.store.reader import Run, read_run
from tests.harness.choose.runs import BUNDLED, ON_DISK, candidate, conversion, store, trial


def _run(tmp_path: Path, engine: str, **changes: Any) -> Run:
    return read_run(
        store(tmp_path / "results", [trial(1, candidate(engine), (20.0, 19.0, 21.0), **changes)], resolved=ON_DISK)
    )


def test_the_scenarios_own_container_goes_to_the_top_and_another_below(tmp_path: Path) -> None:
    run = _run(tmp_path, "ctranslate2", converted_dir=conversion(tmp_path / "cache"))
    found = choose(run)
    own = write_recommendation(run, found, "dynamometer-0.1")
    assert own.properties_path == run.root / "recommendation" / "serving.properties"
    other = write_recommendation(run, found, "0.36.0-lmi20")
    assert [path.name for path in other.paths] == [
        "serving.properties", "model.py", "requirements.txt", "config.json", "ct2", "generation_config.json",
        "tokenizer.json", "recommendation.json",
    ]  # fmt: skip
    assert {path.name for path in other.properties_path.parent.iterdir()} == {path.name for path in other.paths}
    assert (other.properties_path.parent / "ct2" / "model.bin").read_text() == "converted"
    assert carried(other.properties_path.parent / "ct2", ctranslate2_cache.form("float32")), "our server finds it too"
    assert other.properties_path.parent == run.root / "recommendation" / "0.36.0-lmi20"
    assert "the order it was measured by is not known" in other.order_note
    assert own.order_note == ""
    stored = json.loads(other.paths[-1].read_text())
    assert stored["trial"]["trial_id"] == found.trial.trial_id
    folders = (own.properties_path.parent, other.properties_path.parent, tmp_path)
    assert [written_for(folder) for folder in folders] == ["dynamometer-0.1", "0.36.0-lmi20", "dynamometer-0.1"]


@pytest.mark.parametrize("text", ["{", "[1]", "\udc80", "3"])
def test_a_recommendation_that_cannot_be_read_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "recommendation.json").write_text(text, errors="surrogateescape")
    with pytest.raises(
        UsageError, match=r"recommendation\.json: no recommendation \(.*\); name --container, or remove"
    ):
        written_for(tmp_path)


def test_the_hugging_face_handler_finds_the_model_beside_its_file(tmp_path: Path) -> None:
    run = _run(tmp_path, "transformers")
    written = write_recommendation(run, choose(run), "0.36.0-lmi20")
    folder = written.properties_path.parent
    copied = {path.name for path in BUNDLED.iterdir()}
    written_files = {"serving.properties", "requirements.txt", "recommendation.json"}
    assert {path.name for path in folder.iterdir()} == {*copied, *written_files}
    assert (folder / "model.safetensors").stat().st_size == (BUNDLED / "model.safetensors").stat().st_size
    assert "option.model_id" not in parse_properties(written.properties_path.read_text())
    without = write_recommendation(run, choose(run), "0.36.0-lmi20", tmp_path / "out", has_model=False)
    assert {path.name for path in without.paths} == written_files


def test_our_own_engine_comes_with_its_code(tmp_path: Path) -> None:
    run = _run(tmp_path, "t5", versions={"numpy": "2.0.1"})
    written = write_recommendation(run, choose(run), "0.36.0-lmi20")
    folder = written.properties_path.parent
    assert {"engines", "model.py", "backend.json", "requirements.txt", "model.safetensors", "config.json"} <= {
        path.name for path in written.paths
    }
    spec = json.loads((folder / "backend.json").read_text())
    assert (spec["engine"], spec["threads"], spec["model_dir"]) == ("t5", 2, ""), "two cores measured it"
    assert "numpy==2.0.1\n" in (folder / "requirements.txt").read_text()
    assert parse_properties(written.properties_path.read_text())["option.entryPoint"] == "model.py"
    assert (folder / "engines" / "foreign_servers" / "djl" / "handler.py").is_file()


def test_a_library_built_for_a_newer_glibc_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "glibc_version", lambda target: (2, 5))
    run = _run(tmp_path, "t5")
    with pytest.raises(UsageError, match=r"libt5k\.so was built here for glibc 2\.\d+ and 0\.36\.0-lmi20 has 2\.5"):
        write_recommendation(run, choose(run), "0.36.0-lmi20")
    assert not list((run.root / "recommendation").rglob("*"))


def _gone(tmp_path: Path) -> Run:
    run = _run(tmp_path, "ctranslate2", converted_dir=conversion(tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache")
    return run


def _another(tmp_path: Path) -> Run:
    made = tmp_path / "cache" / "0123456789abcdef-float32"
    made.mkdir(parents=True)
    return _run(tmp_path, "ctranslate2", converted_dir=str(made))


def _moved(tmp_path: Path) -> Run:
    return read_run(store(tmp_path / "results", [trial(1, candidate("transformers"), (20.0, 19.0, 21.0))]))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (_gone, r"float32 is not there any more; measure it again, then recommend$"),
        (_another, r"flan-t5-bench is another by now than was converted to .*0123456789abcdef-float32; measure it"),
        (_moved, r"/models/flan-t5-bench: does not exist; expected a Hugging Face model folder"),
        (partial(_run, engine="ctranslate2"), r"the trial does not name its converted weights; measure it again"),
    ],
)
def test_a_model_that_has_moved_is_one_sentence_and_no_file(
    made: Callable[[Path], Run], message: str, tmp_path: Path
) -> None:
    run = made(tmp_path)
    with pytest.raises(UsageError, match=f"the folder for 0.36.0-lmi20 is to hold the measured model, and .*{message}"):
        write_recommendation(run, choose(run), "0.36.0-lmi20")
    assert not list((run.root / "recommendation").rglob("*"))


def test_a_container_that_cannot_serve_it_gets_no_file(tmp_path: Path) -> None:
    run = read_run(store(tmp_path / "results", [trial(1, candidate("fake"), (20.0, 19.0, 21.0))]))
    with pytest.raises(UsageError, match="cannot serve"):
        write_recommendation(run, choose(run), "0.36.0-lmi20", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_server_that_reads_no_properties_is_written_as_the_script_that_started_it(tmp_path: Path) -> None:
    run = read_run(store(tmp_path, [trial(1, candidate("llamacpp"), (20.0, 19.0, 21.0))]))
    found = choose(run)
    with pytest.raises(UsageError, match=r"start\.sh: .*; measure the candidate again"):
        write_recommendation(run, found, "dynamometer-0.1")
    launched = run.layout.logs(found.trial.trial_id) / "start.sh"
    launched.parent.mkdir(parents=True)
    launched.write_text("#!/bin/sh\nexec llama-server\n")
    written = write_recommendation(run, found, "dynamometer-0.1")
    assert written.paths[0].read_text() == launched.read_text()
    assert os.access(written.paths[0], os.X_OK)
    assert [path.name for path in written.paths] == ["start.sh", "recommendation.json"]
    assert next_command("dynamometer-0.1", written.paths[0].parent) == f"dyno serve {written.paths[0].parent}"
    with pytest.raises(NothingToWrite, match=r"reads no serving\.properties: start\.sh starts it"):
        write_recommendation(run, found, "0.36.0-lmi20")


def _measured(tmp_path: Path, weights: Path) -> Run:
    """A run whose winner was measured with DJL Serving, its model folder as the launch left it."""
    options = {"backend": "t5", "command": "/opt/djl/bin/serving"}
    what = candidate("djl", batch_size=4, threads=1, options=options)
    run = read_run(store(tmp_path / "results", [trial(1, what, (20.0, 19.0, 21.0), queue_order="heap")]))
    folder = run.layout.logs(run.trials[0].trial_id) / "model"
    (folder / "engines").mkdir(parents=True)
    (folder / "engines" / "api.py").write_text("code")
    (folder / "serving.properties").write_text("engine=Python\n")
    (folder / "backend.json").write_text('{"batch_size": 4}')
    (folder / "model.py").write_text("from engines.foreign_servers.djl.handler import handle\n")
    weights.write_text("weights")
    (folder / "model.safetensors").symlink_to(weights)
    return run


def test_a_folder_that_was_measured_is_written_whole_for_a_container(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    run = _measured(tmp_path, weights)
    found = choose(run)
    written = write_recommendation(run, found, "0.36.0-lmi20")
    folder = written.properties_path.parent
    assert written.order_note == "", "it was measured by this version's order"
    weights.unlink()
    assert (folder / "model.safetensors").read_text() == "weights"
    assert {path.name for path in folder.iterdir()} == {
        "serving.properties", "backend.json", "model.py", "model.safetensors", "engines", "recommendation.json",
    }  # fmt: skip
    text = written.properties_path.read_text()
    values = parse_properties(text)
    assert (values["option.entryPoint"], values["batch_size"], values["minWorkers"]) == ("model.py", "4", "1")
    assert not {"option.backend", "option.command"} & set(values)
    assert "This folder is the one that was measured" in text
    assert "the newest waiting request first (seen on 0.36.0), and so it was measured" in text
    with pytest.raises(UsageError, match=r"weights: not there any more, and .*model\.safetensors is a link to it"):
        write_recommendation(run, found, "0.36.0-lmi20", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def test_a_folder_that_was_measured_needs_the_python_of_its_code(tmp_path: Path) -> None:
    run = _measured(tmp_path, tmp_path / "weights")
    with pytest.raises(UsageError, match=r"holds Python 3\.10 and the code of djl's folder needs 3\.11"):
        write_recommendation(run, choose(run), "0.29.0")
    with pytest.raises(NothingToWrite, match=r"--container 0\.36\.0-lmi20 writes that folder"):
        write_recommendation(run, choose(run), "dynamometer-0.1")


def test_the_image_of_the_next_command_lies_in_the_user_s_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    example = next_command("0.36.0-lmi20", tmp_path)
    assert "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi20" in example
    assert example.endswith("  # us-east-1 is an example: set AWS_REGION for yours")
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    own = next_command("0.36.0-lmi20", tmp_path)
    assert "692866216735.dkr.ecr.eu-south-1.amazonaws.com/djl-inference:0.36.0-lmi20" in own
    assert "#" not in own


def test_what_no_file_can_hold_is_in_the_next_command_and_in_forms_with_variables(tmp_path: Path) -> None:
    run = _measured(tmp_path, tmp_path / "weights")
    written = write_recommendation(run, choose(run), "0.36.0-lmi20")
    assert written.variables == {"OPT_OUT_TRACKING": "true", "SERVING_PROMETHEUS": "true"}
    text = written.properties_path.read_text()
    assert "measured with OPT_OUT_TRACKING=true and SERVING_PROMETHEUS=true, which this file" in text
    following = next_command("0.36.0-lmi20", tmp_path, written.variables)
    assert "docker run --rm -p 8080:8080 -e OPT_OUT_TRACKING=true -e SERVING_PROMETHEUS=true -v " in following
    handler = _run(tmp_path / "other", "transformers")
    made = write_recommendation(handler, choose(handler), "0.36.0-lmi20")
    threads = made.variables.get("OMP_NUM_THREADS", "0")
    assert (f"OMP_NUM_THREADS={threads} (threads" in made.properties_path.read_text()) is (threads != "0")
    machine = replace(handler.manifest, machine={"cores": 8, "cores_usable": 6})
    counted = write_recommendation(replace(handler, manifest=machine), choose(handler), "0.36.0-lmi20")
    assert counted.variables == {"OMP_NUM_THREADS": "6"}
    assert write_recommendation(handler, choose(handler), "dynamometer-0.1").variables == {}
