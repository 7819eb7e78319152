import io
import struct
import zlib

import pytest
import torch
from PIL import Image

from tasks.data.arrays import BadTensor
from tasks.data.spec import DatasetSpec
from tasks.data.splits import decode_images, digits, prepare, stratified_order


def encoded(pixels: torch.Tensor, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    array = pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_any_first_images_hold_the_classes_equally_often_to_within_one():
    labels = torch.arange(10).repeat(30)[torch.randperm(300)]
    ordered = labels[stratified_order(labels, seed=4)]
    for first in range(1, 301):
        counts = torch.bincount(ordered[:first], minlength=10)
        assert counts.max() - counts.min() <= 1


def test_the_order_is_a_permutation_decided_by_its_seed():
    labels = torch.tensor([0] * 50 + [1] * 9 + [4] * 3)
    order = stratified_order(labels, seed=4)
    assert torch.equal(order.sort().values, torch.arange(62))
    assert torch.equal(order, stratified_order(labels, seed=4))
    assert not torch.equal(order, stratified_order(labels, seed=5))
    assert sorted(labels[order][:9].tolist()) == [0, 0, 0, 1, 1, 1, 4, 4, 4]


def test_classes_take_turns_in_no_fixed_order():
    labels = torch.arange(10).repeat(20)
    rounds = labels[stratified_order(labels, seed=0)].reshape(20, 10)
    assert len({tuple(turn.tolist()) for turn in rounds}) > 15


def test_digits_are_split_without_overlap_and_with_a_balanced_test_set():
    splits = digits()
    assert splits.train.pixels.shape == (1197, 1, 8, 8)
    assert splits.test.pixels.shape == (600, 1, 8, 8)
    assert torch.bincount(splits.test.labels).tolist() == [60] * 10
    for images in (splits.train, splits.test):
        assert torch.equal(images.ids, torch.arange(len(images)))
        assert (images.pixels.min(), images.pixels.max()) == (0, 255)
    train, test = (
        {image.numpy().tobytes() for image in images.pixels}
        for images in (splits.train, splits.test)
    )
    assert not train & test


def test_digits_keep_their_labels_and_levels():
    from sklearn.datasets import load_digits

    bundle = load_digits()
    known = {
        tuple(levels.astype(int).ravel()): label
        for levels, label in zip(bundle.images, bundle.target, strict=True)
    }
    images = digits().test
    levels = (images.pixels.double() * 16 / 255).round().int()
    found = [known[tuple(image.flatten().tolist())] for image in levels]
    assert found == images.labels.tolist()


def test_preparing_keeps_each_image_with_its_label():
    labels = torch.arange(12) % 3
    pixels = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, 1, 4, 4)
    splits = prepare(pixels, labels.int(), pixels[:5], labels[:5], 3)
    for images in (splits.train, splits.test):
        assert torch.equal(images.pixels[:, 0, 0, 0].long() % 3, images.labels)
        assert torch.equal(images.ids, torch.arange(len(images)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": torch.tensor([0, 1, 3])}, "test labels: expected 0 to 2, got 0 to 3"),
        ({"train_labels": torch.tensor([0, -1, 1])}, "train labels: expected 0 to 2, got -1 to 1"),
        (
            {"train_labels": torch.zeros(2).long()},
            r"train labels: expected shape \(3,\), got \(2,\)",
        ),
        ({"train_labels": torch.zeros(3)}, "train labels: expected integers"),
        ({"test_pixels": torch.zeros(3, 1, 5, 4).byte()}, "expected one size"),
        ({"test_pixels": torch.zeros(3, 1, 4, 4)}, "expected uint8"),
        ({"test_pixels": torch.zeros(0, 1, 4, 4).byte()}, "test: no images"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused_in_one_line(change, message):
    arrays = {
        "train_pixels": torch.zeros(3, 1, 4, 4).byte(),
        "train_labels": torch.tensor([0, 1, 2]),
        "test_pixels": torch.zeros(3, 1, 4, 4).byte(),
        "test_labels": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(BadTensor, match=message) as caught:
        prepare(**(arrays | change), classes=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_images_decode_to_their_very_pixels(form, options, pixels):
    assert torch.equal(decode_images([encoded(one, form, **options) for one in pixels]), pixels)


def test_jpeg_decodes_to_nearly_its_pixels():
    smooth = torch.linspace(0, 255, 64).reshape(1, 8, 8).expand(3, 8, 8).to(torch.uint8)
    decoded = decode_images([encoded(smooth, "JPEG", quality=95)])
    assert (decoded[0].int() - smooth.int()).abs().max() <= 8


def test_grey_images_decode_to_one_channel(pixels):
    grey = pixels[:, :1]
    assert torch.equal(decode_images([encoded(one, "PNG") for one in grey], channels=1), grey)


def test_grey_images_stored_as_colours_decode_to_one_channel(pixels):
    grey = pixels[:1, :1]
    image = Image.fromarray(grey[0, 0].numpy())
    for mode in ("RGB", "RGBA", "P"):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "PNG")
        assert torch.equal(decode_images([buffer.getvalue()], channels=1), grey)
    nearly = grey[0].expand(3, 8, 8).clone()
    nearly[2, 0, 0] ^= 1
    with pytest.raises(BadTensor, match="image 0 has colours; expected grey"):
        decode_images([encoded(nearly, "PNG")], channels=1)


def deep_png() -> bytes:
    """A PNG file of one pixel, 16 bits a channel, in colours."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(7))),
        (b"IEND", b""),
    ]
    written = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize("data", [deep_png(), b"P6 1 1 65535\n" + bytes(6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_16_bits_are_refused_as_grey_of_16_bits_is(data, channels):
    with pytest.raises(BadTensor, match="image 0: expected 8 bits a channel, got more"):
        decode_images([data], channels)


def test_the_first_odd_image_is_named(pixels):
    good = encoded(pixels[0], "PNG")
    odd = encoded(pixels[0, :, :6], "PNG")
    deep = encoded(torch.full((1, 8, 8), 1000, dtype=torch.uint16), "PNG")
    for files, message in (
        ([good, good, odd, odd], "image 2 is 6x8 pixels where image 0 is 8x8"),
        ([good, b"not an image"], "image 1 cannot be decoded"),
        ([good, good[:40]], "image 1 cannot be decoded"),
        ([b""], "image 0 cannot be decoded"),
        ([deep], "image 0: expected 8 bits a channel"),
        ([], "no images"),
    ):
        with pytest.raises(BadTensor, match=message) as caught:
            decode_images(files)
        assert "\n" not in str(caught.value)


def test_the_name_of_any_file_that_pillow_cannot_decode_is_in_the_message():
    black = torch.zeros(3, 8, 8, dtype=torch.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72
    tiff, jpeg = encoded(black, "TIFF"), encoded(black, "JPEG", exif=exif.tobytes())
    # ten tags of 12 bytes follow at byte 10, then the place of a second image, here without tags
    assert tiff[8:10] == bytes([10, 0])
    two = tiff[:130] + (200).to_bytes(4, "little") + tiff[134:]
    # the tag of a resolution, of which the type is changed to text
    resolution = bytes.fromhex("011A 0005")
    assert resolution in jpeg
    for data, message in (
        (two, "Missing dimensions"),
        (jpeg.replace(resolution, resolution[:-1] + b"\x02"), "bad operand type"),
        (b"", "it is empty"),
        (b"not an image", r"it is not an image \(WEBP, PNG, JPEG, BMP, PPM, TIFF\)"),
    ):
        with pytest.raises(BadTensor, match=f"^a/x.png cannot be decoded: {message}"):
            decode_images([data], names=["a/x.png"], side=4, resize="box")


def test_a_dataset_spec_takes_the_lists_of_a_config():
    spec = DatasetSpec.model_validate(
        {
            "kind": "npz",
            "classes": 2,
            "channels": 1,
            "side": 8,
            "sources": [["train", "ab"], ["test", "cd"]],
        }
    )
    assert spec.sources == (("train", "ab"), ("test", "cd"))
