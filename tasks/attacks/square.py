"""Square Attack (Andriushchenko et al., ECCV 2020): random search that needs no gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.base import BoundedAttack, Victim
from tasks.specs import Count, Fraction, Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Square(BoundedAttack):
    """Random squares, each kept where it raises the margin of a wrong class.

    queries: how often each image is asked about, all of them also after the first success, so
    that the cost is known and margins go on growing; area: the share of the image that the
    first squares cover; it shrinks with the share of the queries that is spent.
    """

    version: ClassVar[int] = 1
    kind: Literal["square"] = "square"
    queries: Count = 200
    area: Fraction = 0.8

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """The point of the highest margin."""
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
        """One forward a query."""
        return Passes(forwards=self.queries)
