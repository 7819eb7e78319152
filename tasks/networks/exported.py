"""Networks from a file of `torch.export`, which holds the program as well as the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.classifier.problems import BadNetwork
from tasks.networks.families.foreign import ForeignNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn


class Exported(ForeignNetwork):
    """A program of `torch.export` in the checkpoint's `.pt2` file, with a dynamic batch size."""

    version: ClassVar[int] = 1
    kind: Literal["exported"] = "exported"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """Raise BadNetwork: without the file there is no module."""
        raise BadNetwork("network exported: it is in its file; give a checkpoint, not a recipe")

    def restored(
        self, program: dict[str, Any], weights: Mapping[str, Tensor], channels: int
    ) -> nn.Module:
        """Return the module of a program and weights, as `tasks.classifier.exported.read` gives."""
        from tasks.networks.modules.exported import ExportedNetwork

        return self.normalising(ExportedNetwork(program, weights), channels)
