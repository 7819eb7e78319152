"""How a classifier comes to be: trained by a recipe, loaded from a checkpoint, or of several."""

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
"""Mixup Inference's initial learning rates; the paper's text says 0.1 for both. Madry et al. 2018
start at 0.1."""


class InnerAttack(Spec):
    """The untargeted PGD, from one random start, inside (interpolated) adversarial training.

    epsilon, step_size: in 1/255; unset, the problem's epsilon and a quarter of it (8 and 2).
    label: the one attacked; the paper's reference code attacks the model's own prediction.
    """

    version: ClassVar[int] = 2
    epsilon: LinfEpsilon | None = None
    step_size: Pixel255 | None = None
    steps: Count = 10
    """Of the attack."""
    label: Literal["true", "predicted"] = "true"

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`."""
        epsilon = problem.epsilon if self.epsilon is None else self.epsilon
        # With an epsilon of 0 any step is projected back, but a step must have a length.
        step_size = (epsilon / 4 or 1.0) if self.step_size is None else self.step_size
        return self.model_copy(update={"epsilon": epsilon, "step_size": step_size})

    def forwards_and_backwards(self) -> Passes:
        """For each image: one of each a step, and one forward for the predicted label."""
        return Passes(1, 1) * self.steps + Passes(forwards=self.label == "predicted")


class Recipe(Spec):
    """Training as in the paper, section V-A, and in the released code that it follows.

    method: `mixup` (Zhang et al. 2018); `iat`, interpolated adversarial training (Lamb et al.
    2019); or `adversarial` (Madry et al. 2018): each step is on the adversarial images of a
    batch alone, with their own labels and without Mixup. The last two use the `inner` attack.
    learning_rate: the initial or, under `one-cycle`, the highest one; unset, 0.01 for mixup and
    0.1 for the others.

    schedule `steps` multiplies the rate by `decay` at each of the `milestones` (epochs from
    the start); `one-cycle` rises linearly over the first quarter of all steps from a 25th
    of the rate and falls linearly to 0 over the rest.

    mixup_alpha: interpolation weights are Beta(alpha, alpha). Crops are of zero-padded images.
    """

    version: ClassVar[int] = 1
    method: Literal["mixup", "iat", "adversarial"] = "mixup"
    epochs: Count = 200
    """How often each training image is seen."""
    batch_size: Count = 64
    """Images in a step; it changes results."""
    learning_rate: Annotated[float, Field(gt=0, le=1000)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of stochastic gradient descent."""
    nesterov: bool = False
    """Nesterov's form of it."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Of stochastic gradient descent."""
    schedule: Literal["steps", "one-cycle"] = "steps"
    """How the learning rate goes, see above."""
    milestones: Annotated[tuple[Count, ...], Field(strict=False)] = (100, 150)
    """Epochs after which the rate is multiplied by `decay`, under `steps`."""
    decay: Fraction = 0.1
    """What the rate is multiplied by, under `steps`."""
    mixup_alpha: Annotated[float, Field(gt=0, le=1000)] = 1.0
    crop_padding_px: Annotated[int, Field(ge=0, le=4096)] = 4
    """Zeros around an image before a random crop, in pixels; 0 crops nothing."""
    flip: bool = True
    """Mirror half of the images."""
    inner: InnerAttack | None = None
    """The attack inside `iat` and `adversarial`."""
    precision: Precision = "float32"
    """Of the arithmetic of training."""

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
        """See `Spec.resolved`. A mixup recipe does not depend on the problem at all."""
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
    """A network trained by a recipe; `seed` decides its first weights and every draw.

    randomised: it answers at random in eval mode too, and is redrawn as a randomised defense is.
    """

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"randomised"})
    network: SerializeAsAny[Network]
    recipe: Recipe
    seed: Seed = 0
    randomised: Literal[True] | None = None

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`."""
        parts = {
            "network": self.network.resolved(problem),
            "recipe": self.recipe.resolved(problem),
        }
        return self.model_copy(update=parts)


class CheckpointSpec(Spec):
    """A network with the weights of a file, which is known by its SHA-256, not its place.

    key_prefix: what is stripped from the names of the file's weights, such as `module.`.
    weights_key: the entry of the file that holds them, where `tasks.classifier.checkpoint` is not
    to choose. randomised: see `TrainSpec`.
    """

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"randomised", "weights_key"})
    network: SerializeAsAny[Network]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    key_prefix: str = ""
    randomised: Literal[True] | None = None
    weights_key: str | None = None


class EnsembleSpec(Spec):
    """Several trained or loaded networks as one model; the nodes of `members` are its parents.

    network: of the members' networks. randomised: see `TrainSpec`; where any member is.
    """

    version: ClassVar[int] = 1
    network: Ensemble
    members: Annotated[tuple[TrainSpec | CheckpointSpec, ...], Field(strict=False, min_length=2)]
    randomised: Literal[True] | None = None

    @classmethod
    def of(cls, members: Sequence[TrainSpec | CheckpointSpec]) -> Self:
        """The ensemble of some models."""
        return cls(
            network=Ensemble(members=tuple(member.network for member in members)),
            members=tuple(members),
            randomised=any(member.randomised for member in members) or None,
        )

    def resolved(self, problem: Problem) -> Self:
        """See `Spec.resolved`."""
        return self.of([member.resolved(problem) for member in self.members])


ClassifierSpec = TrainSpec | CheckpointSpec | EnsembleSpec
"""What a model is: the spec of a node that others have for their parent `model`."""
