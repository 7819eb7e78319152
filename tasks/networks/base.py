"""Base class of networks: specs that build a module from images in [0, 1] to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, field_validator, model_validator

from tasks.specs import Deviation, Kind, Mean

if TYPE_CHECKING:
    from torch import nn


class Network(Kind):
    """An architecture, and the normalisation of its inputs.

    The normalisation is part of the module, which takes pixels in [0, 1]. A subclass defines
    `module`, and `multiplications` for estimates of its cost.
    """

    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.5,)
    """Mean to subtract, in the pixel range [0, 1]: one number, or one for each channel."""
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (0.5,)
    """Standard deviation to divide by, in the pixel range [0, 1]: one number, or one for each
    channel."""

    @field_validator("mean", "std")
    @classmethod
    def _of_the_range_to_one(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if (largest := max(values)) > 1:
            meant = ", ".join(f"{value / 255:.4g}" for value in values)
            raise ValueError(
                f"{largest:g} is above 1, and pixels are in [0, 1] here, not in 0..255: "
                f"[{meant}] was probably meant"
            )
        return values

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} entries and std {len(self.std)}")
        return self

    def build(self, channels: int, side: int, classes: int, *, seed: int = 0) -> nn.Module:
        """Build the module, with random weights that depend on `seed` alone (He et al., ICCV 2015).

        The global random state is left as it was.

        Args:
            channels: Channels of the images.
            side: Side of the images, in pixels.
            classes: Number of classes.
            seed: Seed of the weights.

        Returns:
            A module from float32 [N, channels, side, side] in [0, 1] to logits, float32 [N,
            classes].

        Raises:
            ValueError: If the lengths of mean and std do not fit the channels.
        """
        import torch

        from tasks.networks.modules.initialise import initialise

        if len(self.mean) not in {1, channels}:
            raise ValueError(
                f"network {self.kind}: mean and std have {len(self.mean)} entries "
                f"for images of {channels} channels"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for what `initialise` does not set
            module = self.module(channels, side, classes)
        initialise(module, seed)
        return module

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """Return the multiplications in convolutions and linear layers of one image's forward pass.

        Called by planning, which does not import torch.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define multiplications")

    def module(self, channels: int, side: int, classes: int) -> nn.Module:
        """Return the module; `build` seeds torch, and sets the weights of convolutions, linear
        layers and batch norms itself.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define module")
