"""Deployment of a run's recommendation to SageMaker: the endpoint is created, measured with the run's load, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from engines.cache_folder import cache_root
from engines.errors import EngineError, SpecInvalid
from engines.models.folder import resolve_model
from engines.registry import BACKENDS, traits
from engines.sagemaker.catalogue import instance_of
from engines.sagemaker.endpoint import expires_s
from engines.sagemaker.engine import Prepared, SageMakerEngine, check_access, prepare
from engines.sagemaker.memory import check_degree_of
from engines.sagemaker.plan import hosted
from engines.setting import OptionValue
from harness.choose.recommendation import choose
from harness.cost.spending import CREATION_S
from harness.errors import EnvironmentFault, UsageError
from harness.properties.containers import image_tag, parse_container
from harness.properties.render import scenario_container
from harness.properties.write import write_recommendation
from harness.recommendation import Recommendation
from harness.records import Candidate, Trial, next_number
from harness.scenario.resolve import ModelRef, ResolvedScenario
from harness.space.plan_text import expectation
from harness.store.codec import to_json
from harness.store.disk import write_text
from harness.store.reader import Run
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.launch import spec_of
from harness.trial.progress import Lines

DELETION_S = 120.0
"""Assumed, for the price before launch: from the end of the load until the endpoint is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user asked for. `options` are the engine's (instance, image, ...), `account` those that no record may
    hold (role, bucket); '' and None mean the run's own."""

    options: Mapping[str, OptionValue]
    account: Mapping[str, OptionValue] = field(default_factory=dict)
    container: str = ""
    device: str = ""
    tensor_parallel_degree: int | None = None
    files: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An order ready to be carried out: nothing has been created, everything knowable has been checked."""

    order: Order
    run: Run
    resolved: ResolvedScenario
    recommendation: Recommendation
    candidate: Candidate
    model_dir: Path
    prepared: Prepared
    expected_s: float

    @property
    def expected_usd(self) -> float | None:
        """What it should cost at most; None without a price."""
        plan = self.prepared.plan
        if plan.usd_per_hour is None:
            return None
        return plan.usd_per_hour * plan.instance_count * self.expected_s / 3600.0


def plan_deployment(run: Run, order: Order) -> Deployment:
    """Choose, write the files, make the requests, check what can be known.

    Raises UsageError or EnvironmentFault with one sentence; nothing has been contacted.
    """
    resolved = run.resolved
    recommendation = _adapted(choose(run), order)
    container = order.container or scenario_container(run.manifest)
    options = dict(order.options)
    if order.files is None:
        check_host(recommendation.trial.candidate)
    model_dir = _model_dir(resolved, recommendation.trial.candidate, options)
    options["image"] = str(options.get("image") or lmi_image(container, recommendation.trial.candidate, order.files))
    is_as_it_is = bool(order.options.get("image")) or not traits(recommendation.trial.candidate.engine).container_python
    if resolved.model.kind == "s3" and "weights" not in options and is_as_it_is:
        options["weights"] = resolved.model.value
    folder = order.files
    if folder is None:
        folder = run.layout.root / "deployments" / container
        write_recommendation(run, recommendation, container, folder, has_model=False)
    options["files"] = str(folder)
    measured = recommendation.trial.candidate
    options["hosts"] = hosted(measured.options)[0] if traits(measured.engine).is_rented else measured.engine
    candidate = replace(measured, engine=SageMakerEngine.name, options=options, python="")
    try:
        spec = spec_of(candidate, model_dir)
        prepared = prepare(replace(spec, options={**spec.options, **order.account}))
    except SpecInvalid as error:
        raise UsageError(str(error)) from error
    except EngineError as error:
        raise EnvironmentFault(str(error)) from error
    expected_s = CREATION_S + expectation(resolved.scenario, 1).trial_s + DELETION_S
    deployment = Deployment(
        order=order,
        run=run,
        resolved=resolved,
        recommendation=recommendation,
        candidate=candidate,
        model_dir=model_dir,
        prepared=prepared,
        expected_s=expected_s,
    )
    _check_budget(deployment)
    return deployment


def _model_dir(resolved: ResolvedScenario, candidate: Candidate, options: Mapping[str, OptionValue]) -> Path:
    """The folder of the model, once the asked degree is known to divide its heads and the instance's devices."""
    model = resolved.model
    try:
        model_dir = resolve_model(model.kind, model.value, model.seed, cache_root())
        check_degree_of(spec_of(candidate, model_dir), instance_of(str(options["instance"])))
    except SpecInvalid as error:
        raise UsageError(str(error)) from error
    except EngineError as error:
        raise EnvironmentFault(str(error)) from error
    return model_dir


def _adapted(recommendation: Recommendation, order: Order) -> Recommendation:
    """The recommendation for another device or degree than was measured, where the order asks for that."""
    trial = recommendation.trial
    candidate = replace(
        trial.candidate,
        device=order.device or trial.candidate.device,
        tensor_parallel_degree=order.tensor_parallel_degree or trial.candidate.tensor_parallel_degree,
    )
    return replace(recommendation, trial=replace(trial, candidate=candidate))


