"""Where a classifier comes from: trained by a recipe, loaded from a checkpoint, or an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from tasks.networks.base import Network
from tasks.networks.ensemble import Ensemble
from tasks.specs import (
    Count,
    Fraction,
    LinfEpsilon,
    Passes,
    Pixel255,
    Precision,
    Problem,
    Seed,
    Spec,
)

LEARNING_RATES = {"mixup": 0.01, "iat": 0.1, "adversarial": 0.1}
"""Default learning rates. Those of mixup and iat are of the code of Mixup Inference, where the
paper's text says 0.1 for both; Madry et al. 2018 start at 0.1."""


class InnerAttack(Spec):
    """Untargeted PGD with one random start, inside (interpolated) adversarial training."""

    version: ClassVar[int] = 2
    epsilon: LinfEpsilon | None = None
    """Radius of the linf ball, in 1/255; the grid's epsilon by default."""
    step_size: Pixel255 | None = None
    """Size of each step, in 1/255; a quarter of `epsilon` by default."""
    steps: Count = 10
    """Number of steps."""
    label: Literal["true", "predicted"] = "true"
    """Class to ascend away from: the true one, or the model's own prediction, as in the paper's
    reference code."""

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`."""
        epsilon = problem.epsilon if self.epsilon is None else self.epsilon
        # With an epsilon of 0 every step is projected back, but its size must be positive.
        step_size = (epsilon / 4 or 1.0) if self.step_size is None else self.step_size
        return self.model_copy(update={"epsilon": epsilon, "step_size": step_size})

    def forwards_and_backwards(self) -> Passes:
        """For each image, one of each at every step, and one forward pass for a predicted label."""
        return Passes(1, 1) * self.steps + Passes(forwards=self.label == "predicted")


class Recipe(Spec):
    """Training as in the paper, section V-A, and in the released code that it follows.

    The schedule `steps` multiplies the learning rate by `decay` at each of the `milestones`. The
    schedule `one-cycle` raises it linearly over the first quarter of all steps, from 1/25 of
    `learning_rate`, and lowers it linearly to 0 over the rest.
    """

    version: ClassVar[int] = 1
    method: Literal["mixup", "iat", "adversarial"] = "mixup"
    """`mixup` (Zhang et al. 2018); `iat`, interpolated adversarial training (Lamb et al. 2019); or
    `adversarial` (Madry et al. 2018): each step is on the adversarial examples of a batch alone,
    with their own labels and without Mixup."""
    epochs: Count = 200
    """Number of passes over the training images."""
    batch_size: Count = 64
    """Images in a step; it changes results."""
    learning_rate: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Initial learning rate or, under `one-cycle`, the highest; by default 0.01 for mixup and 0.1
    for the others."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of stochastic gradient descent."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight decay of stochastic gradient descent."""
    schedule: Literal["steps", "one-cycle"] = "steps"
    """Schedule of the learning rate, see above."""
    milestones: Annotated[tuple[Count, ...], Field(strict=False)] = (100, 150)
    """Under `steps`, epochs after which the learning rate is multiplied by `decay`."""
    decay: Fraction = 0.1
    """Under `steps`, factor of the learning rate at each milestone."""
    mixup_alpha: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Mixup weights are drawn from Beta(alpha, alpha)."""
    crop_padding_px: Annotated[int, Field(ge=0, le=4096)] = 4
    """Zero padding on each side before a random crop, in pixels; 0 for no crops."""
    flip: bool = True
    """Mirror each image with probability 1/2."""
    inner: InnerAttack | None = None
    """The attack inside `iat` and `adversarial`."""
    precision: Precision = "float32"
    """Arithmetic of training."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "mixup" and self.inner is not None:
            raise ValueError("inner: the method mixup has no inner attack; iat and adversarial do")
        if self.method == "adversarial" and self.mixup_alpha != 1.0:
            raise ValueError("mixup_alpha: the method adversarial mixes no images")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0")
        return self

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`. A mixup recipe does not depend on the problem."""
        rate = LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate
        inner = None
        if self.method != "mixup":
            inner = (self.inner or InnerAttack()).resolved(problem)
        return self.model_copy(update={"learning_rate": rate, "inner": inner})

    def forwards_and_backwards(self) -> Passes:
        """For each image of an epoch; a backward pass to the weights counts as two."""
        step = Passes(1, 2)
        if self.method == "mixup":
            return step
        inner = (self.inner or InnerAttack()).forwards_and_backwards()
        return step * (2 if self.method == "iat" else 1) + inner


class TrainSpec(Spec):
    """A network trained by a recipe."""

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"randomised"})
    network: SerializeAsAny[Network]
    recipe: Recipe
    seed: Seed = 0
    """Seed of the initial weights and of all random numbers."""
    randomised: Literal[True] | None = None
    """Set if the network draws random numbers in eval mode too, and so is redrawn like a randomised
    defense."""

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`."""
        parts = {
            "network": self.network.resolved(problem),
            "recipe": self.recipe.resolved(problem),
        }
        return self.model_copy(update=parts)


class CheckpointSpec(Spec):
    """A network with the weights of a file."""

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"randomised", "weights_key"})
    network: SerializeAsAny[Network]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the file, which identifies it wherever it lies."""
    key_prefix: str = ""
    """Prefix to strip from the names of the file's weights, such as `module.`."""
    randomised: Literal[True] | None = None
    """See `TrainSpec`."""
    weights_key: str | None = None
    """Entry of the file that holds the weights; None to let `tasks.classifier.checkpoint`
    choose."""


class EnsembleSpec(Spec):
    """Several trained or loaded networks as one model; its node has the members' as parents."""

    version: ClassVar[int] = 1
    network: Ensemble
    """The ensemble of the members' networks."""
    members: Annotated[tuple[TrainSpec | CheckpointSpec, ...], Field(strict=False, min_length=2)]
    randomised: Literal[True] | None = None
    """Set if any member is randomised; see `TrainSpec`."""

    @classmethod
    def of(cls, members: Sequence[TrainSpec | CheckpointSpec]) -> Self:
        """Return the ensemble of some models."""
        return cls(
            network=Ensemble(members=tuple(member.network for member in members)),
            members=tuple(members),
            randomised=any(member.randomised for member in members) or None,
        )

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`."""
        return self.of([member.resolved(problem) for member in self.members])


ClassifierSpec = TrainSpec | CheckpointSpec | EnsembleSpec
"""What a model is: the spec of the node that other nodes have as their parent `model`."""
