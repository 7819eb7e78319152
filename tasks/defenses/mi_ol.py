"""Mixup inference with non-predicted labels (Pang, Xu and Zhu 2020), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Fraction, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.arrays import Images
    from tasks.data.seeding import Rows


class MixupInference(Defense):
    """Mixtures of the input with clean images of classes other than its predicted one.

    A row is `input_weight` (lambda: 0.5 for Mixup models, 0.6 for IAT ones) of the input and
    the rest of an image drawn uniformly by class, then uniformly within the class. The images
    are the first `pool_size` of `context.pool`: training images, or test images as the code
    of Mixup Inference has it, whichever `pool` names.
    """

    kind: Literal["mi-ol"] = "mi-ol"
    version: ClassVar[int] = 1

    draws: Count = 30
    input_weight: Fraction = 0.5
    """Lambda, the input's share of a mixture."""
    pool: Literal["train", "test"] = "train"
    """Images that are mixed in: those for training, or those for testing."""
    pool_size: Count | None = None
    """How many of them; 10,000 by default, or all there are."""

    def resolved(self, problem: Problem) -> Self:
        """The pool's size filled in: 10,000 images, or all there are to train on."""
        return self.model_copy(update={"pool_size": self.pool_size or min(10_000, problem.pool)})

    def needs_pool(self) -> bool:
        """Always."""
        return True

    def pool_split(self) -> Literal["train", "test"]:
        """As `pool` says."""
        return self.pool

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Mix each row with an image of its own."""
        import torch

        from tasks.data.arrays import as_float
        from tasks.defenses.transforms import straight

        if context.pool is None:
            raise ValueError("mi-ol: the context has no pool of images")
        pool = context.pool[: self.pool_size]
        predicted = straight.predicted_classes(context.classifier, pixels)
        partners = as_float(pool.pixels[self.partners(predicted, pool, rows)])
        return torch.lerp(partners.to(pixels.dtype), pixels, self.input_weight)

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """One forward for the predicted class."""
        return Passes(forwards=distinct)

    @staticmethod
    def partners(predicted: Tensor, pool: Images, rows: Rows) -> Tensor:
        """int64 [M]: places in the pool, of classes other than `predicted` (int64 [M]).

        ValueError where the pool holds no other class.
        """
        import torch

        labels, order = pool.labels.sort(stable=True)
        classes = torch.arange(pool.classes, device=labels.device)
        starts = torch.searchsorted(labels, classes)
        counts = torch.searchsorted(labels, classes, right=True) - starts
        allowed = (counts > 0) & (classes != predicted[:, None])  # [M, classes]
        choices = allowed.sum(dim=1, keepdim=True)
        if not bool((choices > 0).all()):
            raise ValueError("mi-ol: the pool has no image of a class other than the predicted one")
        rank = rows.integers("class", 0, choices - 1)
        chosen = (allowed.cumsum(dim=1) <= rank).sum(dim=1)
        within = rows.integers("image", 0, counts[chosen][:, None] - 1)[:, 0]
        return order[starts[chosen] + within]
