"""Auto-PGD (Croce and Hein, ICML 2020): PGD with momentum and an adaptive step size."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.base import BoundedAttack, Victim
from tasks.attacks.search.schedule import checkpoints
from tasks.specs import Count, Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class APGD(BoundedAttack):
    """Auto-PGD: the best point of `restarts` runs of `steps` steps each.

    The best point is one that fools the victim, and among several the one with the highest loss.
    """

    version: ClassVar[int] = 1
    kind: Literal["apgd"] = "apgd"
    loss: Literal["cross-entropy", "margin", "dlr"] = "cross-entropy"
    """Objective of the ascent: cross-entropy, margin (highest other logit minus that of the label),
    or DLR, the difference of logits ratio."""
    steps: Count = 20
    """Steps of each run."""
    restarts: Count = 1
    """Number of runs, of which the best point is kept; all but the first start at a random
    point."""
    random_start: bool = True
    """Start the first run at a uniform random point of the ball instead of at the image."""

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return the best point of all runs; the first starts where PGD with the same seed does."""
        from tasks.attacks.search.descent import random_start

        begin = random_start(pixels, rows, ball=self.ball()) if self.random_start else pixels
        return self.perturb_from(victim, pixels, labels, rows, start=begin)

    def perturb_from(
        self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows, *, start: Tensor
    ) -> Tensor:
        """Return the best point of all runs, of which the first starts at `start`."""
        from tasks.attacks.search.auto_descent import Question, climb
        from tasks.attacks.search.descent import random_start
        from tasks.attacks.search.objectives import Goal

        ball = self.ball()
        aims = self.targets(labels, rows, victim.classes) if self.targeted else None
        ask = Question(victim, Goal(labels, aims), self.loss)
        best = climb(ask, pixels, start, ball=ball, steps=self.steps, renew=ask.renew)
        for restart in range(1, self.restarts):
            start = random_start(pixels, rows.within("restart").at(restart), ball=ball)
            asked = restart * (self.steps + 1)
            found = climb(
                ask,
                pixels,
                start,
                ball=ball,
                steps=self.steps,
                first_step=asked,
                renew=ask.renew,
            )
            best = ask.again(best).or_better(found)
        return best.pixels

    def forwards_and_backwards(self) -> Passes:
        """For each run, one of each at every step, and one forward pass for the last point."""
        return (Passes(1, 1) * self.steps + Passes(forwards=1)) * self.restarts

    def judgements(self) -> int:
        """All points of a run but the last, and the best one at each checkpoint and restart.

        Where the best point and the one of the highest loss differ, both are judged and one is
        counted.
        """
        renewed = sum(step < self.steps for step in checkpoints(self.steps))
        return (self.steps + renewed) * self.restarts + self.restarts - 1
