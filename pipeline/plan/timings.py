"""Timings from the records of a store, from which the speed of a device is derived."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.grid.graph import Node
from pipeline.grid.kinds import KINDS, NODE_KINDS
from pipeline.grid.workloads import SpeedClass, Workload, multiplications, speed_class
from pipeline.store.records import Record
from pipeline.store.store import Store
from tasks import registry
from tasks.data.spec import DatasetSpec
from tasks.networks.base import Network
from tasks.training.recipe import Recipe

ENOUGH = 9
"""Maximum number of timings of a speed class; more would hardly change the median."""
TRIES = 50
"""Maximum number of nodes of a speed class whose records are looked up."""
SCANNED = 200
"""Maximum number of records of a kind that are read outside the graph."""


@dataclass(frozen=True)
class Timing:
    """A completed workload, with its duration and device."""

    workload: Workload
    seconds: float
    device: str

    @property
    def pace(self) -> float:
        """Seconds per unit of work."""
        return self.seconds / self.workload.amount


def recorded_timings(
    nodes: Iterable[Node], speed_classes: Collection[SpeedClass], store: Store, device: str
) -> list[Timing]:
    """Timings of these speed classes on a device, or of others with the same kind and network.

    The number of records read is bounded. For a class without timings among `nodes`, other
    artifacts of the store are read.

    Args:
        device: Name of the device, or a part of it.
    """
    reader = _Reader(store, device.casefold())
    alike = {(wanted.kind, wanted.network, wanted.precision) for wanted in speed_classes}
    found: dict[SpeedClass, list[Timing]] = {}
    for each, members in _by_speed_class(nodes).items():
        if (each.kind, each.network, each.precision) in alike:
            timings = reader.timings((node.kind, node.digest) for node in members[:TRIES])
            found[each] = _first(timings, ENOUGH)
    for kind in sorted({wanted.kind for wanted in speed_classes if not found.get(wanted)}):
        for timing in reader.timings((kind, digest) for digest in store.some(kind, SCANNED)):
            found.setdefault(timing.workload.speed_class, []).append(timing)
    return [timing for timings in found.values() for timing in timings]


def _by_speed_class(nodes: Iterable[Node]) -> dict[SpeedClass, list[Node]]:
    """Nodes by speed class, in the order of their digests, which favours no grid."""
    found: dict[SpeedClass, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: node.digest):
        found.setdefault(speed_class(node), []).append(node)
    return found


def _first(timings: Iterator[Timing], count: int) -> list[Timing]:
    return [timing for timing, _ in zip(timings, range(count), strict=False)]


@dataclass
class _Reader:
    """Reads timings from records, each record once."""

    store: Store
    device: str
    _read_already: set[str] = field(default_factory=set)
    _known: dict[str, Record | None] = field(default_factory=dict)
    _costs: dict[str, tuple[str, int]] = field(default_factory=dict)

    def timings(self, artifacts: Iterable[tuple[str, str]]) -> Iterator[Timing]:
        """Timings on the device from artifacts that have not been read yet."""
        for kind, digest in artifacts:
            if digest in self._read_already:
                continue
            self._read_already.add(digest)
            record = self._record(kind, digest)
            timing = record and self._timing(record)
            if timing and self.device in timing.device.casefold():
                yield timing

    def _record(self, kind: str, digest: str) -> Record | None:
        if digest not in self._known:
            self._known[digest] = self.store.known(kind, digest)
        return self._known[digest]

    def _timing(self, record: Record) -> Timing | None:
        """The timing in a record; None if it has none, as records of other versions may."""
        try:
            workload, seconds = self._work(record)
            device = str(record.how["device"])
        except (KeyError, TypeError, ValueError, NotImplementedError):
            return None
        if not (workload.amount > 0 and seconds > 0):
            return None
        return Timing(workload, seconds, device)

    def _work(self, record: Record) -> tuple[Workload, float]:
        spec: Mapping[str, Any] = record.spec
        how: Mapping[str, Any] = record.how
        facts: Mapping[str, Any] = record.facts
        seconds = float(how["seconds"])
        kind = next((known for known in NODE_KINDS if known == record.kind), None)
        if kind is None:
            raise ValueError(f"no kind of node: {record.kind}")
        if KINDS[kind].batched:
            network, each = self._cost(self._parent(record, "model"))
            method = " on ".join(
                _method(spec[key])
                for key in ("attack", "against", "defense")
                if spec.get(key) is not None
            )
            amount = float((how["forwards"] + how["backwards"]) * each)
            return Workload(SpeedClass(kind, network, spec["precision"], method), amount), seconds
        match kind:
            case "train":
                # of a resumed training only the facts of each epoch hold all seconds
                times, speeds = facts["timings"]["seconds"], facts["timings"]["images_per_second"]
                images = sum(time * speed for time, speed in zip(times, speeds, strict=True))
                recipe = Recipe.model_validate(spec["recipe"])
                network, each = self._cost(record)
                amount = images * recipe.forwards_and_backwards().equivalents * each
                found = SpeedClass("train", network, recipe.precision, recipe.method)
                return Workload(found, amount), float(sum(times))
            case "score":
                amount = float(facts["images"] * facts["redraws"])
                return Workload(SpeedClass("score"), amount), seconds
            case "checkpoint" | "ensemble":
                return Workload(SpeedClass(kind, spec["network"]["kind"]), 1.0), seconds
            case "dataset":
                return Workload(SpeedClass("dataset", method=spec["kind"]), 1.0), seconds
        raise ValueError(f"nothing tells the speed of a {kind}")

    def _cost(self, model: Record) -> tuple[str, int]:
        """The kind of a model's network, and the multiplications of one forward pass."""
        if model.digest not in self._costs:
            dataset = DatasetSpec.model_validate(self._parent(model, "dataset").spec)
            fields: Any = model.spec["network"]
            network = registry.kind_class("networks", fields["kind"]).model_validate(fields)
            assert isinstance(network, Network)
            counted = recorded_multiplications(model)
            cost = multiplications(network, dataset) if counted is None else counted
            self._costs[model.digest] = (network.kind, cost)
        return self._costs[model.digest]

    def _parent(self, record: Record, role: str) -> Record:
        found = self._record(*record.parents[role])
        if found is None:
            raise KeyError(role)
        return found


def recorded_multiplications(model: Record) -> int | None:
    """Multiplications of a forward pass as counted by a run; None if not recorded."""
    found = model.facts.get("multiplications")
    return found if type(found) is int and found >= 0 else None


def _method(spec: Mapping[str, Any]) -> str:
    parts = spec.get("parts")
    return "+".join(map(_method, parts)) if parts else str(spec["kind"])
