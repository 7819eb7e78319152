"""What a network is: a spec that builds a module from images in [0, 1] to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, field_validator, model_validator

from tasks.specs import Deviation, Kind, Mean

if TYPE_CHECKING:
    from torch import nn


class Network(Kind):
    """An architecture and the normalisation of its inputs.

    mean, std: of the pixel range [0, 1], one number or one for each channel. They are part
    of the module, which takes pixels in [0, 1].
    """

    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.5,)
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (0.5,)

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
        """The module, float32 [N, channels, side, side] in [0, 1] to float32 [N, classes].

        Its weights are He et al.'s random ones and depend on `seed` alone; the global random
        state is left as it was. ValueError where mean and std do not fit the channels.
        """
        import torch

        from tasks.networks.modules.initialise import initialise

        if len(self.mean) not in {1, channels}:
            raise ValueError(
                f"network {self.kind}: mean and std have {len(self.mean)} entries "
                f"for images of {channels} channels"
            )
        with torch.random.fork_rng(devices=[]):
            module = self.module(channels, side, classes)
        initialise(module, seed)
        return module

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """Of the forward pass of one image, in convolutions and linear layers; no torch needed."""
        raise NotImplementedError(f"{type(self).__name__} does not define multiplications")

    def module(self, channels: int, side: int, classes: int) -> nn.Module:
        """The module with weights of no consequence; `build` sets them."""
        raise NotImplementedError(f"{type(self).__name__} does not define module")
