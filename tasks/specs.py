"""Specs: frozen descriptions of what to compute.

A spec and the digests of its parents determine the digest of a node, so a spec says nothing about
how or where the node runs. Perturbation sizes are in 1/255 of the pixel range [0, 1].
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
"""Validation context for values that a user wrote, as opposed to derived ones."""


_IN_255THS = re.compile(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*/\s*255\s*")


def in_255ths(value: object) -> object:
    """Return the number of 255ths in a text such as `0.5/255`; any other value unchanged."""
    found = _IN_255THS.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else float(found[1])


def _size(value: object, number: ValidatorFunctionWrapHandler, info: ValidationInfo) -> float:
    """Validate a size in 1/255, and refuse a written one below 1 unless it states its unit.

    Written are the values of a config and the defaults of a user's class. Such a number, without
    `/255`, was probably meant in the unit in which the pixel range is 1.
    """
    written = info.context is not None and info.context.get("written")
    given = in_255ths(value)
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
            f'if not, write "{size:g}/255"'
        )
    return size


Precision = Literal["float32", "tf32", "bfloat16"]
Norm = Literal["linf", "l2"]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
"""Steps, draws, queries or epochs; the bound is beyond what anyone in the field has run."""
Epsilon = Annotated[float, Field(ge=0, le=10**5), WrapValidator(_size)]
"""Perturbation size in 1/255; the longest l2 perturbation of a 224x224 ImageNet image is 98,900."""
Length = Annotated[float, Field(gt=0, le=10**5), WrapValidator(_size)]
"""Euclidean length of a change above zero, in 1/255."""
Pixel255 = Annotated[float, Field(gt=0, le=255), WrapValidator(_size)]
"""Change of a single pixel, in 1/255, at most from black to white."""
Classes = Annotated[int, Field(ge=2, le=10**5)]
"""Number of classes of a data set; ImageNet-21k has 21,841."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Mean = Annotated[float, Field(ge=-10)]
"""Mean that a network subtracts, in the pixel range [0, 1]; `Network` checks the upper bound."""
Deviation = Annotated[float, Field(gt=0)]
"""Standard deviation that a network divides by, in the pixel range [0, 1]; see `Mean`."""
LARGEST_LINF = 255.0
"""Largest linf distance between two images, in 1/255."""
LinfEpsilon = Annotated[float, Field(ge=0, le=LARGEST_LINF), WrapValidator(_size)]
"""As `Epsilon`, for an linf ball."""

SHARD = 500
"""Images in a shard, a constant of the store's format."""

ADAPTIVE_SHARD = 100
"""Images in a shard of an adaptive attack, whose candidates follow one another within a shard."""


@dataclass(frozen=True)
class Problem:
    """What the defaults of attacks and defenses depend on."""

    epsilon: float
    """Perturbation size, in 1/255."""
    classes: int
    """Number of classes."""
    side: int
    """Side of the images, in pixels."""
    pool: int
    """Number of training images."""
    mirrors: bool = True
    """Whether a mirrored image keeps its class."""


@dataclass(frozen=True)
class Passes:
    """Cost of a computation, in passes of one image through a network."""

    forwards: int = 0
    """Forward passes."""
    backwards: int = 0
    """Backward passes. One to the pixels has about as many multiplications as a forward pass; one
    that also reaches the weights counts as two."""
    touched: int = 0
    """Numbers that a defense reads and writes in memory besides, for each pixel and channel."""

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
        """Number of forward passes with as many multiplications."""
        return self.forwards + self.backwards


class Spec(BaseModel):
    """Base class of specs: frozen and strict. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    """Version of the code behind the spec. It is part of the digest, and is raised when that code
    changes results."""
    changes: ClassVar[Mapping[int, str]] = {}
    """What each version changed in results, in a few words, for `pipeline plan`."""
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset()
    """Fields that were added later. At their defaults they are left out of the digest, so earlier
    results keep theirs."""
    source_digest: ClassVar[str] = ""
    """Digest of the code of a user's class; this package's own code is covered by versions."""

    def results_version(self) -> int:
        """Return the version of this spec's results.

        It is lower than the class's if later versions changed nothing for this spec, to keep its
        digest.
        """
        return type(self).version

    def resolved(self, problem: Problem) -> Self:  # noqa: ARG002  for those that override it
        """Return the same spec with all defaults that depend on the problem filled in.

        Args:
            problem: What the defaults depend on.
        """
        return self


class Kind(Spec):
    """A spec that a config selects by its `kind`.

    A user's class that names no kind gets its class name in kebab case: `MyIdea` becomes `my-idea`.
    A default may state its unit, as in `limit: Epsilon = "0.5/255"`.
    """

    library: ClassVar[str] = ""
    """Library that does the work, installed by the extra of the same name; "" for none."""

    kind: str = ""

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_in_255ths(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        stated = {name: text for name, text in defaults.items() if in_255ths(text) is not text}
        return {**stated, **data}

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_class(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data and cls.model_fields["kind"].default == "":
            return {"kind": re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower(), **data}
        return data


class Shard(Spec):
    """Images `start` to `stop` - 1 in the fixed order of a test set."""

    start: Annotated[int, Field(ge=0)]
    stop: Annotated[int, Field(ge=1)]
