"""Square Attack (Andriushchenko et al., ECCV 2020): black-box random search, without gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.base import BoundedAttack, Victim
from tasks.specs import Count, Fraction, Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Square(BoundedAttack):
    """Square Attack: random square changes, each kept if it raises the margin of a wrong class."""

    version: ClassVar[int] = 1
    kind: Literal["square"] = "square"
    queries: Count = 200
    """Queries for each image. All are made, also after the first success, so the cost is known and
    the margin goes on growing."""
    area: Fraction = 0.8
    """Share of the image that a square covers at first; it is halved at fixed shares of the
    queries."""

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return the point with the highest margin."""
        from tasks.attacks.search.objectives import Goal
        from tasks.attacks.search.squares import search

        aims = self.targets(labels, rows, victim.classes) if self.targeted else None
        return search(
            victim,
            Goal(labels, aims),
            pixels,
            rows.within("square"),
            ball=self.ball(),
            queries=self.queries,
            area=self.area,
        )

    def forwards_and_backwards(self) -> Passes:
        """One forward pass for each query."""
        return Passes(forwards=self.queries)
