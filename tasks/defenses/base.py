"""Base class of test-time defenses.

A defended prediction is the argmax of the mean over K draws of softmax f(T_k(C(x))). C is applied
once per prediction (`Defense.once`), T_k once per draw. A defense declares K (`draws`) and its
`transform`, which takes its random numbers from `rows`, so that they belong to an image and a draw
and not to the batch.

A transform is differentiable as written. What has no useful gradient (a sign, a rounding, a
predicted class) is computed from detached tensors, so it is a constant within one step of an attack
and recomputed at the next. The final clip is passed straight through (`tasks.straight`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.specs import Count, Kind, Passes

GradientRule = Literal["straight-through", "surrogate", "differentiable", "iterates", "unrolled"]
"""How an attacker's gradient passes a defense. A defense declares its rules in `Defense.gradients`.

- `straight-through`: through `transform` and `combine` as they are written, with what has no useful
  gradient held constant or treated as the identity (straight-through estimator, BPDA).
- `surrogate`: through `surrogate` instead of a `combine` that is not smooth.
- `differentiable`: through a differentiable form of the transform, which it uses backwards if
  `context.rule` asks for it. The values do not change.
- `iterates`: for an inner optimiser, the mean probability over all its iterates, from the first to
  the last, with each offset held constant.
- `unrolled`: through every step of an inner optimiser, with second derivatives of the classifier.
"""

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.classifier.frozen import Frozen
    from tasks.data.arrays import Images
    from tasks.data.seeding import Rows


@dataclass(frozen=True)
class Context:
    """What a transform may use: the bare classifier and, for defenses that need them, clean images.

    All fields but the first two are set only by an attacker or by what runs the defense.
    """

    classifier: Frozen
    """The bare classifier."""
    pool: Images | None = None
    """Clean images, for a defense whose `needs_pool` is true."""
    smoothing: float | None = None
    """If set, a sign(u) in a transform is replaced by tanh(u / tau) and is not held constant; tau
    is `smoothing` times the mean of abs(u) over what is signed together for an image: all labels of
    `counter`, each class of `pnml`."""
    rows_at_once: int | None = None
    """Largest number of rows, with all their draws, in one forward pass. A larger question is asked
    in parts, each of which is computed again for its gradient, to bound memory."""
    rule: GradientRule = "straight-through"
    """The gradient rule to use, one that the defense declares. Parts of a chain that do not declare
    it are passed straight through."""
    relu_width: float | None = None
    """Where a gradient of the classifier is differentiated, the width of the second derivative of
    its ReLUs; see `tasks.classifier.relu`."""

    @property
    def twice(self) -> bool:
        """Whether an attacker differentiates the gradients that a transform takes."""
        return self.smoothing is not None or self.rule == "unrolled"

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the bare classifier's logits, for a gradient inside a transform.

        Args:
            pixels: float32 [M, C, H, W] in [0, 1].

        Returns:
            float32 [M, classes], differentiable in the pixels, and twice if `twice` is true.
        """
        if not self.twice:
            return self.classifier.logits(pixels)
        return self.classifier.answers(pixels, relu_width=self.relu_width)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the inputs of the classifier's last linear layer, float32 [M, D]; see `logits`."""
        width = self.relu_width if self.twice else None
        return self.classifier.features(pixels, again=self.twice, relu_width=width)


