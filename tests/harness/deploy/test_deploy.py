"""`dyno deploy sagemaker` and engine sagemaker in a search, on real models hosted by the emulator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from engines.sagemaker.journal import journal_folder
from harness.cli.main import dyno
from harness.deploy.sagemaker import check_host, lmi_image
from harness.errors import DynoError, EnvironmentFault, UsageError
from harness.records import Candidate, Trial
from harness.store.reader import find_run, read_run
from tests.sagemaker_emulator.fixtures import IMAGE, ROLE, is_clean, point_at
from tests.sagemaker_emulator.local import BUCKET, Local, local_aws

pytestmark = pytest.mark.heavy

FAKE = """
name: deploy-me
workload: {requests: 24, max_duration_s: 20, warmup_requests: 2, load: {kind: closed, users: 2}}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: 5}}]
cost: {instance: ml.g5.xlarge}
search: {trials: 1, max_minutes: 5, confirm: {finalists: 0}}
"""
SEARCH = """
name: endpoints
workload: {requests: 24, max_duration_s: 30, warmup_requests: 2, stream: true, load: {kind: closed, users: 2}}
quality: {prompts: 2}
space:
  - engine: sagemaker
    batch_size: [1, 4]
    threads: 1
    options: {instance: ml.g5.xlarge, hosts: t5, image: "%s", poll_s: 0.2, cloudwatch_wait_s: 5}
objectives: [{metric: cost_usd_per_1k_prompts, goal: minimize}]
cost: {prices: {ml.g5.xlarge: 1.5}, max_cost_usd: 2}
search: {trials: 2, max_minutes: 10, confirm: {finalists: 0}}
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """An emulator that hosts real models with our server."""
    with local_aws() as local, pytest.MonkeyPatch.context() as patch:
        point_at(local, patch, tmp_path_factory.mktemp("deploy"))
        patch.setenv("DYNO_SAGEMAKER_ROLE", ROLE)
        patch.setenv("DYNO_SAGEMAKER_BUCKET", BUCKET)
        yield local
        assert not local.emulator.broken, local.emulator.broken


