"""The bench, a scenario ready for trials: model folder, prompts, reference answers and run folder at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from engines.api import EngineSpec
from engines.launching import launch_file
from engines.setting import OptionValue
from harness.clock import Clock, SystemClock
from harness.cost.spending import Spending
from harness.errors import Interrupted
from harness.load.hosts.coordinator import LoadHosts
from harness.load.web_ui.launch import WebUi
from harness.records import Candidate, Trial
from harness.scenario.resolve import ResolvedScenario
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from harness.trial.inputs import Checkout, TrialInputs, read_inputs
from harness.trial.launch import READY_TIMEOUT_S, launch, spec_of
from harness.trial.progress import Progress
from harness.trial.reference import Reference, reference_answers
from harness.trial.run import TrialRunner, begun
from harness.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What measuring one scenario takes; `open` makes it. `stored` are the trials that the run folder held already,
    `setup_s` the seconds that opening took."""

    inputs: TrialInputs
    writer: RunWriter
    stored: tuple[Trial, ...]
    reference: Reference
    clock: Clock
    setup_s: float
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
    ) -> Iterator[Self]:
        """A bench that measures `resolved` into the run folder that `run_folder` opens; the folder, the page `web_ui`
        and the load `hosts` are closed at the end.

        Prompts and model are read before the folder is opened, so that bad input leaves nothing behind. `checkout`
        serves instead of this one; `reference` is taken where another bench has asked it. Raises DynoError or
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
            inputs = replace(inputs, web_ui=web_ui, hosts=hosts)
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
                setup_s=(clock.now_ns() - start_ns) / NS_PER_S,
                spending=Spending(inputs.scenario.cost, inputs.scenario.workload.max_duration_s),
                _runner=TrialRunner(inputs, writer, clock, progress, known.answers),
            )

    def run(
        self,
        candidate: Candidate,
        number: int,
        *,
        prefix: str = "",
        unstored: Mapping[str, OptionValue] | None = None,
    ) -> Trial:
        """The finished trial of `candidate`, not stored yet; its id begins with `prefix`, by default t<number>.

        `unstored` are options of the engine that no record shall hold. Raises TrialInterrupted on Ctrl-C,
        EnvironmentFault on a full disk.
        """
        trial = begun(candidate, number, f"{prefix or f't{number:04d}'}-{candidate.candidate_id}")
        spec = self._spec(candidate, unstored or {})
        begin_ns = self.clock.now_ns()
        try:
            return self._runner.run(trial, lambda workdir: launch(spec, workdir))
        finally:
            self.spending.note(candidate, (self.clock.now_ns() - begin_ns) / NS_PER_S)

    def run_file(self, properties_path: Path, candidate: Candidate, number: int) -> Trial:
        """The trial of a server started from a written serving.properties, which describes `candidate`; its id is
        'verify-...'."""
        return self._runner.run(
            begun(candidate, number, f"verify-{candidate.candidate_id}"),
            lambda workdir: launch_file(properties_path, self.inputs.model_dir, workdir, READY_TIMEOUT_S),
        )

    def _spec(self, candidate: Candidate, unstored: Mapping[str, OptionValue]) -> EngineSpec:
        spec = self.spending.limited(spec_of(candidate, self.inputs.model_dir), candidate)
        spec = replace(spec, options={**spec.options, **unstored})
        checkout = self.inputs.checkout
        if checkout is None:
            return spec
        return replace(spec, source_root=checkout.root, python=checkout.python or spec.python)


def interrupted(writer: RunWriter) -> Interrupted:
    """The error for a user who stopped a run."""
    return Interrupted(f"interrupted; everything finished is kept in {writer.layout.root}")
