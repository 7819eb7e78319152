"""Estimates of computing time, from recorded timings or else from counted operations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import median

from pipeline.catalogue.devices import Device, Speed, cpu_name, device_named
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import KINDS, NODE_KINDS, NodeKind
from pipeline.grid.workloads import CountMultiplications, SpeedClass, Workload, stated, workload
from pipeline.plan.timings import Timing, recorded_multiplications, recorded_timings
from pipeline.plan.words import counted, roughly_between
from pipeline.problems import BadInput
from pipeline.store.store import Store
from tasks.data.spec import DatasetSpec
from tasks.specs import Precision

FLOP = 2
"""Floating-point operations of a multiply-add."""

TOUCH = 10
"""Number of float32 multiplications that take as long as one memory access: 5 to 10 on a core of a
Xeon."""


@dataclass(frozen=True)
class Estimate:
    """Estimated seconds of work by kind of node, not including the kinds in `unknown`.

    The values assume that each candidate of an adaptive attack is crafted for all images, and those
    that begin with `least_` that the first candidate succeeds on every image. Both are estimates
    and no bounds, since the time of a unit of work is itself estimated.

    Attributes:
        device: Name of the device; a worker is one device, or one core of a CPU.
        seconds: Seconds by kind.
        chain_s: Duration of the longest chain of dependent nodes (critical path), in seconds.
        basis: Where the numbers come from, for people.
        unknown: Kinds without an estimate.
        spared: Part of the seconds that may turn out to be unnecessary, by kind.
        least_chain_s: `chain_s` without what may turn out to be unnecessary.
    """

    device: str
    workers: int
    seconds: Mapping[NodeKind, float]
    chain_s: float
    basis: tuple[str, ...]
    unknown: tuple[NodeKind, ...] = ()
    by_node: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each node, by digest."""
    spared: Mapping[NodeKind, float] = field(default_factory=dict)
    least_chain_s: float = 0.0
    assumed: tuple[Precision, ...] = ()
    """Precisions whose speed is an assumption and was not measured."""
    counted: bool = False
    """Whether some of it follows from counted operations alone, which small networks perform more
    slowly."""

    @property
    def work_s(self) -> float:
        """Total work of all nodes in seconds."""
        return sum(self.seconds.values())

    @property
    def least_work_s(self) -> float:
        """`work_s` without what may turn out to be unnecessary."""
        return self.work_s - sum(self.spared.values())

    @property
    def wall_s(self) -> float:
        """Duration with all workers: the longest chain or the evenly divided work."""
        return max(self.chain_s, self.work_s / self.workers)

    @property
    def least_wall_s(self) -> float:
        """`wall_s` without what may turn out to be unnecessary."""
        return max(self.least_chain_s, self.least_work_s / self.workers)

    def lines(self) -> Iterator[str]:
        """The estimate for people; no lines if there is no work."""
        if not self.seconds and not self.unknown:
            return
        kinds = ", ".join(
            f"{kind} {roughly_between(taken - self.spared.get(kind, 0.0), taken)}"
            for kind, taken in self.seconds.items()
        )
        if not self.work_s:
            yield f"estimated work on {self.device}: not known before the first run"
            yield from (f"basis: {words}" for words in self.basis)
            return
        without_some = any(KINDS[kind].uses_network for kind in self.unknown)
        about = "at least about" if without_some or self.counted else "about"
        work = roughly_between(self.least_work_s, self.work_s) + (f" ({kinds})" if kinds else "")
        yield f"estimated work on {self.device}: {about} {work}"
        chain = roughly_between(self.least_chain_s, self.chain_s)
        wall = roughly_between(self.least_wall_s, self.wall_s)
        yield (
            f"estimated time with {counted(self.workers, 'worker')}: {about} {wall}; the longest "
            f"chain takes about {chain}"
        )
        if any(self.spared.values()):
            yield (
                "a range, since a candidate is crafted only for images that no candidate before it "
                "broke: from none to all of them"
            )
        for words in self.basis:
            yield f"basis: {words}"

    def facts(self) -> dict[str, object]:
        """The estimate for programs, in hours."""
        return {
            "device": self.device,
            "workers": self.workers,
            "node_hours": {kind: taken / 3600 for kind, taken in self.seconds.items()},
            "hours": self.wall_s / 3600,
            "least_hours": self.least_wall_s / 3600,
            "longest_chain_hours": self.chain_s / 3600,
            "basis": list(self.basis),
            "unknown": list(self.unknown),
        }


