"""The aggregation of Fort and Lakshminarayanan (2024), over the networks of an ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense, GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class CrossMaxModels(Defense):
    """The median over networks of logits that were brought to one level twice.

    As `crossmax`, with the members of an ensemble in the place of draws. The model without it
    answers their mean probability.
    """

    kind: Literal["crossmax-models"] = "crossmax-models"
    version: ClassVar[int] = 1

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def asks_members(self) -> bool:
        """Yes."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """Through the median, whose gradient is that of one member, or through the mean."""
        return ("straight-through", "surrogate")

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """The pixels unchanged."""
        return pixels

    def combine(self, logits: Tensor) -> Tensor:
        """The median over members, after both subtractions; a single one's logits as they are."""
        from tasks.defenses.transforms.combining import levelled_median

        # nothing would be left of one, since it is the highest itself
        return logits[..., 0, :] if logits.shape[-2] == 1 else levelled_median(logits)
