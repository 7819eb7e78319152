"""Base classes of attacks: specs that perturb images against anything that gives logits."""

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
    """The model under attack, as a function from pixels to logits."""

    logits: Callable[[Tensor, int], Tensor]
    """Pixels, float32 [N, C, H, W] in [0, 1], and the number of the attack's step, to logits,
    float32 [N, classes]. Differentiable in the pixels; a randomised victim draws afresh at each
    step."""
    classes: int
    """Number of classes."""
    judged: Callable[[Tensor, int], Tensor] | None = None
    """Logits by which a search compares its points; None to compare them by `logits`.

    For a victim whose `logits` differ between steps (a randomised model) or only provide the
    gradient. Takes pixels and the number of a window, and returns the same shape as `logits`,
    without a graph. Within one window all calls use the same draws.
    """
    queried: Callable[[Tensor, int], Tensor] | None = None
    """Logits for a search without gradients, where `logits` are those of a surrogate; None if they
    are the same. Takes and returns the same as `logits`, without a graph."""
    window: int | None = None
    """How many queries in a row a search without gradients makes on the same draws, by `judged`;
    None for fresh draws at each query."""
    part: Callable[[Tensor], Victim] | None = None
    """Victim of a part of the batch, selected by positions, int64 [n]; None where every part of the
    batch has the same victim."""

    def of(self, places: Tensor) -> Victim:
        """Return the victim of the images at some positions of the batch.

        Args:
            places: int64 [n], positions in the batch that this victim was made for.
        """
        return self if self.part is None else self.part(places)


class Attack(Kind):
    """Base class of attacks: a spec that perturbs images.

    A subclass defines `perturb`, and `forwards_and_backwards` for estimates of its cost.
    """

    crafts: ClassVar[bool] = True
    """False for an attack that leaves every image as it is."""
    compound: ClassVar[bool] = False
    """True for an attack made of other attacks, of which the best example is kept; see
    `CompoundAttack`. Such an attack has no `perturb`."""
    draws_nothing: ClassVar[bool] = False
    """True for an attack that is valid only for deterministic models."""

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return adversarial examples for one batch.

        Each example must depend only on its own image and row, and lie in `self.ball()` around the
        original. Random numbers come from `rows`.

        Args:
            victim: The model under attack.
            pixels: float32 [N, C, H, W] in [0, 1]; must not be changed in place.
            labels: int64 [N], the true classes.
            rows: Identities of the N images, the source of random numbers.

        Returns:
            float32 [N, C, H, W] in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define perturb")

    def perturb_from(
        self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows, *, start: Tensor
    ) -> Tensor:
        """Return adversarial examples, with the search starting at given points.

        Defined only by attacks that an adaptive attack starts elsewhere than they would themselves.

        Args:
            victim: See `perturb`, as are `pixels`, `labels` and `rows`.
            start: float32 [N, C, H, W] in [0, 1], in the attack's ball around `pixels`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot begin at a given point")

    def forwards_and_backwards(self) -> Passes:
        """Return the victim's forward and backward passes that `perturb` takes for an image."""
        raise NotImplementedError(f"{type(self).__name__} does not define forwards_and_backwards")

    def judgements(self) -> int:
        """Return how often `perturb` calls `Victim.judged` for each image, where the victim has it.

        Not counted are calls that `forwards_and_backwards` counts already.
        """
        return 0

    def targets(self, labels: Tensor, rows: Rows, classes: int) -> Tensor:  # noqa: ARG002
        """Return the target class of each image, int64 [N]; -1 where the attack is untargeted."""
        return labels.new_full(labels.shape, -1)

    def notes(self) -> tuple[str, ...]:
        """Return lines that tell a user what the attack leaves out on this machine."""
        return ()

    def ball(self) -> Ball:
        """Return the ball around each original that holds every example; by default of radius 0."""
        from tasks.attacks.search.geometry import Ball

        return Ball("linf", 0.0)