class Defense(Kind):
    """Base class of test-time defenses, which transform images before the classifier sees them.

    A subclass defines `transform`, and overrides what else it declares of itself.
    """

    once: ClassVar[bool] = False
    """Whether the transform is applied once per prediction instead of once per draw."""
    without_chance: ClassVar[bool] = False
    """For a user's class: whether its `transform` never reads `rows`, and so is deterministic. The
    program finds this out."""
    draws: Count = 1
    """Number of transformed copies of an image that a prediction averages over."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Return whether all draws are the same, so that redraws repeat each other."""
        return type(self).without_chance

    def smooths(self) -> bool:
        """Return whether the transform has a sign that `context.smoothing` makes differentiable."""
        return False

    def gradients(self) -> tuple[GradientRule, ...]:
        """Return the rules by which gradients may pass, cheapest first; see `GradientRule`."""
        return ("straight-through",)

    def views(self, classes: int) -> int:  # noqa: ARG002
        """Return how many copies of a row `transform` makes, all of which each prediction uses.

        An attacker may sample the draws of a defense, but each of them with all its views.
        """
        return 1

    def combine(self, logits: Tensor) -> Tensor:
        """Combine the answers about a draw's views into log-probabilities.

        By default this is the log of the mean probability; the logits of a single view are returned
        as they are. Probabilities are averaged over draws afterwards. A defense whose `combine` is
        not smooth declares `surrogate` in `gradients`, before or without `straight-through`.

        Args:
            logits: float32 [..., V, classes], of V views.

        Returns:
            [..., classes], log-probabilities up to a constant added to all classes.
        """
        from tasks.defenses.transforms.combining import log_mean

        return log_mean(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """Return what an attacker differentiates instead of `combine`, of the same shapes."""
        from tasks.defenses.transforms.combining import log_mean

        return log_mean(logits)

    def combines(self) -> bool:
        """Return whether a draw is more than one plain answer of the classifier."""
        return self.views(2) > 1 or type(self).combine is not Defense.combine

    def asks_members(self) -> bool:
        """Return whether `combine` takes the answers of every member of an ensemble.

        They take the place of views, [..., views * members, classes], with the members of a view
        adjacent. Such a defense is for models with `members`.
        """
        return False

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor | None:  # noqa: ARG002
        """Return where a prediction abstains, which counts as wrong; None if it never does.

        Args:
            probabilities: [..., classes], means over the draws.
            draws: Number of draws.

        Returns:
            bool [...], or None.
        """
        return None

    def inner_steps(self) -> int:
        """Return the number of steps of an optimiser inside the transform; 0 if there is none."""
        return 0

    def shorter(self, steps: int) -> Defense:  # noqa: ARG002  for those that optimise
        """Return the same defense with at most `steps` steps of its inner optimiser.

        An attacker differentiates it instead of a defense that is expensive to differentiate; the
        points that it finds are judged by the whole defense.
        """
        return self

    def iterates(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Return all iterates of the inner optimiser, the last as `transform` returns it.

        Called only if `gradients` declares `iterates`.

        Returns:
            float32 [M * (inner_steps + 1), C, H, W] in [0, 1], the iterates of a row adjacent.
        """
        return self.transform(pixels, rows, context)

    def leaves_range(self) -> bool:
        """Return whether the transform may return pixels outside [0, 1]."""
        return False

    def needs_pool(self) -> bool:
        """Return whether the transform reads `context.pool`."""
        return False

    def pool_split(self) -> Literal["train", "test"]:
        """Return which images the pool holds, for a defense that needs one."""
        return "train"

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Transform each row, with the random numbers of its image and draw.

        Args:
            pixels: float32 [M, C, H, W] in [0, 1]; must not be changed in place.
            rows: Identities of the M rows, the only source of random numbers.
            context: The bare classifier, and how gradients are to pass.

        Returns:
            float32 [M * views, C, H, W] in [0, 1], the views of a row adjacent. If `leaves_range`
            is true, values may lie outside [0, 1].
        """
        raise TypeError(f"{type(self).__name__} does not define transform")

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """Return the classifier's passes that `transform` takes for some rows of one image.

        By default there are none.

        Args:
            rows: Number of rows.
            distinct: How many of the rows differ; see `tasks.straight.predicted_classes`.
            classes: Number of classes.
        """
        return Passes()

    def touched(self) -> int:
        """Return how many numbers `transform` reads and writes for each pixel and channel of a row.

        Passes of the classifier are not included. Estimates add this to them. The default is 0,
        since most transforms take at most a fifth of the time of a forward pass of ResNet-20.
        """
        return 0

    def stages(self) -> tuple[tuple[str, Defense], ...]:
        """Return the defenses that make this one up, in order, with the scopes of their streams.

        A scope is a kind and how often that came before (`guo#0`). So a defense alone and the same
        one at the end of a chain use the same draws, and their results are paired.
        """
        return ((f"{self.kind}#0", self),)


def passes_gradients(defense: Defense) -> bool:
    """Return whether gradients pass a defense as it is written (`straight-through`).

    If not, they are those of a surrogate.
    """
    return "straight-through" in defense.gradients()
