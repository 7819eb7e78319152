"""Bits, median and JPEG, held against values that are worked out apart."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn, idctn
from scipy.ndimage import rank_filter
from torch import Tensor, nn

from tasks.classifier.frozen import Frozen
from tasks.data.arrays import BadTensor
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.bits import Bits
from tasks.defenses.jpeg import JPEG
from tasks.defenses.median import Median
from tasks.defenses.transforms import jpeg_codec

Values = NDArray[np.float64]


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(Frozen(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), classes=10))


def picture(channels: int = 3, side: int = 32, count: int = 2) -> Tensor:
    """Waves and a little noise: a photograph to an encoder, more than noise is."""
    generator = torch.Generator().manual_seed(0)
    place = torch.linspace(0, 6, side)
    phase = torch.rand(count, 1, 1, 1, generator=generator) * 6
    waves = (place[:, None] + phase).sin() * (1.3 * place[None, :] - phase).cos() / 3 + 0.5
    tint = 0.2 * torch.rand(count, channels, 1, 1, generator=generator) * waves
    noise = 0.05 * torch.randn(count, 1, side, side, generator=generator)
    return (waves + tint + noise).clamp(0, 1)


def transformed(defense: Defense, pixels: Tensor, context: Context) -> Tensor:
    ids = torch.arange(len(pixels))
    return defense.transform(pixels, Rows(0, ids, torch.zeros_like(ids)), context)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bits_takes_the_nearest_of_its_steps(bits: int, context: Context) -> None:
    pixels = picture()
    found = transformed(Bits(bits=bits), pixels, context)
    steps = 2**bits - 1
    exact = np.round(pixels.double().numpy() * steps) / steps
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-6)
    assert len(found.unique()) <= 2**bits


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("side", [32, 8])
def test_median_is_the_lower_middle_of_a_window_with_a_mirrored_edge(
    size: int, side: int, context: Context
) -> None:
    pixels = picture(side=side)
    found = transformed(Median(size=size), pixels, context)
    rank = (size * size - 1) // 2
    for image, other in zip(pixels, found, strict=True):
        for channel, plane in zip(image.numpy(), other.numpy(), strict=True):
            expected = rank_filter(channel, rank, size=size, mode="reflect")
            np.testing.assert_array_equal(plane, expected)


def test_the_gradient_of_a_median_goes_straight_through_or_to_the_pixel_that_it_is(
    context: Context,
) -> None:
    pixels = picture(count=1).requires_grad_()
    for rule in ("straight-through", "differentiable"):
        found = transformed(Median(), pixels, replace(context, rule=rule))
        (gradient,) = torch.autograd.grad(found.sum(), pixels)
        if rule == "straight-through":
            assert (gradient == 1).all()
        else:
            assert gradient.sum() == pixels.numel()
            assert (gradient == gradient.round()).all()
            assert gradient.max() > 1


def by_pillow(image: Tensor, quality: int) -> Values:
    stored = np.round(image.double().numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
    target = io.BytesIO()
    shown = Image.fromarray(stored if stored.shape[2] == 3 else stored[:, :, 0])
    shown.save(target, "JPEG", quality=quality)
    back = np.asarray(Image.open(io.BytesIO(target.getvalue()))).reshape(stored.shape)
    return back.transpose(2, 0, 1) / 255.0


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8), (3, 20)])
@pytest.mark.parametrize("quality", [75, 30])
def test_jpeg_is_pillows(channels: int, side: int, quality: int, context: Context) -> None:
    pixels = picture(channels, side)
    found = transformed(JPEG(quality=quality), pixels, context)
    for image, other in zip(pixels, found, strict=True):
        np.testing.assert_allclose(other.numpy(), by_pillow(image, quality), atol=1e-6)
    assert not torch.equal(found, (pixels * 255).round() / 255)


def test_jpeg_refuses_images_that_are_neither_grey_nor_of_three_channels(
    context: Context,
) -> None:
    with pytest.raises(BadTensor, match="1 or 3 channels, not 4"):
        transformed(JPEG(), torch.rand(1, 4, 8, 8), context)


def by_formula(image: Values, quality: int) -> Values:
    """A colour image [3, H, W] in [0, 1], sides multiples of 16, in float64, with scipy's DCT."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    red, green, blue = 255 * image
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blues = 128 - 0.168736 * red - 0.331264 * green + 0.5 * blue
    reds = 128 + 0.5 * red - 0.418688 * green - 0.081312 * blue
    planes = []
    for plane, entries in (
        (luma, jpeg_codec.LUMINANCE),
        (blues, jpeg_codec.CHROMINANCE),
        (reds, jpeg_codec.CHROMINANCE),
    ):
        small = plane
        if plane is not luma:
            height, width = plane.shape
            small = plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        steps = np.clip(np.floor((scale * np.array(entries) + 50) / 100), 1, 255)
        made = np.empty_like(small)
        for top in range(0, small.shape[0], 8):
            for left in range(0, small.shape[1], 8):
                part = (slice(top, top + 8), slice(left, left + 8))
                levels = dctn(small[part] - 128, norm="ortho") / steps
                made[part] = idctn(np.round(levels) * steps, norm="ortho") + 128
        planes.append(made if plane is luma else made.repeat(2, axis=0).repeat(2, axis=1))
    luma, blues, reds = planes
    rgb = (
        luma + 1.402 * (reds - 128),
        luma - 0.344136 * (blues - 128) - 0.714136 * (reds - 128),
        luma + 1.772 * (blues - 128),
    )
    return np.clip(np.stack(rgb) / 255, 0, 1)