class BallAttack(Attack):
    """An attack whose perturbations are bounded by `epsilon` in a norm."""

    norm: Norm = "linf"
    """Norm of the ball around each image."""
    epsilon: Epsilon | None = None
    """In 1/255 of the pixel range: the radius of the ball, which for l2 is the Euclidean length of
    the whole perturbation. By default the grid's epsilon; l2 needs a value of its own."""

    @model_validator(mode="after")
    def _epsilon_of_its_norm(self) -> Self:
        if self.norm == "linf" and (self.epsilon or 0.0) > LARGEST_LINF:
            raise ValueError(f"epsilon: {self.epsilon:g} is above {LARGEST_LINF:g}, in 1/255")
        return self

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with the problem's epsilon where none was given.

        Raises:
            ValueError: In l2 without an epsilon. The problem's epsilon is the radius of an linf
                ball, in which the perturbation of a 32x32 colour image can be 55 times as long.
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
        """Return the ball of radius `epsilon`, in pixel units.

        Raises:
            ValueError: If the spec is not resolved.
        """
        from tasks.attacks.search.geometry import Ball

        if self.epsilon is None:
            raise ValueError("epsilon: not set; call resolved(problem) first")
        return Ball(self.norm, self.epsilon / 255)


class BoundedAttack(BallAttack):
    """A bounded attack that may be targeted."""

    targeted: bool = False
    """Ascend towards a random wrong class instead of away from the true one."""

    def targets(self, labels: Tensor, rows: Rows, classes: int) -> Tensor:
        """Return a target class for each image, int64 [N]; -1 if untargeted.

        Targets are uniform over all wrong classes. A target depends only on the image and the seed,
        so attacks of any length share their targets.
        """
        if not self.targeted:
            return super().targets(labels, rows, classes)
        drawn = rows.integers("target", 0, classes - 2)[:, 0]
        return drawn + (drawn >= labels)


Start = Literal["own", "transferred", "best"]
"""Where a candidate starts: where its attack says itself, at the best transferred example, or at
the best of all candidates so far."""


@dataclass(frozen=True)
class Try:
    """One candidate of a compound attack: an attack on the defended model."""

    name: str
    """Name of the candidate. It states everything that distinguishes candidates of one attack, so
    two budgets give the same candidate the same name."""
    attack: Attack
    draws: int
    """Draws of the defense at each step (EOT)."""
    start: Start = "own"
    images: int | None = None
    """Try only the first so many images; None for all."""
    smoothing: float | None = None
    """See `tasks.evaluation.specs.CraftSpec`, as for `rule`, `inner_steps` and `relu_width`."""
    rule: GradientRule | None = None
    inner_steps: int | None = None
    relu_width: float | None = None
    window: int | None = None


@dataclass(frozen=True)
class Choice:
    """How the candidate of each image is selected; see `tasks.evaluation.specs.SelectSpec`."""

    draws: int
    predictions: int
    margin: float | None


class CompoundAttack(BallAttack):
    """An untargeted attack made of several candidates, of which each image gets the strongest.

    Candidates are made from cheap to expensive, each only for images that are not yet done: those
    that the model does not yet surely fail on.
    """

    compound: ClassVar[bool] = True
    images: Count | None = None
    """Largest number of test images to attack; unset, all of the grid's."""

    @model_validator(mode="before")
    @classmethod
    def _untargeted(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("targeted"):
            raise ValueError(f"targeted: an attack of kind {given.get('kind')} is untargeted")
        return given

    def transfers(self) -> Mapping[str, Attack]:
        """Return the attacks on the bare model, by their names as candidates; none by default."""
        return {}

    def tries(self, defense: Defense) -> tuple[Try, ...]:
        """Return the candidates on the defended model, from cheap to expensive, each once."""
        raise NotImplementedError(f"{type(self).__name__} does not define tries")

    def first_tries(self, defense: Defense) -> int:
        """Return how many of `tries` count towards the cost that limits an integrity card."""
        raise NotImplementedError(f"{type(self).__name__} does not define first_tries")

    def longest(self) -> tuple[int, int]:
        """Return the steps and draws of the longest APGD run, which an integrity card checks."""
        raise NotImplementedError(f"{type(self).__name__} does not define longest")

    def choice(self, *, deterministic: bool) -> Choice:
        """Return how the candidate of each image is selected.

        Args:
            deterministic: Whether the defended model is deterministic.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define choice")
