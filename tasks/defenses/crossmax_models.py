"""CrossMax (Fort and Lakshminarayanan 2024), over the networks of an ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense, GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class CrossMaxModels(Defense):
    """CrossMax over networks: the median over an ensemble's members of their normalised logits.

    As `crossmax`, with the members of an ensemble instead of draws. Without this defense, such a
    model answers with the members' mean probability.
    """

    kind: Literal["crossmax-models"] = "crossmax-models"
    version: ClassVar[int] = 1

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def asks_members(self) -> bool:
        """Always true: the members of the ensemble take the place of views."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """Through the median, whose gradient is that of one member, or the mean (`surrogate`)."""
        return ("straight-through", "surrogate")

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Return the pixels unchanged."""
        return pixels

    def combine(self, logits: Tensor) -> Tensor:
        """Return the median over members after both subtractions, or a single member's logits."""
        from tasks.defenses.transforms.combining import levelled_median

        # with one member all would be zero: each of its logits is the maximum over members
        return logits[..., 0, :] if logits.shape[-2] == 1 else levelled_median(logits)
