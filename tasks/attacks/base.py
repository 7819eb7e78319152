"""What an attack is: a spec that makes examples against anything that gives logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import model_validator

from tasks.specs import LARGEST_LINF, Epsilon, Kind, Norm, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.search.geometry import Ball
    from tasks.data.seeding import Rows


@dataclass(frozen=True)
class Victim:
    """What is attacked.

    logits: float32 [N, C, H, W] in [0, 1] and the attack's step to float32 [N, classes],
    differentiable in the pixels; a randomised victim draws afresh at each step. judged: of such
    a victim, the logits by which points are compared: pixels and a number of a window, within
    which the draws stay the same, to the same shape, without a gradient.
    """

    logits: Callable[[Tensor, int], Tensor]
    classes: int
    judged: Callable[[Tensor, int], Tensor] | None = None


class Attack(Kind):
    """A spec that perturbs images. `crafts` is false where it leaves them as they are.

    `compound` says that it is made of other attacks, whose best is taken: it does not perturb.
    """

    crafts: ClassVar[bool] = True
    compound: ClassVar[bool] = False

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Adversarial examples for one batch.

        pixels: float32 [N, C, H, W] in [0, 1]; labels: int64 [N], the true ones; rows: the
        images' identities, for random starts. Returns float32 [N, C, H, W] in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define perturb")

    def perturb_from(
        self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows, *, start: Tensor
    ) -> Tensor:
        """The same from a given point: only of attacks that an adaptive one begins elsewhere.

        start: float32 [N, C, H, W] in [0, 1], in the attack's ball around `pixels`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot begin at a given point")

    def forwards_and_backwards(self) -> Passes:
        """What `perturb` asks of the victim for each image."""
        raise NotImplementedError(f"{type(self).__name__} does not define forwards_and_backwards")

    def judgements(self) -> int:
        """How often `perturb` has each image judged by a victim that judges; see `Victim`."""
        return 0

    def targets(self, labels: Tensor, rows: Rows, classes: int) -> Tensor:  # noqa: ARG002
        """int64 [N]: the classes aimed at, -1 where the attack is untargeted."""
        return labels.new_full(labels.shape, -1)

    def ball(self) -> Ball:
        """What every example stays in, around its original; of radius 0 by default."""
        from tasks.attacks.search.geometry import Ball

        return Ball("linf", 0.0)


class BoundedAttack(Attack):
    """An attack inside a ball of radius `epsilon` around each image.

    epsilon: in 1/255 of the pixel range, for l2 the length of the whole perturbation; the
    problem's by default, in linf alone. targeted: lead towards a random wrong class, not away
    from a label.
    """

    norm: Norm = "linf"
    """Of the ball around an image."""
    epsilon: Epsilon | None = None
    targeted: bool = False

    @model_validator(mode="after")
    def _epsilon_of_its_norm(self) -> Self:
        if self.norm == "linf" and (self.epsilon or 0.0) > LARGEST_LINF:
            raise ValueError(f"epsilon: {self.epsilon:g} is above {LARGEST_LINF:g}, in 1/255")
        return self

    def resolved(self, problem: Problem) -> Self:
        """With the problem's epsilon where none was given.

        ValueError in l2: the problem's epsilon is the radius of an linf ball, in which the
        perturbation of an image of 32x32 colour pixels may be 55 times as long.
        """
        if self.epsilon is not None:
            return self
        if self.norm == "l2":
            raise ValueError(
                "epsilon: an l2 ball needs one of its own, since the grid's "
                f"{problem.epsilon:g}/255 is the radius of an linf ball; 128 (a length of 0.5) is "
                "what CIFAR-10 is usually attacked with"
            )
        return self.model_copy(update={"epsilon": float(problem.epsilon)})

    def ball(self) -> Ball:
        """The ball of `epsilon`, in pixel units; ValueError on a spec that is not resolved."""
        from tasks.attacks.search.geometry import Ball

        if self.epsilon is None:
            raise ValueError("epsilon: not set; call resolved(problem) first")
        return Ball(self.norm, self.epsilon / 255)

    def targets(self, labels: Tensor, rows: Rows, classes: int) -> Tensor:
        """int64 [N]: one class each, uniform over all but the true one; -1 if untargeted.

        It depends on the image and the seed alone, so attacks of any length aim at the same.
        """
        if not self.targeted:
            return super().targets(labels, rows, classes)
        drawn = rows.integers("target", 0, classes - 2)[:, 0]
        return drawn + (drawn >= labels)
