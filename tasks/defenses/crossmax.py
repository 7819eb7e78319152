"""CrossMax (Fort and Lakshminarayanan 2024), over draws of another defense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import SerializeAsAny, ValidationInfo, field_validator

from tasks.defenses.base import Context, Defense, GradientRule
from tasks.defenses.flip_crop import FlipCrop
from tasks.specs import Count, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class CrossMax(Defense):
    """CrossMax: the median over members of their normalised logits.

    Each member's logits are first reduced by their maximum over classes, then by the maximum of
    each class over members. The score of a class is its median over members (the lower one of an
    even number). The members are draws of `inner`, and each prediction uses all of them.
    """

    kind: Literal["crossmax"] = "crossmax"
    version: ClassVar[int] = 1

    inner: SerializeAsAny[Defense] = FlipCrop()
    """Defense whose draws are the members: its kind and parameters."""
    members: Count = 10
    """Number of members."""

    @field_validator("inner", mode="before")
    @classmethod
    def _by_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Make a defense of a mapping with a `kind`, as a config file has it."""
        from tasks import registry

        if not isinstance(value, dict):
            return value
        known = [kind for kind in registry.kinds("defenses") if kind not in {"chain", "crossmax"}]
        if value.get("kind") not in known:
            raise ValueError(f"kind {value.get('kind')!r}; known: {', '.join(known)}")
        found = registry.kind_class("defenses", value["kind"])
        return found.model_validate(value, context=info.context)

    @field_validator("inner")
    @classmethod
    def _gives_one_answer(cls, value: Defense) -> Defense:
        if value.combines():
            raise ValueError(f"{value.kind} combines several answers itself")
        return value

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with the inner defense resolved."""
        return self.model_copy(update={"inner": self.inner.resolved(problem)})

    def deterministic(self, classes: int) -> bool:
        """Return whether the inner defense is deterministic."""
        return self.inner.deterministic(classes)

    def views(self, classes: int) -> int:  # noqa: ARG002
        """One view for each member."""
        return self.members

    def smooths(self) -> bool:
        """Return whether the inner defense smooths."""
        return self.inner.smooths()

    def gradients(self) -> tuple[GradientRule, ...]:
        """Through the median, whose gradient is that of one member, or the mean (`surrogate`)."""
        inner = tuple(rule for rule in self.inner.gradients() if rule == "differentiable")
        return ("straight-through", "surrogate", *inner)

    def inner_steps(self) -> int:
        """Return the inner steps of the inner defense."""
        return self.inner.inner_steps()

    def shorter(self, steps: int) -> Self:
        """Return the spec with the shorter inner defense."""
        return self.model_copy(update={"inner": self.inner.shorter(steps)})

    def leaves_range(self) -> bool:
        """Return whether the inner defense leaves the range."""
        return self.inner.leaves_range()

    def needs_pool(self) -> bool:
        """Return whether the inner defense needs a pool."""
        return self.inner.needs_pool()

    def pool_split(self) -> Literal["train", "test"]:
        """Return the pool split of the inner defense."""
        return self.inner.pool_split()

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Return the draws of the inner defense, those of a row adjacent."""
        import torch

        members = rows.repeated(torch.arange(self.members, device=pixels.device))
        repeated = pixels.repeat_interleave(self.members, dim=0)
        return self.inner.transform(repeated, members.within(self.inner.kind), context)

    def combine(self, logits: Tensor) -> Tensor:
        """Return the median over members, after both subtractions."""
        from tasks.defenses.transforms.combining import levelled_median

        return levelled_median(logits)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:
        """The passes of the inner defense for every member."""
        return self.inner.forwards_and_backwards(
            rows=rows * self.members, distinct=distinct, classes=classes
        )

    def touched(self) -> int:
        """What the inner defense touches for every member."""
        return self.members * self.inner.touched()
