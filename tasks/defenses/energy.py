"""Energy-guided test-time transformation (ET3, 2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tasks.defenses.base import Context, GradientRule
from tasks.defenses.transforms.optimised import Optimised
from tasks.specs import Count, Epsilon, Positive, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.defenses.transforms.descent import Descent, Scalar


class Energy(Optimised):
    """Steps of one length down the energy, -t logsumexp(z / t), of the classifier's logits.

    `step_size` and `limit` are lengths of the whole offset (l2), in 1/255; 5 and 10 times the pixel
    range at 224 pixels by default, and in proportion at other sides.
    """

    kind: Literal["energy"] = "energy"
    version: ClassVar[int] = 1

    steps: Count = 1
    """Of the optimiser inside."""
    step_size: Epsilon | None = None
    """Length of a step, in 1/255; 182 at 32 pixels."""
    limit: Epsilon | None = None
    """Length of the offset, in 1/255; 364 at 32 pixels."""
    temperature: Positive = 1.0
    """t, by which logits are divided."""

    def resolved(self, problem: Problem) -> Self:
        """The lengths filled in."""
        scale = 255 * problem.side / 224
        return self.model_copy(
            update={"step_size": self.step_size or 5 * scale, "limit": self.limit or 10 * scale}
        )

    def descent(self) -> Descent:
        """The box before the limit, which cannot leave it."""
        from tasks.defenses.transforms.descent import Descent

        if self.step_size is None or self.limit is None:
            raise ValueError("energy: step_size and limit are unset; call resolved(problem)")
        return Descent(
            self.steps, self.step_size / 255, self.limit / 255, norm="l2", box_first=True
        )

    def gradients(self) -> tuple[GradientRule, ...]:
        """The exact gradient, of the second order, as well."""
        return ("straight-through", "iterates", "unrolled")

    def smooths(self) -> bool:
        """Never: a step has no sign."""
        return False

    def value(self, pixels: Tensor, context: Context) -> Scalar:  # noqa: ARG002
        """The energy, in float64."""

        def value(moved: Tensor) -> Tensor:
            logits = context.logits(moved).double()
            return -self.temperature * (logits / self.temperature).logsumexp(dim=1)

        return value
