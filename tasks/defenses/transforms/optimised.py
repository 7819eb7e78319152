"""Defenses with an optimiser inside: how they declare it, and how an attack may pass it.

An attack that takes such a defense for the plain function that it is sees a gradient that says
little (Croce et al., ICML 2022, section 4). It reads the ways round from the declaration alone:

- `inner_steps()` is more than 0, and `shorter(steps)` is the same defense with a shorter
  optimiser: climb that one, and have what it finds judged by the whole.
- `gradients()` names the rules that `Context.rule` may be set to: `straight-through`, the offset
  held constant; `iterates`, where `draw_logits` gives the log of the mean probability over all
  the images that the optimiser went through; for steps with a derivative, `unrolled`.
- `smooths()`: with `Context.smoothing` signs become tanh, and the gradient goes through all steps.

All of these are set by an attacker in a `Context` of its own; a defender's has none of them. They
hold for a chain too, whose other parts pass a gradient as they are written.
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
    """A defense that gives `x + offset`, the offset made by steps down a scalar of its own.

    A class of this kind defines `descent`, the settings of its optimiser, `value`, what that
    lowers, and, if it is not zero, `start`.
    """

    once: ClassVar[bool] = True

    steps: Count = 1
    """Of the optimiser inside."""

    def descent(self) -> Descent:
        """The settings of the optimiser."""
        raise NotImplementedError(f"{type(self).__name__} does not define descent")

    def value(self, pixels: Tensor, context: Context) -> Scalar:
        """What is lowered: a function of moved images, float32 [M, C, H, W], to [M].

        pixels: the images as they come in. Each row's value is of that row alone. The classifier
        is asked through `context.logits`, which an attacker may have to differentiate twice.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define value")

    def start(self, pixels: Tensor, rows: Rows) -> Tensor | None:  # noqa: ARG002
        """The first offset, of the pixels' shape; none for zero."""
        return None

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Unless `start` draws."""
        return True

    def smooths(self) -> bool:
        """Whether a step is the sign of a gradient."""
        return self.descent().norm == "linf"

    def gradients(self) -> tuple[GradientRule, ...]:
        """The mean over iterates, and where a step has a derivative the whole unrolled."""
        rules: tuple[GradientRule, ...] = ("straight-through", "iterates")
        return rules if self.smooths() else (*rules, "unrolled")

    def inner_steps(self) -> int:
        """See `Defense.inner_steps`."""
        return self.steps

    def shorter(self, steps: int) -> Self:
        """See `Defense.shorter`."""
        return self.model_copy(update={"steps": min(steps, self.steps)})

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """The image at the end of the descent."""
        return self._moved(pixels, self._offsets(pixels, rows, context)[-1])

    def iterates(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """The image before the first step and after each, [M * (steps + 1), C, H, W]."""
        import torch

        found = [self._moved(pixels, each) for each in self._offsets(pixels, rows, context)]
        return torch.stack(found, dim=1).flatten(0, 1)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """A gradient for each step."""
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
