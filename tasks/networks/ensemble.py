"""Several networks of one data set as a model of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from tasks.networks.base import Network
from tasks.specs import Deviation, Mean

if TYPE_CHECKING:
    from torch import nn


class Ensemble(Network):
    """Networks whose mean probability is the answer; the network of a model with `members`.

    Each normalises the pixels for itself.
    """

    version: ClassVar[int] = 1
    kind: Literal["ensemble"] = "ensemble"
    members: Annotated[tuple[SerializeAsAny[Network], ...], Field(strict=False, min_length=2)]
    """Kinds and parameters."""
    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.0,)
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (1.0,)

    @field_validator("members", mode="before")
    @classmethod
    def _by_their_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        """Networks from mappings with a `kind`, as a record has them."""
        from tasks import registry

        if not isinstance(value, list | tuple):
            return value
        return tuple(
            registry.kind_class("networks", str(each.get("kind"))).model_validate(
                each, context=info.context
            )
            if isinstance(each, dict)
            else each
            for each in value
        )

    @model_validator(mode="after")
    def _normalises_nothing(self) -> Ensemble:
        if (self.mean, self.std) != ((0.0,), (1.0,)):
            raise ValueError("mean and std: each member of an ensemble has its own")
        return self

    def build(self, channels: int, side: int, classes: int, *, seed: int = 0) -> nn.Module:
        """See `Network.build`; the members' first weights are of one seed after the other."""
        from tasks.classifier.ensemble import EnsembleModule

        return EnsembleModule(
            [
                member.build(channels, side, classes, seed=seed + number)
                for number, member in enumerate(self.members)
            ]
        )

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """Of all members."""
        return sum(member.multiplications(channels, side, classes) for member in self.members)
