"""Base class of defenses with an inner optimiser, and how an attack may pass it.

An attack that treats such a defense as any function gets a gradient that says little (Croce et al.,
ICML 2022, section 4). The ways around it follow from what the defense declares:

- `inner_steps()` is above 0, and `shorter(steps)` returns the same defense with a shorter
  optimiser: differentiate that one, and judge the points it finds by the whole defense.
- `gradients()` names the rules that `Context.rule` may be set to: `straight-through`, with the
  offset held constant; `iterates`, where `draw_logits` returns the log of the mean probability over
  all iterates; and, if steps have a derivative, `unrolled`.
- `smooths()`: with `Context.smoothing`, signs become tanh and the gradient goes through all steps.

An attacker sets these in a `Context` of its own; a defender's has none of them. They also hold in a
chain, whose other parts pass a gradient as they are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from tasks.defenses.base import Context, Defense, GradientRule
from tasks.specs import Count, Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows
    from tasks.defenses.transforms.descent import Descent, Scalar


class Optimised(Defense):
    """A defense that returns `x + offset`, with an offset found by gradient steps down a scalar.

    A subclass defines `descent`, the settings of its optimiser, `value`, the scalar to minimise,
    and `start` if the first offset is not zero.
    """

    once: ClassVar[bool] = True

    steps: Count = 1
    """Steps of the inner optimiser."""

    def descent(self) -> Descent:
        """Return the settings of the optimiser."""
        raise NotImplementedError(f"{type(self).__name__} does not define descent")

    def value(self, pixels: Tensor, context: Context) -> Scalar:
        """Return the function to minimise, from moved images, float32 [M, C, H, W], to float [M].

        Each value must depend only on its own row. The classifier is called through
        `context.logits`, which an attacker may have to differentiate twice.

        Args:
            pixels: float32 [M, C, H, W], the images before any step.
            context: The bare classifier, and how gradients are to pass.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define value")

    def start(self, pixels: Tensor, rows: Rows) -> Tensor | None:  # noqa: ARG002
        """Return the first offset, of the pixels' shape; None for zero."""
        return None

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """True; to be overridden if `start` draws."""
        return True

    def smooths(self) -> bool:
        """Return whether a step is the sign of a gradient."""
        return self.descent().norm == "linf"

    def gradients(self) -> tuple[GradientRule, ...]:
        """Straight-through, the mean over iterates, and `unrolled` if steps have a derivative."""
        rules: tuple[GradientRule, ...] = ("straight-through", "iterates")
        return rules if self.smooths() else (*rules, "unrolled")

    def inner_steps(self) -> int:
        """See `Defense.inner_steps`."""
        return self.steps

    def shorter(self, steps: int) -> Self:
        """See `Defense.shorter`."""
        return self.model_copy(update={"steps": min(steps, self.steps)})

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Return the image after the last step."""
        return self._moved(pixels, self._offsets(pixels, rows, context)[-1])

    def iterates(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Return the image before the first step and after each, [M * (steps + 1), C, H, W]."""
        import torch

        found = [self._moved(pixels, each) for each in self._offsets(pixels, rows, context)]
        return torch.stack(found, dim=1).flatten(0, 1)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """One forward and one backward pass for each step."""
        return Passes(self.steps, self.steps) * rows

    def _offsets(self, pixels: Tensor, rows: Rows, context: Context) -> list[Tensor]:
        from tasks.defenses.transforms.descent import offsets

        return offsets(
            self.descent(),
            self.value(pixels, context),
            pixels,
            self.start(pixels, rows),
            smoothing=context.smoothing,
            unrolled=context.rule == "unrolled",
        )

    def _moved(self, pixels: Tensor, offset: Tensor) -> Tensor:
        from tasks.defenses.transforms import straight

        moved = pixels + offset
        return straight.clip(moved) if self.descent().box else moved