def check_host(measured: Candidate) -> None:
    """Raises UsageError for a winner that no endpoint of ours can hold, such as one that was attached to."""
    if measured.engine not in BACKENDS and not traits(measured.engine).is_rented:
        ours = ", ".join(name for name in BACKENDS if traits(name).needs_reference)
        raise UsageError(
            f"the recommendation was measured on {measured.engine}, which our server does not host on an endpoint; it "
            f"hosts {ours}: tune over those, or name files of your own with --files"
        )


def lmi_image(container: str, measured: Candidate, files: Path | None) -> str:
    """The image tag of AWS's container. Raises UsageError where it has none that serves what was measured."""
    target = parse_container(container)
    if target.is_own:
        raise UsageError(
            f"{container} is our own server and AWS has no image of it; name yours with --image URI, or an LMI version "
            "with --container (dyno recommend lists which can serve it)"
        )
    if traits(measured.engine).is_in_containers or files is not None:
        return image_tag(target)
    raise UsageError(
        f"--container {container}: no container of AWS's has {measured.engine}; name an image of our own server with "
        "--image URI (it reads the weights as they are), or flat files of your own with --files"
    )


def _check_budget(deployment: Deployment) -> None:
    plan, expected = deployment.prepared.plan, deployment.expected_usd
    if plan.max_cost_usd is not None and expected is not None and expected > plan.max_cost_usd:
        raise EnvironmentFault(
            f"--max-cost-usd {plan.max_cost_usd:g}: this would cost about {expected:.2f} USD "
            f"({plan.instance_count} x {plan.instance.name} at {plan.usd_per_hour:g} USD/h for "
            f"{deployment.expected_s / 60:.0f} min: creation, load, deletion); nothing was created"
        )


def plan_lines(deployment: Deployment) -> list[str]:
    """The dry run: what will be created, whether it fits, what it costs, and the requests themselves."""
    plan, prepared = deployment.prepared.plan, deployment.prepared
    expected = deployment.expected_usd
    price = "price unknown" if plan.usd_per_hour is None else f"{plan.usd_per_hour:g} USD/h ({plan.price_origin})"
    cost = "unknown; give --usd-per-hour" if expected is None else f"about {expected:.2f} USD for one deployment"
    budget = "" if plan.max_cost_usd is None else f", budget {plan.max_cost_usd:g} USD"
    form = f", converted for {prepared.converts} first" if prepared.converts else ""
    uploads = f"uploaded to s3://{plan.bucket}/{plan.prefix}/weights/{form}" if prepared.uploads else "already in place"
    return [
        f"endpoint   {plan.name} in {plan.region}",
        f"instance   {plan.instance_count} x {plan.instance.name}, {price}",
        f"image      {plan.image}",
        f"archive    {plan.code_uri}: {', '.join(sorted(prepared.files))}",
        f"weights    {uploads}",
        f"memory     {prepared.fit}",
        f"expected   {deployment.expected_s / 60:.0f} min: creation, quality, load, deletion",
        f"cost       {cost}{budget}",
        "requests   " + json.dumps(plan.requests(expires_s(plan)), indent=2).replace("\n", "\n           "),
    ]


def carry_out(deployment: Deployment, progress: Callable[[str], None]) -> Trial:
    """The trial of the endpoint: created, checked, loaded, deleted. Raw records go to the run under 'deploy-...', the
    result to deployments/<time>-<instance>.json. Raises TrialInterrupted on Ctrl-C (everything is deleted by then),
    EnvironmentFault when credentials or bucket are missing: before the reference, which takes minutes."""
    resolved, run = deployment.resolved, deployment.run
    try:
        check_access(deployment.prepared.plan)
    except EngineError as error:
        raise EnvironmentFault(str(error)) from error
    here = replace(resolved, model=ModelRef(kind="path", value=str(deployment.model_dir)))
    with Bench.open(here, partial(RunWriter.resume, run.root), progress=Lines(progress)) as bench:
        trial = bench.run(
            deployment.candidate, next_number(run.trials), prefix="deploy", unstored=deployment.order.account
        )
    write_text(result_path(deployment, trial), json.dumps(as_json(deployment, trial), indent=2) + "\n")
    return trial


def result_path(deployment: Deployment, trial: Trial) -> Path:
    """Where the deployment's result is kept."""
    begun = trial.started_utc.partition("+")[0].replace(":", "").replace("-", "")
    return deployment.run.layout.root / "deployments" / f"{begun}-{deployment.prepared.plan.instance.name}.json"


def as_json(deployment: Deployment, trial: Trial) -> dict[str, Any]:
    """The result, JSON-able: what was measured here and there."""
    plan = deployment.prepared.plan
    return {
        "region": plan.region,
        "instance": plan.instance.name,
        "instance_count": plan.instance_count,
        "image": plan.image,
        "usd_per_hour": plan.usd_per_hour,
        "price_origin": plan.price_origin,
        "memory": deployment.prepared.fit,
        "measured_here": to_json(deployment.recommendation.trial),
        "measured_there": to_json(trial),
    }
