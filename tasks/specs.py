"""Specs: frozen descriptions of what to compute.

A spec, with the digests of its parents, makes the digest of a node, so it holds
nothing about how or where a node runs. Sizes of perturbations are in steps of
1/255 of the pixel range [0, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

WRITTEN: Mapping[str, bool] = {"written": True}
"""The context of a validation whose values a person wrote; what is derived from them has none."""


_IN_255THS = re.compile(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*/\s*255\s*")


def in_255ths(value: object) -> object:
    """The number of 255ths that a text such as `0.5/255` says; anything else as it is."""
    found = _IN_255THS.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else float(found[1])


def _size(value: object, number: ValidatorFunctionWrapHandler, info: ValidationInfo) -> float:
    """A written size below 1/255 is one in the unit in which the pixel range is 1.

    Unless its unit is written as well, `0.5/255`.
    """
    written = info.context is not None and info.context.get("written")
    given = in_255ths(value) if written else value
    if written and isinstance(given, str):
        raise ValueError(f"expected a number, such as 8 or 0.5/255, got {given!r}")
    size: float = number(given)
    if written and given is value and 0 < size < 1:
        meant = 255 * size
        whole = round(meant)
        shown = f"{whole}" if abs(meant - whole) <= 0.02 * meant else f"{meant:.4g}"
        raise ValueError(
            f"{size:g} is less than one 255th of the pixel range, and sizes of perturbations are "
            f"in 255ths: {shown} ({shown}/255 is {float(shown) / 255:.4g}) was probably meant; "
            f"if not, write {size:g}/255"
        )
    return size


Precision = Literal["float32", "tf32", "bfloat16"]
Norm = Literal["linf", "l2"]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
"""Steps, draws, queries, epochs: a million is beyond what anyone in the field has run."""
Epsilon = Annotated[float, Field(ge=0, le=10**5), WrapValidator(_size)]
"""In 1/255; the longest l2 perturbation of an ImageNet image has a length of 98,900 of these."""
Pixel255 = Annotated[float, Field(gt=0, le=255), WrapValidator(_size)]
"""A change of a single pixel, in 1/255: no more than from black to white."""
Classes = Annotated[int, Field(ge=2, le=10**5)]
"""Of a data set: ImageNet-21k has 21,841."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Mean = Annotated[float, Field(ge=-10)]
"""What a network subtracts, of the pixel range [0, 1]; see `Network` for the upper bound."""
Deviation = Annotated[float, Field(gt=0)]
"""What a network divides by, of the pixel range [0, 1]; see `Network` for the upper bound."""
LARGEST_LINF = 255.0
"""Every image is within so many 1/255 of every other."""
LinfEpsilon = Annotated[float, Field(ge=0, le=LARGEST_LINF), WrapValidator(_size)]
"""As `Epsilon`, of an linf ball."""

SHARD = 500
"""Images in a shard: a constant of the store's format."""

ADAPTIVE_SHARD = 100
"""Images in a shard of an adaptive attack, whose candidates follow one another in each shard."""


@dataclass(frozen=True)
class Problem:
    """What defaults of attacks and defenses depend on.

    `epsilon` in 1/255; `side` in pixels; `pool` is the number of training images.
    """

    epsilon: float
    classes: int
    side: int
    pool: int


@dataclass(frozen=True)
class Passes:
    """Images that go forward through a network, and images whose gradient comes back.

    A backward pass to the pixels multiplies about as often as a forward pass; one that
    reaches the weights as well counts as two. touched: how many numbers a defense reads and writes
    in memory beside that, for each pixel of each channel.
    """

    forwards: int = 0
    backwards: int = 0
    touched: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.touched + other.touched,
        )

    def __sub__(self, other: Passes) -> Passes:
        return self + other * -1

    def __mul__(self, times: int) -> Passes:
        return Passes(self.forwards * times, self.backwards * times, self.touched * times)

    @property
    def equivalents(self) -> int:
        """The forward passes that take as many multiplications."""
        return self.forwards + self.backwards


class Spec(BaseModel):
    """A frozen, strict description. Unknown keys and wrong types are refused.

    `version` is the identity of the code behind the spec: it enters the digest
    and is raised when that code changes results. `unset_is_left_out` names fields that came
    later: at their default they stay out of the digest, so what was computed before they were
    added keeps its digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    changes: ClassVar[Mapping[int, str]] = {}
    """What a version changed in results, in a few words; `pipeline plan` says it."""
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset()
    source_digest: ClassVar[str] = ""
    """Of the code of a class of a user's own; what ours is, versions say."""

    def results_version(self) -> int:
        """The version that this spec's results are of: an earlier one than the class's where the
        later ones changed nothing for it, so that it keeps its digest."""
        return type(self).version

    def resolved(self, problem: Problem) -> Self:  # noqa: ARG002  for those that override it
        """The same spec with every default that depends on the problem filled in."""
        return self


class Kind(Spec):
    """A spec that a config chooses by its `kind`.

    A class of a user's own that names no kind has the name of the class, `MyIdea` as `my-idea`.
    """

    library: ClassVar[str] = ""
    """The library that does the work, which the extra of this name installs; "" for none."""

    kind: str = ""

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_class(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data and cls.model_fields["kind"].default == "":
            return {"kind": re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower(), **data}
        return data


class Shard(Spec):
    """Images `start` up to, not including, `stop` of a test set's fixed order."""

    start: Annotated[int, Field(ge=0)]
    stop: Annotated[int, Field(ge=1)]
