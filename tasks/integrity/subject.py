"""A model under examination: a defense in front of a classifier, attacked and asked many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tasks.attacks.apgd import APGD
from tasks.attacks.base import BoundedAttack, Victim
from tasks.data.arrays import Images, as_float_on
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.defenses.transforms.combining import log_mean
from tasks.evaluation.defend import draw_logits
from tasks.evaluation.specs import CardSpec
from tasks.evaluation.victim import defended
from tasks.integrity.costs import answer_draws, climb, own_draws

Perturb = Callable[[Victim, Tensor, Tensor, Rows], Tensor]
"""The signature of `Attack.perturb`; it may return several points of an image, [n, points, C, H,
W]."""


class Subject:
    """The judged model and the images to ask it about, on the classifier's device.

    An answer is the log of the mean probability over draws that are the same for every question and
    that no attack sees, so attacks are compared on equal terms. `made` counts the points made by
    attacks, and `outside` those outside their ball or [0, 1].
    """

    def __init__(
        self, images: Images, context: Context, spec: CardSpec, *, batch_size: int
    ) -> None:
        device = context.classifier.device
        pool = None if context.pool is None else context.pool.to(device)
        self.context = replace(context, pool=pool)
        self.spec = spec
        self.pixels = as_float_on(images.pixels, device)
        self.labels = images.labels.to(device)
        ids = images.ids.to(device)
        self.rows = Rows(spec.seed, ids, torch.zeros_like(ids)).within("card")
        self.batch_size = batch_size
        self.answer_draws = answer_draws(spec, context.classifier.classes)
        few = self.answer_draws < own_draws(spec, context.classifier.classes)
        self.accuracy = f"{self.answer_draws}-draw accuracy" if few else "accuracy"
        """Name of the share of correct answers; a table's accuracy uses all draws of the
        defense."""
        self.made = 0
        self.outside = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def answer(self, points: Tensor, part: slice) -> Tensor:
        """Return the logits of each draw of an answer, float32 [n, draws, classes].

        Args:
            points: float32 [n, C, H, W] in [0, 1].
            part: Which of all images the points are of.
        """
        rows = self.rows[part].within("answer")
        with torch.no_grad():
            return draw_logits(
                self.spec.against, self.context, points, rows, draws=self.answer_draws
            )

    def crowded(self) -> Tensor:
        """Return the logits of the images' first draw, in one batch as full as any of a run.

        The images are repeated until they fill it. As its size is the machine's and not the card's,
        its passes are not counted.

        Returns:
            float32 [n, 1, classes] of the first n images, all if they fit into the batch.
        """
        views = self.spec.against.views(self.context.classifier.classes)
        count = max(1, self.batch_size // views)
        places = torch.arange(count, device=self.pixels.device) % len(self)
        rows = self.rows[places].within("answer")
        with torch.no_grad(), self.context.classifier.aside():
            pixels = self.pixels[places]
            logits = draw_logits(self.spec.against, self.context, pixels, rows, draws=1)
        return logits[: len(self)]

    def right(self, points: Tensor) -> Tensor:
        """Return which points, one for each image, are classified correctly, bool [N]."""
        return torch.cat(
            [
                log_mean(self.answer(points[part], part)).argmax(dim=1) == self.labels[part]
                for part in self.batches(self.answer_draws)
            ]
        )

    def count_right(self, points: Tensor) -> int:
        """Return how many points, one for each image, are classified correctly."""
        return int(self.right(points).sum())

    def percent(self, right: float) -> float:
        """Return a number of correct answers in percent of the images."""
        return 100 * right / len(self)

    def climb(self, epsilon: float, *, steps: int | None = None) -> APGD:
        """Return the attack that is checked, in a ball of `epsilon`, in 1/255."""
        return climb(self.spec, epsilon, steps=steps)

    def attacked(
        self,
        attack: BoundedAttack,
        *,
        perturb: Perturb | None = None,
        victim: Callable[[Rows], Victim] | None = None,
        draws: int | None = None,
    ) -> Tensor:
        """Return the points that an attack makes of the images, float32 [N, ...].

        Args:
            attack: The attack.
            perturb: Called instead of the attack's own.
            victim: Makes a victim to attack instead of the judged model.
            draws: Draws of the defense at each step; the card's by default.
        """
        draws = draws or self.spec.draws
        made = []
        for part in self.batches(draws):
            rows = self.rows[part].within("attack")
            attacked = self.victim(rows, draws) if victim is None else victim(rows)
            make = perturb or attack.perturb
            made.append(make(attacked, self.pixels[part], self.labels[part], rows).detach())
        points = torch.cat(made)
        self._look_at(points, attack)
        return points

    def victim(self, rows: Rows, draws: int) -> Victim:
        """Return the judged model as an adaptive attack sees it."""
        return defended(self.spec.against, self.context, rows, draws=draws)

    def batches(self, draws: int) -> Iterator[slice]:
        """Return parts of the images such that the views of all their draws make one batch."""
        views = self.spec.against.views(self.context.classifier.classes)
        size = max(1, self.batch_size // (draws * views))
        return (slice(start, start + size) for start in range(0, len(self), size))

    def _look_at(self, points: Tensor, attack: BoundedAttack) -> None:
        several = points.reshape(len(self), -1, *self.pixels.shape[1:])
        for place in range(several.shape[1]):
            found = several[:, place]
            inside = attack.ball().contains(found, self.pixels)
            in_range = ((found >= 0) & (found <= 1)).flatten(1).all(dim=1)
            self.made += len(found)
            self.outside += int((~(inside & in_range)).sum())
