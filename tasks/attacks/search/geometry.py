"""Norm balls around images: projection, steepest direction, random points.

Distances are in pixel units, with pixels in [0, 1]. Each image has a ball of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.seeding import Rows
from tasks.specs import Norm

_TINY = 1e-12

_LENGTH_ERROR = 1e-4
"""Largest relative error of `lengths`, which sums the squares of a large image in float32."""


def lengths(vectors: Tensor) -> Tensor:
    """Return the Euclidean length of each image of [N, C, H, W], as [N, 1, 1, 1]."""
    found: Tensor = torch.linalg.vector_norm(vectors, dim=(1, 2, 3), keepdim=True)
    return found


@dataclass(frozen=True)
class Ball:
    """The images within `radius` (at least 0, in pixel units) of an original, in a norm."""

    norm: Norm
    radius: float

    def __post_init__(self) -> None:
        if self.norm not in {"linf", "l2"}:
            raise ValueError(f"norm: expected linf or l2, got {self.norm!r}")
        if not self.radius >= 0:
            raise ValueError(f"radius: expected at least 0, got {self.radius}")

    def project(self, pixels: Tensor, originals: Tensor) -> Tensor:
        """Project each image onto the ball around its original, then clip it to [0, 1].

        Clipping moves no pixel away from its original, so the result stays in the ball.

        Args:
            pixels: float [N, C, H, W], of any range.
            originals: float [N, C, H, W] in [0, 1].
        """
        change = pixels - originals
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            change = change * (self.radius / lengths(change).clamp_min(_TINY)).clamp_max(1.0)
        return (originals + change).clamp(0.0, 1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the step of unit length along which a function with this gradient grows fastest.

        This is the sign for linf and the normalised gradient for l2; zero where an image's gradient
        is.

        Args:
            gradient: float [N, C, H, W].
        """
        if self.norm == "linf":
            return gradient.sign()
        # Saturated networks have gradients near 1e-30, whose squares underflow in float32.
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        scaled = gradient / largest.where(largest > 0, 1.0)
        return scaled / lengths(scaled).clamp_min(_TINY)

    def uniform(self, originals: Tensor, rows: Rows) -> Tensor:
        """Return a uniform random point of the ball for each image, clipped to [0, 1].

        Args:
            originals: float [N, C, H, W] in [0, 1].
            rows: Identities of the N images. They alone determine the direction and the share of
                the radius, so a larger ball has the same points, scaled.
        """
        count = originals[0].numel() if len(originals) else 1
        if self.norm == "linf":
            offsets = rows.uniform("start", count) * 2.0 - 1.0
        else:
            offsets = rows.normal("start-direction", count)
            offsets = offsets / offsets.norm(dim=1, keepdim=True).clamp_min(_TINY)
            # The share of an n-ball's volume within a fraction r of its radius is r**n.
            offsets = offsets * rows.uniform("start-radius") ** (1.0 / count)
        offsets = offsets.reshape(originals.shape).to(originals.dtype)
        return self.project(originals + self.radius * offsets, originals)

    def contains(self, pixels: Tensor, originals: Tensor, *, tolerance: float = 1e-6) -> Tensor:
        """Return which images are within `radius` + `tolerance` of their originals, bool [N].

        An image with a NaN is not. In l2 the error of `project` for large images is tolerated too.
        """
        change = (pixels - originals).double()
        if self.norm == "linf":
            size = change.abs().flatten(1).amax(dim=1)
        else:
            size = lengths(change).flatten()
            tolerance += _LENGTH_ERROR * self.radius
        return size <= self.radius + tolerance
