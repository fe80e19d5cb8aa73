"""`dyno gate --images`: a planted slower image, two equal ones, and the plan, on the emulator of SageMaker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import dyno
from harness.errors import DynoError
from harness.store.reader import read_run
from tests.sagemaker_emulator.container import Container, StubContainer
from tests.sagemaker_emulator.fixtures import IMAGE, ROLE, is_clean, point_at
from tests.sagemaker_emulator.local import BUCKET, Local, local_aws

pytestmark = pytest.mark.heavy

SLOWER = IMAGE.replace(":0.1", ":0.2-slower")
EQUAL = IMAGE.replace(":0.1", ":0.1-again")
SCENARIO = """
name: images
workload: {requests: 12, max_duration_s: 20, warmup_requests: 1, load: {kind: closed, users: 2}}
quality: {prompts: 1}
space: [{engine: fake, options: {service_ms: 20}}]
search: {trials: 1, max_minutes: 5, confirm: {finalists: 0}}
"""
RULES = """
false_alarm: 0.1
false_pass: 0.2
metrics:
  latency_p50_ms: {max_increase_frac: 1.0}
  latency_p99_ms: {ignore: true}
  throughput_rps: {ignore: true}
  error_frac: {ignore: true}
  peak_memory_mib: {ignore: true}
  exact_match_frac: {ignore: true}
  reference_match_frac: {ignore: true}
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """An emulator whose image decides which container it starts."""

    def host(archive: bytes, container: dict[str, Any]) -> Container:
        return StubContainer(delay_s=0.12 if container["Image"] == SLOWER else 0.02)

    with local_aws(host) as local, pytest.MonkeyPatch.context() as patch:
        point_at(local, patch, tmp_path_factory.mktemp("images"))
        patch.setenv("DYNO_SAGEMAKER_ROLE", ROLE)
        patch.setenv("DYNO_SAGEMAKER_BUCKET", BUCKET)
        yield local
        assert not local.emulator.broken, local.emulator.broken


@pytest.fixture(scope="module")
def results(aws: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    scenario = folder / "images.yaml"
    scenario.write_text(SCENARIO)
    (folder / "rules.yaml").write_text(RULES)
    done = _dyno("tune", str(scenario), "--results", str(folder / "tuned"), "--no-verify")
    assert done.exit_code == 0, done.output
    return folder


def _dyno(*args: str) -> Result:
    return CliRunner().invoke(dyno, list(args), standalone_mode=False)


def _gate(results: Path, old: str, new: str, *more: str) -> Result:
    (tuned,) = (results / "tuned" / "images").glob("*Z-*")
    runs = ("--candidate", str(tuned), "--results", str(results / "judged"), "--rules", str(results / "rules.yaml"))
    endpoint = ("--instance", "ml.g5.xlarge", "--poll-s", "0.05", "--repetitions", "2")
    return _dyno("gate", "--images", old, new, *runs, *endpoint, *more)


def test_a_slower_image_is_regressed_and_nothing_is_left(aws: Local, results: Path) -> None:
    done = _gate(results, IMAGE, SLOWER, "--json")
    assert done.exception is None, done.output
    answer = json.loads(done.stdout)
    assert (answer["verdict"], done.return_value) == ("regressed", 1)
    assert any(f"image {IMAGE} before, {SLOWER} now" in note for note in answer["notes"])
    trials = read_run(Path(answer["candidate"])).trials
    assert [trial.outcome for trial in trials] == ["ok"] * 2
    assert ROLE not in (Path(answer["candidate"]) / "trials.jsonl").read_text()
    assert is_clean(aws)


def test_two_equal_images_pass(aws: Local, results: Path) -> None:
    done = _gate(results, IMAGE, EQUAL)
    assert done.exception is None, done.output
    assert done.return_value == 0, done.stdout
    assert "pass: all" in done.stdout
    assert is_clean(aws)


def test_a_dry_run_prints_the_requests_of_both_and_the_cost_of_all(aws: Local, results: Path) -> None:
    before = len(aws.emulator.calls)
    done = _gate(results, IMAGE, SLOWER, "--dry-run")
    assert done.exception is None, done.output
    assert done.stdout.startswith("4 endpoints in turns, 2 on each image: ")
    assert " USD\n" in done.stdout
    assert f'"Image": "{IMAGE}"' in done.stdout
    assert f'"Image": "{SLOWER}"' in done.stdout
    assert len(aws.emulator.calls) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((IMAGE, IMAGE), "is both the old and the new image"),
        ((IMAGE, "0.36.0-lmi999"), "unknown container"),
        ((IMAGE, "dynamometer-0.1"), "is our own server, of which AWS has no image"),
        (("0.36.0-lmi20", "0.36.0-lmi27"), "no container of AWS's has fake"),
        ((IMAGE, SLOWER, "--max-cost-usd", "0.01"), "nothing was created"),
        ((IMAGE, SLOWER, "--baseline", "images"), "--images: measures both sides itself"),
    ],
)
def test_bad_input_is_one_sentence(aws: Local, results: Path, args: tuple[str, ...], message: str) -> None:
    done = _gate(results, *args)
    assert isinstance(done.exception, DynoError), done.output
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_an_option_of_endpoints_without_images_is_refused(results: Path) -> None:
    done = _dyno("gate", "--baseline", "images", "--dry-run", "--results", str(results / "tuned"))
    assert "--dry-run: expected --images OLD NEW beside it" in str(done.exception)
