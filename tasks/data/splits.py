"""Data sets as tensors in a fixed order."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from tasks.data.arrays import BadTensor, Images, Splits, require
from tasks.data.seeding import Rows
from tasks.data.spec import Interpolation

FORMATS = ("WEBP", "PNG", "JPEG", "BMP", "PPM", "TIFF")
"""Formats of encoded images that are read, by Pillow's names."""
DARK = 127
"""Brightest pixel up to which a user is told that images are dark."""
DIGITS_TEST = 600
"""Test images among scikit-learn's 1,797 digits; the others are for training."""


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return a seeded random order in which the classes take turns, int64 [N].

    The first n images hold every class equally often, to within one image, until a class runs out.

    Args:
        labels: int64 [N].
        seed: Seed of the order.
    """
    places = torch.arange(len(labels))
    rows = Rows(seed=seed, images=places, draws=torch.zeros_like(places), _scope="order")
    within, turn = rows.words("shuffle", 2).unbind(1)
    shuffled = within.argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(places)
    ranks[by_class] = places - starts[labels[by_class]]
    # Sort by rank, then by 32 random bits: round by round, in random order within a round.
    return ((ranks << 32) + turn).argsort(stable=True)


def prepare(
    train_pixels: Tensor,
    train_labels: Tensor,
    test_pixels: Tensor,
    test_labels: Tensor,
    classes: int,
    *,
    seed: int = 0,
) -> Splits:
    """Return both splits in their fixed order; an image's id is its place in it.

    Args:
        train_pixels: uint8 [N, C, H, W], where N may be 0.
        train_labels: Integers [N] in 0..classes-1.
        test_pixels: uint8 [N, C, H, W], of the same C, H and W.
        test_labels: Integers [N] in 0..classes-1.
        classes: Number of classes.
        seed: Seed of the order.

    Raises:
        BadTensor: If the tensors are not such.
    """
    require(
        train_pixels.shape[1:] == test_pixels.shape[1:],
        f"train images are {tuple(train_pixels.shape[1:])} and test images "
        f"{tuple(test_pixels.shape[1:])}; expected one size",
    )
    return Splits(
        train=_ordered(train_pixels, train_labels, classes, seed, "train"),
        test=_ordered(test_pixels, test_labels, classes, seed, "test"),
    )


def decode_images(
    encoded: Sequence[bytes],
    channels: int = 3,
    *,
    names: Sequence[str] | None = None,
    side: int | None = None,
    resize: Interpolation | None = None,
) -> Tensor:
    """Decode images of the `FORMATS`, all of one size, to uint8 [N, channels, H, W].

    Args:
        encoded: Contents of the files.
        channels: 1 for grey, also if stored as equal colours or in a palette, or 3 for colour.
            Transparency is dropped; a grey image among colour ones is converted to colour.
        names: Names of the images, for messages.
        side: Side to resize to, in pixels.
        resize: Filter of `resized`, applied after images are turned upright by their EXIF data.
            Without it their pixels are taken as stored, as by torchvision's `ImageFolder`.

    Raises:
        BadTensor: Names the first image that cannot be decoded, is one of several in its file, has
            more than 8 bits a channel, has colours where grey is expected, or has another size than
            the first.
    """
    require(channels in {1, 3}, f"channels: expected 1 or 3, got {channels}")
    require(len(encoded) > 0, "no images")
    names = [f"image {index}" for index in range(len(encoded))] if names is None else names
    images: list[Tensor] = []
    coloured = False
    for name, data in zip(names, encoded, strict=True):
        wanted = None if resize is None or side is None else (side, resize)
        pixels, colour = _decode(data, "L" if channels == 1 else "RGB", name, wanted)
        require(channels == 3 or not colour, f"{name} has colours; expected grey, 1 channel")
        coloured |= colour
        images.append(pixels)
        require(
            pixels.shape == images[0].shape,
            f"{name} is {_size(pixels)} pixels where {names[0]} is {_size(images[0])}; "
            "resize would bring them to one size",
        )
    require(channels == 1 or coloured, "all images are grey; expected colours, 3 channels")
    return torch.stack(images).permute(0, 3, 1, 2).contiguous()


def channels_first(pixels: Tensor) -> Tensor:
    """Convert [N, H, W, C], or grey [N, H, W], to [N, C, H, W], all uint8; else raise BadTensor."""
    shape = tuple(pixels.shape)
    require(
        len(shape) in {3, 4} and pixels.dtype == torch.uint8,
        f"images: expected uint8 [N, H, W, C] or [N, H, W], got {pixels.dtype} {shape}",
    )
    if pixels.ndim == 3:
        return pixels.unsqueeze(1)
    return pixels.permute(0, 3, 1, 2).contiguous()


def digits() -> Splits:
    """Return scikit-learn's 1,797 handwritten digits, uint8 [N, 1, 8, 8]: 1,197 train and 600 test.

    The test images are the first 600 of a stratified order with seed 0, 60 of each class. The 17
    grey levels are spread over 0..255.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    levels = torch.from_numpy(bundle.images).unsqueeze(1)
    pixels = (levels * (255.0 / 16.0)).round().to(torch.uint8)
    labels = torch.from_numpy(bundle.target).to(torch.int64)
    order = stratified_order(labels, seed=0)
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return prepare(pixels[train], labels[train], pixels[test], labels[test], 10)


