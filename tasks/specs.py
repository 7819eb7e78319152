"""Specs: frozen descriptions of what to compute.

A spec, with the digests of its parents, makes the digest of a node, so it holds
nothing about how or where a node runs. Sizes of perturbations are in steps of
1/255 of the pixel range [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["float32", "tf32", "bfloat16"]
Norm = Literal["linf", "l2"]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]

SHARD = 500
"""Images in a shard: a constant of the store's format."""


@dataclass(frozen=True)
class Problem:
    """What defaults of attacks and defenses depend on.

    `epsilon` in 1/255; `side` in pixels; `pool` is the number of training images.
    """

    epsilon: float
    classes: int
    side: int
    pool: int


class Spec(BaseModel):
    """A frozen, strict description. Unknown keys and wrong types are refused.

    `version` is the identity of the code behind the spec: it enters the digest
    and is raised when that code changes results. `unset_is_left_out` names fields that came
    later: at None they stay out of the digest, so what was computed before them keeps its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset()

    def resolved(self, problem: Problem) -> Self:  # noqa: ARG002  for those that override it
        """The same spec with every default that depends on the problem filled in."""
        return self


class Kind(Spec):
    """A spec that a config chooses by its `kind`."""

    kind: str


class Shard(Spec):
    """Images `start` up to, not including, `stop` of a test set's fixed order."""

    start: Annotated[int, Field(ge=0)]
    stop: Count
