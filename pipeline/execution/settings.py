"""How a run goes about its work. Nothing here enters a digest.

Batch sizes and thread counts move results only within rounding; each artifact's record
keeps the ones that it was made with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.catalogue.documents import read_yaml
from pipeline.catalogue.validation import ConfigEntry, validated
from pipeline.grid.kinds import KINDS, NODE_KINDS, NodeKind
from pipeline.problems import suggestion

Device = Literal["auto", "cpu", "cuda"]


SMALLEST_BATCH = 8
"""Where so few images at once do not fit, fewer would not either."""


class KindSettings(ConfigEntry):
    """How the nodes of one kind run.

    threads: CPU threads, and the CPUs that a Ray task asks for. gpus: the share of a GPU that
    a Ray task asks for where there are GPUs. memory_gb, gpu_memory_gb: what the rows that go
    through the network at once may take, on a CPU or a GPU; how many these are follows from the
    size of a row, as a power of two. batch_size: how many at most, images or draws of images.
    compiled: call the network through torch.compile, which pays where a worker process has
    minutes of work; without a compiler it runs as it is, and the record says so.
    """

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    memory_gb: Annotated[float, Field(gt=0, le=10**4)] = 0.75
    gpu_memory_gb: Annotated[float, Field(gt=0, le=10**4)] = 8.0
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 1024
    compiled: bool = False


class Settings(ConfigEntry):
    """Settings by kind of node.

    device: `auto` takes a GPU where a worker has one. attempts: how often a node is tried whose
    worker is lost, with a pause that doubles each time. deterministic: bit-equal results on a
    GPU, at a cost. beside: how many nodes share a machine's memory; Ray fills in as many as its
    CPUs allow. node_timeout_s: a node that tells nothing for so many seconds is ended, and
    its cells fail; by default nothing is ended. A training tells at the end of each epoch,
    attacks and defenses after each batch, and the reading of a data set nothing before its end.
    """

    device: Device = "auto"
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    deterministic: bool = False
    beside: Annotated[int, Field(ge=1, le=10**5)] = 1
    node_timeout_s: Annotated[float, Field(gt=0, le=2_592_000)] | None = None
    kinds: dict[str, KindSettings] = Field(default_factory=dict)
    """By kind of node: dataset, train, checkpoint, craft, select, defend, score and so on."""

    def of(self, kind: NodeKind) -> KindSettings:
        """The settings of one kind of node."""
        return self.kinds.get(kind, KindSettings())

    def smaller(self, kind: NodeKind) -> Settings | None:
        """With half the memory and batch size for one kind; None where that would not help."""
        own = self.of(kind)
        size = own.batch_size // 2
        if not KINDS[kind].batched or size < SMALLEST_BATCH:
            return None
        halves = {"memory_gb": own.memory_gb / 2, "gpu_memory_gb": own.gpu_memory_gb / 2}
        changed = own.model_copy(update={"batch_size": size, **halves})
        return self.model_copy(update={"kinds": {**self.kinds, kind: changed}})


def read_settings(path: Path) -> Settings:
    """Settings from a YAML file; BadInput, located, where it does not fit."""
    document = read_yaml(path)
    settings = validated(Settings, document, (), document.value)
    for kind in settings.kinds:
        if kind not in NODE_KINDS:
            message = f"unknown kind of node{suggestion(kind, NODE_KINDS)}"
            raise document.problem(("kinds", kind), message)
    return settings
