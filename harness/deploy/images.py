"""A tuned file measured as an endpoint on two images in turns, and the new image judged against the old one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engines.errors import EngineError
from engines.sagemaker.endpoint import expires_s
from engines.sagemaker.engine import check_access
from engines.sagemaker.weights import release_weights
from harness.deploy.sagemaker import Deployment, Order, plan_deployment, plan_lines
from harness.errors import EnvironmentFault, UsageError
from harness.gate.rules import Rules
from harness.gate.verdict import GateResult
from harness.measure.machine.facts import git_commit
from harness.properties.containers import image_tag, parse_container
from harness.scenario.resolve import ModelRef
from harness.store.reader import Run
from harness.store.run_folder import create_run
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.side_by_side import DEFAULT_REPETITIONS, Side, judged_in_pairs

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """The endpoints to be: the same files on the old image and on the new one, `rounds` times each."""

    images: tuple[str, str]
    deployments: tuple[Deployment, Deployment]
    rounds: int

    @property
    def expected_usd(self) -> float | None:
        """What all endpoints together should cost at most; None without a price."""
        each = [deployment.expected_usd for deployment in self.deployments]
        return None if None in each else self.rounds * sum(cost or 0.0 for cost in each)

    @property
    def expected_minutes(self) -> float:
        """How long it takes, one endpoint after the other."""
        return self.rounds * sum(deployment.expected_s for deployment in self.deployments) / 60

    def lines(self) -> list[str]:
        """The dry run."""
        usd = self.expected_usd
        cost = "cost unknown; give --usd-per-hour" if usd is None else f"about {usd:.2f} USD"
        count = 2 * self.rounds
        head = f"{count} endpoints in turns, {self.rounds} on each image: {self.expected_minutes:.0f} min, {cost}"
        parts = zip(("old", "new"), self.images, self.deployments, strict=True)
        return [head, *(text for word, image, each in parts for text in (f"{word}: {image}", *plan_lines(each)))]

    def as_json(self) -> str:
        """The dry run for programs."""
        plans = [deployment.prepared.plan for deployment in self.deployments]
        requests = {name: plan.requests(expires_s(plan)) for name, plan in zip(self.images, plans, strict=True)}
        answer = {"rounds": self.rounds, "expected_usd": self.expected_usd, "requests": requests}
        return json.dumps(answer, indent=2)


def plan_images(
    run: Run, images: Sequence[str], order: Order, rounds: int | None, max_cost_usd: float | None
) -> ImagePlan:
    """The winner of `run`, written for the old image, on both. Raises UsageError or EnvironmentFault with one sentence;
    nothing has been contacted."""
    old, new = images
    if old == new:
        raise UsageError(f"--images: {old} is both the old and the new image; name two")
    count = rounds or DEFAULT_REPETITIONS
    if max_cost_usd is not None:
        order = replace(order, options={**order.options, "max_cost_usd": max_cost_usd / (2 * count)})
    before = plan_deployment(run, _on(order, old))
    after = plan_deployment(run, replace(_on(order, new), files=Path(str(before.candidate.options["files"]))))
    return ImagePlan(images=(old, new), deployments=(before, after), rounds=count)


def gate_images(
    plan: ImagePlan, rules: Rules, results: Path, max_minutes: float | None, announce: Announce
) -> GateResult:
    """Create, measure and delete the endpoints in turns, store one run for each image, judge them.

    Raises EnvironmentFault when credentials are missing or the old image cannot serve, Interrupted on Ctrl-C.
    """
    before, after = plan.deployments
    for deployment in plan.deployments:
        try:
            check_access(deployment.prepared.plan)
        except EngineError as error:
            raise EnvironmentFault(str(error)) from error
    here = replace(before.resolved, model=ModelRef(kind="path", value=str(before.model_dir)))

    def new_run(word: str) -> RunWriter:
        writer = create_run(here, results, git_commit())
        announce(f"{word} image's run {writer.layout.root}")
        return writer

    options = {name: value for name, value in before.candidate.options.items() if name not in ("image", "files")}
    candidate = replace(before.candidate, options=options)
    minutes = max_minutes if max_minutes is not None else 2 * plan.expected_minutes
    try:
        with (
            Bench.open(here, partial(new_run, "old"), progress=Lines(announce)) as old,
            Bench.open(here, partial(new_run, "new"), progress=Lines(announce), reference=old.reference) as new,
        ):
            sides = (_side(old, before, plan.images[0], "old image"), _side(new, after, plan.images[1], "new image"))
            return judged_in_pairs(sides, (candidate,), ((plan.rounds, 1.0),), minutes, rules, announce)
    finally:
        release_weights()


def _side(bench: Bench, deployment: Deployment, image: str, name: str) -> Side:
    return Side(
        bench=bench,
        name=name,
        launched_as=lambda candidate: deployment.candidate,
        unstored=deployment.order.account,
        versions={"image": image},
    )


def _on(order: Order, image: str) -> Order:
    """The order on one image: a registry's URI, or a version of DJL's containers."""
    if "/" in image:
        return replace(order, options={**order.options, "image": image})
    if not image_tag(parse_container(image)):
        raise UsageError(f"--images: {image} is our own server, of which AWS has no image; name yours by its URI")
    return replace(order, container=image)
