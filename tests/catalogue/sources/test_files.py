"""Data sets in a user's own files: arrays and image folders, read as they are or refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.catalogue.entries import DatasetEntry
from pipeline.catalogue.sources.files import layout_of
from pipeline.catalogue.sources.locate import DatasetSource, described, locate, read
from pipeline.problems import BadInput
from tasks.data.arrays import BadTensor, Splits
from tasks.data.spec import DatasetSpec

ARRAYS = DatasetEntry(kind="npz", classes=3, channels=3, side_px=4)
FOLDERS = DatasetEntry(kind="folder", classes=2, channels=3, side_px=4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def coloured(value: int, side: int = 4) -> np.ndarray:
    """uint8 [side, side, 3], its channels all different."""
    image = np.empty((side, side, 3), dtype=np.uint8)
    image[:] = (value, value + 1, value + 2)
    return image


def write_arrays(folder: Path, *, count: int = 6, **changes: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", count), ("test", 3)):
        images = np.stack([coloured(10 * row) for row in range(rows)])
        arrays = {"images": images, "labels": np.arange(rows) % 3}
        np.savez(folder / f"{name}.npz", **{**arrays, **changes})


def write_images(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for split, rows in (("train", 3), ("test", 1)):
        for label, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for row in range(rows):
                Image.fromarray(coloured(20 * label + row)).save(place / f"{row}.png")


def found(folder: Path, entry: DatasetEntry) -> tuple[DatasetSource, DatasetSpec]:
    source = locate("mine", entry, folder)
    return source, described(entry, source)


def found_and_read(folder: Path, entry: DatasetEntry) -> Splits:
    source, spec = found(folder, entry)
    return read(spec, dict(source.files)).splits


def refused(folder: Path, entry: DatasetEntry) -> str:
    """The one line that says why a data set cannot be found or read."""
    with pytest.raises((BadInput, BadTensor)) as raised:
        found_and_read(folder, entry)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_arrays_are_counted_by_their_headers_and_read_channels_first(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    source, spec = found(tmp_path, ARRAYS)
    assert (source.train, source.test) == (6, 3)
    assert [role for role, _ in source.hashes] == ["train", "test"]
    splits = read(spec, dict(source.files)).splits
    assert splits.train.pixels.shape == (6, 3, 4, 4)
    # image i has the values 10 i, 10 i + 1, 10 i + 2 in its channels, and the label i mod 3
    first = splits.train.pixels[:, :, 0, 0].to(torch.int64)
    assert torch.equal(first[:, 0] // 10 % 3, splits.train.labels)
    assert torch.equal(first - first[:, :1], torch.tensor([[0, 1, 2]]).expand(6, 3))


def test_grey_arrays_need_no_dimension_for_channels(tmp_path: Path) -> None:
    grey = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
    write_arrays(tmp_path, images=grey, labels=np.arange(3))
    entry = ARRAYS.model_copy(update={"channels": 1})
    images = found_and_read(tmp_path, entry).test
    assert images.pixels.shape == (3, 1, 4, 4)
    order = images.labels.tolist()
    assert images.pixels[:, 0, 0, 0].tolist() == [16 * label for label in order]


@pytest.mark.parametrize("name", ["train.npz", "test.npz"])
def test_a_truncated_archive_of_arrays_is_told(tmp_path: Path, name: str) -> None:
    write_arrays(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / name).write_bytes(whole[:length])
        assert refused(tmp_path, ARRAYS).startswith(f"{tmp_path / name}: not a whole .npz file: ")


def test_a_flipped_byte_in_an_archive_of_arrays_is_told(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    data = bytearray((tmp_path / "train.npz").read_bytes())
    place = data.index(bytes([10, 11, 12, 10, 11, 12]))
    data[place] ^= 1
    (tmp_path / "train.npz").write_bytes(data)
    assert "train.npz: not a whole .npz file: " in refused(tmp_path, ARRAYS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 4, 4, 3))}, "'images' is float64 [3, 4, 4, 3]; expected uint8"),
        (
            {"images": np.zeros((3, 48), np.uint8)},
            "'images' is uint8 [3, 48]; expected uint8 [N, H",
        ),
        ({"images": np.uint8(3)}, "'images' is a single number"),
        ({"labels": np.zeros(3)}, "'labels' is float64 [3]; expected integers [3]"),
        ({"labels": np.zeros(4, int)}, "'labels' is int64 [4]; expected integers [3]"),
        ({"labels": np.array([0, 1, 3])}, "train labels: expected 0 to 2, got 0 to 3"),
        ({"labels": np.array([0, -1, 1])}, "train labels: expected 0 to 2, got -1 to 1"),
        ({"images": np.zeros((3, 5, 5, 3), np.uint8)}, "train images are 3x5x5; its config says"),
        (
            {"images": np.zeros((3, 4, 4), np.uint8)},
            "train images are 1x4x4; its config says 3x4x4",
        ),
    ],
)
def test_arrays_that_are_not_as_declared_are_told(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    write_arrays(tmp_path, count=3, **change)
    assert message in refused(tmp_path, ARRAYS)


def test_arrays_by_other_names_are_told_with_the_names_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=np.zeros(1), y=np.zeros(1))
    np.savez(tmp_path / "test.npz", x=np.zeros(1))
    assert refused(tmp_path, ARRAYS) == (
        f"{tmp_path / 'train.npz'}: no array 'images'; it holds: x, y"
    )


def test_pickled_objects_in_arrays_are_never_loaded(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return pytest.fail, ("code was run",)

    objects = np.array([Malicious()] * 3, dtype=object)
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=objects, labels=np.arange(3))
    assert "train.npz: not a whole .npz file: Object arrays" in refused(tmp_path, ARRAYS)


def test_images_in_folders_have_their_folders_place_in_the_alphabet_as_label(
    tmp_path: Path,
) -> None:
    write_images(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    source, spec = found(tmp_path, FOLDERS)
    assert (source.train, source.test) == (6, 2)
    splits = read(spec, dict(source.files)).splits
    assert torch.equal(splits.train.pixels[:, 0, 0, 0].long() // 20, splits.train.labels)
    assert splits.train.labels.bincount().tolist() == [3, 3]


def test_a_folder_of_images_is_known_by_all_that_it_holds(tmp_path: Path) -> None:
    write_images(tmp_path / "one")
    write_images(tmp_path / "two")
    one, two = (locate("mine", FOLDERS, tmp_path / name) for name in ("one", "two"))
    assert one.hashes == two.hashes
    image = tmp_path / "two" / "train" / "dog" / "2.png"
    Image.fromarray(coloured(7)).save(image)
    changed = locate("mine", FOLDERS, tmp_path / "two")
    assert dict(changed.hashes)["train"] != dict(one.hashes)["train"]
    assert dict(changed.hashes)["test"] == dict(one.hashes)["test"]
    # the same bytes as another class are another data set
    write_images(tmp_path / "two")
    image.rename(image.parents[1] / "cat" / "9.png")
    assert dict(locate("mine", FOLDERS, tmp_path / "two").hashes)["train"] not in {
        dict(one.hashes)["train"],
        dict(changed.hashes)["train"],
    }


def test_folders_that_are_no_data_set_are_told(tmp_path: Path) -> None:
    entry = FOLDERS
    nothing = f"data set 'mine': no folder train, test or validation in {tmp_path}"
    assert refused(tmp_path, entry) == nothing
    (tmp_path / "train").mkdir()
    assert refused(tmp_path, entry).startswith(f"{tmp_path}: train is there alone, ")
    (tmp_path / "test").mkdir()
    assert refused(tmp_path, entry) == f"data set 'mine': no train/CLASS/*.png in {tmp_path}"
    write_images(tmp_path, ("cat", "dog", "eel"))
    assert refused(tmp_path, entry) == (
        f"data set 'mine': {tmp_path} has 3 class folders; its config says 2 classes"
    )
    (tmp_path / "train" / "fox").mkdir()
    assert refused(tmp_path, entry) == f"{tmp_path}: class 'fox' is in train alone"


def test_an_odd_image_is_told_by_its_place(tmp_path: Path) -> None:
    write_images(tmp_path)
    odd = tmp_path / "train" / "dog" / "1.png"
    whole = odd.read_bytes()
    odd.write_bytes(whole[:40])
    assert refused(tmp_path, FOLDERS).startswith("train/dog/1.png cannot be decoded: ")
    Image.fromarray(coloured(0, side=5)).save(odd)
    message = "train/dog/1.png is 5x5 pixels where train/cat/0.png is 4x4; resize would bring"
    assert refused(tmp_path, FOLDERS).startswith(message)


def test_colours_where_grey_was_declared_and_the_other_way_round_are_told(tmp_path: Path) -> None:
    write_images(tmp_path)
    grey = FOLDERS.model_copy(update={"channels": 1})
    assert refused(tmp_path, grey) == "train/cat/0.png has colours; expected grey, 1 channel"
    for path in tmp_path.glob("*/*/*.png"):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.convert("L").save(path)
    assert refused(tmp_path, FOLDERS) == "all images are grey; expected colours, 3 channels"
    assert found_and_read(tmp_path, grey).train.pixels.shape == (6, 1, 4, 4)


def test_a_folders_layout_is_known_by_the_names_in_it(tmp_path: Path) -> None:
    assert layout_of(tmp_path) is None
    (tmp_path / "train").mkdir()
    assert layout_of(tmp_path) == "folder"
    (tmp_path / "test.npz").touch()
    assert layout_of(tmp_path) == "npz"
    (tmp_path / "train-00000-of-00001.parquet").touch()
    assert layout_of(tmp_path) == "parquet"
