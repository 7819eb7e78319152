"""The machines of a Ray cluster, which may join and leave during a run."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.execution.settings import KindSettings, Settings
from pipeline.grid.kinds import NodeKind
from pipeline.plan.words import counted
from pipeline.problems import BadInput

KEPT_S = 5.0
"""How long the list of machines is used before Ray is asked for it again."""


class Machines:
    """CPUs and GPUs of the machines that Ray considers alive.

    Any method raises BadInput if there are GPUs, and a kind of node asks for more of them than any
    machine has had so far: Ray would keep its tasks waiting.

    Args:
        ray: The module, connected to the cluster.
        settings: Settings of the run.
        kinds: The kinds of node that the run may compute; other kinds' settings do not matter.
    """

    def __init__(self, ray: Any, settings: Settings, kinds: Collection[NodeKind]) -> None:
        self._ray = ray
        used = {name: kind for name, kind in settings.kinds.items() if name in kinds}
        self._kinds = used if settings.device != "cpu" else {}
        self._found: list[tuple[int, float]] = []
        self._until = -math.inf
        self._most_gpus = 0.0
        """Of a machine, now or earlier in the run."""
        self._grown = False
        self._all()
        self._grown = False

    def names(self) -> dict[str, str]:
        """Names by id, as of now."""
        return {
            machine["NodeID"]: f"{machine['NodeManagerHostname']} ({machine['NodeName']})"
            for machine in self._ray.nodes()
            if machine["Alive"]
        }

    @property
    def cpus(self) -> int:
        """Number of CPUs of all machines, at least 1."""
        return max(sum(cpus for cpus, _ in self._all()), 1)

    @property
    def gpus(self) -> float:
        """Number of GPUs of all machines."""
        return sum(gpus for _, gpus in self._all())

    def largest(self, gpus: float = 0.0) -> int:
        """Number of CPUs of the largest machine that has so many GPUs, at least 1."""
        return max([1, *(cpus for cpus, has in self._all() if has >= gpus)])

    def request(self, kind: KindSettings, *, on_gpu: bool) -> dict[str, float]:
        """Ray's options for a task of a kind, such that a machine has what it asks for."""
        gpus = kind.gpus if on_gpu and self.gpus else 0
        return {"num_cpus": min(kind.threads, self.largest(gpus)), "num_gpus": gpus}

    def lack(self, request: Mapping[str, float]) -> str | None:
        """What a task waits for because no machine is large enough for it; None if one is.

        Args:
            request: What `request` returned, possibly when there were larger machines.
        """
        needs = request["num_cpus"], request["num_gpus"]
        machines = self._all()
        if any(cpus >= needs[0] and gpus >= needs[1] for cpus, gpus in machines):
            return None
        largest = max(machines, key=lambda has: has[::-1], default=(0, 0.0))
        return f"a machine with {_size(*needs)}; the largest has {_size(*largest)}"

    def grew(self) -> bool:
        """Whether the number of CPUs has increased since this was last asked."""
        self._all()
        grown, self._grown = self._grown, False
        return grown

    def _all(self) -> list[tuple[int, float]]:
        if time.monotonic() >= self._until:
            before = sum(cpus for cpus, _ in self._found)
            self._found = [
                (int(machine["Resources"].get("CPU", 0)), machine["Resources"].get("GPU", 0.0))
                for machine in self._ray.nodes()
                if machine["Alive"]
            ]
            self._until = time.monotonic() + KEPT_S
            self._grown |= sum(cpus for cpus, _ in self._found) > before
            self._check()
        return self._found

    def _check(self) -> None:
        self._most_gpus = most = max([self._most_gpus, *(gpus for _, gpus in self._found)])
        for name, kind in self._kinds.items():
            if 0 < most < kind.gpus:
                raise BadInput(
                    f"settings: a {name} node asks for {kind.gpus:g} GPUs, and no machine has more "
                    f"than {most:g}; set `gpus` of {name} to {most:g} or less"
                )


def _size(cpus: float, gpus: float) -> str:
    beside = f" and {gpus:g} GPU{'s' * (gpus != 1)}" if gpus else ""
    return counted(int(cpus), "CPU") + beside
