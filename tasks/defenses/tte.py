"""Test-time transformation ensembling (Perez et al., ICCV workshops 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense
from tasks.specs import Seed

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows

CROPS = 4


class TTE(Defense):
    """Ten views: the image and four crops of it after zero padding, each also mirrored.

    Logits are averaged. The places of the crops are drawn once, from `seed`, for all images.
    """

    kind: Literal["tte"] = "tte"
    version: ClassVar[int] = 1

    crops: Literal["four", "one"] = "four"
    """`four` different crops, or `one` taken four times, as the authors' code does."""
    padding: Annotated[float, Field(gt=0, le=0.5)] = 4 / 32
    """Padding on each side, as a fraction of the image's side."""
    seed: Seed = 0
    """Seed of the places of the crops."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def views(self, classes: int) -> int:  # noqa: ARG002
        """Ten views."""
        return 2 * (1 + CROPS)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Return the image and its crops, each followed by its mirror image."""
        import torch
        from torch.nn import functional

        from tasks.defenses.transforms import warps

        side = warps.square_side(pixels)
        room = round(self.padding * side)
        padded = functional.pad(pixels, (room,) * 4)
        made = [pixels]
        for down, across in self.places(side):
            made.append(padded[:, :, down : down + side, across : across + side])
        views = [view for each in made for view in (each, each.flip(3))]
        return torch.stack(views, dim=1).flatten(0, 1)

    def places(self, side: int) -> list[tuple[int, int]]:
        """Return top and left of each crop, in pixels of the padded image.

        They range from 0 to one less than twice the padding, as in the authors' code.
        """
        import torch

        from tasks.data.seeding import Rows

        zero = torch.zeros(1, dtype=torch.int64)
        most = max(0, 2 * round(self.padding * side) - 1)
        drawn = Rows(self.seed, zero, zero).integers("crops", 0, most, 2 * CROPS)
        pairs = drawn.reshape(CROPS, 2).tolist()
        kept = pairs if self.crops == "four" else pairs[-1:] * CROPS
        return [(down, across) for down, across in kept]

    def combine(self, logits: Tensor) -> Tensor:
        """Return the mean of the logits, as log-probabilities."""
        return logits.mean(dim=-2).log_softmax(dim=-1)
