"""What a test-time defense declares.

A defended prediction is argmax of the mean over K draws of softmax f(T_k(C(x))):
C is applied once a prediction (`once`), T_k once a draw. A defense declares its number
of draws and its transform; the transform takes its random numbers from `rows`, so they
belong to the image and the draw, never to the batch. It is differentiable as written:
what has no useful gradient (a sign, a rounding, a predicted class) is computed from
detached tensors and so held constant inside a step of an attack and recomputed at the next,
and the last clip is passed straight through (`tasks.straight`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.specs import Count, Kind, Passes

GradientRule = Literal["straight-through", "surrogate", "differentiable", "iterates", "unrolled"]
"""How an attacker's gradient passes a defense, where a defense declares more than one way.

straight-through: as `transform` and `combine` are written, what has no useful gradient held
constant or passed straight through. surrogate: through `surrogate` in the place of a `combine`
that is not smooth. differentiable: with the gradient of a differentiable form of the transform,
which it takes where `context.rule` asks for it. Of a defense with an inner optimiser, `iterates`:
the mean probability over all the images that it goes through, from the first to the last, each
with its offset held constant; and `unrolled`: through every step of it, with the second derivatives
of the classifier.
"""

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.classifier.frozen import Frozen
    from tasks.data.arrays import Images
    from tasks.data.seeding import Rows


@dataclass(frozen=True)
class Context:
    """What a transform may ask: the bare classifier and, if it needs a pool, clean images.

    smoothing, rule, relu_width: set by an attacker, and never by a defender. Where `smoothing` is
    set a sign of some u is replaced by tanh(u / tau) and is not held constant; tau is `smoothing`
    times the mean of |u| of the image. `rule` is one of those that the defense declares; parts of
    a chain that do not declare it are passed straight through. relu_width: where a gradient of the
    classifier is differentiated, its ReLUs have a second derivative of this width; see
    `tasks.classifier.relu`. rows_at_once: of one question, with all its draws; a larger one is
    asked in parts, which are asked once more for their gradient, so that no more than these are in
    memory.
    """

    classifier: Frozen
    pool: Images | None = None
    smoothing: float | None = None
    rows_at_once: int | None = None
    rule: GradientRule = "straight-through"
    relu_width: float | None = None

    @property
    def twice(self) -> bool:
        """Whether a gradient that a transform takes is itself differentiated by an attacker."""
        return self.smoothing is not None or self.rule == "unrolled"

    def logits(self, pixels: Tensor) -> Tensor:
        """The bare classifier's, float32 [M, classes], for a gradient inside a transform.

        Differentiable in the pixels (float32 [M, C, H, W] in [0, 1]), twice where that is needed.
        """
        if not self.twice:
            return self.classifier.logits(pixels)
        return self.classifier.answers(pixels, relu_width=self.relu_width)

    def features(self, pixels: Tensor) -> Tensor:
        """What the bare classifier's last linear layer takes, float32 [M, D]; as `logits`."""
        width = self.relu_width if self.twice else None
        return self.classifier.features(pixels, again=self.twice, relu_width=width)


class Defense(Kind):
    """A spec that transforms images before the classifier sees them.

    `once` says that it is applied once a prediction, not once a draw.
    """

    once: ClassVar[bool] = False
    without_chance: ClassVar[bool] = False
    """Of a class of a user's own, whether its `transform` leaves `rows` alone, and so draws
    nothing."""
    draws: Count = 1
    """Transformed copies of an image that a prediction averages over."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Whether the draw space has one element, so that redraws repeat each other."""
        return type(self).without_chance

    def smooths(self) -> bool:
        """Whether the transform has a sign that `context.smoothing` makes differentiable."""
        return False

    def gradients(self) -> tuple[GradientRule, ...]:
        """The rules by which a gradient may pass, from cheap to dear; see `GradientRule`."""
        return ("straight-through",)

    def views(self, classes: int) -> int:  # noqa: ARG002
        """How many copies of a row `transform` makes: a prediction is asked all of them, always.

        An attacker takes a sample of the draws of a defense, and in each of them all its views.
        """
        return 1

    def combine(self, logits: Tensor) -> Tensor:
        """Log-probabilities [..., classes] of the logits of a draw's views, [..., V, classes].

        By default the log of the mean probability, and one view's logits as they are; a constant
        added to all classes makes no difference. Draws are averaged afterwards, over their
        probabilities. One that is not smooth declares a
        `surrogate` in `gradients`, before or without `straight-through`.
        """
        from tasks.defenses.transforms.combining import log_mean

        return log_mean(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """What an attacker climbs in the place of `combine`, of the same shapes."""
        from tasks.defenses.transforms.combining import log_mean

        return log_mean(logits)

    def combines(self) -> bool:
        """Whether a draw is more than one answer of the classifier as it is."""
        return self.views(2) > 1 or type(self).combine is not Defense.combine

    def asks_members(self) -> bool:
        """Whether `combine` is given the answers of every member of an ensemble.

        They stand in the place of views, [..., views * members, classes], the members of a view
        side by side. Such a defense is for models with `members`.
        """
        return False

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor | None:  # noqa: ARG002
        """bool [...]: where a prediction is none, of mean probabilities [..., classes] of draws.

        None of a defense that always answers. An abstention counts as a wrong answer.
        """
        return None

    def inner_steps(self) -> int:
        """How many steps an optimiser inside the transform takes; 0 without one."""
        return 0

    def shorter(self, steps: int) -> Defense:  # noqa: ARG002  for those that optimise
        """The same defense whose inner optimiser takes at most so many steps.

        What an attacker climbs in the place of a defense that is dear to differentiate; what it
        finds is judged by the whole.
        """
        return self

    def iterates(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """All the images that an inner optimiser goes through, the last being what it gives.

        pixels: as of `transform`; returns float32 [M * copies, C, H, W] in [0, 1], the images of a
        row side by side. Asked only where `gradients` declares `iterates`.
        """
        return self.transform(pixels, rows, context)

    def leaves_range(self) -> bool:
        """Whether the transform may give pixels outside [0, 1]."""
        return False

    def needs_pool(self) -> bool:
        """Whether the transform reads `context.pool`."""
        return False

    def pool_split(self) -> Literal["train", "test"]:
        """Which images the pool is, for a defense that needs one."""
        return "train"

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Transform each row by the random numbers of its image and draw.

        pixels: float32 [M, C, H, W] in [0, 1]; returns the same shape and range, or, of a defense
        with views, [M * views, C, H, W], the views of a row side by side. The range may be another
        where `leaves_range` says so.
        """
        raise TypeError(f"{type(self).__name__} does not define transform")

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """What `transform` asks of the classifier for `rows` rows of one image; nothing by default.

        distinct: how many of them differ; see `straight.predicted_classes`.
        """
        return Passes()

    def touched(self) -> int:
        """How many numbers `transform` reads and writes for each pixel of each channel of a row.

        What it asks of the classifier is not among them. Estimates add it to the passes; 0 by
        default, since most transforms take a fifth of a forward pass of ResNet-20 at most.
        """
        return 0

    def stages(self) -> tuple[tuple[str, Defense], ...]:
        """The defenses that make this one up, in order, each with the scope of its streams.

        A scope is a kind and its count so far (`guo#0`), so a defense alone and the same one
        at the end of a chain take the same draws, and their results are paired.
        """
        return ((f"{self.kind}#0", self),)