@pytest.fixture(scope="module")
def results(aws: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of the fake engine."""
    folder = tmp_path_factory.mktemp("results")
    scenario = folder / "deploy-me.yaml"
    scenario.write_text(FAKE)
    done = _dyno("tune", str(scenario), "--results", str(folder), "--no-verify")
    assert done.exit_code == 0, done.output
    return folder


def _dyno(*args: str) -> Result:
    return CliRunner().invoke(dyno, list(args), standalone_mode=False)


def _deploy(results: Path, *args: str) -> Result:
    return _dyno("deploy", "sagemaker", "latest", "--results", str(results), *args)


def test_an_endpoint_is_measured_with_the_run_s_load_and_deleted(aws: Local, results: Path) -> None:
    done = _deploy(results, "--instance", "ml.g5.xlarge", "--image", IMAGE, "--poll-s", "0.1",
                   "--cloudwatch-wait-s", "10", "--json")  # fmt: skip
    assert done.exception is None, done.output
    answer = json.loads(done.stdout)
    there = answer["measured_there"]
    assert there["outcome"] == "ok"
    assert there["trial_id"].startswith("deploy-")
    metrics = there["summary"]["metrics"]
    assert metrics["latency_p50_ms"]["value"] > 5
    assert metrics["error_frac"]["value"] == 0
    assert metrics["output_tokens_per_s"]["value"] > 0, "counts come through SageMaker's custom attributes"
    assert metrics["cost_usd_per_1k_prompts"]["value"] > 0
    assert there["quality"]["verdict"] == answer["measured_here"]["quality"]["verdict"]
    notes = " ".join(there["notes"])
    assert "on 1 x ml.g5.xlarge in us-east-1" in notes
    assert "the signing proxy itself took p50" in notes
    assert "CloudWatch: ModelLatency p50" in notes
    assert is_clean(aws)
    run = read_run(find_run(results, "latest"))
    cloudwatch = json.loads((run.layout.logs(there["trial_id"]) / "cloudwatch.json").read_text())
    invocations = next(row for row in cloudwatch if row["name"] == "Invocations")
    assert invocations["total"] == 24 + 2 + 2
    assert len(run.trials) == 1, "a deployment is no trial of the search"
    assert list((run.root / "deployments").glob("*-ml.g5.xlarge.json"))


def test_a_dry_run_contacts_nothing_and_shows_requests_memory_and_cost(aws: Local, results: Path) -> None:
    before = len(aws.emulator.calls)
    done = _deploy(results, "--instance", "ml.g5.12xlarge", "--image", IMAGE, "--dry-run")
    assert done.exception is None
    assert '"InstanceType": "ml.g5.12xlarge"' in done.stdout
    assert "7.09 USD/h (us-east-1, 2025-01-26" in done.stdout
    assert "memory     fp32, batch 1" in done.stdout
    assert "USD for one deployment" in done.stdout
    assert len(aws.emulator.calls) == before


WRONG = (
    (("--instance", "ml.g5.xlarge"), "AWS has no image of it; name yours with --image URI"),
    (("--instance", "ml.g5.xlarge", "--container", "0.36.0-lmi20"), "no container of AWS's has fake; name an image of"),
    (("--instance", "g5.xlarge", "--image", IMAGE), "did you mean 'ml.g5.xlarge'"),
    (("--instance", "ml.g5.xlarge", "--image", IMAGE, "--region", "mars-1"), "region 'mars-1' is unknown"),
    (("--instance", "ml.g5.12xlarge", "--image", IMAGE, "--max-cost-usd", "0.1"), "nothing was created"),
    (("--instance", "ml.m5.xlarge", "--image", IMAGE, "--max-cost-usd", "1"), "none is known for ml.m5.xlarge"),
    (("--instance", "ml.g5.xlarge", "--image", IMAGE, "--device", "cuda", "--tensor-parallel-degree", "4"),
     "tensor_parallel_degree 4 does not divide the 1 A10G"),
    (("--instance", "ml.g5.12xlarge", "--container", "0.36.0-lmi20", "--device", "cuda", "--tensor-parallel-degree",
      "3"), "tensor_parallel_degree 3 does not divide the model's 4 heads; it may be 1, 2, 4"),
    (("--instance", "ml.g5.xlarge", "--image", "dynamometer"), "image 'dynamometer': expected a registry's URI"),
    (("--instance", "ml.g5.xlarge", "--image", IMAGE, "--files", "/nowhere"), "no such folder or model.tar.gz"),
)  # fmt: skip


@pytest.mark.parametrize(("args", "message"), WRONG)
def test_bad_input_is_one_sentence_before_anything_is_contacted(
    aws: Local, results: Path, args: tuple[str, ...], message: str
) -> None:
    before = len(aws.emulator.calls)
    done = _deploy(results, *args)
    assert isinstance(done.exception, DynoError), done.output
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert done.exception.exit_code == (3 if "nothing was created" in message else 2)
    assert len(aws.emulator.calls) == before


def test_a_missing_bucket_is_said_before_the_reference_is_asked(
    aws: Local, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNO_SAGEMAKER_BUCKET", "not-there")
    done = _deploy(results, "--instance", "ml.g5.xlarge", "--image", IMAGE)
    assert isinstance(done.exception, EnvironmentFault), done.output
    assert str(done.exception).startswith("sagemaker: bucket 'not-there' does not exist; create it in us-east-1")
    assert "reference" not in done.stderr
    assert is_clean(aws)


def test_a_kept_endpoint_stays_until_a_clean_up_of_all(aws: Local, results: Path) -> None:
    done = _deploy(results, "--instance", "ml.g5.xlarge", "--image", IMAGE, "--poll-s", "0.1", "--cloudwatch-wait-s",
                   "0", "--keep")  # fmt: skip
    assert done.exception is None, done.output
    assert done.stdout.splitlines()[-1] == "Next: dyno deploy sagemaker cleanup --region us-east-1 --all"
    some = _dyno("deploy", "sagemaker", "cleanup")
    assert some.stdout.splitlines()[-1] == "nothing to clean up in us-east-1; 5 kept"
    assert len(aws.emulator.region("us-east-1").endpoints) == 1
    every = _dyno("deploy", "sagemaker", "cleanup", "--all")
    assert every.stdout.splitlines()[-1] == "5 leftovers in us-east-1"
    assert "CloudWatch" not in done.stdout, "0 means none"
    assert is_clean(aws)
    assert not list(journal_folder().iterdir()), "neither journal nor its guardian's log"


def test_answers_that_break_on_the_endpoint_end_with_status_4(aws: Local, results: Path) -> None:
    aws.emulator.faults.runtime_statuses.extend([500] * 20)  # every quality prompt and the warm-up
    try:
        done = _deploy(results, "--instance", "ml.g5.xlarge", "--image", IMAGE, "--poll-s", "0.1",
                       "--cloudwatch-wait-s", "0")  # fmt: skip
    finally:
        aws.emulator.faults.runtime_statuses.clear()
    assert done.exception is None, done.output
    assert done.return_value == 4
    assert "dyno: the answers are Normal here, Broken on the endpoint: " in done.stderr
    assert is_clean(aws)


def test_an_interruption_is_reported_after_the_deletion(
    aws: Local, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.cli.deploy.carry_out", interrupted)
    monkeypatch.setattr("harness.cli.deploy.release_weights", lambda: click.echo("deleted", err=True))
    done = _deploy(results, "--instance", "ml.g5.xlarge", "--image", IMAGE, "--keep")
    assert done.return_value == 130
    assert done.stderr.splitlines() == ["deleted", "interrupted; everything that was created has been deleted"]


def _measured(engine: str) -> Candidate:
    return Candidate(block=0, engine=engine)


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("t5", "no container of AWS's has t5; name an image of our own server"),
        ("openvino", "no container of AWS's has openvino"),
    ],
)
def test_an_lmi_container_takes_what_it_can_serve_and_says_why_not(engine: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        lmi_image("0.36.0-lmi20", _measured(engine), None)
    assert lmi_image("0.36.0-lmi20", _measured("onnxruntime"), None) == lmi_image(
        "0.36.0-lmi20", _measured("ctranslate2"), None
    )
    assert lmi_image("0.36.0-lmi20", _measured(engine), tmp_path) == lmi_image(
        "0.36.0-lmi20", _measured("transformers"), None
    )


@pytest.mark.parametrize("engine", ["attach", "multi-model-server", "djl"])
def test_a_winner_that_our_server_does_not_host_is_refused_before_an_image_is_asked_for(engine: str) -> None:
    with pytest.raises(UsageError, match=f"was measured on {engine}, which"):
        check_host(_measured(engine))


def test_a_folder_inside_the_files_is_refused_not_left_out(aws: Local, results: Path, tmp_path: Path) -> None:
    (tmp_path / "ct2").mkdir()
    (tmp_path / "serving.properties").write_text("engine=Python\n")
    done = _deploy(results, "--instance", "ml.g5.xlarge", "--image", IMAGE, "--files", str(tmp_path), "--dry-run")
    assert isinstance(done.exception, DynoError), done.output
    assert "the folder 'ct2' in it would not be packed" in str(done.exception)


def test_a_winner_that_needs_converted_weights_is_served_by_its_own_handler(aws: Local, tmp_path: Path) -> None:
    """The emulator runs the model.py of the archive, on the converted folder that it fetches from S3."""
    pytest.importorskip("ctranslate2")
    (tmp_path / "s.yaml").write_text(FAKE.replace("{engine: fake, options: {service_ms: 5}}", "{engine: ctranslate2}"))
    done = _dyno("tune", str(tmp_path / "s.yaml"), "--results", str(tmp_path), "--no-verify")
    assert done.exit_code == 0, done.output
    asked = ("--instance", "ml.g5.xlarge", "--container", "0.36.0-lmi20", "--device", "cpu")
    planned = _deploy(tmp_path, *asked, "--dry-run")
    assert "weights/, converted for ctranslate2 first" in planned.stdout
    done = _deploy(tmp_path, *asked, "--poll-s", "0.1", "--cloudwatch-wait-s", "0", "--json")
    assert done.exception is None, done.output
    there = json.loads(done.stdout)["measured_there"]
    assert there["outcome"] == "ok"
    assert there["quality"]["verdict"] == "Normal"
    assert there["summary"]["metrics"]["error_frac"]["value"] == 0
    assert is_clean(aws)


@pytest.mark.slow
def test_a_search_over_real_endpoints_of_the_bundled_model(aws: Local, tmp_path: Path) -> None:
    scenario = tmp_path / "endpoints.yaml"
    scenario.write_text(SEARCH % IMAGE)
    done = _dyno("tune", str(scenario), "--results", str(tmp_path / "results"), "--no-verify", "--json")
    assert done.exception is None, done.output
    run = read_run(find_run(tmp_path / "results", "latest"))
    assert [trial.outcome for trial in run.trials] == ["ok", "ok"], [trial.reason for trial in run.trials]
    for trial in run.trials:
        _check_endpoint_trial(trial)
    names = {name for kind, name in aws.emulator.region("us-east-1").created if kind == "endpoint"}
    assert len(names) >= 2
    assert aws.emulator.region("us-east-1").is_empty()


def _check_endpoint_trial(trial: Trial) -> None:
    assert trial.summary is not None
    assert trial.quality is not None
    assert trial.quality.verdict == "Normal"
    metrics = trial.summary.metrics
    assert {"ttft_p50_ms", "cost_usd_per_1k_prompts", "cost_usd_per_mtok"} <= set(metrics)
    assert metrics["ttft_p50_ms"].value < metrics["latency_p50_ms"].value, "frames pass as they come"
