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

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.classifier.frozen import Frozen
    from tasks.data.arrays import Images
    from tasks.data.seeding import Rows


@dataclass(frozen=True)
class Context:
    """What a transform may ask: the bare classifier and, if it needs a pool, clean images.

    smoothing: set by an attacker, and never by a defender. Where it is set a sign of some u is
    replaced by tanh(u / tau) and is not held constant; tau is `smoothing` times the mean of |u|
    of the image. rows_at_once: of one question, with all its draws; a larger one is asked in parts,
    which are asked once more for their gradient, so that no more than these are in memory.
    """

    classifier: Frozen
    pool: Images | None = None
    smoothing: float | None = None
    rows_at_once: int | None = None


class Defense(Kind):
    """A spec that transforms images before the classifier sees them.

    `once` says that it is applied once a prediction, not once a draw.
    """

    once: ClassVar[bool] = False
    draws: Count = 1
    """Transformed copies of an image that a prediction averages over."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Whether the draw space has one element, so that redraws repeat each other."""
        return False

    def smooths(self) -> bool:
        """Whether the transform has a sign that `context.smoothing` makes differentiable."""
        return False

    def needs_pool(self) -> bool:
        """Whether the transform reads `context.pool`."""
        return False

    def pool_split(self) -> Literal["train", "test"]:
        """Which images the pool is, for a defense that needs one."""
        return "train"

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Transform each row by the random numbers of its image and draw.

        pixels: float32 [M, C, H, W] in [0, 1]; returns the same shape and range.
        """
        raise TypeError(f"{type(self).__name__} does not define transform")

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """What `transform` asks of the classifier for `rows` rows of one image; nothing by default.

        distinct: how many of them differ; see `straight.predicted_classes`.
        """
        return Passes()

    def stages(self) -> tuple[tuple[str, Defense], ...]:
        """The defenses that make this one up, in order, each with the scope of its streams.

        A scope is a kind and its count so far (`guo#0`), so a defense alone and the same one
        at the end of a chain take the same draws, and their results are paired.
        """
        return ((f"{self.kind}#0", self),)
