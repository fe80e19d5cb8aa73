"""Loading an engine for a trial: one load, a sweep over several, or the search for the largest rate within a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.api import Endpoint, RunningEngine
from harness.choose.goals import Goals, goals_of
from harness.level import Level
from harness.load.ceiling.measure import Ceilings
from harness.load.driver import LoadResult, LoadState, drive
from harness.load.metrics_scraper import Scraper
from harness.load.plan import NO_TURN, LoadPlan
from harness.load.schedule.arrivals import at_rate, schedule_of
from harness.load.schedule.max_rate import RateSearch
from harness.load.schedule.request_times import Schedule
from harness.load.served_model import UNKNOWN, ServedModel
from harness.measure.doubts import client_verdict
from harness.measure.engine_metrics.limits import with_limits
from harness.measure.engine_metrics.scrapes import EngineMetrics
from harness.measure.geometric_mean import with_geometric_mean
from harness.measure.machine.sampler import ResourceSampler, ResourceUse
from harness.measure.summarize import summarize
from harness.measure.user_locustfile import mixture, unavailable
from harness.records import Doubt, Probe, RequestRecord, TrialSummary
from harness.scenario.load_kinds import ClosedLoad, Load, MaxRateLoad, Open, TraceLoad
from harness.scenario.load_list import LoadList, loads_of
from harness.trial.endpoint_form import asked
from harness.trial.inputs import TrialInputs
from harness.trial.largest_shape import LongestInputs
from harness.trial.prefix_cache import with_prefix_cache
from harness.trial.progress import Phase, Progress
from harness.trial.raced import Racing, as_bound, as_broken, checks_of
from harness.trial.rate_search import largest_held, why_probe_broke
from harness.trial.request_texts import RequestTexts
from harness.trial.steady_warm_up import steady_warm_up
from harness.trial.sweep import Measured, asked_levels, own_index, why_broken, with_levels
from harness.trial.window import Loaded, Window, probe_of, why_bounded, why_unusable
from harness.trial.without_texts import texts_of, without_words


class Loads:
    """The loads of one run's trials. The client's own ceiling is measured once, when a rate first asks for it."""

    def __init__(self, inputs: TrialInputs, progress: Progress) -> None:
        self._inputs = inputs
        self._progress = progress
        self._workload = inputs.scenario.workload
        self._goals = goals_of(inputs.scenario)
        self._seed = inputs.scenario.search.seed
        self._ceilings = Ceilings()
        self._model = UNKNOWN
        self._engine = ""
        self._hosts = inputs.hosts.expected if inputs.hosts else 1
        self._racing: Racing | None = None
        self._texts = RequestTexts(inputs)
        self._warm: tuple[str, ...] = ()
        self._sent = 0

    def prepare(self, order: int = 0, racing: Racing | None = None) -> None:
        """Before an engine is launched: compute the schedule, measure the client's ceiling if the rate needs it.

        The requests come in the seeded order of that number: prompts and arrival times, of every run with this seed.
        Their load ends early when it has surely lost `racing`; sent by other hosts, it does not.
        Raises ScenarioError for a schedule that cannot be; EnvironmentFault for a rate this machine cannot send.
        """
        self._seed = self._inputs.scenario.search.seed + ORDER_STRIDE * order
        self._racing = None if self._inputs.hosts else racing
        for load in loads_of(self._workload.load):
            if isinstance(load, MaxRateLoad):
                self._ceilings.processes_for(load.high_rps, is_capped=True, hosts=self._hosts)
            elif not isinstance(load, ClosedLoad) and load.processes is None:
                self._ceilings.processes_for(self._schedule(load, 0).peak_rps, hosts=self._hosts)

    def run(self, engine: RunningEngine, name: str, workdir: Path, launch_s: float, model: ServedModel) -> Loaded:
        """Load the engine of this name, which serves `model`. Raises MeasurementInvalid: the load generator failed."""
        self._model, self._engine = model, name
        loaded = self._run(engine, workdir, launch_s)
        summary = with_geometric_mean(loaded.window.summary, self._goals.figures)
        return replace(loaded, window=replace(loaded.window, summary=summary))

    def _run(self, engine: RunningEngine, workdir: Path, launch_s: float) -> Loaded:
        load, hosts = self._workload.load, self._inputs.hosts
        self._sent = 0
        self._texts.begin_at(0)
        first = loads_of(load)[0]
        users = self._closed(first, engine.endpoint) if isinstance(first, ClosedLoad) else self._plan(engine.endpoint)
        self._warm = steady_warm_up(users, engine, workdir, self._progress, first, hosts=hosts, model=self._model)
        if isinstance(load, MaxRateLoad):
            return self._search(load, engine, workdir, launch_s)
        if isinstance(load, LoadList) or load.levels:
            return self._sweep(load, engine, workdir, launch_s)
        return Loaded(window=self._window(self._planned(load, engine), engine, workdir, launch_s))

    def as_they_begin(self, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Prompt id -> one name for all texts of the corpus that begin alike, of what was sent; after `run`."""
        return self._texts.as_they_begin(name for record in records for name in record.prompt_ids)

    def longest(self, endpoint: Endpoint, number: int) -> LongestInputs:
        """`number` inputs of the longest length that the load sends; after `run`."""
        load = self._workload.load
        schedule = self._schedule(load, 0) if isinstance(load, TraceLoad) else None
        return self._texts.longest(self._plan(endpoint), self._model.folder, number, schedule)

    def _planned(self, load: ClosedLoad | Open, engine: RunningEngine) -> LoadPlan:
        return self._closed(load, engine.endpoint) if isinstance(load, ClosedLoad) else self._open(load, engine, 0)

    def _sweep(self, load: Load | LoadList, engine: RunningEngine, workdir: Path, launch_s: float) -> Loaded:
        """Every level of a sweep, or load of a list, in turn; those left are not measured once the engine has died."""
        windows: list[Window] = []
        for number, level in enumerate(load.levels, 1):
            text = f"{level.text} ({number} of {len(load.levels)})"
            plan = self._planned(load.at(level), engine)
            windows.append(self._window(plan, engine, workdir, launch_s, text=text))
            # Further prompts or conversations at each, as far as they go: the server may still hold the ones before.
            sent = len(plan.offsets_ns) or plan.requests
            self._sent += plan.follows.count(NO_TURN) if plan.turns else sent
            if engine.failure() is not None:
                break
        levels = [
            Measured(level=level, summary=window.summary, why=self._why_not_held(window, level))
            for level, window in zip(load.levels, windows, strict=False)
        ]
        own = own_index(self._goals, levels)
        probes = tuple(
            probe_of(number, one.level, one.why, window, is_own=number == own + 1)
            for number, (one, window) in enumerate(zip(levels, windows, strict=True), 1)
        )
        asked = asked_levels(self._goals)
        void = [
            f"at {one.level.text}: {window.limited}"
            for place, (one, window) in enumerate(zip(levels, windows, strict=True))
            if window.limited and (place == own or one.level in asked)
        ]
        summary = with_levels(self._goals, levels, own)
        return Loaded(
            window=replace(windows[own], summary=summary, limited=void[0] if void else ""),
            probes=probes,
            others={number: window for number, window in enumerate(windows, 1) if number != own + 1},
        )

    def _why_not_held(self, window: Window, level: Level) -> str:
        load = level if level.axis == "load" else None
        return why_unusable(window) or why_broken(self._goals, window.summary.metrics, load)

    def _search(self, load: MaxRateLoad, engine: RunningEngine, workdir: Path, launch_s: float) -> Loaded:
        search = RateSearch(load.low_rps, load.high_rps, load.probes, load.precision_frac)
        windows: dict[int, Window] = {}
        probes: list[Probe] = []
        while (rate_rps := search.next_rps()) is not None:
            number = len(probes) + 1
            self._texts.begin_at(self._sent * self._workload.inputs_per_request)
            plan = self._open(at_rate(load, rate_rps), engine, number)
            window = self._window(plan, engine, workdir, launch_s, text=f"probe {number}, {rate_rps:.4g} requests/s")
            why = why_probe_broke(load, window, plan.window_s, has_slo=self._workload.slo is not None)
            windows[number] = window
            probes.append(probe_of(number, Level("rate_rps", rate_rps), why, window))
            # Behind as many as any candidate may have sent by now: further prompts, and the same ones for each of them.
            most = self._schedule(at_rate(load, search.most_rps), number)
            self._sent += len(most.offsets_ns) + plan.warmup_requests
            search.observe(rate_rps, not why)
            if engine.failure() is not None:
                break
        return largest_held(search, load, tuple(probes), windows)

    def _window(self, plan: LoadPlan, engine: RunningEngine, workdir: Path, launch_s: float, text: str = "") -> Window:
        total = len(plan.offsets_ns) or plan.requests
        if self._inputs.web_ui is not None:
            self._inputs.web_ui.watch(workdir / "load", plan, text or workdir.name)
        scraper = Scraper(engine.endpoint, is_wanted=self._workload.engine_metrics)
        keeps_texts = self._inputs.scenario.keep_texts
        with ResourceSampler(lambda: engine.pids) as sampler, scraper, texts_of(workdir / "load", keeps_texts):
            result = drive(
                plan,
                workdir,
                should_stop=engine.failure,
                on_progress=lambda done: None,
                on_state=lambda state: self._progress.on_phase(_phase(plan, state, total, text)),
                open_processes=self._inputs.hosts.open if self._inputs.hosts else None,
                model=self._model,
                checks=checks_of(self._racing, plan, sampler),
            )
        result = replace(result if keeps_texts else without_words(result), notes=(*result.notes, *self._warm))
        use = sampler.use(result.begin_ns, result.end_ns, result.client_cpu_s, result.processes)
        summary = summarize(
            result.records,
            result.begin_ns,
            result.end_ns,
            use,
            load_s=launch_s,
            slo=self._workload.slo.thresholds() if self._workload.slo else None,
            asked_rps=result.open_loop.asked_rps if result.open_loop else None,
            is_open_loop=plan.is_open_loop,
            unlimited_hit_frac=plan.unlimited_hit_frac if plan.own_history is None else result.known_input_frac,
        )
        if bounded := why_bounded(result):
            summary = summary.doubted([Doubt(kind="held_back", sentence=bounded)])
        if result.too_many_errors:
            summary = summary.doubted([Doubt(kind="ended_early", sentence=result.too_many_errors)])
        summary = summary.doubted(result.doubts)
        if plan.locustfile:
            summary = _of_own_users(summary, result)
        limited = self._why_limited(plan, result, use)
        found = scraper.metrics
        if self._workload.engine_metrics:
            summary = with_limits(summary, found, result.records, (result.begin_ns, result.end_ns), limited)
        if "cached_input_unlimited_frac" in summary.metrics:
            summary = self._with_prefix_cache(summary, found)
        window = Window(
            result=result, use=use, telemetry=sampler.telemetry(), engine_metrics=found, summary=summary,
            limited=limited, racing=self._racing,
        )  # fmt: skip
        return window if self._racing is None else _settled(window, self._racing, self._goals)

    def _with_prefix_cache(self, summary: TrialSummary, found: EngineMetrics) -> TrialSummary:
        load, new_tokens = self._workload.load, self._workload.parameters.max_new_tokens
        if not isinstance(load, TraceLoad):
            return with_prefix_cache(summary, found, None, 0, new_tokens)
        return with_prefix_cache(summary, found, self._schedule(load, 0), load.block_tokens, new_tokens)

    def _why_limited(self, plan: LoadPlan, result: LoadResult, use: ResourceUse) -> str:
        """'' or why the window is void: its client was the bottleneck."""
        facts = result.open_loop
        verdict = client_verdict(
            result.records,
            replace(use, client_s=sum(result.client_busy_s)),  # of every host's load processes
            is_open_loop=plan.is_open_loop,
            max_in_flight=facts.max_in_flight if facts else 0,
            waited=facts.waited if facts else 0,
        )
        # The ceiling is that of our own client: of the user's, only its CPU is known.
        return verdict or ("" if plan.locustfile else self._ceilings.why_beyond(result)) or ""

    def _closed(self, load: ClosedLoad, endpoint: Endpoint) -> LoadPlan:
        plan = replace(
            self._plan(endpoint),
            users=load.most_users,
            think_time_s=load.think_time_s,
            processes=max(self._hosts, load.processes or 1),
        )
        return self._texts.filled(plan, self._model.folder)

    def _open(self, load: Open, engine: RunningEngine, probe: int) -> LoadPlan:
        schedule = self._schedule(load, probe)
        plan = replace(
            self._plan(engine.endpoint),
            offsets_ns=schedule.offsets_ns,
            window_s=schedule.duration_s,
            max_in_flight=load.max_in_flight,
            follows=schedule.follows,
            think_time_s=load.think_time_s if isinstance(load, TraceLoad) else 0.0,
            input_lengths=schedule.input_lengths,
            output_lengths=schedule.output_lengths,
            unlimited_hit_frac=schedule.unlimited_hit_frac(load.block_tokens) if isinstance(load, TraceLoad) else None,
            processes=max(
                self._hosts,
                load.processes
                or self._ceilings.processes_for(schedule.peak_rps, is_capped=probe > 0, hosts=self._hosts),
            ),
            warmup_requests=self._workload.warmup_requests if probe < 2 else 0,
        )
        return self._texts.filled(plan, self._model.folder, schedule.blocks)

    def _schedule(self, load: Open, probe: int) -> Schedule:
        return schedule_of(
            load,
            requests=self._workload.requests if probe == 0 else MAX_PROBE_REQUESTS,
            max_duration_s=self._workload.max_duration_s,
            seed=self._seed + probe,
            trace_path=self._inputs.trace_path,
        )

    def _plan(self, endpoint: Endpoint) -> LoadPlan:
        workload, own = self._workload, self._inputs.locustfile
        return LoadPlan(
            **asked(endpoint, workload, self._engine),
            prompts=self._inputs.prompts,
            inputs_per_request=workload.inputs_per_request,
            parameters=workload.parameters.model_dump(),
            users=1,
            think_time_s=0.0,
            warmup_requests=workload.warmup_requests,
            requests=workload.requests,
            max_duration_s=workload.max_duration_s,
            request_timeout_s=workload.request_timeout_s,
            stream=workload.stream,
            seed=self._seed,
            sent_before=self._sent,
            locustfile=str(own.path) if own else "",
            locustfile_sha256=own.sha256 if own else "",
            spawn_per_s=workload.spawn_per_s,
            max_error_frac=workload.max_error_frac,
        )


