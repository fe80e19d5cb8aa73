"""Whatever a scenario file holds, loading it gives a scenario or the documented error: mutated valid scenarios.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import ScenarioError, StaleScenario
from harness.scenario.load import load_scenario
from harness.scenario.load_kinds import MaxRateLoad, Open
from harness.scenario.resolve import ModelKind, ResolvedScenario, digest_of, resolve, resolved_from_dict, with_code
from harness.scenario.schema import Scenario
from harness.scenario.yaml_nodes import MOST_VALUES, parse, write
from tests.harness.mutations import FUZZ, PLACE, check_sentence, edits, placed, torn, values, with_value

FOLDER = Path(__file__).parents[3] / "scenarios"

SCENARIOS: list[dict[str, Any]] = [
    {"name": "bug", "workload": {"prompts": "p.jsonl", "stream": True, "parameters": {"max_new_tokens": 8},
     "load": {"kind": "closed", "users": 2}, "requests": 40, "max_duration_s": 15,
     "request_timeout_s": 10, "warmup_requests": 2},
     "quality": {"prompts": 1}, "search": {"trials": 1, "confirm": {"finalists": 0}},
     "space": [{"engine": "attach", "options": {"url": "http://127.0.0.1:1/v1", "protocol": "openai-chat",
     "model_name": "m"}}]},
    {"name": "t", "workload": {"load": {"kind": "trace", "path": "t.csv", "speed": 2, "time_unit": "ms"}},
     "space": [{"engine": "fake"}]},
    {"name": "r", "workload": {"load": {"kind": "max_rate", "low_rps": 1, "high_rps": 9,
     "slo": {"latency_p99_ms": {"max": 5}}}},
     "space": [{"engine": ["t5", "fake"], "dtype": ["fp32", "int8"], "workers": [1, 2]}],
     "constraints": {"quality": "any", "error_frac": {"max": 0}},
     "objectives": [{"metric": "max_rate_rps", "goal": "maximize"}]},
    {"name": "s", "model": {"shape": "flan-t5-base", "seed": 1}, "cost": {"usd_per_hour": 1.5},
     "recommend": {"container": "x-1"},
     "workload": {"template": {"body": '{"q": "{prompt}"}', "answer": "a.0"}, "slo": {"latency_ms": 5},
     "load": {"kind": "stages", "stages": [{"rate_rps": 1, "duration_s": 2}]}}, "space": [{"engine": "attach"}]},
    {"name": "g", "model": {"path": "m.gguf"}, "quality": {"reference_folder": "m"}, "space": [{"engine": "llamacpp"}]},
    *(parse(path.read_text(encoding="utf-8")).value for path in sorted(FOLDER.rglob("*.yaml"))),
]  # fmt: skip


L, W = ("workload", "load"), ("workload",)
KNOWN: list[tuple[tuple[Any, ...], Any]] = [
    *((L, {"kind": kind, **fields}) for kind, fields in (
        ("closed", {"users": 3, "think_time_s": 0.5, "processes": 2}), ("constant", {"rate_rps": 2.5}),
        ("poisson", {"rate_rps": "inf"}), ("poisson", {"rate_rps": 4, "max_in_flight": 9}),
        ("gamma", {"rate_rps": 3, "cv": 2}), ("ramp", {"from_rps": 0, "to_rps": 9, "arrivals": "constant"}),
        ("ramp", {"from_rps": 0, "to_rps": 0}), ("stages", {"stages": [{"rate_rps": 0, "duration_s": 1}]}),
        ("stages", {"stages": [{"rate_rps": 5, "duration_s": 1e3}]}), ("trace", {"path": "t.csv", "speed": 2}),
        ("max_rate", {"low_rps": 9, "high_rps": 1}), ("max_rate", {"low_rps": 1, "high_rps": 9}),
        ("max_rate", {"low_rps": 1, "high_rps": 9, "slo": {"ttft_p99_ms": {"max": 5}}}),
        ("max_rate", {"low_rps": 1, "high_rps": 9, "slo": {"throughput_rps": {"max": 5}}}), ("pareto", {}),
    )),
    ((*W, "stream"), True), ((*W, "inputs_per_request"), 2), ((*W, "requests"), 1e3), ((*W, "requests"), "40"),
    ((*W, "slo"), {}), ((*W, "slo"), {"latency_ms": 5}), ((*W, "slo"), {"ttft_ms": 5}),
    ((*W, "locustfile"), "l.py"), ((*W, "spawn_per_s"), 2.0), ((*W, "max_error_frac"), 0.5), ((*W, "requets"), 4),
    ((*W, "template"), {"body": "{", "answer": "a"}), ((*W, "template"), {"body": '["{prompt}"]', "answer": "a"}),
    ((*W, "template"), {"body": '"{prompt}', "answer": "a", "path": "x"}),
    ((*W, "parameters"), {"max_new_tokens": 4, "min_new_tokens": 9}),
    ((*W, "parameters"), {"temperature": 0.5, "early_stopping": "never", "top_p": 2}),
    ((*W, "request"), {"body": {"top_k": 4, "inner": {"a": "{max_new_tokens}"}, "gone": None}}),
    ((*W, "request"), {"body": {"stream": True}}), ((*W, "request"), {"body": {"a": {"b": "{max_new_token}"}}}),
    ((*W, "request"), {"body": {"a": [float("nan")]}}), ((*W, "request"), {}),
    ((*W, "request"), {"headers": {"x-a": "b", "y": None}}), ((*W, "request"), {"headers": {"x-a": "\xe9"}}),
    ((*W, "request"), {"headers": {"Connection": "close"}}), ((*W, "request"), {"headers": {"a b": "c"}}),
    (("model",), {"hub": "a/b"}), (("model",), {"s3": "s3://"}), (("model",), {"s3": "s3://a/b"}), (("model",), {}),
    (("model",), {"path": "m.gguf"}), (("model",), {"path": "m", "hub": "a/b"}), (("model",), {"path": "m", "seed": 1}),
    (("model",), {"bundled": "seq2sec"}), (("model",), {"bundled": "decoder"}), (("model",), {"bundled": "seq2seq"}),
    (("quality", "reference"), {"url": "http://h:1/v1", "protocol": "openai"}),
    (("quality", "reference"), {"url": "h"}), (("quality", "reference"), {"url": "http://h", "api_key_env": "K"}),
    (("space", 0, "incumbent"), True),
    (("quality", "prompts"), 0),
    (("constraints",), {"quality": "Normal"}), (("constraints",), {"quality": {"max": 1}}),
    (("constraints",), {"error_frac": "any"}), (("constraints",), {"error_frac": 0}),
    (("constraints",), {"error_frac": {}}), (("constraints",), {"error_frac": {"min": 1, "max": 0}}),
    (("constraints",), {"exact_match_frac.date": {"min": 0.5}, "latency_p98_ms": {"max": 1}}),
    (("objectives",), [{"metric": "throughput_rps", "goal": "minimize"}]),
    (("objectives",), [{"metric": "ttft_p50_ms", "goal": "minimize"}]),
    (("objectives",), [{"metric": "goodput_frac", "goal": "maximize"}]), (("objectives",), []),
    (("objectives",), [{"metric": "latency_p50_ms", "goal": "minimize"}] * 2), (("objectives",), [{"metric": 3}]),
    (("space",), {"engine": "t5"}), (("space",), [{"engine": []}]), (("space",), [{"engine": ["t5", "t5"]}]),
    (("space",), [{"engine": "t6"}]), (("space",), [{"engine": "torchserve"}]), (("space", 0, "workers"), []),
    (("space",), [{"engine": "t5", "rolling_batch": "auto", "batch_size": [1, 4]}]),
    (("space", 0, "dtype"), ["fp32", "bfloat16"]), (("space", 0, "dtype"), ["int8", "int8"]),
    (("space", 0, "dtype"), [3, None]),
    (("space", 0, "options"), {"url": "http://h", "ready": {"path": "/x", "status": 200}}),
    (("space", 0, "options"), {"a": [1, "x", True], "b": None}), (("space", 0, "threads"), [None, 2]),
    (("space", 0, "python"), "auto"), (("search", "sampler"), "tpf"), (("search", "confirm"), {"finalists": -1}),
    (L, {"kind": "closed", "users": [1, 4]}), (L, {"kind": "poisson", "rate_rps": [4, 1]}), (L, {"users": [2]}),
    (("objectives",), [{"metric": "latency_p50_ms", "goal": "minimize", "at": {"users": 4}}]),
    (("objectives",), [{"metric": "latency_p50_ms", "goal": "minimize", "at": {}}]),
    (("quality",), {"reference": {"url": "http://h"}, "reference_folder": "m"}),
    (("space",), [{"engine": "vllm", "preset": "x"}]), (("space",), [{"engine": "t5", "preset": "x"}]),
    (W, {"locustfile": "l.py", "load": {"kind": "closed", "think_time_s": 1.0}}), (W, {"locustfile": "l.py"}),
    (W, {"locustfile": "l.py", "load": {"users": [1, 2]}}), (W, {"locustfile": "l.py", "inputs_per_request": 2}),
    (W, {"locustfile": "l.py", "load": {"kind": "poisson", "rate_rps": 1}}), (W, {"spawn_per_s": 1.0}),
    (W, {"locustfile": "l.py", "request": {"headers": {"a": "b"}}}), (W, {"slo": {"ttft_ms": 1}}),
    (W, {"template": {"body": '["{prompt}"]', "answer": "a"}, "inputs_per_request": 2}),
    (W, {"load": {"kind": "stages", "stages": [{"rate_rps": 5, "duration_s": 1000}]}}),
    (W, {"load": {"kind": "max_rate", "low_rps": 1, "high_rps": 9}}), (W, {"stream": True, "inputs_per_request": 2}),
    (("cost",), {"usd_per_hour": -1}), (("cost",), {"usd_per_hour": {"ml.g5.xlarge": 1.0}}), (("cost",), {}),
    (("recommend", "container"), "X"), (("name",), "Bug 1"), (("ready_timeout_s",), 0), (("space",), None),
]  # fmt: skip
"""Values that a rule speaks of, right and wrong, each with the path it is set at."""

OVERRIDES = [
    "workload.load.users=4", "workload.load.users=x", "space.0.engine=t5", "space.9.engine=t5", "space.x=1", "=3",
    "name", "workload.requests.x=3", "workload.slo={latency_ms: 5}", "workload.slo=[", "search.confirm.finalists=0",
    "a..b=1", "workload.locustfile=null", "space.0.dtype=[fp32, int8]", "0=1", "name=a", "quality.prompts=1e400",
]  # fmt: skip
TEXTS = [
    "1e3", "0x1F", "0o7", ".inf", ".nan", "no", "~", "null", "true", "2020-01-01", "a\x85b", "c\u2028d", " e ", "- f",
    "'g", "#h", "*i", "&j", "%k", "@l", "\t", "m\nn", "", "o: p", "q #r", "{s", "[t", "1_0", "017", "<<", "=",
    "u" * 200 + " v" * 99,
]  # fmt: skip
"""Texts that YAML 1.1 or 1.2 would read as something else."""
CONTENTS: dict[str, Any] = {}
"""Digest -> the scenario that had it first."""
PLACES = ["file"] * 12 + ["folder", "folder of scenarios", "absent", "nearly there", "below a file"]


@st.composite
def _scenarios(draw: st.DrawFn) -> bytes:
    value = draw(st.one_of(values(SCENARIOS), st.sampled_from(SCENARIOS).flatmap(lambda seed: edits(seed, KNOWN))))
    if draw(st.booleans()):
        text = json.dumps(value, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    else:
        text = write(json.loads(json.dumps(value)))
    return text.encode("utf-8", "surrogatepass")


def _one_by_one(load: Any) -> list[Open]:
    """The open loops of a load: of a sweep each level's."""
    return [each for each in [load.at(level) for level in load.levels] or [load] if isinstance(each, Open)]