def estimate(
    graph: Graph,
    todo: Collection[str],
    store: Store,
    *,
    devices: Mapping[str, Device],
    train_images: Mapping[DatasetSpec, int],
    device: str | None = None,
    workers: int = 1,
    measured: Mapping[Precision, Speed] | None = None,
) -> Estimate:
    """Estimate the work of the nodes in `todo` on a device.

    The time of a node is its workload times the median pace (seconds per unit) of recorded timings
    of its speed class, or else of its kind and network; or else its operations divided by the speed
    in `devices`.

    Args:
        todo: Digests of the nodes.
        train_images: See `workload`.
        device: Name of the device; this machine's CPU by default.
        workers: Number of workers.
        measured: Measured speeds of this machine's CPU, used instead of those in `devices`.

    Raises:
        BadInput: If neither the store nor `devices` knows the device.
    """
    nodes = [node for node in graph if node.digest in todo]

    def standing(select: Node) -> int | None:
        record = store.known(select.kind, select.digest) if select.digest not in todo else None
        return int(str(record.facts["standing"])) if record is not None else None

    costs, left = _costs(store), cache(standing)
    works = {node.digest: workload(node, train_images, costs, left) for node in nodes}
    name = device or cpu_name()
    speed_classes = {work.speed_class for work in works.values()}
    timings = recorded_timings(graph, speed_classes, store, name) if nodes else []
    stated = device_named(name, devices)
    if device is not None and nodes and stated is None and not timings:
        known = ", ".join(devices)
        raise BadInput(
            f"--for-device {device}: the store has no timing of it, and devices.yaml has {known}"
        )
    paces = _Paces(timings, stated, devices, (measured or {}) if device is None else {})
    seconds: dict[NodeKind, float] = {}
    spared: dict[NodeKind, float] = {}
    ends: dict[str, tuple[float, float]] = {}
    by_node: dict[str, float] = {}
    for node in nodes:
        work = works[node.digest]
        taken = paces.seconds(work)
        not_needed = taken * work.spared / work.amount if work.amount else 0.0
        by_node[node.digest] = taken
        seconds[node.kind] = seconds.get(node.kind, 0.0) + taken
        spared[node.kind] = spared.get(node.kind, 0.0) + not_needed
        before = [ends.get(parent.digest, (0.0, 0.0)) for _, parent in node.parents]
        least = max((end[0] for end in before), default=0.0)
        most = max((end[1] for end in before), default=0.0)
        ends[node.digest] = (least + taken - not_needed, most + taken)
    return Estimate(
        device=name,
        workers=workers,
        seconds={kind: seconds[kind] for kind in NODE_KINDS if seconds.get(kind)},
        chain_s=max((most for _, most in ends.values()), default=0.0),
        least_chain_s=max((least for least, _ in ends.values()), default=0.0),
        basis=tuple(paces.words(name)),
        unknown=tuple(kind for kind in NODE_KINDS if kind in paces.unknown),
        by_node=by_node,
        spared={kind: taken for kind, taken in spared.items() if taken},
        assumed=tuple(paces.assumed()),
        counted=paces.counts,
    )


def _costs(store: Store) -> CountMultiplications:
    """A function for the cost of a model: as stated by its network, else as counted by a run."""

    @cache
    def cost(model: Node) -> int:
        try:
            return stated(model)
        except NotImplementedError:
            record = store.known(model.kind, model.digest)
            counted = None if record is None else recorded_multiplications(record)
            if counted is None:
                raise
            return counted

    return cost


