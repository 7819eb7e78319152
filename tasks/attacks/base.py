"""What an attack is: a spec that makes examples against anything that gives logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.specs import LARGEST_LINF, Count, Epsilon, Kind, Norm, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.search.geometry import Ball
    from tasks.data.seeding import Rows
    from tasks.defenses.base import Defense, GradientRule


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
    part: Callable[[Tensor], Victim] | None = None
    """Of places of the batch, int64 [n]: the victim of those images, where they differ."""

    def of(self, places: Tensor) -> Victim:
        """The victim of the images at some places of the batch, int64 [n]."""
        return self if self.part is None else self.part(places)


class Attack(Kind):
    """A spec that perturbs images. `crafts` is false where it leaves them as they are.

    `compound` says that it is made of other attacks, whose best is taken: it does not perturb.
    """

    crafts: ClassVar[bool] = True
    compound: ClassVar[bool] = False
    draws_nothing: ClassVar[bool] = False
    """Whether it is only for models that always give an image the same answer."""

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

    def notes(self) -> tuple[str, ...]:
        """What a person is to know of what the attack leaves out on this machine, in lines."""
        return ()

    def ball(self) -> Ball:
        """What every example stays in, around its original; of radius 0 by default."""
        from tasks.attacks.search.geometry import Ball

        return Ball("linf", 0.0)


class BallAttack(Attack):
    """An attack inside a ball of radius `epsilon` around each image.

    epsilon: in 1/255 of the pixel range, for l2 the length of the whole perturbation; the
    problem's by default, in linf alone.
    """

    norm: Norm = "linf"
    """Of the ball around an image."""
    epsilon: Epsilon | None = None

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


class BoundedAttack(BallAttack):
    """An attack inside a ball that may be targeted.

    targeted: lead towards a random wrong class, not away from a label.
    """

    targeted: bool = False

    def targets(self, labels: Tensor, rows: Rows, classes: int) -> Tensor:
        """int64 [N]: one class each, uniform over all but the true one; -1 if untargeted.

        It depends on the image and the seed alone, so attacks of any length aim at the same.
        """
        if not self.targeted:
            return super().targets(labels, rows, classes)
        drawn = rows.integers("target", 0, classes - 2)[:, 0]
        return drawn + (drawn >= labels)


Start = Literal["own", "transferred", "best"]


@dataclass(frozen=True)
class Try:
    """One candidate: an attack on the defended model.

    draws: at each step; start: where the attack itself says, at the best of what was transferred,
    or at the best of all candidates before; images: of the first so many, or of all; smoothing,
    rule, inner_steps, relu_width: see `tasks.evaluation.specs.CraftSpec`. The name says all that
    sets candidates of one attack apart, so two budgets call the same candidate the same.
    """

    name: str
    attack: Attack
    draws: int
    start: Start = "own"
    images: int | None = None
    smoothing: float | None = None
    rule: GradientRule | None = None
    inner_steps: int | None = None
    relu_width: float | None = None


@dataclass(frozen=True)
class Choice:
    """How the candidate of an image is chosen; see `tasks.evaluation.specs.SelectSpec`."""

    draws: int
    predictions: int
    margin: float | None


class CompoundAttack(BallAttack):
    """An untargeted attack made of candidates, of which each image gets the strongest.

    Candidates are made from cheap to dear, each for those images alone that the model does not
    surely fail on yet. images: how many are attacked at most.
    """

    compound: ClassVar[bool] = True
    images: Count | None = None
    """How many are attacked at most."""

    @model_validator(mode="before")
    @classmethod
    def _untargeted(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("targeted"):
            raise ValueError(f"targeted: an attack of kind {given.get('kind')} is untargeted")
        return given

    def transfers(self) -> Mapping[str, Attack]:
        """The attacks on the bare model by their names as candidates; none by default."""
        return {}

    def tries(self, defense: Defense) -> tuple[Try, ...]:
        """The candidates that are made on the defended model, from cheap to dear, each once."""
        raise NotImplementedError(f"{type(self).__name__} does not define tries")

    def first_tries(self, defense: Defense) -> int:
        """How many of `tries` are cheap enough for the size of a card to count on."""
        raise NotImplementedError(f"{type(self).__name__} does not define first_tries")

    def longest(self) -> tuple[int, int]:
        """Steps, and draws at each, of the climbs that a card examines."""
        raise NotImplementedError(f"{type(self).__name__} does not define longest")

    def choice(self, *, deterministic: bool) -> Choice:
        """By what the candidate of an image is chosen."""
        raise NotImplementedError(f"{type(self).__name__} does not define choice")
