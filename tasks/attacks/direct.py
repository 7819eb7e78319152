"""A single APGD run on the defended model, from the image, with one gradient rule.

Most published evaluations make an attack of this kind. A defense that gains accuracy under it but
not in the worst case obfuscates its gradients.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Choice, CompoundAttack, Try
from tasks.defenses.base import Defense
from tasks.specs import Count


class Direct(CompoundAttack):
    """One APGD run on the margin of the defended model, with the defense's first gradient rule.

    For a defense that declares no rule this is straight-through: what has no useful gradient is
    treated as the identity, or as a constant.
    """

    version: ClassVar[int] = 1
    kind: Literal["direct"] = "direct"
    steps: Count = 20
    """Steps of the run."""
    draws: Count = 5
    """Draws of the defense at each step, over which the prediction is averaged (EOT)."""
    images: Count | None = 200
    """Largest number of test images to attack."""

    def tries(self, defense: Defense) -> tuple[Try, ...]:  # noqa: ARG002
        """See `CompoundAttack.tries`: the first candidate of an adaptive attack on the defense."""
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
        """There is one candidate, so nothing to select; a single draw is the least to ask."""
        return Choice(draws=1, predictions=0, margin=None)
