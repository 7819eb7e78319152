"""Hedge defense (Wu et al., "Attacking Adversarial Attacks as A Defense", 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context
from tasks.defenses.transforms.optimised import Optimised
from tasks.specs import Count, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows
    from tasks.defenses.transforms.descent import Descent, Scalar


class Hedge(Optimised):
    """Signed gradient steps up the sum of the cross-entropies of all classes.

    That sum is C logsumexp(z) - sum z for C classes, so one backward pass gives its gradient.
    """

    kind: Literal["hedge"] = "hedge"
    version: ClassVar[int] = 1

    steps: Count = 20
    """Steps of the inner optimiser."""
    step_size: Pixel255 = 4.0
    """Size of each step, in 1/255."""
    limit: Pixel255 = 8.0
    """Largest change of a pixel, in 1/255."""
    random_start: bool = False
    """Start at a uniform random point within the limit instead of at the image."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Return whether the start is not random."""
        return not self.random_start

    def descent(self) -> Descent:
        """See `Optimised.descent`."""
        from tasks.defenses.transforms.descent import Descent

        return Descent(self.steps, self.step_size / 255, self.limit / 255)

    def start(self, pixels: Tensor, rows: Rows) -> Tensor | None:
        """Return an offset uniform within the limit; None, for zero, without a random start."""
        if not self.random_start:
            return None
        drawn = rows.uniform("start", pixels[0].numel()).view_as(pixels)
        return self.limit / 255 * (2 * drawn - 1)

    def value(self, pixels: Tensor, context: Context) -> Scalar:  # noqa: ARG002
        """Return minus the sum of cross-entropies, in float64, as a function of the moved image."""

        def value(moved: Tensor) -> Tensor:
            logits = context.logits(moved).double()
            return logits.sum(dim=1) - logits.shape[1] * logits.logsumexp(dim=1)

        return value