def _at(place: str, path: Path) -> Path:
    """Where a user says that the scenario in `path` is."""
    folder = PLACE / "scenarios"
    (folder / "empty").mkdir(parents=True, exist_ok=True)
    (folder / "one.yaml").write_bytes(path.read_bytes())
    places = {"folder": folder / "empty", "folder of scenarios": folder, "absent": folder / "nothing" / "x.yaml",
              "nearly there": folder / "onee.yaml", "below a file": path / "x.yaml"}  # fmt: skip
    return places.get(place, path)


def _with_every_known_value(test: Callable[..., None]) -> Callable[..., None]:
    """`test` with each seed, and each of KNOWN in two of them, among its examples."""
    for seed in SCENARIOS:
        test = example(data=json.dumps(seed).encode(), overrides=[], place="file")(test)
    for path, wanted in KNOWN:
        for seed in SCENARIOS[:2]:
            data = json.dumps(with_value(seed, path, wanted)).encode()
            test = example(data=data, overrides=[], place="file")(test)
    for override in OVERRIDES:
        test = example(data=json.dumps(SCENARIOS[0]).encode(), overrides=[override], place="file")(test)
    return test


@_with_every_known_value
@FUZZ
@given(
    data=st.one_of(_scenarios(), torn(_scenarios())),
    overrides=st.lists(st.sampled_from(OVERRIDES), max_size=2),
    place=st.sampled_from(PLACES),
)
@example(data=b"a: " * 50_000, overrides=[], place="file")
@example(data=b"name: s\nworkload: " + b"x" * 5000, overrides=[], place="file")
@example(data=b"x" * 5000, overrides=[], place="file")
@example(data=b"[" * 5_000, overrides=[], place="file")
@example(data=b"", overrides=["name=a"], place="file")
@example(data=b"name: s\nspace: [{engine: fake, workers: " + b"9" * 4400 + b"}]", overrides=[], place="file")
@example(data=b"name: s\nspace: [{engine: fake}]\nworkload: {requests: 1e400}", overrides=[], place="file")
@example(
    data=b'name: s\nworkload: {template: {answer: a, body: \'["{prompt}",' + b"[" * 9_999 + b"'}}",
    overrides=[],
    place="file",
)
@example(
    data=b"name: s\nspace: [{engine: attach}]\nworkload: {request: {body: {a: [.nan]}}}", overrides=[], place="file"
)
@example(data=b"name: s\nspace: [null]\nworkload: {slo: }", overrides=["space.0.engine=fake"], place="file")
@example(data=b"name: s\nspace: [[3], 3]", overrides=["space.0.0.engine=fake", "space.1.engine=fake"], place="file")
def test_a_mutated_scenario_is_read_or_refused(data: bytes, overrides: list[str], place: str) -> None:
    path = _at(place, placed(data))
    try:
        scenario = load_scenario(path, overrides)
    except ScenarioError as error:
        is_override = any(line.startswith("--set ") for line in str(error).splitlines())
        assert overrides or not is_override
        if not is_override:
            check_sentence(str(error), path)
        return
    assert place == "file"
    most_s = scenario.workload.max_duration_s
    for load in _one_by_one(scenario.workload.load):
        assert 0 < load.seconds(scenario.workload.requests, most_s) <= most_s
        count = load.count(scenario.workload.requests, most_s)
        assert count is None or count >= 0
        assert load.gaps()[1] >= 0
        assert count is None or any(max(part.from_rps, part.to_rps) > 0 for part in load.course(most_s))
        assert isinstance(load, MaxRateLoad) or load.text(most_s, 1.0).startswith(load.kind)
    _check_resolved(resolve(scenario, path))


