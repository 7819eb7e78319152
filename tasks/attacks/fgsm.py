"""The fast gradient sign method (Goodfellow et al., ICLR 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.base import BoundedAttack, Victim
from tasks.specs import Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class FGSM(BoundedAttack):
    """FGSM: one signed gradient step of length epsilon, from the image.

    In l2 the step is along the normalised gradient instead of its sign.
    """

    version: ClassVar[int] = 1
    kind: Literal["fgsm"] = "fgsm"

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return the point one step up the true label's cross-entropy, or down the target's."""
        from tasks.attacks.search.descent import descend, loss_gradient

        ball = self.ball()
        aims = self.targets(labels, rows, victim.classes) if self.targeted else labels
        gradient = loss_gradient(victim, aims, targeted=self.targeted)
        return descend(gradient, pixels, pixels, ball=ball, step_size=ball.radius, steps=1)

    def forwards_and_backwards(self) -> Passes:
        """One forward and one backward pass."""
        return Passes(1, 1)
