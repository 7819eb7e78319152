"""The aggregation of Fort and Lakshminarayanan (2024), over draws of another defense."""

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
    """The median over members of logits that were brought to one level twice.

    Of the logits of each member its highest is subtracted, then of those of each class its highest
    over members; the score of a class is the median over members, of an even number the lower
    middle. The members are `members` draws of `inner`, all of them in each prediction.
    """

    kind: Literal["crossmax"] = "crossmax"
    version: ClassVar[int] = 1

    inner: SerializeAsAny[Defense] = FlipCrop()
    """The defense that the members are draws of: its kind and parameters."""
    members: Count = 10

    @field_validator("inner", mode="before")
    @classmethod
    def _by_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """A defense from a mapping with a `kind`, as a config file has it."""
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
        """With the resolved inner defense."""
        return self.model_copy(update={"inner": self.inner.resolved(problem)})

    def deterministic(self, classes: int) -> bool:
        """Where the inner defense is."""
        return self.inner.deterministic(classes)

    def views(self, classes: int) -> int:  # noqa: ARG002
        """One for each member."""
        return self.members

    def smooths(self) -> bool:
        """Where the inner defense does."""
        return self.inner.smooths()

    def gradients(self) -> tuple[GradientRule, ...]:
        """Through the median, whose gradient is that of one member, or through the mean."""
        inner = tuple(rule for rule in self.inner.gradients() if rule == "differentiable")
        return ("straight-through", "surrogate", *inner)

    def inner_steps(self) -> int:
        """Those of the inner defense."""
        return self.inner.inner_steps()

    def shorter(self, steps: int) -> Self:
        """With the shorter inner defense."""
        return self.model_copy(update={"inner": self.inner.shorter(steps)})

    def leaves_range(self) -> bool:
        """Where the inner defense does."""
        return self.inner.leaves_range()

    def needs_pool(self) -> bool:
        """Where the inner defense does."""
        return self.inner.needs_pool()

    def pool_split(self) -> Literal["train", "test"]:
        """That of the inner defense."""
        return self.inner.pool_split()

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Draws of the inner defense, side by side."""
        import torch

        members = rows.repeated(torch.arange(self.members, device=pixels.device))
        repeated = pixels.repeat_interleave(self.members, dim=0)
        return self.inner.transform(repeated, members.within(self.inner.kind), context)

    def combine(self, logits: Tensor) -> Tensor:
        """The median over members, after both subtractions."""
        from tasks.defenses.transforms.combining import levelled_median

        return levelled_median(logits)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:
        """Those of the inner defense for every member."""
        return self.inner.forwards_and_backwards(
            rows=rows * self.members, distinct=distinct, classes=classes
        )

    def touched(self) -> int:
        """Those of the inner defense for every member."""
        return self.members * self.inner.touched()