def _check_resolved(resolved: ResolvedScenario) -> None:
    """Its paths are absolute, its digest tells it from every other scenario, and a run's manifest gives it back."""
    scenario, model = resolved.scenario, resolved.model
    paths = [resolved.prompts_path, resolved.trace_path, resolved.locustfile_path, resolved.reference_folder]
    paths += [Path(model.value)] if model.kind in ("path", "gguf") else []
    assert all(path is None or path.is_absolute() for path in paths)
    assert model.seed == ((scenario.model.seed or 0) if scenario.model else 0)
    assert resolved.has_own_reference == (model.kind != "gguf" or scenario.quality.reference_folder is not None)
    coded = with_code(resolved, "a" * 64)
    assert coded.digest != resolved.digest
    for each in (resolved, coded):
        again = resolved_from_dict(json.loads(json.dumps(each.as_dict())))
        assert again == (each if each.locustfile_path else replace(each, locustfile_sha256=""))
        assert digest_of(again.scenario) == resolved.digest
    content = scenario.model_dump(mode="json")
    content["workload"]["parameters"] = {"min_new_tokens": 0, "num_beams": 1, **content["workload"]["parameters"]}
    assert CONTENTS.setdefault(resolved.digest, content) == content
    if (reference := scenario.quality.reference) is not None:
        options = reference.options()
        assert None not in options.values()
        assert reference.source == f"{options['model_name']} at {options['url']}"


