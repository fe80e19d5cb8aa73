"""What is refused before anything is measured because of what a scenario names."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.main import run
from harness.errors import ScenarioError
from harness.scenario.resolve import BUNDLED_MODEL
from harness.space.check_files import checked_scenario

SCENARIO = "name: s\nspace: [{engine: %s}]\nconstraints:\n  quality: %s\n"


@pytest.mark.parametrize(
    ("engine", "quality", "is_refused"), [("t5", "Normal", True), ("t5", "any", False), ("fake", "Normal", False)]
)
def test_a_quality_that_nothing_can_show_is_refused(
    engine: str, quality: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.environments.packages.find_spec", lambda name: None)
    monkeypatch.setenv("DYNO_CACHE", str(tmp_path))  # with no environment installed
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO % (engine, quality))
    if not is_refused:
        assert checked_scenario(path).path == path
        return
    with pytest.raises(
        ScenarioError, match=r"s\.yaml:4: constraints\.quality: .* torch, transformers not installed: pip install"
    ):
        checked_scenario(path)


def test_prompts_and_trace_are_read_to_their_ends_and_every_mistake_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": ""}\n[]\n')
    (tmp_path / "t.csv").write_text("timestamp_s,input_tokens\n0,5\n1,five\n")
    path = tmp_path / "s.yaml"
    load = "workload: {prompts: p.jsonl, load: {kind: trace, path: t.csv}}\nrecommend: {container: none-1}\n"
    path.write_text("name: s\nspace: [{engine: fake}]\n" + load)
    with pytest.raises(ScenarioError) as caught:
        checked_scenario(path)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        f"{tmp_path}/p.jsonl:2: \"prompt\" must be a non-empty string, got ''",
        f'{tmp_path}/p.jsonl:3: expected an object with "prompt", got list',
        f"{tmp_path}/t.csv:3: expected input_tokens as a whole number from 0 to 1,000,000, got 'five'",
    ]
    assert lines[3].startswith(f"{path}:4: recommend.container: expected a known container, got 'none-1'")


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ("corpus: c.txt\n  lengths: {input: 9}", "4: workload.corpus: expected a text file, got '{folder}/c.txt'"),
        (
            "corpus: short.txt\n  lengths: {input: 512}",
            "4: workload.corpus: expected text enough for an input of 512 tokens, got 3 words, each counted as a token "
            "in 3 words of short.txt that stand in it once; name a longer text, or allow repetition",
        ),
        (
            "corpus: short.txt\n  lengths: {input: 2}",
            "4: workload.corpus: expected text enough for 216 texts that each begin at another word, got 3 words",
        ),
        ("lengths: {input: 0}", "4: workload.lengths.input: expected a number >= 1, got 0"),
        ("lengths: {input: {min: 0, max: 2}}", "4: workload.lengths.input.min: expected a number >= 1, got 0"),
        (
            "corpus: short.txt\n  lengths: {input: {min: 2, max: 512}}",
            "4: workload.corpus: expected text enough for an input of 512 tokens, got 3 words",
        ),
    ],
)
def test_a_corpus_that_holds_too_little_is_refused_with_its_line(tmp_path: Path, workload: str, problem: str) -> None:
    (tmp_path / "short.txt").write_text("three short words\n")
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nspace: [{{engine: fake}}]\nworkload:\n  {workload}\n")
    with pytest.raises(ScenarioError) as caught:
        checked_scenario(path)
    assert f"{path}:{problem.format(folder=tmp_path)}" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "what"),
    [("constraints: {slip_p99_ms: {max: 100}}", "slip_p99_ms"), ("", "workload.load.think_time_s")],
)
def test_what_is_asked_of_turns_needs_a_trace_that_has_some(tmp_path: Path, more: str, what: str) -> None:
    (tmp_path / "t.csv").write_text("timestamp_s,session_id\n0,a\n1,b\n")
    path = tmp_path / "s.yaml"
    load = "{kind: trace, path: t.csv, think_time_s: 1}" if not more else "{kind: trace, path: t.csv}"
    path.write_text(f"name: s\nspace: [{{engine: fake}}]\nworkload:\n  load: {load}\n{more}\n")
    with pytest.raises(ScenarioError) as caught:
        checked_scenario(path)
    expected = f"{path}:4: workload.load.path: expected conversations of several turns (a column session_id), because "
    assert str(caught.value).startswith(f"{expected}{what} is asked for, got none in what is replayed of t.csv")


def test_an_input_shorter_than_what_the_tokenizer_adds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for length in ("1", "{min: 1, max: 9}"):
        path.write_text(f"name: s\nspace: [{{engine: t5}}]\nworkload: {{lengths: {{input: {length}}}}}\n")
        with pytest.raises(
            ScenarioError, match=r"s\.yaml:3: workload\.lengths\.input: expected more than the 1 tokens"
        ):
            checked_scenario(path)


WEIGHTS = (BUNDLED_MODEL / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", b"{", "{m}/config.json: not readable as JSON ("),
        ("config.json", b'{"model_type": "bert"}', "{m}/config.json: model_type is 'bert', expected one of "),
        ("model.safetensors", None, "{m}: no weights; expected model.safetensors or "),
        ("model.safetensors", -1000, f"{{m}}/model.safetensors: truncated: expected {WEIGHTS} bytes, got "),
        ("model.safetensors.index.json", b"{}", "{m}/model.safetensors.index.json: expected a 'weight_map' of "),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "model-1-of-2.safetensors"}}',
            "{m}: 1 of 1 shards named by model.safetensors.index.json are missing (first: model-1-of-2.safetensors)",
        ),
        ("tokenizer.json", None, "{m}: no tokenizer; expected one of tokenizer.json, "),
        ("tokenizer.json", b"{", "{m}/tokenizer.json: not a readable tokenizer ("),
        ("generation_config.json", b'{"eos_token_id": "x"}', "{m}: eos 'x', pad 0, decoder start 0: "),
    ],
)
@pytest.mark.parametrize("place", ["model: {path: m}", "quality: {reference_folder: m}"])
def test_a_damaged_model_folder_is_named_by_check_and_by_a_dry_run(
    place: str,
    file: str,
    content: bytes | int | None,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`content`: what the file holds instead; None where it is not there; how many bytes are cut off."""
    _damaged(tmp_path / "m", file, content)
    path, field = tmp_path / "s.yaml", "model.path" if place.startswith("model") else "quality.reference_folder"
    path.write_text(f"name: s\nspace: [{{engine: attach, options: {{url: 'http://127.0.0.1:1'}}}}]\n{place}\n")
    assert run(["scenario", "check", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{path}:3: {field}: {sentence.format(m=tmp_path / 'm')}")
    assert captured.err.count("\n") == 1
    if field == "model.path":
        assert run(["tune", str(path), "--dry-run"]) == 3
        assert capsys.readouterr().err.startswith(f"dyno: {sentence.format(m=tmp_path / 'm')}")


def _damaged(folder: Path, file: str, content: bytes | int | None) -> None:
    """The bundled model, but for one file."""
    folder.mkdir()
    for each in BUNDLED_MODEL.iterdir():
        (folder / each.name).symlink_to(each)
    if file.endswith(".index.json"):
        (folder / "model.safetensors").unlink()
    (folder / file).unlink(missing_ok=True)
    if isinstance(content, int):
        content = (BUNDLED_MODEL / file).read_bytes()[:content]
    if content is not None:
        (folder / file).write_bytes(content)


def test_a_sound_model_folder_is_right_and_one_that_no_engine_reads_is_left_alone(tmp_path: Path) -> None:
    _damaged(tmp_path / "m", "README.md", None)
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nspace: [{engine: ctranslate2}]\nmodel: {path: m}\n")
    assert checked_scenario(path, reads_models=True).model.value == str(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    path.write_text("name: s\nspace: [{engine: fake}]\nmodel: {path: m}\n")
    assert checked_scenario(path, reads_models=True).path == path


def test_a_clock_in_which_not_one_load_fits_is_refused_with_the_least_that_would_do(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nspace: [{engine: fake}]\nworkload: {max_duration_s: 90}\nsearch:\n  max_minutes: 1\n")
    with pytest.raises(ScenarioError) as refused:
        checked_scenario(path)
    assert str(refused.value) == (
        f"{path}:5: search.max_minutes: expected at least 1.5 minutes, which the load of one trial alone may take, "
        "got 1.0; raise it, or lower workload.max_duration_s"
    )
    checked_scenario(path, ["search.max_minutes=1.5"])