ORDER_STRIDE = 1_000
"""Seeds between two arrival orders; the probes of a maximum-rate search take the ones between."""

MAX_PROBE_REQUESTS = 1_000_000
"""A probe of a maximum-rate search lasts max_duration_s, however many requests that is."""


def _phase(plan: LoadPlan, state: LoadState, total: int, text: str) -> Phase:
    """What the display shows of a load: in an open loop the rates asked and delivered so far, and what is in flight."""
    parts = [text] if text else []
    if plan.is_open_loop and state.elapsed_s > 0:
        elapsed_s = min(state.elapsed_s, plan.window_s)
        parts.append(
            f"asked {state.asked / elapsed_s:.4g}/s, answered {state.done / state.elapsed_s:.4g}/s, "
            f"{state.in_flight} in flight"
        )
    return Phase(name="load", done=state.done, total=total, text=", ".join(parts))


def _settled(window: Window, racing: Racing, goals: Goals) -> Window:
    """The window with what its race came to."""
    if racing.race is not None:
        return replace(window, summary=as_bound(window.summary, racing.race))
    if racing.broken:
        return replace(window, summary=as_broken(window.summary, goals))
    result = replace(window.result, notes=(*window.result.notes, *([racing.spared] if racing.spared else [])))
    return replace(window, result=result)


def _of_own_users(summary: TrialSummary, result: LoadResult) -> TrialSummary:
    """The note on what a user's own locustfile cannot measure."""
    if mixed := mixture(result.records):
        summary = summary.doubted([Doubt(kind="mixed_requests", sentence=mixed)])
    return replace(summary, unavailable=unavailable(result.records))