STORED = [
    with_code(resolve(Scenario.model_validate(seed), FOLDER / "s.yaml"), "a" * 64).as_dict() for seed in SCENARIOS
]


@FUZZ
@given(stored=values(STORED))
@example(stored=None)
@example(stored={})
@example(stored={"resolved": None})
@example(stored={**STORED[0], "resolved": "x"})
@example(stored={**STORED[0], "resolved": {}})
@example(stored=with_value(STORED[0], ("resolved", "model", "kind"), "paht"))
@example(stored=with_value(STORED[0], ("resolved", "digest"), None))
@example(stored=with_value(STORED[0], ("resolved", "prompts_path"), 7))
@example(stored=with_value(STORED[0], ("resolved", "trace_path"), "/t.csv"))
@example(stored=with_value(STORED[0], ("resolved", "locustfile_sha256"), "a" * 64))
def test_a_mutated_scenario_of_a_run_is_read_or_stale(stored: Any) -> None:
    try:
        resolved = resolved_from_dict(stored)
    except StaleScenario as error:
        check_sentence(str(error), "scenario")
        return
    assert resolved.model.kind in get_args(ModelKind)
    assert isinstance(resolved.digest, str)
    assert resolved_from_dict(json.loads(json.dumps(resolved.as_dict()))) == resolved


