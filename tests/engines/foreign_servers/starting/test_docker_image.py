"""Foreign servers in docker images: their command lines, and the end of containers, with a stand-in for docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.api import Availability, EngineSpec
from engines.errors import SpecInvalid, Unavailable
from engines.foreign_servers.python_servers import sglang, vllm
from engines.foreign_servers.starting import docker_image
from engines.foreign_servers.starting.docker_image import NOT_YET_RUN, check_image
from engines.foreign_servers.starting.start_script import removal, shell_words
from engines.launching import load_engine
from harness.space.capabilities import engine_capabilities
from tests.engines.foreign_servers.starting.docker_stand_in import calls, docker_stand_in, running
from tests.waiting import eventually

ROOT = Path(__file__).parents[4]
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 512, "vocab_size": 8,
    "max_position_embeddings": 64,
}  # fmt: skip
needs_wheel = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install '.[llamacpp]'"
)


def spec_of(engine: str, folder: Path, **changes: Any) -> EngineSpec:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return EngineSpec(engine=engine, model_dir=folder, threads=1, **changes)


def _llama(folder: Path) -> Path:
    from tests.engines.models.decoder_folders import write_decoder  # loads torch

    return write_decoder(folder / "model", "llama")


def _docker(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = "exit 0") -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _docker(tmp_path, monkeypatch)


def line_of(script: str) -> str:
    (line,) = [line for line in script.splitlines() if line.startswith("exec ")]
    return line


@pytest.mark.heavy
@pytest.mark.usefixtures("docker")
def test_vllm_s_image_has_the_model_read_only_and_is_published_on_loopback(tmp_path: Path) -> None:
    place = vllm.PROGRAM.place("", "", "vllm/vllm-openai:v0.32.0")
    spec = spec_of("vllm", tmp_path / "a, b", device="cuda", tensor_parallel_degree=2)
    served = vllm.Served.of(spec, place)
    assert place.where == "docker image vllm/vllm-openai:v0.32.0"
    script = served.script()
    assert 'PORT:=8000}" "${ADDRESS:=127.0.0.1}"' in script
    assert ': "${CONTAINER:=dyno-$PORT}"' in script
    line = line_of(script)
    assert line.startswith(
        'exec docker run --rm --init --name "$CONTAINER" --publish "$ADDRESS:$PORT:8000" --mount '
        f"""'type=bind,"source={tmp_path}/a, b",target=/model,readonly' --env """
    )
    assert "--gpus 2 --ipc host --entrypoint python3 vllm/vllm-openai:v0.32.0 -m vllm.entrypoints" in line
    assert '--model /model --served-model-name "$MODEL_NAME" --host 0.0.0.0 --port 8000' in line
    assert "VLLM_CACHE_ROOT" not in script
    assert NOT_YET_RUN in served.notes


@pytest.mark.heavy
@pytest.mark.usefixtures("docker")
def test_sglang_s_image_gets_one_gpu(tmp_path: Path) -> None:
    place = sglang.PROGRAM.place("", "", "lmsysorg/sglang:v0.5.17")
    line = line_of(sglang.Served.of(spec_of("sglang", tmp_path / "m", device="cuda"), place).script())
    assert "--gpus 1 --entrypoint python3 lmsysorg/sglang:v0.5.17 -m sglang.launch_server --model-path /model" in line


def test_what_no_image_can_be_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecInvalid, match="vllm: option image is '--privileged', expected an image such as"):
        check_image("vllm", "--privileged")
    monkeypatch.setenv("PATH", str(tmp_path))
    for engine in ("vllm", "llamacpp", "sglang", "djl"):
        assert load_engine(engine, image="i").probe().reason == (
            f"{engine}: docker not found: install it, or leave options.image out"
        )
    for engine in ("vllm", "llamacpp", "sglang"):
        both = load_engine(engine, command="c", image="i").probe().reason
        assert both == f"{engine}: options command and image: expected one of them"
    with pytest.raises(SpecInvalid, match="transformers_serve: option image: no docker image of it is known"):
        load_engine("transformers_serve", image="i").capabilities()
    with pytest.raises(Unavailable, match="docker not found"):
        vllm.PROGRAM.place("", "", "i")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo Client: 28.1; echo a warning >&2; echo permission denied: /var/run/docker.sock >&2; exit 1",
         "permission denied: /var/run/docker.sock"),
        ("exit 3", "`docker version` ended with status 3"),
        ("exec sleep 60", "no answer to `docker version` within 0.2 s"),
    ],
)  # fmt: skip
def test_a_daemon_that_does_not_answer_is_one_sentence_in_the_plan(
    body: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_image, "_DAEMON_S", 0.2 if "sleep" in body else 30.0)
    _docker(tmp_path / "bin", monkeypatch, body)
    sentence = f"docker's daemon does not answer; start it, or leave options.image out: {why}"
    for engine in ("vllm", "llamacpp", "sglang", "djl"):
        found = engine_capabilities(engine, image=f"i:{tmp_path.name}")
        assert isinstance(found, Availability)
        assert found.reason == f"{engine}: {sentence}"


def test_only_whole_words_are_the_shell_s() -> None:
    assert shell_words(["$PORT", "$ADDRESS:$PORT:80", "$ADDRESS:$PORT:$(x)", "x$PORT"]) == (
        """"$PORT" "$ADDRESS:$PORT:80" '$ADDRESS:$PORT:$(x)' 'x$PORT'"""
    )


@pytest.mark.heavy
@needs_wheel
def test_a_container_serves_and_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _llama(tmp_path)
    with docker_stand_in(tmp_path) as bin_dir:
        monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
        spec = EngineSpec(engine="llamacpp", model_dir=folder, threads=1, options={"image": "stand-in"})
        with load_engine("llamacpp", image="stand-in").launch(spec, tmp_path / "work", 60.0) as one:
            (container,) = running(bin_dir)
            body = {"prompt": "a", "max_tokens": 4, "ignore_eos": True}
            answer = httpx.post(f"{one.endpoint.url}/v1/completions", json=body, timeout=30.0, trust_env=False)
            assert answer.json()["usage"]["completion_tokens"] == 4
            assert one.facts.versions["image"] == "stand-in (stand-in@sha256:1234)"
            assert NOT_YET_RUN in one.facts.notes
            assert one.pids == ()  # they are the daemon's
        assert running(bin_dir) == []
        first, *_, last = calls(bin_dir)
        assert first[:6] == ["run", "--rm", "--init", "--name", container, "--publish"]
        assert ["docker", *last] == list(removal(container))


OWNER = """
import sys, time, pathlib
from engines.api import EngineSpec
from engines.launching import load_engine
folder, here = map(pathlib.Path, sys.argv[1:])
spec = EngineSpec(engine="llamacpp", model_dir=folder, threads=1, options={"image": "stand-in"})
with load_engine("llamacpp", image="stand-in").launch(spec, here / "work", 60.0):
    (here / "ready").touch()
    time.sleep(600)
"""


@pytest.mark.heavy
@needs_wheel
def test_a_container_is_removed_when_dyno_is_killed(tmp_path: Path) -> None:
    folder = _llama(tmp_path)
    with docker_stand_in(tmp_path) as bin_dir:
        env = {**os.environ, "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder), str(tmp_path)], env=env)
        try:
            eventually(lambda: (tmp_path / "ready").exists() or owner.poll() is not None, "it serves", 60.0)
            assert len(running(bin_dir)) == 1
        finally:
            owner.kill()
            owner.wait()
        eventually(lambda: not running(bin_dir), "the container is gone", 10.0)
