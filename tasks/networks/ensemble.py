"""Several networks on one data set as one model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from tasks.networks.base import Network
from tasks.specs import Deviation, Mean


class Ensemble(Network):
    """An ensemble that answers with its members' mean probability.

    It is the network of a model with `members`. Each member normalises the pixels itself.
    """

    version: ClassVar[int] = 1
    kind: Literal["ensemble"] = "ensemble"
    members: Annotated[tuple[SerializeAsAny[Network], ...], Field(strict=False, min_length=2)]
    """The networks: their kinds and parameters."""
    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.0,)
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (1.0,)

    @field_validator("members", mode="before")
    @classmethod
    def _by_their_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        """Make networks of mappings with a `kind`, as a record has them."""
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

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """Return the sum over all members."""
        return sum(member.multiplications(channels, side, classes) for member in self.members)
