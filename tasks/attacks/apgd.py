"""Auto-PGD (Croce and Hein, ICML 2020): projected gradient steps that find their own size."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.base import BoundedAttack, Victim
from tasks.attacks.search.schedule import checkpoints
from tasks.specs import Count, Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class APGD(BoundedAttack):
    """The best point of `restarts` climbs of `steps` steps each.

    Best is a point that fools the victim, and of several the one with the highest loss. loss:
    what the steps climb, dlr being the difference of logits ratio; random_start: begin the
    first climb at a uniform random point of the ball instead of the image, as the others do.
    """

    version: ClassVar[int] = 1
    kind: Literal["apgd"] = "apgd"
    loss: Literal["cross-entropy", "margin", "dlr"] = "cross-entropy"
    steps: Count = 20
    restarts: Count = 1
    random_start: bool = True

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """The best point of all climbs; the first begins where a PGD of the same seed does."""
        from tasks.attacks.search.descent import random_start

        begin = random_start(pixels, rows, ball=self.ball()) if self.random_start else pixels
        return self.perturb_from(victim, pixels, labels, rows, start=begin)

    def perturb_from(
        self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows, *, start: Tensor
    ) -> Tensor:
        """The best point of all climbs, of which the first begins at `start`."""
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
        """For each climb one of each a step, and one forward to judge the last point."""
        return (Passes(1, 1) * self.steps + Passes(forwards=1)) * self.restarts

    def judgements(self) -> int:
        """Each iterate, and after each checkpoint the best so far; two points where they differ."""
        renewed = sum(step < self.steps for step in checkpoints(self.steps))
        return (self.steps + renewed) * self.restarts + self.restarts - 1
