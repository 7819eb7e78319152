"""The tensors that tasks exchange, and the checks of them.

Pixels are float32 in [0, 1], or uint8 in 0..255 where a data set stores them. Images are [N, C, H,
W]; labels and ids are int64 [N].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class BadTensor(ValueError):
    """A tensor does not have the required shape, type or values."""


def require(condition: bool | Tensor, message: str) -> None:
    """Raise BadTensor with `message` unless `condition` holds."""
    if not bool(condition):
        raise BadTensor(message)


def as_float(pixels: Tensor) -> Tensor:
    """Convert uint8 in 0..255 to float32 in [0, 1], of any shape."""
    return pixels.to(torch.float32) / 255.0


def as_float_on(pixels: Tensor, device: torch.device | str) -> Tensor:
    """Convert as `as_float` does and move to a device, with equal bits on every device.

    The division is on the CPU, since a GPU multiplies by the reciprocal, which rounds differently.
    """
    return as_float(pixels.cpu()).to(device)


def check_pixels(pixels: Tensor, what: str = "pixels") -> None:
    """Require float [N, C, H, W], finite and in [0, 1]; else raise BadTensor."""
    require(pixels.ndim == 4, f"{what}: expected [N, C, H, W], got {tuple(pixels.shape)}")
    require(pixels.is_floating_point(), f"{what}: expected floats, got {pixels.dtype}")
    if pixels.numel():
        low, high = pixels.aminmax()
        require(
            torch.isfinite(low) & torch.isfinite(high) & (low >= 0) & (high <= 1),
            f"{what}: expected finite values in [0, 1], got {low.item():g} to {high.item():g}",
        )


def _check_column(name: str, column: Tensor, count: int) -> None:
    require(
        column.shape == (count,) and column.dtype == torch.int64,
        f"{name}: expected int64 [{count}], got {column.dtype} {tuple(column.shape)}",
    )


@dataclass(frozen=True)
class Images:
    """Labelled images in a fixed order."""

    pixels: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N], in 0..classes-1."""
    ids: Tensor
    """int64 [N], an image's place in the whole split, even if only a part of the split is here."""
    classes: int

    def __post_init__(self) -> None:
        count = len(self.pixels)
        shape, dtype = tuple(self.pixels.shape), self.pixels.dtype
        require(len(shape) == 4, f"images: expected [N, C, H, W], got {shape}")
        require(dtype == torch.uint8, f"images: expected uint8, got {dtype}")
        _check_column("labels", self.labels, count)
        _check_column("ids", self.ids, count)
        if count:
            low, high = self.labels.aminmax()
            require(
                (low >= 0) & (high < self.classes),
                f"labels: expected 0 to {self.classes - 1}, got {low.item()} to {high.item()}",
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index], self.ids[index], self.classes)

    def to(self, device: torch.device) -> Images:
        """The same images on `device`."""
        return Images(
            self.pixels.to(device), self.labels.to(device), self.ids.to(device), self.classes
        )


@dataclass(frozen=True)
class Splits:
    """A data set: training and test images, with no image in both."""

    train: Images
    test: Images


@dataclass(frozen=True)
class Crafted:
    """Examples for a defense: adversarial ones, or clean ones unchanged."""

    pixels: Tensor
    """float32 [N, C, H, W] in [0, 1]."""
    labels: Tensor
    """int64 [N], the true classes."""
    ids: Tensor
    """int64 [N]."""
    targets: Tensor
    """int64 [N], the target of a targeted attack, otherwise -1."""

    def __post_init__(self) -> None:
        check_pixels(self.pixels, "crafted pixels")
        count = len(self.pixels)
        _check_column("crafted labels", self.labels, count)
        _check_column("crafted ids", self.ids, count)
        _check_column("crafted targets", self.targets, count)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> Crafted:
        return Crafted(self.pixels[index], self.labels[index], self.ids[index], self.targets[index])


@dataclass(frozen=True)
class Outcomes:
    """Answers of a defended classifier."""

    probabilities: Tensor
    """float32 [N, R, classes], or float64 for a defense that combines several answers: the mean
    softmax over the K draws within each of R redraws of the whole prediction."""
    labels: Tensor
    """int64 [N], the true classes."""
    ids: Tensor
    """int64 [N]."""
    abstained: Tensor | None = None
    """bool [N, R], where it abstained; None for a defense that never does."""

    def __post_init__(self) -> None:
        shape = tuple(self.probabilities.shape)
        require(len(shape) == 3, f"probabilities: expected [N, R, classes], got {shape}")
        require(torch.isfinite(self.probabilities).all(), "probabilities: not all finite")
        if self.probabilities.numel():
            total = self.probabilities.sum(dim=2)
            require(
                ((total - 1).abs() < 1e-3).all(),
                f"probabilities: rows sum to {total.min().item():g}..{total.max().item():g}, not 1",
            )
        if self.abstained is not None:
            found = f"{self.abstained.dtype} {tuple(self.abstained.shape)}"
            require(
                self.abstained.dtype == torch.bool and self.abstained.shape == shape[:2],
                f"abstained: expected bool {tuple(shape[:2])}, got {found}",
            )

    @classmethod
    def of_columns(cls, columns: Mapping[str, Tensor]) -> Outcomes:
        """Return the outcomes that `columns` converted."""
        mask = columns.get("abstained")
        found = {**columns, "abstained": None if mask is None else mask != 0}
        return cls(**found)  # type: ignore[arg-type]

    def columns(self) -> dict[str, Tensor]:
        """Return the tensors by name, the mask as uint8 or, if there is none, absent."""
        found = {"probabilities": self.probabilities, "labels": self.labels, "ids": self.ids}
        mask = {} if self.abstained is None else {"abstained": self.abstained.to(torch.uint8)}
        return found | mask

    @property
    def predicted(self) -> Tensor:
        """int64 [N, R], the class with the highest mean probability."""
        return self.probabilities.argmax(dim=2)

    @property
    def correct(self) -> Tensor:
        """bool [N, R], whether the prediction is the true class; an abstention is not."""
        right = self.predicted == self.labels[:, None]
        return right if self.abstained is None else right & ~self.abstained
