"""The part of `dyno tune --places`: the machines of a cluster, of one class, as the places of a search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from engines.api import Availability, Capabilities
from engines.registry import traits
from harness.errors import UsageError
from harness.measure.machine.machine_class import Machine
from harness.places.calibrator import CalibrationTerms, metric_for
from harness.places.cluster import Cluster, Lost, Refused, machine_of, short
from harness.places.cluster_places import Asked, FarPlaces
from harness.places.open_cluster import open_cluster
from harness.places.proof import proof
from harness.places.requests import EngineThere, Measure, Question
from harness.places.split_check import check_split
from harness.places.survey import Found, chosen_class, survey
from harness.properties.containers import parse_container
from harness.records import Candidate
from harness.scenario.resolve import ResolvedScenario
from harness.space.candidates import GpuRoom, SpacePlan
from harness.space.machine_file import DescribedMachine, read_machine
from harness.store.codec import from_json, to_json
from harness.store.reader import read_calibrations
from harness.trial.bench import Bench
from harness.trial.reference import Reference
from harness.units import BYTES_PER_MIB

TRIALS_PER_MACHINE = 6
"""Beyond a sixth of search.trials, machines make the answer worse: the sampler proposes without having learned."""
ALL = 1_000_000
SPLIT_CHECK = "split_check"
"""The fact of a machine that states what was found before it was split."""
CAPABILITIES_S = 300.0
_OF_A_WHOLE_MACHINE: Mapping[str, Set[object]] = {"image": {None, ""}, "numa": {"none", "numactl"}}
"""Options by which a server takes cores beyond those that its process was given -> the values by which it does not."""

split_option = click.option(
    "--split",
    type=click.IntRange(1, 64),
    default=1,
    metavar="N",
    help="With --places: take each machine as N equal parts, where these slow each other by less than 2 %.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A cluster, and one machine of the class that the search runs on. `nodes`: machine id -> its node, of all that are
    of the class; the first is asked what it can do. `memories_mib` are theirs, of parts their shares."""

    cluster: Cluster
    machine: Machine
    nodes: Mapping[str, str]
    memories_mib: Set[float]
    _known: dict[EngineThere, Capabilities | Availability] = field(default_factory=dict)

    @property
    def is_unchecked(self) -> bool:
        """Whether its machines are parts of machines, and may slow each other down."""
        return self.cluster.split > 1 and SPLIT_CHECK not in self.machine.facts

    @property
    def cores(self) -> int:
        """Those that a server may use there."""
        return int(str(self.machine.facts["cores_usable"]))

    @property
    def most_memory_mib(self) -> float:
        """Of the machine or part with the most: what needs more fits nowhere."""
        return max(self.memories_mib)

    def with_most_memory(self, plan: SpacePlan) -> SpacePlan:
        """The plan, for the machine or part with the most memory."""
        return self._for(plan, self.most_memory_mib, " at most")

    def planned(self, plan: SpacePlan) -> SpacePlan:
        """The plan, for the machine or part with the least memory."""
        least_mib = min(self.memories_mib)
        plan = self._for(plan, least_mib, " at least")
        if self.cluster.split == 1:
            return plan
        whose = "the least" if len(self.memories_mib) > 1 else "its"
        warning = (
            f"{self._each} is planned with {least_mib:,.0f} MiB, {whose} share, and nothing holds a server to it: "
            "where servers need more at one time, the machine may end one of them"
        )
        return replace(plan, warnings=(*plan.warnings, warning))

    @property
    def _each(self) -> str:
        return "each machine" if (count := self.cluster.split) == 1 else f"each of the {count} parts of a machine"

    def _for(self, plan: SpacePlan, memory_mib: float, bound: str) -> SpacePlan:
        host = f"{self._each} has{bound if len(self.memories_mib) > 1 else ''}"
        return replace(plan, host=host, host_bytes=memory_mib * BYTES_PER_MIB, gpus=GpuRoom.of(self.machine.facts))

    def capabilities(
        self, engine: str, python: str = "", command: str = "", image: str = ""
    ) -> Capabilities | Availability:
        """What the engine can do on that machine, asked once."""
        asked = EngineThere(engine=engine, python=python, command=command, image=image)
        if asked not in self._known:
            self._known[asked] = self._ask(asked)
        return self._known[asked]

    def _ask(self, asked: EngineThere) -> Capabilities | Availability:
        """What the first machine answers that is not lost meanwhile. Raises as `chosen_class`."""
        lost: object = ""
        for node in self._nodes():
            task = self.cluster.ask(node, "capabilities", json.dumps(to_json(asked)))
            if self.cluster.wait([task], CAPABILITIES_S) is None:
                self.cluster.cancel(task, is_killed=True)
                return Availability(is_available=False, reason=f"node {short(node)} did not answer in time")
            try:
                reply = json.loads(self.cluster.answer(task))
            except Refused as error:
                return Availability(is_available=False, reason=f"asking node {short(node)} failed: {error}")
            except Lost as error:
                lost = error
                continue
            if "able" in reply:
                return from_json(Capabilities, reply["able"])
            return from_json(Availability, reply["not"])
        return Availability(is_available=False, reason=f"asking each machine failed: {lost}")

    def _nodes(self) -> Iterator[str]:
        """Of the machines of the class; where each was lost, those of the class that are there then."""
        yield from self.nodes.values()
        yield from _of_class(self.cluster, survey(self.cluster, waits=True), self.machine.machine_class).nodes.values()

    def checked(self, resolved: ResolvedScenario, cheap: Candidate, note: Callable[[str], None]) -> Elsewhere:
        """The parts of the machines that are there now, proven by launches of `cheap`, or the whole machines where a
        part is slowed down by the others. Raises as `chosen_class`, EnvironmentFault where a part does not measure."""
        cluster = self.cluster
        there = _of_class(cluster, survey(cluster, waits=True), self.machine.machine_class)
        names = {machine_of(node): part.rpartition(".")[0] for part, node in there.nodes.items()}
        limit_s = resolved.scenario.search.max_minutes * 60
        note(f"launching alone and side by side, to see whether the {cluster.split} parts slow each other down")
        order = Measure(
            token="",
            question=Question.of(resolved),
            reference=Reference(answers={}, source="none: only times are compared", is_available=False),
            number=0,
            candidate=cheap,
            left_s=limit_s,
            prefix="split",
        )
        found = check_split(
            cluster,
            names,
            order,
            metric_for(resolved.scenario),
            limit_s,
            lambda node, text: note(f"machine {names[node]}: {text}"),
        )
        lines = [
            f"machine {names[node]} is {'' if verdict.is_split else 'not '}split: {verdict.sentence}"
            for node, verdict in found.items()
        ]
        for line in lines:
            note(line)
        if not all(each.is_split for each in found.values()):
            note("every machine is taken whole")
            cluster.split = 1
            found_whole = survey(cluster, waits=True)
            there = _of_class(cluster, [each for each in found_whole if each.machine_id in names.values()], None)
        facts = {**there.machine.facts, SPLIT_CHECK: "; ".join(lines)}
        return replace(there, machine=replace(there.machine, facts=facts))

    def places(
        self, bench: Bench, resolved: ResolvedScenario, cheap: Candidate, note: Callable[[str], None]
    ) -> FarPlaces:
        """The places of the search, each proven; `cheap` is the candidate that compares them. Raises EnvironmentFault
        where there is none."""
        search = resolved.scenario.search
        asked = Asked(
            question=Question.of(resolved),
            proof=proof(resolved),
            machine_class=self.machine.machine_class,
            only=frozenset(self.nodes) if self.cluster.split > 1 else None,
            reference=bench.reference,
            left_s=bench.left_s,
            calibration=CalibrationTerms(
                candidate=cheap,
                metric=metric_for(resolved.scenario),
                keep=bench.writer.append_calibration,
                publish=bench.writer.set_machines,
                note=note,
                machines=bench.writer.manifest.machines,
                trials=len(bench.stored),
                planned=search.trials,
                launches=len(read_calibrations(bench.writer.layout.root)),
            ),
        )
        # A grid's order depends on no result.
        most = ALL if search.sampler == "grid" else max(1, search.trials // TRIALS_PER_MACHINE)
        places = FarPlaces(self.cluster, asked, bench.writer.layout, most=most, note=note)
        places.admit()
        return places


@contextmanager
def elsewhere(
    address: str | None, machine_class: str | None, described: Path | None = None, split: int = 1
) -> Iterator[Elsewhere | None]:
    """The cluster at `address`, closed at the end, each machine in `split` parts, and a machine of `machine_class`
    (None: of the largest class); None without an address. `described` is the file of a machine, which no machine of a
    cluster has. Raises UsageError, EnvironmentFault."""
    if address is None:
        if split > 1:
            raise UsageError("--split is for --places; name the cluster whose machines it splits (of one machine too)")
        if machine_class is not None:
            raise UsageError("--machines is for --places; name the cluster whose machines it chooses from")
        yield None
        return
    if described is not None:
        raise UsageError("--machine and --places are not combined: the machines of a cluster are asked, not described")
    with open_cluster(address, split) as cluster:
        found = survey(cluster)
        for node, why in dict.fromkeys((machine_of(each.node), each.why) for each in found if each.why):
            click.echo(f"left out: node {short(node)}: {why}", err=True)
        yield _of_class(cluster, found, machine_class)


def _of_class(cluster: Cluster, found: Sequence[Found], machine_class: str | None) -> Elsewhere:
    """The machines of a class. Raises as `chosen_class`."""
    chosen = chosen_class(found, machine_class).machine
    known = [(each.described.machine, each.node) for each in found if each.described is not None]
    known = [(machine, node) for machine, node in known if machine.machine_class == chosen.machine_class]
    memories_mib = {float(str(machine.facts["memory_mib"])) for machine, _ in known}
    nodes = {machine.machine_id: node for machine, node in known}
    return Elsewhere(cluster=cluster, machine=chosen, nodes=nodes, memories_mib=memories_mib)


def check_goes_elsewhere(
    resolved: ResolvedScenario, address: str | None, *, others: Mapping[str, object], is_split: bool = False
) -> None:
    """Raises UsageError for what cannot be done on machines of a cluster, or on parts of them. `others`: options that
    do not go with --places, None where not given."""
    if address is None:
        return
    for option in [name for name, given in others.items() if given is not None]:
        raise UsageError(f"{option} and --places are not combined: each place sends the load to its engine itself")
    if not parse_container(resolved.scenario.recommend.container).is_own:
        raise UsageError(
            f"{resolved.path}: recommend.container {resolved.scenario.recommend.container}: with --places the file is "
            "measured again where it was measured, which only our own server can; search for dynamometer-0.1, then run "
            "`dyno recommend --container`"
        )
    for block in resolved.scenario.space:
        if traits(block.engine).is_elsewhere or traits(block.engine).is_rented:
            raise UsageError(
                f"{resolved.path}: --places is for engines that are launched on the machines; the server of "
                f"{block.engine} is somewhere else already; leave --places out"
            )
        for option in _OF_A_WHOLE_MACHINE if is_split else ():
            if not set(block.options.get(option, ())) <= _OF_A_WHOLE_MACHINE[option]:
                raise UsageError(
                    f"{resolved.path}: --split and option {option} of {block.engine} are not combined: with it a "
                    "server runs on all cores of a machine; leave one of them out"
                )


def described_machine(path: Path | None, *, is_planned: bool) -> DescribedMachine | None:
    """The machine in the file `path`, None without one. Raises UsageError where more than a plan is asked for, and what
    reading the file raises."""
    if path is None:
        return None
    if not is_planned:
        raise UsageError("--machine describes a machine that is not here, and nothing is launched there; add --dry-run")
    return read_machine(path)


def facts_there(there: Elsewhere | None, machine: DescribedMachine | None) -> Mapping[str, object] | None:
    """The facts by which earlier runs are known as those of the machine that measures; None: of this one."""
    if machine is not None:
        return {"gpu_described": machine.name}  # its class is that of no run
    return there.machine.facts if there else None
