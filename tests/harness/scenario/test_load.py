"""Broken scenario files and the exact sentence each gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.models.random_weights.shapes import SHAPES
from engines.registry import engine_names
from harness.errors import ScenarioError
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.space.check_files import check_files

HEAD = "name: s\nspace: [{engine: fake}]\n"

BROKEN = [
    # (what, text, the one line expected; {f} is the file)
    ("empty", "", "{f}:1: expected a scenario, got an empty file; start from scenarios/quickstart.yaml"),
    (
        "nested without end",
        "a: " + "[" * 5000,
        "{f}:1: nested deeper than any key here; correct the brackets",
    ),
    (
        "only a comment",
        "# nothing\n",
        "{f}:1: expected a scenario, got an empty file; start from scenarios/quickstart.yaml",
    ),
    (
        "a race for what no raced trial can have",
        HEAD + "objectives: [{metric: latency_max_ms, goal: minimize}]\nsearch: {race: true}\n",
        "{f}:1: expected latency_p50_ms, latency_mean_ms, latency_p90_ms, latency_p95_ms, latency_p99_ms or "
        "throughput_rps as the objective beside search.race: true, got 'latency_max_ms'; remove race: then no trial is "
        "raced",
    ),
    (
        "a race over a sweep",
        HEAD + "workload: {load: {users: [1, 4]}}\nsearch: {race: true}\n"
        "objectives: [{metric: latency_p50_ms, goal: minimize, at: {users: 4}}]\n",
        "{f}:1: expected one level of load beside search.race: true, got 'several'; "
        "remove race: then no trial is raced",
    ),
    (
        "an incumbent of two values",
        "name: s\nspace: [{engine: fake, workers: [1, 2], incumbent: true}]\n",
        "{f}:2: space.0: expected one value per axis beside incumbent: true, got 'workers'; "
        "try others in another block",
    ),
    (
        "two incumbents",
        "name: s\nspace: [{engine: fake, incumbent: true}, {engine: fake, workers: 2, incumbent: true}]\n",
        "{f}:2: space: expected incumbent: true in one block at most, got 'fake, fake'",
    ),
    ("a list", "- name: s\n", "{f}:1: expected 'key: value' lines (name, space, ...), got a list"),
    ("a word", "hello\n", "{f}:1: expected 'key: value' lines (name, space, ...), got 'hello'"),
    (
        "syntax",
        "name: s\nspace: [{engine: fake}\n",
        "{f}:3: not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'; "
        "correct this line",
    ),
    (
        "a tab",
        "name: s\nworkload:\n\trequests: 3\n",
        "{f}:3: not valid YAML: while scanning for the next token found character '\\t' that cannot start any token; "
        "correct this line",
    ),
    ("no space", "name: s\n", "{f}:1: space: expected a value, got nothing; this key is required"),
    ("empty space", "name: s\nspace: []\n", "{f}:2: space: expected at least 1 item, got []"),
    (
        "a block that is no list",
        "name: s\nspace: {engine: fake}\n",
        "{f}:2: space: expected a list, got {{'engine': 'fake'}}; begin each item with '- '",
    ),
    (
        "a duplicate key",
        HEAD + "search:\n  trials: 3\n  trials: 4\n",
        "{f}:5: search.trials: expected every key once, got it again (first on line 4); keep one",
    ),
    (
        "a number for text",
        HEAD + "recommend: {container: 0.30}\n",
        "{f}:3: recommend.container: expected text, got 0.3; write it in quotes",
    ),
    (
        "an unknown key",
        HEAD + "worklod: {}\n",
        "{f}:3: worklod: expected a known key, got 'worklod'; did you mean 'workload'?",
    ),
    (
        "an unknown axis",
        "name: s\nspace:\n  - engine: fake\n    batchsize: 4\n",
        "{f}:4: space.0.batchsize: expected a known key, got 'batchsize'; did you mean 'batch_size'?",
    ),
    (
        "an unknown key with nothing near",
        HEAD + "recommend: {zzz: 1}\n",
        "{f}:3: recommend.zzz: expected a known key, got 'zzz'; known: container",
    ),
    (
        "an unknown engine",
        "name: s\nspace: [{engine: ctranslate}]\n",
        "{f}:2: space.0.engine: expected an engine: one of {engines}, got 'ctranslate'; did you mean 'ctranslate2'?",
    ),
    (
        "an unknown engine among several",
        "name: s\nspace:\n  - engine:\n      - fake\n      - ctranslate\n",
        "{f}:5: space.0.engine.1: expected an engine: one of {engines}, got 'ctranslate'; did you mean 'ctranslate2'?",
    ),
    (
        "a wrong axis of several engines, once and where it is written",
        "name: s\nspace:\n  - engine: [fake, t5]\n  - engine: [t5, onnxruntime]\n    workers: [1, 0]\n",
        "{f}:5: space.1.workers.1: expected a number >= 1, got 0",
    ),
    (
        "no engine in the list",
        "name: s\nspace: [{engine: []}]\n",
        "{f}:2: space.0.engine: expected at least one engine, got []",
    ),
    (
        "an engine twice",
        "name: s\nspace: [{engine: [t5, t5]}]\n",
        "{f}:2: space.0.engine: expected every value once, got ['t5', 't5']; remove the second 't5'",
    ),
    (
        "an engine in a list in a list",
        "name: s\nspace: [{engine: [[t5]]}]\n",
        "{f}:2: space.0.engine.0: expected the name of an engine, got ['t5']",
    ),
    (
        "an engine that was removed",
        "name: s\nspace: [{engine: torchserve}]\n",
        "{f}:2: space.0.engine: expected an engine: one of {engines}, got 'torchserve'; "
        "it was removed, because its upstream was archived in 2025; use multi-model-server",
    ),
    (
        "a batch size of zero",
        "name: s\nspace: [{engine: fake, batch_size: [1, 0]}]\n",
        "{f}:2: space.0.batch_size.1: expected a number >= 1, got 0",
    ),
    (
        "an empty axis",
        "name: s\nspace:\n  - engine: fake\n    workers: []\n",
        "{f}:4: space.0.workers: expected at least one value, got []; remove the key to take its default",
    ),
    (
        "a value twice",
        "name: s\nspace: [{engine: fake, workers: [1, 2, 1]}]\n",
        "{f}:2: space.0.workers: expected every value once, got [1, 2, 1]; remove the second 1",
    ),
    (
        "a misspelt dtype",
        "name: s\nspace: [{engine: fake, dtype: float32}]\n",
        "{f}:2: space.0.dtype: expected a dtype such as fp32, bf16, fp16, int8, int4, got 'float32'; "
        "did you mean 'fp32'?",
    ),
    (
        "a number in quotes",
        HEAD + "workload: {requests: '5'}\n",
        "{f}:3: workload.requests: expected a whole number, got '5'; write it without quotes",
    ),
    (
        "a YAML 1.1 boolean",
        HEAD + "workload: {stream: yes}\n",
        "{f}:3: workload.stream: expected true or false, got 'yes'; write true or false without quotes",
    ),
    (
        "a fraction of a request",
        HEAD + "workload: {requests: 2.5}\n",
        "{f}:3: workload.requests: expected a whole number, got 2.5",
    ),
    (
        "an unknown load kind",
        HEAD + "workload:\n  load: {kind: opne}\n",
        "{f}:4: workload.load: expected kind: one of closed, constant, poisson, gamma, ramp, stages, trace, max_rate, "
        "got 'opne'",
    ),
    (
        "a rate below zero",
        HEAD + "workload:\n  load: {kind: poisson, rate_rps: -1}\n",
        "{f}:4: workload.load.rate_rps: expected a number > 0, got -1",
    ),
    (
        "a key of another load kind",
        HEAD + "workload:\n  load: {kind: poisson, rate_rps: 5, users: 3}\n",
        "{f}:4: workload.load.users: expected a known key, got 'users'; "
        "known: name, kind, max_in_flight, processes, rate_rps",
    ),
    (
        "stages that do not fit",
        HEAD + "workload:\n  load: {kind: stages, stages: [{rate_rps: 3, duration_s: 100}]}\n",
        "{f}:3: workload: expected max_duration_s >= 100, the sum of the stages, got 15.0",
    ),
    (
        "a maximum rate without a service level",
        HEAD + "workload:\n  load: {kind: max_rate, low_rps: 3, high_rps: 30}\n",
        "{f}:3: workload: expected an SLO beside load.kind max_rate: workload.slo or load.slo, got 'neither'; "
        "write load: {{kind: max_rate, ..., slo: {{latency_p99_ms: {{max: 200}}}}}}",
    ),
    (
        "a range of rates that is none",
        HEAD + "workload:\n  load: {kind: max_rate, low_rps: 30, high_rps: 3, slo: {latency_p90_ms: {max: 9}}}\n",
        "{f}:4: workload.load: expected high_rps > low_rps (30), got 3.0",
    ),
    (
        "two models",
        HEAD + "model: {path: a, hub: b}\n",
        "{f}:3: model: expected exactly one of bundled, path, hub, s3, shape, got 'path and hub'; keep one",
    ),
    (
        "an unknown shape",
        HEAD + "model: {shape: flan-t5-bas}\n",
        "{f}:3: model.shape: expected a shape: one of {shapes}, got 'flan-t5-bas'; did you mean 'flan-t5-base'?",
    ),
    (
        "a seed without a shape",
        HEAD + "model: {hub: x, seed: 1}\n",
        "{f}:3: model: expected seed only beside shape, got 1; remove seed: real weights have none",
    ),
    (
        "an unknown metric",
        HEAD + "objectives: [{metric: latency_p51_ms, goal: minimize}]\n",
        "{f}:3: objectives.0.metric: expected a metric name, got 'latency_p51_ms'; did you mean 'latency_p95_ms'?",
    ),
    (
        "the wrong goal",
        HEAD + "objectives: [{metric: throughput_rps, goal: minimize}]\n",
        "{f}:3: objectives.0: expected goal: maximize for throughput_rps, got 'minimize'",
    ),
    (
        "a constraint without a side",
        HEAD + "constraints: {error_frac: 0.1}\n",
        "{f}:3: constraints.error_frac: expected {{max: ...}} or {{min: ...}}, got 0.1",
    ),
    (
        "a misspelt side",
        HEAD + "constraints:\n  latency_p99_ms: {mx: 5}\n",
        "{f}:4: constraints.latency_p99_ms.mx: expected a known key, got 'mx'; did you mean 'max'?",
    ),
    (
        "quality in lower case",
        HEAD + "constraints: {quality: normal}\n",
        "{f}:3: constraints.quality: expected 'Normal' or 'any', got 'normal'",
    ),
    (
        "time to first token without a stream",
        HEAD + "constraints: {ttft_p50_ms: {max: 5}}\n",
        "{f}:1: expected workload.stream: true, because ttft_p50_ms is asked for, got false",
    ),
    (
        "a token time in the service level of a maximum rate, without a stream",
        HEAD + "workload:\n  load: {kind: max_rate, low_rps: 3, high_rps: 30, slo: {tpot_p99_ms: {max: 9}}}\n",
        "{f}:1: expected workload.stream: true, because tpot_p99_ms is asked for, got false",
    ),
    (
        "a service level below zero",
        HEAD + "workload:\n  load: {kind: max_rate, low_rps: 3, high_rps: 30, slo: {latency_p90_ms: {max: -50}}}\n",
        "{f}:4: workload.load.slo.latency_p90_ms.max: expected a number >= 0, got -50",
    ),
    (
        "goodput without a service level",
        HEAD + "objectives: [{metric: goodput_rps, goal: maximize}]\n",
        "{f}:1: expected workload.slo, because goodput_rps is asked for, got null",
    ),
    (
        "a maximum rate of a load that does not look for it",
        HEAD + "objectives: [{metric: max_rate_rps, goal: maximize}]\n",
        "{f}:1: expected workload.load.kind: max_rate, because max_rate_rps is asked for, got 'closed'",
    ),
    (
        "lag of a closed loop",
        HEAD + "constraints: {lag_p99_ms: {max: 2}}\n",
        "{f}:1: expected an open loop such as poisson, because lag_p99_ms is asked for, got 'closed'",
    ),
    (
        "an endless rate",
        HEAD + "workload:\n  load: {kind: poisson, rate_rps: inf}\n",
        "{f}:4: workload.load.rate_rps: expected a finite rate, got 'inf'; for as much as the server takes use load: "
        "{{kind: closed, users: N}}, or kind: max_rate",
    ),
    (
        "an endless end of a ramp",
        HEAD + "workload:\n  load: {kind: ramp, from_rps: 1, to_rps: .inf}\n",
        "{f}:4: workload.load.to_rps: expected a finite rate, got 'inf'; for as much as the server takes use load: "
        "{{kind: closed, users: N}}, or kind: max_rate",
    ),
    (
        "a rate that nothing can send",
        HEAD + "workload:\n  load: {kind: poisson, rate_rps: 1e300}\n",
        "{f}:4: workload.load.rate_rps: expected a number <= 1e+06, got 1e+300",
    ),
    (
        "a rolling batch beside a batch size",
        "name: s\nspace: [{engine: fake, rolling_batch: auto, batch_size: [1, 4]}]\n",
        "{f}:2: space.0: expected batch_size 1 beside a rolling batch, got 4; put rolling batching in a separate block",
    ),
    (
        "a name that is no folder",
        "name: Quick start\nspace: [{engine: fake}]\n",
        "{f}:1: name: expected up to 100 lower-case letters, digits and dashes, got 'Quick start'; "
        "it becomes a folder name",
    ),
    (
        "a name too long for a folder",
        f"name: {'x' * 101}\nspace: [{{engine: fake}}]\n",
        f"{{f}}:1: name: expected up to 100 lower-case letters, digits and dashes, got '{'x' * 101}'; "
        "it becomes a folder name",
    ),
    (
        "a null option",
        "name: s\nspace: [{engine: fake, options: {law: null}}]\n",
        "{f}:2: space.0.options.law: expected a number, text, true or false, got null",
    ),
    (
        "an unknown tag",
        HEAD + "description: !shell rm\n",
        "{f}:3: description: expected a plain value, got the tag !shell; remove it",
    ),
]


def _write(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_file_gets_exactly_this_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(caught.value) == message.format(f=path, engines=", ".join(engine_names()), shapes=", ".join(SHAPES))


def test_every_mistake_is_told_at_once_in_file_order(tmp_path: Path) -> None:
    path = _write(tmp_path, "name: S\nspace:\n  - engine: fak\n    workers: 0\nsearch: {sampler: tpee, trials: 0}\n")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    places = [line.removeprefix(f"{path}:").split(": ")[0:2] for line in str(caught.value).splitlines()]
    assert places == [
        ["1", "name"],
        ["3", "space.0.engine"],
        ["4", "space.0.workers"],
        ["5", "search.sampler"],
        ["5", "search.trials"],
    ]


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    path = _write(tmp_path, HEAD)
    wrong = tmp_path / "scenaro.yaml"
    with pytest.raises(ScenarioError) as caught:
        load_scenario(wrong)
    assert str(caught.value) == f"{wrong}: expected a scenario file, got nothing there; did you mean {str(path)!r}?"


def test_a_folder_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    _write(tmp_path, HEAD)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(tmp_path)
    assert str(caught.value).endswith("got a folder; name a .yaml file in it (scenario.yaml)")


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(b"name: s\ndescription: caf\xe9\n")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(caught.value) == f"{path}:2: expected UTF-8 text, got byte 0xe9; save the file as UTF-8"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.encode())
    assert load_scenario(path).name == "s"


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    options = "{a: on, b: 017, c: 0x10, d: 1_0, e: 1e3}"
    text = f"name: no\ndescription: 2020-01-01\nspace: [{{engine: fake, options: {options}}}]\n"
    scenario = load_scenario(_write(tmp_path, text + "workload: {requests: 1e3, max_duration_s: 5}\n"))
    assert scenario.name == "no"
    assert scenario.description == "2020-01-01"
    assert scenario.space[0].options == {"a": ("on",), "b": (17,), "c": (16,), "d": ("1_0",), "e": (1000.0,)}
    assert scenario.workload.requests == 1000
    assert scenario.workload.max_duration_s == 5.0


def test_a_block_of_several_engines_is_the_same_scenario_as_one_block_for_each(tmp_path: Path) -> None:
    short = load_scenario(
        _write(tmp_path, "name: s\nspace: [{engine: t5, dtype: int8}, {engine: [fake, t5], workers: 2}]")
    )
    long = load_scenario(
        _write(
            tmp_path,
            "name: s\nspace: [{engine: t5, dtype: int8}, {engine: fake, workers: 2}, {engine: t5, workers: 2}]",
        )
    )
    assert short == long


def test_an_override_counts_blocks_as_they_are_written(tmp_path: Path) -> None:
    path = _write(tmp_path, "name: s\nspace: [{engine: [fake, t5]}, {engine: onnxruntime}]")
    scenario = load_scenario(path, ["space.1.engine=[onnxruntime, ctranslate2]", "space.0.batch_size=4"])
    assert [(block.engine, block.batch_size) for block in scenario.space] == [
        ("fake", (4,)), ("t5", (4,)), ("onnxruntime", (1,)), ("ctranslate2", (1,))
    ]  # fmt: skip


def test_overrides_win_and_may_add_sections(tmp_path: Path) -> None:
    overrides = ("workload.load.users=4", "space.0.batch_size=[1, 8]", "search={trials: 3}")
    scenario = load_scenario(_write(tmp_path, HEAD), overrides)
    assert scenario.workload.load.users == 4
    assert scenario.space[0].batch_size == (1, 8)
    assert scenario.search.trials == 3


def test_an_override_fills_a_block_that_is_not_written_yet(tmp_path: Path) -> None:
    path = _write(tmp_path, "name: s\nspace:\n  -\n")
    assert load_scenario(path, ["space.0.engine=fake"]).space[0].engine == "fake"
    with pytest.raises(
        ScenarioError, match=r"--set space\.0\.engine=fake: expected a mapping or list at space\.0, got 3"
    ):
        load_scenario(_write(tmp_path, "name: s\nspace: [3]\n"), ["space.0.engine=fake"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "expected PATH=VALUE, got 'nonsense'; write workload.load.users=4"),
        ("search.trails=4", "search.trails: expected a known key, got 'trails'; did you mean 'trials'?"),
        ("search.trials=0", "search.trials: expected a number >= 1, got 0"),
        ("space.3.workers=1", "expected an index 0..0, got 3"),
        ("name.x=1", "expected a mapping or list at name, got 's'"),
        ("search={trials: 1, trials: 2}", "expected every key once, got it again (first on line 1); keep one"),
    ],
)
def test_a_wrong_override_names_itself(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(_write(tmp_path, HEAD), [override])
    assert str(caught.value) == f"--set {override}: {message}"


def test_files_that_are_not_there_are_told_with_their_line(tmp_path: Path) -> None:
    path = _write(tmp_path, HEAD + "model: {path: nowhere}\nworkload:\n  prompts: none.jsonl\n")
    with pytest.raises(ScenarioError) as caught:
        check_files(resolve(load_scenario(path), path))
    assert str(caught.value).splitlines() == [
        f"{path}:5: workload.prompts: expected a JSONL file, got {str(tmp_path / 'none.jsonl')!r} (not there); "
        "the path is relative to the scenario file",
        f"{path}:3: model.path: expected a Hugging Face model folder, got {str(tmp_path / 'nowhere')!r} (not there); "
        "the path is relative to the scenario file",
    ]


def test_an_unknown_container_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    path = _write(tmp_path, HEAD + "recommend: {container: dynamometer-0.7}\n")
    with pytest.raises(ScenarioError) as caught:
        check_files(resolve(load_scenario(path), path))
    assert str(caught.value) == (
        f"{path}:3: recommend.container: expected a known container, got 'dynamometer-0.7'; "
        "did you mean 'dynamometer-0.1'?"
    )