@FUZZ
@given(text=st.one_of(st.text(max_size=60), torn(_scenarios()).map(lambda data: data.decode("utf-8", "replace"))))
@example(text="a: &x [1, 2]\nb: *x\nc: {<<: *x}")
@example(text="a: 1\na: 2\n? [b]\n: 1")
@example(text="a: &x [*x]")
@example(text="a: &a [" + "1," * 99 + "]\n" + "".join(f"b{n}: &b{n} [{'*a,' * 99}]\n" for n in range(99)))
@example(text="a: !!binary x\nb: !tag y\n--- \nc: 1")
@example(text="a: 'x\u2028y'\nb: 0x1F\nc: 0o7\nd: .inf\ne: 1e3\nf: 2020-01-01\ng: no")
def test_any_yaml_text_is_a_value_or_a_problem_with_a_line(text: str) -> None:
    document = parse(text)
    assert len(document.lines) <= MOST_VALUES + 1
    assert all(1 <= problem.line <= text.count("\n") + text.count("\r") + 2 for problem in document.problems)


@FUZZ
@given(value=values([*SCENARIOS, TEXTS, dict.fromkeys(TEXTS, 1)]))
def test_a_value_that_is_written_is_read_back(value: Any) -> None:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except (UnicodeEncodeError, ValueError):
        return
    document = parse(write(json.loads(text)))
    assert document.value == json.loads(text)
    assert not document.problems
