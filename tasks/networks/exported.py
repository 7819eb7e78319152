"""Networks from a file of torch.export, which holds the program as well as the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.classifier.problems import BadNetwork
from tasks.networks.families.foreign import ForeignNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn


class Exported(ForeignNetwork):
    """The program in the checkpoint's file, a `.pt2` exported with a dynamic first dimension."""

    version: ClassVar[int] = 1
    kind: Literal["exported"] = "exported"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """There is none without the file."""
        raise BadNetwork("network exported: it is in its file; give a checkpoint, not a recipe")

    def restored(
        self, program: dict[str, Any], weights: Mapping[str, Tensor], channels: int
    ) -> nn.Module:
        """The program with its weights as a module, from `tasks.classifier.exported.read`."""
        from tasks.networks.modules.exported import ExportedNetwork

        return self.normalising(ExportedNetwork(program, weights), channels)
