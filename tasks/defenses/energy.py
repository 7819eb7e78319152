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
    """Gradient steps of fixed length down the energy of the logits z, -t logsumexp(z / t)."""

    kind: Literal["energy"] = "energy"
    version: ClassVar[int] = 1

    steps: Count = 1
    """Steps of the inner optimiser."""
    step_size: Epsilon | None = None
    """Euclidean length of each step, in 1/255; by default 5 times the pixel range at 224 pixels, in
    proportion to the side (182 at 32 pixels)."""
    limit: Epsilon | None = None
    """Largest Euclidean length of the total change, in 1/255; by default 10 times the pixel range
    at 224 pixels, in proportion to the side (364 at 32 pixels)."""
    temperature: Positive = 1.0
    """Temperature t, by which logits are divided."""

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with `step_size` and `limit` filled in."""
        scale = 255 * problem.side / 224
        return self.model_copy(
            update={"step_size": self.step_size or 5 * scale, "limit": self.limit or 10 * scale}
        )

    def descent(self) -> Descent:
        """See `Optimised.descent`; pixels are clipped before the limit, which cannot undo it."""
        from tasks.defenses.transforms.descent import Descent

        if self.step_size is None or self.limit is None:
            raise ValueError("energy: step_size and limit are unset; call resolved(problem)")
        return Descent(
            self.steps, self.step_size / 255, self.limit / 255, norm="l2", box_first=True
        )

    def gradients(self) -> tuple[GradientRule, ...]:
        """As for every inner optimiser, and the exact gradient of second order (`unrolled`)."""
        return ("straight-through", "iterates", "unrolled")

    def smooths(self) -> bool:
        """Always false: no step takes a sign."""
        return False

    def value(self, pixels: Tensor, context: Context) -> Scalar:  # noqa: ARG002
        """Return the energy, in float64, as a function of the moved image."""

        def value(moved: Tensor) -> Tensor:
            logits = context.logits(moved).double()
            return -self.temperature * (logits / self.temperature).logsumexp(dim=1)

        return value