def resized(pixels: Tensor, side: int, resize: Interpolation) -> Tensor:
    """Resize uint8 [N, C, H, W] to uint8 [N, C, side, side].

    The shorter side is scaled to `side` by a filter of Pillow's, antialiased unless it is
    `nearest`; of the longer side the middle is kept.
    """
    if pixels.shape[2:] == (side, side) or not len(pixels):
        return pixels
    images = []
    for each in pixels:
        array = each.permute(1, 2, 0).squeeze(2) if len(each) == 1 else each.permute(1, 2, 0)
        image = _resized(Image.fromarray(array.contiguous().numpy()), side, resize)
        images.append(torch.from_numpy(np.array(image)).reshape(side, side, -1))
    return torch.stack(images).permute(0, 3, 1, 2).contiguous()


def oddities(splits: Splits, class_names: Sequence[str] | None = None) -> list[str]:
    """Return what a user should know before trusting a number on these images, a line each.

    Reported are pixels that fill only a part of their range, classes without images, and test
    images that are also in the training split.
    """
    said = []
    names = class_names or tuple(map(str, range(splits.test.classes)))
    for split, images in (("train", splits.train), ("test", splits.test)):
        if not len(images):
            continue
        brightest = int(images.pixels.max())
        if brightest <= 1:
            said.append(f"{split} pixels are 0 and 1 of 0 to 255: were they fractions of white?")
        elif brightest <= DARK:
            said.append(f"the brightest pixel of {split} is {brightest} of 255")
        counts = images.labels.bincount(minlength=images.classes).tolist()
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        if empty:
            few = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
            said.append(f"classes without images in {split}: {len(empty)} ({few})")
    known = {_fingerprint(image) for image in splits.train.pixels}
    both = sum(_fingerprint(image) in known for image in splits.test.pixels)
    if both:
        said.append(f"test images that are also in train: {both} of {len(splits.test)}")
    return said


def _fingerprint(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()


def _resized(image: Image.Image, side: int, resize: Interpolation) -> Image.Image:
    if image.size == (side, side):
        return image
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    scaled = image.resize(size, Image.Resampling[resize.upper()])
    return scaled.crop((left, top, left + side, top + side))


def _ordered(pixels: Tensor, labels: Tensor, classes: int, seed: int, split: str) -> Images:
    if split == "train" and not len(pixels):
        return Images(pixels, labels.to(torch.int64), torch.arange(0), classes)
    require(len(pixels) > 0, f"{split}: no images")
    require(
        labels.shape == (len(pixels),),
        f"{split} labels: expected shape {(len(pixels),)}, got {tuple(labels.shape)}",
    )
    require(
        not labels.is_floating_point() and labels.dtype != torch.bool,
        f"{split} labels: expected integers, got {labels.dtype}",
    )
    labels = labels.to(torch.int64)
    low, high = labels.aminmax()
    require(
        (low >= 0) & (high < classes),
        f"{split} labels: expected 0 to {classes - 1}, got {low.item()} to {high.item()}",
    )
    order = stratified_order(labels, seed)
    return Images(pixels[order], labels[order], torch.arange(len(order)), classes)


def _decode(
    data: bytes, mode: str, name: str, wanted: tuple[int, Interpolation] | None
) -> tuple[Tensor, bool]:
    """Return uint8 [H, W, C], and whether the file has colours. wanted: see `resized`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            deep = _is_deep(image)
            frames = getattr(image, "n_frames", 1)
            colour = image.mode not in {"1", "L", "LA"}
            if colour and mode == "L":
                # grey may be stored as equal channels, or in a palette
                red, green, blue = np.moveaxis(np.array(image.convert("RGB")), 2, 0)
                colour = bool((red != green).any() or (red != blue).any())
            if wanted:
                # photos may be stored sideways, with the orientation in their EXIF data
                whole = _resized(ImageOps.exif_transpose(image).convert(mode), *wanted)
            else:
                whole = image.convert(mode)
            pixels = torch.from_numpy(np.array(whole))
    except MemoryError:
        raise
    except UnidentifiedImageError:
        fault = f"it is not an image ({', '.join(FORMATS)})" if data else "it is empty"
        raise BadTensor(f"{name} cannot be decoded: {fault}") from None
    except Exception as error:  # Pillow raises any for damaged files
        fault = " ".join(str(error).split()) or type(error).__name__
        raise BadTensor(f"{name} cannot be decoded: {fault}") from error
    require(not deep, f"{name}: expected 8 bits a channel, got more")
    require(frames == 1, f"{name}: expected one image, got {frames}")
    return pixels.reshape(*pixels.shape[:2], -1), colour


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an opened file has more than 8 bits a channel, which Pillow may cut to 8."""
    if image.mode.startswith(("I", "F")):
        return True
    for decoder, _, _, args in image.tile:
        form, *more = args if isinstance(args, tuple) else (args,)
        if re.search(r";16[BLN]", str(form)) or (decoder.startswith("ppm") and more[0] > 255):
            return True
    return False


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape[:2]))
