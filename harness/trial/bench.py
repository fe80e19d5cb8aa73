"""The bench, a scenario ready for trials: model folder, prompts, reference answers and run folder at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from engines.api import START_FILE, EngineSpec, QueueOrder, RunningEngine
from engines.foreign_servers.djl.served import FolderServer, serve_folder
from engines.launching import launch_file
from engines.processes.waiting import Waiting
from engines.registry import traits
from engines.setting import OptionValue
from harness.clock import Clock, SystemClock
from harness.cost.spending import Spending
from harness.errors import Interrupted
from harness.load.hosts.coordinator import LoadHosts
from harness.load.web_ui.launch import WebUi
from harness.properties.containers import Container, parse_container
from harness.properties.queue_order import queue_order as container_order
from harness.records import Candidate, Trial
from harness.scenario.resolve import ResolvedScenario
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from harness.trial.endpoint_form import quality_form
from harness.trial.first_answer import await_answer
from harness.trial.inputs import Checkout, TrialInputs, read_inputs
from harness.trial.launch import Launched, launch, launch_script, ready_timeout_s, shown, spec_of
from harness.trial.progress import Progress
from harness.trial.reference import Reference, reference_answers
from harness.trial.run import TrialRunner, begun
from harness.tune.budget import stored_duration_s
from harness.tune.racing import Terms
from harness.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What measuring one scenario takes; `open` makes it. `stored` are the trials that the run folder held already,
    `opened_ns` is when opening began, and `setup_s` the seconds that it took."""

    inputs: TrialInputs
    writer: RunWriter
    stored: tuple[Trial, ...]
    reference: Reference
    clock: Clock
    opened_ns: int
    setup_s: float
    progress: Progress
    spending: Spending
    _runner: TrialRunner

    @classmethod
    @contextmanager
    def open(
        cls,
        resolved: ResolvedScenario,
        run_folder: Callable[[], RunWriter],
        *,
        progress: Progress,
        web_ui: WebUi | None = None,
        hosts: LoadHosts | None = None,
        checkout: Checkout | None = None,
        reference: Reference | None = None,
        queue_order: QueueOrder | None = None,
    ) -> Iterator[Self]:
        """A bench that measures `resolved` into the run folder that `run_folder` opens; the folder, the page `web_ui`
        and the load `hosts` are closed at the end.

        Prompts and model are read before the folder is opened, so that bad input leaves nothing behind. `checkout`
        serves instead of this one; `reference` is taken where another bench has asked it. `queue_order` is how our
        server takes waiting requests (None: as the container that the scenario names). Raises DynoError or
        EngineError; Interrupted names the folder.
        """
        clock = SystemClock()
        start_ns = clock.now_ns()
        inputs = read_inputs(resolved, checkout)
        with ExitStack() as stack:
            if web_ui is not None:
                stack.enter_context(web_ui)
                progress.note(f"Locust's web UI of the live load, read-only: {web_ui.url}")
            stack.enter_context(hosts or nullcontext())
            order = queue_order or container_order(parse_container(resolved.scenario.recommend.container))
            inputs = replace(inputs, web_ui=web_ui, hosts=hosts, queue_order=order)
            writer = stack.enter_context(run_folder())
            stored = read_run(writer.layout.root).trials
            try:
                known = reference_answers(inputs, writer.layout, progress, reference)
            except KeyboardInterrupt as error:
                raise interrupted(writer) from error
            yield cls(
                inputs=inputs,
                writer=writer,
                stored=stored,
                reference=known,
                clock=clock,
                opened_ns=start_ns,
                progress=progress,
                setup_s=(clock.now_ns() - start_ns) / NS_PER_S,
                spending=Spending(inputs.scenario.cost, inputs.scenario.workload.max_duration_s),
                _runner=TrialRunner(inputs, writer, clock, progress, known),
            )

    def run(
        self,
        candidate: Candidate,
        number: int,
        *,
        prefix: str = "",
        unstored: Mapping[str, OptionValue] | None = None,
        left_s: float = math.inf,
        judged: Trial | None = None,
        order: int = 0,
        terms: Terms | None = None,
    ) -> Trial:
        """The finished trial of `candidate`, not stored yet; its id begins with `prefix`, by default t<number>.

        `unstored` are options of the engine that no record shall hold, `left_s` the time in which it must be ready.
        `judged` is a trial whose quality it inherits, if the launched engine is the same. `order` numbers the seeded
        orders in which the requests come, `terms` are what it is raced on. Raises TrialInterrupted on Ctrl-C,
        EnvironmentFault on a full disk.
        """
        trial = begun(candidate, number, f"{prefix or f't{number:04d}'}-{candidate.candidate_id}")
        spec = self._spec(candidate, unstored or {})
        timeout_s = ready_timeout_s(self.inputs.scenario, left_s)
        begin_ns = self.clock.now_ns()
        try:
            trial = self._runner.run(
                trial, lambda workdir: self._launched(spec, workdir, timeout_s), judged, order, terms
            )
        finally:
            self.spending.note(candidate, (self.clock.now_ns() - begin_ns) / NS_PER_S)
        if trial.outcome == "timed_out" and timeout_s < self.inputs.scenario.ready_timeout_s:
            return replace(trial, reason=f"{trial.reason}; that was all that was left of search.max_minutes")
        return trial

    def left_s(self) -> float:
        """Seconds left of search.max_minutes, earlier starts of the run counted."""
        spent_s = (self.clock.now_ns() - self.opened_ns) / NS_PER_S + stored_duration_s(self.stored)
        return self.inputs.scenario.search.max_minutes * 60 - spent_s

    def run_file(self, properties_path: Path, candidate: Candidate, number: int) -> Trial:
        """The trial of a server started from a written serving.properties or START_FILE, which describes `candidate`;
        its id is 'verify-...'."""
        model_dir, timeout_s = self.inputs.model_dir, self.inputs.scenario.ready_timeout_s

        def launched(workdir: Path) -> Launched:
            if properties_path.name == START_FILE:
                return launch_script(properties_path, spec_of(candidate, model_dir), workdir, timeout_s)
            return launch_file(properties_path, model_dir, workdir, timeout_s)

        return self._runner.run(
            begun(candidate, number, f"verify-{candidate.candidate_id}"),
            lambda workdir: shown(launched(workdir), self.progress),
        )

    def run_folder(
        self, server: FolderServer, container: Container, folder: Path, promised: Trial, number: int
    ) -> Trial:
        """The trial of a model folder written for a container of DJL's, started by `server`; its id is 'verify-...'."""
        spec = spec_of(promised.candidate, self.inputs.model_dir)
        timeout_s = self.inputs.scenario.ready_timeout_s
        return self._runner.run(
            begun(promised.candidate, number, f"verify-{promised.candidate.candidate_id}"),
            lambda workdir: shown(
                serve_folder(server, container.version, folder, spec, workdir, timeout_s), self.progress
            ),
        )

    def _launched(self, spec: EngineSpec, workdir: Path, timeout_s: float) -> Launched:
        """The engine of `spec`; a server that somebody else started has answered a request when it is ready."""
        waiting, inputs = Waiting(timeout_s), self.inputs

        def until(engine: RunningEngine) -> None:
            if traits(spec.engine).is_elsewhere and inputs.locustfile is None:
                form = quality_form(engine.endpoint, inputs.scenario.workload, spec.engine)
                if (remark := await_answer(form, inputs.prompts, waiting)) != "":
                    self.progress.note(f"{remark}; measured all the same")

        return shown(launch(spec, workdir, timeout_s), self.progress, until)

    def _spec(self, candidate: Candidate, unstored: Mapping[str, OptionValue]) -> EngineSpec:
        spec = self.spending.limited(spec_of(candidate, self.inputs.model_dir), candidate)
        spec = replace(spec, options={**spec.options, **unstored})
        checkout = self.inputs.checkout
        if checkout is None:
            return replace(spec, queue_order=self.inputs.queue_order)
        return replace(spec, source_root=checkout.root, python=checkout.python or spec.python)


def interrupted(writer: RunWriter) -> Interrupted:
    """The error for a user who stopped a run."""
    return Interrupted(f"interrupted; everything finished is kept in {writer.layout.root}")
