import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import rotate as reference_rotate

from tasks.data.arrays import BadTensor
from tasks.defenses.transforms import warps

SIDES = (8, 32)


def geometry(side: int, rows: int = 40) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(side)
    pixels = torch.rand(rows, 3, side, side, generator=generator)
    size = torch.randint(side * 3 // 4, side + 1, (rows, 1), generator=generator)
    size[0], size[1] = side, side * 3 // 4

    def place() -> torch.Tensor:
        return (torch.rand(rows, 2, generator=generator) * (side - size + 1)).to(torch.int64)

    return pixels, size, place(), place()


@pytest.mark.parametrize("side", SIDES)
def test_crop_resize_equals_slicing_and_interpolate_row_by_row(side: int) -> None:
    pixels, size, place, _ = geometry(side)
    result = warps.crop_resize(pixels, size, place)
    for row, (length, (top, left)) in enumerate(zip(size[:, 0], place, strict=True)):
        window = pixels[row : row + 1, :, top : top + length, left : left + length]
        expected = interpolate(window, size=(side, side), mode="bilinear", align_corners=False)
        torch.testing.assert_close(result[row], expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", SIDES)
def test_resize_pad_equals_interpolate_on_a_black_image_row_by_row(side: int) -> None:
    pixels, size, place, _ = geometry(side)
    result = warps.resize_pad(pixels, size, place)
    for row, (length, (top, left)) in enumerate(zip(size[:, 0], place, strict=True)):
        expected = torch.zeros(3, side, side)
        expected[:, top : top + length, left : left + length] = interpolate(
            pixels[row : row + 1],
            size=(int(length), int(length)),
            mode="bilinear",
            align_corners=False,
        )[0]
        torch.testing.assert_close(result[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["nearest", "antialiased"])
@pytest.mark.parametrize("side", SIDES)
def test_resize_pad_equals_torchs_nearest_and_antialiased_interpolation(
    side: int, interpolation: warps.Interpolation
) -> None:
    pixels, size, place, _ = geometry(side)
    # a shrunk side of a third takes more taps of the filter than 24 of 32 does
    size[2], size[3] = side // 3, 1
    place[2:4] = 0
    kept = {"mode": "nearest"} if interpolation == "nearest" else {"mode": "bilinear"}
    result = warps.resize_pad(pixels, size, place, interpolation)
    for row, (length, (top, left)) in enumerate(zip(size[:, 0], place, strict=True)):
        expected = torch.zeros(3, side, side)
        expected[:, top : top + length, left : left + length] = interpolate(
            pixels[row : row + 1],
            size=(int(length), int(length)),
            antialias=interpolation == "antialiased",
            **kept,
        )[0]
        torch.testing.assert_close(result[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "antialiased"])
def test_every_interpolation_keeps_the_range_the_full_size_and_a_gradient(
    interpolation: warps.Interpolation,
) -> None:
    pixels, size, place, _ = geometry(8)
    white = torch.ones_like(pixels)
    resized = warps.resize_pad(white, size, place, interpolation)
    assert resized.max() == 1
    assert resized.min() == 0
    whole, corner = torch.full_like(size, 8), torch.zeros_like(place)
    same = warps.resize_pad(pixels, whole, corner, interpolation)
    torch.testing.assert_close(same, pixels, atol=1e-6, rtol=0)
    leaf = pixels.clone().requires_grad_()
    warps.resize_pad(leaf, size, place, interpolation).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad != 0).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("side", SIDES)
def test_crop_pad_moves_a_window_without_changing_a_pixel(side: int) -> None:
    pixels, size, window, place = geometry(side)
    result = warps.crop_pad(pixels, size, window, place)
    for row, length in enumerate(size[:, 0]):
        (from_top, from_left), (top, left) = window[row], place[row]
        expected = torch.zeros(3, side, side)
        expected[:, top : top + length, left : left + length] = pixels[
            row, :, from_top : from_top + length, from_left : from_left + length
        ]
        assert torch.equal(result[row], expected)


@pytest.mark.parametrize("side", [8, 9, 32])
def test_rotate_equals_torchvision_row_by_row(side: int) -> None:
    pixels = geometry(side)[0]
    degrees = torch.linspace(-60, 60, len(pixels))
    result = warps.rotate(pixels, degrees[:, None])
    for row, angle in enumerate(degrees.tolist()):
        expected = reference_rotate(pixels[row], angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(result[row], expected, atol=1e-4, rtol=0)


def test_a_whole_window_and_no_rotation_leave_the_image_as_it_is() -> None:
    pixels, size, _, _ = geometry(8)
    whole, corner = torch.full_like(size, 8), torch.zeros(len(size), 2, dtype=torch.int64)
    assert torch.equal(warps.crop_resize(pixels, whole, corner), pixels)
    assert torch.equal(warps.resize_pad(pixels, whole, corner), pixels)
    assert torch.equal(warps.crop_pad(pixels, whole, corner, corner), pixels)
    assert torch.equal(warps.rotate(pixels, torch.zeros(len(size), 1)), pixels)


def test_a_white_image_never_leaves_the_range() -> None:
    _, size, window, place = geometry(32)
    white = torch.ones(len(size), 1, 32, 32)
    degrees = torch.linspace(-20, 20, len(size))[:, None]
    assert torch.equal(warps.crop_resize(white, size, window), white)
    for result in (
        warps.resize_pad(white, size, place),
        warps.crop_pad(white, size, window, place),
        warps.rotate(white, degrees),
    ):
        assert result.min() == 0
        assert result.max() == 1


def test_gradients_are_those_of_finite_differences() -> None:
    pixels, size, window, place = (value[2:3] for value in geometry(8))
    pixels = pixels.to(torch.float64).requires_grad_()
    degrees = torch.tensor([[-17.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: warps.crop_resize(x, size, window), pixels)
    assert torch.autograd.gradcheck(lambda x: warps.resize_pad(x, size, place), pixels)
    assert torch.autograd.gradcheck(lambda x: warps.crop_pad(x, size, window, place), pixels)
    assert torch.autograd.gradcheck(lambda x: warps.rotate(x, degrees), pixels)


def test_fractions_of_32_pixels_are_the_papers_sizes() -> None:
    assert warps.size_range(24 / 32, 1.0, 32) == (24, 32)
    assert warps.size_range(24 / 32, 1.0, 8) == (6, 8)
    assert warps.size_range(0.01, 0.01, 8) == (1, 1)


def test_images_that_are_not_square_are_refused_by_name_of_their_shape() -> None:
    pixels, size, place, _ = geometry(8)
    with pytest.raises(BadTensor, match="8 x 7"):
        warps.crop_resize(pixels[..., :7], size, place)
