"""Networks from any callable that returns a module: a user's file, or an installed package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from tasks.classifier.problems import BadNetwork
from tasks.networks.families.foreign import ForeignNetwork

if TYPE_CHECKING:
    from torch import nn


class Factory(ForeignNetwork):
    """A callable that returns a module from images [N, C, H, W] to logits [N, classes]."""

    version: ClassVar[int] = 1
    kind: Literal["factory"] = "factory"
    factory: Annotated[str, Field(pattern=r"^[^:]+:\w+$")]
    """The callable: `package.module:name`, or `net.py:name` for a file beside the YAML."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments to call it with."""
    source: str = ""
    """Digest of its code, which the program fills in."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def title(self) -> str:
        """See `ForeignNetwork.title`."""
        return self.factory

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        place, _, name = self.factory.partition(":")
        if place.endswith(".py"):
            place = own_module_name(place.removesuffix(".py"), self.source)
        found = getattr(importlib.import_module(place), name, None)
        if not callable(found):
            raise BadNetwork(f"network {self.factory}: there is no such callable")
        made: nn.Module = found(**self.arguments)
        return made


def own_module_name(stem: str, digest: str) -> str:
    """Return the name under which a user's file is imported, from its stem and code digest."""
    return f"own_{stem.replace('.', '_')}_{digest[:16]}"  # a dot would name a package
