"""One climb on the defended model, straight from the image, and nothing else to choose from.

The attack that most published evaluations are. A defense that gains under it what it does not
gain in the worst case hides its gradients.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Choice, CompoundAttack, Try
from tasks.defenses.base import Defense
from tasks.specs import Count


class Direct(CompoundAttack):
    """APGD on the margin of the defended model, its gradient by the first rule that this declares.

    Of a defense that says nothing else what has no gradient is passed straight through.
    """

    version: ClassVar[int] = 1
    kind: Literal["direct"] = "direct"
    steps: Count = 20
    """Of the climb."""
    draws: Count = 5
    """Of the defense, at each step."""
    images: Count | None = 200

    def tries(self, defense: Defense) -> tuple[Try, ...]:  # noqa: ARG002
        """See `CompoundAttack.tries`: what an adaptive attack makes first on the defense."""
        climb = APGD(
            norm=self.norm,
            epsilon=self.epsilon,
            loss="margin",
            steps=self.steps,
            random_start=False,
        )
        return (Try(f"margin-image-{self.steps}x{self.draws}", climb, self.draws),)

    def first_tries(self, defense: Defense) -> int:  # noqa: ARG002
        """See `CompoundAttack.first_tries`."""
        return 1

    def longest(self) -> tuple[int, int]:
        """See `CompoundAttack.longest`."""
        return self.steps, self.draws

    def choice(self, *, deterministic: bool) -> Choice:  # noqa: ARG002
        """There is none to make: one draw is asked, as little as can be."""
        return Choice(draws=1, predictions=0, margin=None)
