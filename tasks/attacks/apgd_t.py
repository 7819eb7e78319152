"""Targeted Auto-PGD (Croce and Hein, ICML 2020): APGD runs to the most probable wrong classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.attacks.base import BallAttack, Victim
from tasks.attacks.search.schedule import checkpoints
from tasks.specs import Count, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.search.auto_descent import Candidates
    from tasks.data.seeding import Rows

NEAREST = 9
"""Number of wrong classes that are targeted by default: all, for ten classes."""


class APGDT(BallAttack):
    """APGD-T: targeted APGD runs to wrong classes in turn, until the victim is wrong in any way.

    Each run has `steps` steps and starts at a random point of the ball. Later runs are made only
    for images that the earlier ones did not fool.
    """

    version: ClassVar[int] = 1
    kind: Literal["apgd-t"] = "apgd-t"
    loss: Literal["cross-entropy", "margin", "dlr"] = "dlr"
    """Objective of the ascent; `dlr` is the targeted difference of logits ratio, which needs four
    classes."""
    steps: Count = 100
    """Steps of each run."""
    ranks: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = tuple(
        range(1, NEAREST + 1)
    )
    """Which wrong classes to target, by their rank in the victim's prediction for the original
    image: 1 is the most probable. Ranks beyond the number of wrong classes are left out."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"ranks {list(self.ranks)} has one twice")
        return self

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with the problem's epsilon, and without ranks that it does not have.

        Raises:
            ValueError: If the loss is DLR and there are fewer than four classes, or if no rank is
                left.
        """
        if self.loss == "dlr" and problem.classes < 4:
            raise ValueError(
                f"loss: dlr needs 4 classes, there are {problem.classes}; write loss: margin"
            )
        ranks = tuple(rank for rank in self.ranks if rank < problem.classes)
        if not ranks:
            raise ValueError(
                f"ranks {list(self.ranks)}: there are {problem.classes - 1} wrong classes"
            )
        return super().resolved(problem).model_copy(update={"ranks": ranks})

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return a point that fools the victim, or else the one with the highest objective."""
        import torch

        if not self.ball().radius:
            return pixels.clone()
        order = _nearest(victim, pixels, labels)
        best: Candidates | None = None
        for place, rank in enumerate(self.ranks):
            standing = torch.arange(len(pixels), device=pixels.device)
            if best is not None:
                standing = standing[~best.reached]
            if not len(standing):
                break
            # a kernel may round a batch of one differently, so one image is asked about twice
            asked = standing if len(standing) > 1 else standing.expand(2)
            found = self._climb(
                victim.of(asked),
                pixels[asked],
                labels[asked],
                order[asked, rank - 1],
                rows[asked].within("target").at(rank),
                first_step=1 + place * (self.steps + 1),
            )
            found = found.first(len(standing))
            best = found if best is None else best.improved(standing, found)
        assert best is not None
        return best.pixels

    def _climb(
        self,
        victim: Victim,
        pixels: Tensor,
        labels: Tensor,
        targets: Tensor,
        rows: Rows,
        *,
        first_step: int,
    ) -> Candidates:
        from tasks.attacks.search.auto_descent import Question, climb
        from tasks.attacks.search.descent import random_start
        from tasks.attacks.search.objectives import Goal

        ball = self.ball()
        ask = Question(victim, Goal(labels, targets, any_wrong=True), self.loss)
        return climb(
            ask,
            pixels,
            random_start(pixels, rows, ball=ball),
            ball=ball,
            steps=self.steps,
            first_step=first_step,
            renew=ask.renew,
        )

    def forwards_and_backwards(self) -> Passes:
        """At most: one forward pass to rank the classes, and one APGD run for each rank."""
        each = Passes(1, 1) * self.steps + Passes(forwards=1)
        return each * len(self.ranks) + Passes(forwards=1)

    def judgements(self) -> int:
        """At most, as for `APGD`."""
        renewed = sum(step < self.steps for step in checkpoints(self.steps))
        return (self.steps + renewed) * len(self.ranks)


def _nearest(victim: Victim, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return the wrong classes of each image, int64 [N, classes - 1], the most probable first."""
    import torch

    with torch.no_grad():
        asked = victim.logits(pixels, 0) if victim.judged is None else victim.judged(pixels, 0)
    true = torch.nn.functional.one_hot(labels, victim.classes).bool()
    order = asked.masked_fill(true, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order[:, :-1]
