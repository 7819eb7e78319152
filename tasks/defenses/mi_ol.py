"""Mixup Inference with non-predicted labels (Pang, Xu and Zhu 2020), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Fraction, Passes, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.arrays import Images
    from tasks.data.seeding import Rows


class MixupInference(Defense):
    """Mixup Inference: mixes the input with clean images of other classes than the predicted one.

    The class of the mixed-in image is drawn uniformly, then the image uniformly within the class.
    """

    kind: Literal["mi-ol"] = "mi-ol"
    version: ClassVar[int] = 1

    draws: Count = 30
    input_weight: Fraction = 0.5
    """Weight of the input in a mixture, lambda: 0.5 for Mixup models, 0.6 for IAT models."""
    pool: Literal["train", "test"] = "train"
    """Mix in training images, or test images as the code of Mixup Inference does."""
    pool_size: Count | None = None
    """Use the first so many images of the pool; 10,000 by default, or all if there are fewer."""

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with `pool_size` filled in: 10,000, or all training images if fewer."""
        return self.model_copy(update={"pool_size": self.pool_size or min(10_000, problem.pool)})

    def needs_pool(self) -> bool:
        """Always true."""
        return True

    def pool_split(self) -> Literal["train", "test"]:
        """Return `pool`."""
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
        """One forward pass for each distinct row, for the predicted class."""
        return Passes(forwards=distinct)

    @staticmethod
    def partners(predicted: Tensor, pool: Images, rows: Rows) -> Tensor:
        """Return positions in the pool, int64 [M], of images of other classes than predicted.

        Args:
            predicted: int64 [M], the predicted classes.
            pool: Images to draw from.
            rows: Identities of the M rows.

        Raises:
            ValueError: If the pool holds no other class.
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