@pytest.mark.parametrize("quality", [75, 30])
def test_the_differentiable_form_is_the_formulas_in_float64(quality: int) -> None:
    pixels = picture().double()
    found = jpeg_codec.approximated(pixels, quality)
    for image, other in zip(pixels.numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(other, by_formula(image, quality), atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 32), (1, 8), (3, 20)])
def test_the_differentiable_form_is_near_the_encoder(shape: tuple[int, int]) -> None:
    pixels = picture(*shape)
    apart = (jpeg_codec.approximated(pixels, 75) - jpeg_codec.encoded(pixels, 75)).abs()
    moved = (jpeg_codec.encoded(pixels, 75) - pixels).abs()
    assert apart.mean() < 0.4 * moved.mean()


def test_tables_are_scaled_as_the_reference_code_does() -> None:
    luma = jpeg_codec.table(jpeg_codec.LUMINANCE, 75)
    assert luma[0].tolist() == [8, 6, 5, 8, 12, 20, 26, 31]  # as Pillow writes at quality 75
    target = io.BytesIO()
    Image.new("RGB", (8, 8)).save(target, "JPEG", quality=75)
    written = Image.open(io.BytesIO(target.getvalue())).quantization  # type: ignore[attr-defined]
    tables = (jpeg_codec.LUMINANCE, jpeg_codec.CHROMINANCE)
    for entries, values in zip(tables, (written[0], written[1]), strict=True):
        found = jpeg_codec.table(entries, 75).flatten().tolist()
        assert sorted(found) == sorted(values)


def test_an_attack_on_jpeg_goes_through_the_identity_or_the_differentiable_form(
    context: Context,
) -> None:
    pixels = picture().requires_grad_()
    weight = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    found = {}
    for rule in JPEG().gradients():
        result = transformed(JPEG(), pixels, replace(context, rule=rule))
        np.testing.assert_allclose(
            result[0].detach().numpy(), by_pillow(pixels[0].detach(), 75), atol=1e-6
        )
        (found[rule],) = torch.autograd.grad((weight * result).sum(), pixels)
    assert torch.equal(found["straight-through"], weight)
    (expected,) = torch.autograd.grad((weight * jpeg_codec.approximated(pixels, 75)).sum(), pixels)
    torch.testing.assert_close(found["differentiable"], expected)
    assert not torch.allclose(expected, weight, atol=0.1)