@dataclass
class _Paces:
    """Converts workloads to seconds, and records which sources were used."""

    timings: list[Timing]
    stated: str | None
    devices: Mapping[str, Device]
    measured: Mapping[Precision, Speed]
    unknown: set[NodeKind] = field(default_factory=set)
    _used: dict[NodeKind, dict[int, Timing]] = field(default_factory=dict)
    _flop: dict[tuple[NodeKind, Precision], float] = field(default_factory=dict)
    _touched: dict[NodeKind, float] = field(default_factory=dict)
    _found: dict[SpeedClass, tuple[float, list[Timing]] | None] = field(default_factory=dict)

    def seconds(self, work: Workload) -> float:
        """Seconds for a workload; 0 if there is no basis for an estimate."""
        kind = work.speed_class.kind
        if not work.amount:
            self.unknown.add(kind)
            return 0.0
        if work.speed_class not in self._found:
            self._found[work.speed_class] = self._recorded(work.speed_class)
        recorded = self._found[work.speed_class]
        if recorded is not None:
            pace, timings = recorded
            self._used.setdefault(kind, {}).update({id(timing): timing for timing in timings})
            # timings of the same method include its memory accesses
            same = timings[0].workload.speed_class.method == work.speed_class.method
            return pace * work.amount + (0.0 if same else self._touching(work))
        if not KINDS[kind].uses_network or self.stated is None:
            self.unknown.add(kind)
            return 0.0
        flop = FLOP * work.amount
        key = (kind, work.speed_class.precision)
        self._flop[key] = self._flop.get(key, 0.0) + flop
        return flop / self._speed(work.speed_class.precision).flop_per_s + self._touching(work)

    def _touching(self, work: Workload) -> float:
        """Seconds of the memory accesses of defenses, at the speed of float32 in any precision."""
        if not work.touched or self.stated is None:
            return 0.0
        kind = work.speed_class.kind
        self._touched[kind] = self._touched.get(kind, 0.0) + work.touched
        return FLOP * TOUCH * work.touched / self._speed("float32").flop_per_s

    def _recorded(self, speed_class: SpeedClass) -> tuple[float, list[Timing]] | None:
        near = [each for each in self.timings if _alike(each.workload.speed_class, speed_class)]
        same = [each for each in near if each.workload.speed_class.method == speed_class.method]
        chosen = same or near
        return (median(each.pace for each in chosen), chosen) if chosen else None

    @property
    def counts(self) -> bool:
        """Whether the operations of a workload were counted, without a recorded timing."""
        return bool(self._flop)

    def words(self, device: str) -> Iterator[str]:
        """The basis of the estimates given so far, for people."""
        if self._used:
            used = {key: timing for each in self._used.values() for key, timing in each.items()}
            names = ", ".join(sorted({timing.device for timing in used.values()}))
            count = counted(len(used), "recorded timing")
            yield f"{_listed(self._used)} from {count} on {names}"
        for precision in sorted({precision for _, precision in self._flop}):
            parts = {kind: flop for (kind, own), flop in self._flop.items() if own == precision}
            speed = self._speed(precision)
            yield (
                f"{_listed(parts)} counted {sum(parts.values()):.2g} FLOP "
                f"at {speed} ({self.stated}, {precision})"
            )
        if self._touched:
            yield (
                f"{_listed(self._touched)} counted {sum(self._touched.values()):.2g} numbers that "
                f"defenses read and write, each as {TOUCH} multiplications in float32"
            )
        if self.unknown:
            yield f"{_listed(self.unknown)} left out, with no recorded timing on {device}"

    def assumed(self) -> Iterator[Precision]:
        """Precisions in use whose speed is an assumption."""
        used = {precision for _, precision in self._flop}
        if self._touched:
            used.add("float32")
        for precision in sorted(used):
            if self._speed(precision).basis == "assumed":
                yield precision

    def _speed(self, precision: Precision) -> Speed:
        if precision in self.measured:
            return self.measured[precision]
        assert self.stated is not None
        return self.devices[self.stated].speed(precision)


def _alike(one: SpeedClass, other: SpeedClass) -> bool:
    same = (one.kind, one.network, one.precision) == (other.kind, other.network, other.precision)
    return same and (one.method == other.method or KINDS[one.kind].uses_network)


def _listed(kinds: Collection[NodeKind]) -> str:
    return ", ".join(kind for kind in NODE_KINDS if kind in kinds)
