"""The anti-adversary layer (Alfarra et al., AAAI 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context
from tasks.defenses.transforms.optimised import Optimised
from tasks.specs import Count, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.defenses.transforms.descent import Descent, Scalar


class AntiAdversary(Optimised):
    """Signed gradient steps down the cross-entropy of the class that the classifier predicts.

    The total change of a pixel has no limit.
    """

    kind: Literal["anti-adversary"] = "anti-adversary"
    version: ClassVar[int] = 1

    steps: Count = 2
    """Steps of the inner optimiser."""
    step_size: Pixel255 = 38.25
    """Size of each step, in 1/255; the default is 0.15 of the pixel range."""
    box: bool = True
    """Keep the image in [0, 1], which the authors' own code does not do."""

    def leaves_range(self) -> bool:
        """Return whether `box` is off."""
        return not self.box

    def descent(self) -> Descent:
        """See `Optimised.descent`."""
        from tasks.defenses.transforms.descent import Descent

        return Descent(self.steps, self.step_size / 255, box=self.box)

    def value(self, pixels: Tensor, context: Context) -> Scalar:  # noqa: ARG002
        """Return the cross-entropy of the predicted class, as a function of the moved image.

        It is in float64. The predicted class is that of the first call, which is about the image
        itself.
        """
        from torch.nn.functional import cross_entropy

        predicted: list[Tensor] = []

        def value(moved: Tensor) -> Tensor:
            logits = context.logits(moved).double()
            if not predicted:
                predicted.append(logits.detach().argmax(dim=1))
            return cross_entropy(logits, predicted[0], reduction="none")

        return value
