"""Networks of timm, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from tasks.networks.families.foreign import ForeignNetwork
from tasks.registry import imported

if TYPE_CHECKING:
    from torch import nn


class Timm(ForeignNetwork):
    """A network of `timm.create_model`, without pretrained weights."""

    version: ClassVar[int] = 1
    library: ClassVar[str] = "timm"
    kind: Literal["timm"] = "timm"
    name: str
    """Name of the network, such as resnet18 or vit_tiny_patch16_224."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Further keyword arguments of `timm.create_model`, except those that load weights."""

    @field_validator("arguments")
    @classmethod
    def _no_weights(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in arguments:
            if name == "checkpoint_path" or name.startswith("pretrained"):
                raise ValueError(f"{name}: weights belong in `checkpoint`")
        return arguments

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def title(self) -> str:
        """See `ForeignNetwork.title`."""
        return f"timm {self.name}"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        timm = imported("timm", "timm")
        given = {"in_chans": channels, "num_classes": classes, **self.arguments}
        made: nn.Module = timm.create_model(self.name, pretrained=False, **given)
        return made
