"""Settings of a run that do not affect its results, so they are not part of any digest.

Batch sizes and numbers of threads affect results only by rounding; each artifact records those that
it was computed with.
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
"""Smallest batch size that is tried after an out-of-memory error."""


class KindSettings(ConfigEntry):
    """Settings for all nodes of one kind."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of a node, and the number of CPUs that its Ray task requests."""
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    """Share of a GPU that its Ray task requests, if there are GPUs."""
    memory_gb: Annotated[float, Field(gt=0, le=10**4)] = 0.75
    """Memory for the images that pass through the network at once, on a CPU. The batch size follows
    from it and the memory of one image, as a power of two."""
    gpu_memory_gb: Annotated[float, Field(gt=0, le=10**4)] = 8.0
    """The same on a GPU."""
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 1024
    """Upper limit of the batch size, in images or draws of images."""
    compiled: bool = False
    """Run the network through torch.compile, which pays off if a worker process has minutes of
    work. Without a compiler the network runs as it is, and the record says so."""


class Settings(ConfigEntry):
    """Settings of a run."""

    device: Device = "auto"
    """`cpu`, `cuda`, or `auto`, which uses a GPU where a worker has one."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a node is attempted if its worker is lost. The pause before a retry doubles each
    time."""
    deterministic: bool = False
    """Use deterministic algorithms on a GPU, for bit-identical results; slower."""
    beside: Annotated[int, Field(ge=1, le=10**5)] = 1
    """Number of nodes that share the memory of a machine. On Ray it is derived from the CPUs."""
    node_timeout_s: Annotated[float, Field(gt=0, le=2_592_000)] | None = None
    """Terminate a node that reports no progress for so many seconds; its cells fail. Off by
    default. A training reports after each epoch, attacks and defenses after each batch, the reading
    of a data set only at its end."""
    kinds: dict[str, KindSettings] = Field(default_factory=dict)
    """Settings by kind of node, such as train, craft, select, defend or score."""

    def of(self, kind: NodeKind) -> KindSettings:
        """The settings for a kind of node."""
        return self.kinds.get(kind, KindSettings())

    def smaller(self, kind: NodeKind) -> Settings | None:
        """The settings with half the memory and batch size for one kind; None if too small."""
        own = self.of(kind)
        size = own.batch_size // 2
        if not KINDS[kind].batched or size < SMALLEST_BATCH:
            return None
        halves = {"memory_gb": own.memory_gb / 2, "gpu_memory_gb": own.gpu_memory_gb / 2}
        changed = own.model_copy(update={"batch_size": size, **halves})
        return self.model_copy(update={"kinds": {**self.kinds, kind: changed}})


def read_settings(path: Path) -> Settings:
    """Read settings from a YAML file; BadInput if it is invalid."""
    document = read_yaml(path)
    settings = validated(Settings, document, (), document.value)
    for kind in settings.kinds:
        if kind not in NODE_KINDS:
            message = f"unknown kind of node{suggestion(kind, NODE_KINDS)}"
            raise document.problem(("kinds", kind), message)
    return settings
