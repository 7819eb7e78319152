"""No image is lost and none is relabelled: all that a folder holds is used, named, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from test_files import coloured, refused, write_images
from test_locate import png, write_parquet

from pipeline.catalogue.entries import DatasetEntry
from pipeline.catalogue.sources.classes import class_order
from pipeline.catalogue.sources.locate import Content, described, locate, read
from pipeline.problems import BadInput
from tasks.data.spec import DatasetSpec

PARQUET = DatasetEntry(kind="parquet", classes=3, side_px=4)
FOLDERS = DatasetEntry(kind="folder", classes=3, side_px=4)
ARRAYS = DatasetEntry(kind="npz", classes=3, side_px=4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    return place


def spec(folder: Path, entry: DatasetEntry) -> DatasetSpec:
    return described(entry, locate("mine", entry, folder))


def content(folder: Path, entry: DatasetEntry) -> Content:
    source = locate("mine", entry, folder)
    found = read(described(entry, source), dict(source.files))
    splits = found.splits
    assert (len(splits.train), len(splits.test)) == (source.train, source.test)
    return found


def labelled(found: Content, step: int = 1) -> bool:
    """Whether every image of the values of `step` times its class has the label of its class."""
    test = found.splits.test
    return torch.equal(test.pixels[:, 0, 0, 0].long() // step, test.labels)


def changed(entry: DatasetEntry, **changes: object) -> DatasetEntry:
    return DatasetEntry.model_validate({**entry.model_dump(exclude_unset=True), **changes})


# ---------------------------------------------------------------- folders


def test_images_of_every_ending_and_at_every_depth_are_read(folder: Path) -> None:
    write_images(folder, ("a", "b", "c"))
    before = spec(folder, FOLDERS)
    image = Image.fromarray(coloured(20))
    for name in ("deep/er/x.PNG", "x.bmp", "x.ppm", "x.tif", "x.TIFF"):
        path = folder / "test" / "b" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (folder / "elsewhere").mkdir()
    image.save(folder / "elsewhere" / "linked.webp", lossless=True)
    (folder / "test" / "b" / "link").symlink_to(folder / "elsewhere")
    found = content(folder, FOLDERS)
    assert len(found.splits.test) == 3 + 6
    assert found.splits.test.labels.bincount().tolist() == [1, 7, 1]
    assert labelled(found, 20)
    assert spec(folder, FOLDERS) != before


def test_what_comes_with_images_is_ignored_by_name(folder: Path) -> None:
    write_images(folder, ("a", "b", "c"))
    before = spec(folder, FOLDERS)
    for name in ("test/a/notes.txt", "test/.DS_Store", "test/labels.csv", "test/a/README"):
        (folder / name).write_text("no image")
    (folder / "test" / ".ipynb_checkpoints").mkdir()
    (folder / "test" / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(png(1))
    found = content(folder, FOLDERS)
    assert len(found.splits.test) == 3
    [ignored] = [note for note in found.notes if "ignored" in note]
    assert ignored == (
        "ignored files: 5 (test/.DS_Store, test/.ipynb_checkpoints/0-checkpoint.png, "
        "test/a/README and 2 more)"
    )
    assert spec(folder, FOLDERS) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test/a/x.gif", "test/a/x.gif: not an image that is read here (.bmp, "),
        ("test/a/deep/x.npy", "test/a/deep/x.npy: not an image that is read here"),
        ("train/a/0001", "train/a/0001: not an image that is read here"),
        ("test/x.png", "test/x.png: lies in no class's folder"),
    ],
)
def test_a_file_that_would_be_lost_is_refused(folder: Path, name: str, message: str) -> None:
    write_images(folder, ("a", "b", "c"))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(png(1))
    assert refused(folder, FOLDERS).startswith(message)


def test_a_file_of_several_images_is_refused(folder: Path) -> None:
    write_images(folder, ("a", "b", "c"))
    pages = [Image.fromarray(coloured(value)) for value in (1, 2)]
    pages[0].save(folder / "test" / "a" / "x.tiff", save_all=True, append_images=pages[1:])
    assert refused(folder, FOLDERS) == "test/a/x.tiff: expected one image, got 2"


def test_a_link_to_what_is_above_is_refused(folder: Path) -> None:
    write_images(folder, ("a", "b", "c"))
    (folder / "test" / "a" / "all").symlink_to(folder / "test")
    assert "links to a folder that it lies in" in refused(folder, FOLDERS)


def test_numbers_for_names_of_classes_go_by_their_value(folder: Path) -> None:
    write_images(folder, ("1", "2", "10"))
    found = content(folder, FOLDERS)
    assert labelled(found, 20)
    assert "3 classes in the order 1, 2, 10" in found.notes
    assert spec(folder, FOLDERS).class_names == ("1", "2", "10")
    assert spec(folder, FOLDERS).results_version() == 2


def test_where_the_alphabet_is_the_order_a_folder_keeps_its_digest(folder: Path) -> None:
    write_images(folder, ("a", "b", "c"))
    plain = spec(folder, FOLDERS)
    assert (plain.class_names, plain.results_version()) == (None, 1)
    assert spec(folder, changed(FOLDERS, classes=["a", "b", "c"])) == plain


def test_an_order_of_classes_that_is_given_is_the_order(folder: Path) -> None:
    write_images(folder, ("cat", "ant", "bee"))
    given = changed(FOLDERS, classes=["cat", "ant", "bee"])
    found = content(folder, given)
    assert labelled(found, 20)
    assert "3 classes in the order cat, ant, bee" in found.notes
    other = changed(FOLDERS, classes=["cat", "ant", "be"])
    assert refused(folder, other) == (
        f"{folder}: class 'bee' is not among its config's classes; did you mean 'be'?"
    )
    # a class that has no images yet keeps its label
    more = content(folder, changed(FOLDERS, classes=["cat", "eel", "ant", "bee"]))
    assert more.splits.test.labels.bincount(minlength=4).tolist() == [1, 0, 1, 1]
    assert "classes without images in test: 1 (eel)" in more.notes


def test_numbers_in_names_ask_for_an_order() -> None:
    names = ["class1", "class2", "class10"]
    with pytest.raises(BadInput, match=r"is class 1 'class2', by number, or 'class10', by the"):
        class_order(names, None, "here")
    assert class_order(names, names, "here") == tuple(names)
    assert class_order(["n02", "n01", "n10"], None, "here") == ("n01", "n02", "n10")
    with pytest.raises(BadInput, match="two classes have the number 1"):
        class_order(["1", "01"], None, "here")


def test_an_empty_class_that_shifts_labels_is_another_data_set(folder: Path) -> None:
    write_images(folder, ("b", "c"))
    digests = []
    for empty in ("a", "d"):
        for split in ("train", "test"):
            (folder / split / empty).mkdir()
        digests.append(spec(folder, FOLDERS))
        found = content(folder, FOLDERS)
        assert f"classes without images in test: 1 ({empty})" in found.notes
        for split in ("train", "test"):
            (folder / split / empty).rmdir()
    assert digests[0] != digests[1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_may_be_absent_from_one_split(folder: Path, split: str) -> None:
    write_images(folder, ("a", "b", "c"))
    given = changed(FOLDERS, classes=["a", "b", "c"])
    before = spec(folder, given)
    for image in (folder / split / "b").iterdir():
        image.unlink()
    (folder / split / "b").rmdir()
    found = content(folder, given)
    for images in (found.splits.train, found.splits.test):
        assert torch.equal(images.pixels[:, 0, 0, 0].long() // 20, images.labels)
    assert "3 classes in the order a, b, c" in found.notes
    assert f"classes without images in {split}: 1 (b)" in found.notes
    assert spec(folder, given).class_names is before.class_names is None


def test_classes_are_named_each_once_in_a_config() -> None:
    assert changed(FOLDERS, classes=[1, 2, 10]).names == ("1", "2", "10")
    assert changed(FOLDERS, classes=[1, 2, 10]).count == 3
    for classes in (["a", "a"], ["a"], 1, "many"):
        with pytest.raises(ValidationError):
            changed(FOLDERS, classes=classes)


# ---------------------------------------------------------------- splits


def test_parts_of_a_table_are_counted(folder: Path) -> None:
    for part in (0, 1, 2):
        write_parquet(folder / f"train-{part:05}-of-00003.parquet", [0, 1, 2])
    write_parquet(folder / "test-00000-of-00001.parquet", [0, 1, 2])
    assert locate("mine", PARQUET, folder).train == 9
    (folder / "train-00001-of-00003.parquet").unlink()
    assert refused(folder, PARQUET) == (
        f"{folder}: 2 of 3 parts of train-*.parquet are here; missing: 1"
    )
    write_parquet(folder / "train-00001-of-00002.parquet", [0, 1, 2])
    assert "train-*.parquet are parts of different wholes" in refused(folder, PARQUET)


def test_parts_named_with_a_hash_are_counted_too(folder: Path) -> None:
    write_parquet(folder / "test-00001-of-00002-9564e8b05b4757ab.parquet", [0, 1, 2])
    assert refused(folder, PARQUET) == (
        f"{folder}: 1 of 2 parts of test-*.parquet are here; missing: 0"
    )
    write_parquet(folder / "test-00000-of-00002-0123456789abcdef.parquet", [0, 1, 2])
    assert locate("mine", PARQUET, folder).test == 6


@pytest.mark.parametrize(
    "names",
    [
        ("test-old.parquet", "test.parquet"),
        ("test.backup.parquet", "test.parquet"),
        ("test-clean.parquet", "test-gaussian-noise.parquet"),
        ("test-00000-of-00001.parquet", "test.parquet"),
    ],
)
def test_files_that_are_no_parts_of_one_split_are_not_joined(
    folder: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        write_parquet(folder / name, [0, 1, 2])
    assert refused(folder, PARQUET).startswith(
        f"{folder}: {', '.join(names)}: expected one file, test.parquet, or parts, test-N.parquet"
    )


def test_parts_without_a_total_have_no_gap(folder: Path) -> None:
    write_parquet(folder / "test.parquet", [0, 1, 2])
    for part in (1, 2, 4):
        write_parquet(folder / f"train-{part}.parquet", [0, 1, 2])
    assert refused(folder, PARQUET).endswith("3 of 4 parts of train-*.parquet are here; missing: 3")
    (folder / "train-4.parquet").rename(folder / "train-3.parquet")
    assert locate("mine", PARQUET, folder).train == 9


@pytest.mark.parametrize("word", ["validation", "valid", "val"])
def test_a_validation_split_is_scored_on_where_there_is_no_test_split(
    folder: Path, word: str
) -> None:
    write_parquet(folder / "parquet" / f"{word}-00000-of-00001.parquet", [0, 1, 2])
    write_parquet(folder / "parquet" / "train-00000-of-00001.parquet", [0, 1])
    write_images(folder / "folder", ("a", "b", "c"))
    (folder / "folder" / "test").rename(folder / "folder" / word)
    for entry, step in ((PARQUET, 1), (FOLDERS, 20)):
        found = content(folder / entry.kind, entry)
        assert labelled(found, step)
        assert len(found.splits.train)
        assert f"no test split: the images of '{word}' are scored on" in found.notes


def test_what_lies_beside_the_splits_is_named(folder: Path) -> None:
    for name in ("test", "validation", "train", "extra"):
        write_parquet(folder / f"{name}-00000-of-00001.parquet", [0, 1, 2])
    found = content(folder, PARQUET)
    assert "not used: validation, extra-00000-of-00001.parquet" in found.notes


def test_a_test_split_alone_is_scored_on_and_not_trained_on(folder: Path) -> None:
    write_parquet(folder / "parquet" / "test.parquet", [0, 1, 2])
    write_images(folder / "folder", ("a", "b", "c"))
    for image in (folder / "folder" / "train").rglob("*.png"):
        image.unlink()
    for place in ("a", "b", "c", ""):
        (folder / "folder" / "train" / place).rmdir()
    (folder / "npz").mkdir()
    images = np.arange(3, dtype=np.uint8).repeat(16).reshape(3, 4, 4)
    np.savez(folder / "npz" / "test.npz", images=images, labels=np.arange(3))
    for entry, step in ((PARQUET, 1), (FOLDERS, 20), (changed(ARRAYS, channels=1), 1)):
        found = content(folder / entry.kind, entry)
        assert labelled(found, step)
        assert found.splits.train.pixels.shape == (0, entry.channels, 4, 4)
        assert "no train split: nothing can be trained on it" in found.notes


# ---------------------------------------------------------------- tables


def test_which_of_several_image_columns_is_meant_is_asked(folder: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    mask = pa.array([{"bytes": png(9), "path": None}] * 3, kind)
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", [0, 1, 2], mask=mask)
    assert refused(folder, PARQUET).endswith(
        "several image columns: mask, img; say which: image_column: img"
    )
    assert labelled(content(folder, changed(PARQUET, image_column="img")))
    masks = content(folder, changed(PARQUET, image_column="mask")).splits.test
    assert masks.pixels.unique().tolist() == [9]
    assert "no image column 'image'; its image columns: mask, img" in refused(
        folder, changed(PARQUET, image_column="image")
    )
    chosen = {spec(folder, changed(PARQUET, image_column=name)) for name in ("mask", "img")}
    assert len(chosen) == 2


def test_images_may_be_a_column_of_bytes(folder: Path) -> None:
    import pyarrow.parquet as pq

    table = pa.table({"picture": pa.array([png(v) for v in range(3)]), "label": pa.array(range(3))})
    pq.write_table(table, folder / "test.parquet")
    assert labelled(content(folder, PARQUET))


def test_labels_of_a_table_may_be_names_of_classes(folder: Path) -> None:
    names = ["10", "2", "1"]
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", names, column="class")
    entry = changed(PARQUET, label_column="class")
    found = content(folder, entry)
    # image 0 is of class 10, the last one
    assert torch.equal(2 - found.splits.test.pixels[:, 0, 0, 0].long(), found.splits.test.labels)
    assert "3 classes in the order 1, 2, 10" in found.notes
    assert labelled(content(folder, changed(entry, classes=names)))
    assert refused(folder, changed(entry, classes=4)).endswith(
        "has labels of 3 classes; its config says 4 classes"
    )
    write_parquet(folder / "train-00000-of-00001.parquet", [0, 1, 2], column="class")
    assert "labels are numbers in some files and names in others" in refused(folder, entry)


def test_a_table_that_calls_its_labels_otherwise_than_its_config_is_refused(folder: Path) -> None:
    for split in ("train", "test"):
        write_parquet(
            folder / f"{split}-00000-of-00001.parquet", [0, 1, 2], class_names=("b", "a", "c")
        )
    assert refused(folder, changed(PARQUET, classes=["a", "b", "c"])).endswith(
        "its labels from 0 on are b, a, c, where its config says a, b, c"
    )
    # most of the names being the same is not enough
    assert refused(folder, changed(PARQUET, classes=["b", "a", "d"])).endswith(
        "its labels from 2 on are c, where its config says d"
    )
    named = spec(folder, changed(PARQUET, classes=["b", "a", "c"]))
    assert named == spec(folder, PARQUET)


# ---------------------------------------------------------------- arrays


def test_one_file_of_arrays_is_a_test_split_or_holds_them_all(folder: Path) -> None:
    images = np.arange(3, dtype=np.uint8).repeat(16).reshape(3, 4, 4)
    grey = changed(ARRAYS, channels=1)
    np.savez(folder / "mine.npz", images=images, labels=np.arange(3))
    for place in (folder, folder / "mine.npz"):
        found = content(place, grey)
        assert labelled(found)
        assert len(found.splits.train) == 0
    for names in (("x_{}", "y_{}"), ("{}_images", "{}_labels")):
        parts = {}
        for split, count in (("train", 2), ("val", 1), ("test", 3)):
            parts[names[0].format(split)] = images[:count]
            # a column, as MedMNIST has it
            parts[names[1].format(split)] = np.arange(count)[:, None]
        np.savez(folder / "mine.npz", **parts)
        found = content(folder, grey)
        assert labelled(found)
        assert (len(found.splits.train), len(found.splits.test)) == (2, 3)
        unused = ", ".join(sorted(name.format("val") for name in names))
        assert any(
            sorted(note.removeprefix("arrays of mine.npz that are not used: ").split(", "))
            == sorted(unused.split(", "))
            for note in found.notes
        )
    np.savez(folder / "other.npz", images=images, labels=np.arange(3))
    assert refused(folder, grey) == f"data set 'mine': no train.npz and test.npz in {folder}"


@pytest.mark.parametrize("other", ["test_images", "x_test", "X_train", "val_images"])
@pytest.mark.parametrize("name", ["mine", "test"])
def test_two_arrays_of_images_that_may_be_meant_are_refused(
    folder: Path, name: str, other: str
) -> None:
    images = np.arange(3, dtype=np.uint8).repeat(16).reshape(3, 4, 4)
    path = folder / f"{name}.npz"
    np.savez(path, images=images, labels=np.arange(3), **{other: images[:1]})
    assert refused(folder, changed(ARRAYS, channels=1)).startswith(
        f"{path}: 'images' and {other}: which are meant?"
    )


def test_arrays_that_are_not_used_are_named(folder: Path) -> None:
    images = np.arange(3, dtype=np.uint8).repeat(16).reshape(3, 4, 4)
    np.savez(folder / "test.npz", images=images, labels=np.arange(3), ids=np.arange(3))
    assert (
        "arrays of test.npz that are not used: ids"
        in content(folder, changed(ARRAYS, channels=1)).notes
    )


def test_labels_of_arrays_may_be_names_of_classes(folder: Path) -> None:
    images = np.arange(3, dtype=np.uint8).repeat(16).reshape(3, 4, 4)
    np.savez(folder / "test.npz", images=images, labels=np.array(["b", "c", "a"]))
    entry = changed(ARRAYS, channels=1)
    found = content(folder, entry).splits.test
    assert [found.pixels[found.labels == label].flatten()[0] for label in range(3)] == [2, 0, 1]
    assert labelled(content(folder, changed(entry, classes=["b", "c", "a"])))
    np.savez(folder / "train.npz", images=images, labels=np.arange(3))
    assert "labels are numbers in one split and names in the other" in refused(folder, entry)


# ---------------------------------------------------------------- pixels


def test_what_is_odd_about_images_is_told(folder: Path) -> None:
    fractions = np.array([[[0, 1, 0, 1]] * 4] * 3, dtype=np.uint8)
    levels = np.array([[[0, 9, 16, 3]] * 4] * 3, dtype=np.uint8)
    np.savez(folder / "test.npz", images=fractions, labels=np.array([0, 1, 1]))
    np.savez(folder / "train.npz", images=levels, labels=np.arange(3))
    entry = changed(ARRAYS, channels=1)
    assert [*content(folder, entry).notes] == [
        "the brightest pixel of train is 16 of 255",
        "test pixels are 0 and 1 of 0 to 255: were they fractions of white?",
        "classes without images in test: 1 (2)",
    ]
    levels[1:] = 255 - levels[1:]
    np.savez(folder / "train.npz", images=levels, labels=np.arange(3))
    np.savez(folder / "test.npz", images=levels[[1, 0, 2]] // 1, labels=np.arange(3))
    assert [*content(folder, entry).notes] == ["test images that are also in train: 3 of 3"]


def test_nothing_is_odd_about_the_digits() -> None:
    entry = DatasetEntry(kind="digits", classes=10, channels=1, side_px=8)
    source = locate("digits", entry)
    assert read(described(entry, source), dict(source.files)).notes == ()


@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic"])
def test_photos_of_differing_sizes_are_resized_as_the_spec_says(folder: Path, how: str) -> None:
    generator = np.random.default_rng(0)
    photos = {"a": (12, 8), "b": (8, 20), "c": (4, 4)}
    for split in ("train", "test"):
        for name, size in photos.items():
            (folder / split / name).mkdir(parents=True)
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name / "0.png")
    assert refused(folder, FOLDERS).startswith("train/b/0.png is 8x20 pixels where train/a/0.p")
    entry = changed(FOLDERS, resize=how)
    test = content(folder, entry).splits.test
    for label, (name, (height, width)) in enumerate(photos.items()):
        with Image.open(folder / "test" / name / "0.png") as image:
            scale = 4 / min(height, width)
            size = (round(width * scale), round(height * scale))
            left, top = (size[0] - 4) // 2, (size[1] - 4) // 2
            scaled = np.asarray(image.resize(size, Image.Resampling[how.upper()]))
        expected = torch.from_numpy(scaled[top : top + 4, left : left + 4].copy()).permute(2, 0, 1)
        assert torch.equal(test.pixels[test.labels == label][0], expected)
    assert spec(folder, entry) not in {
        spec(folder, FOLDERS),
        spec(folder, changed(entry, resize="box")),
    }


def test_a_photo_that_lies_on_its_side_is_turned_upright(folder: Path) -> None:
    upright = np.zeros((8, 8, 3), dtype=np.uint8)
    upright[:4] = (200, 100, 0)
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for name in ("a", "b", "c"):
        (folder / "test" / name).mkdir(parents=True)
        turned.save(folder / "test" / name / "0.png", exif=exif)
    test = content(folder, changed(FOLDERS, resize="box")).splits.test
    assert test.pixels[0, 0].tolist() == [[200] * 4] * 2 + [[0] * 4] * 2


def test_arrays_of_another_size_are_resized_too(folder: Path) -> None:
    images = np.zeros((3, 8, 8), dtype=np.uint8)
    images[:, :4] = 200
    np.savez(folder / "test.npz", images=images, labels=np.arange(3))
    found = content(folder, changed(ARRAYS, channels=1, resize="box"))
    assert found.splits.test.pixels[0, 0, :, 0].tolist() == [200, 200, 0, 0]


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 3, 8, 8), "8x3x8"), ((3, 0, 4, 3), "3x0x4"), ((3, 8, 8, 4), "4x8x8")]
)
def test_arrays_that_cannot_be_resized_are_refused(
    folder: Path, shape: tuple[int, ...], size: str
) -> None:
    np.savez(folder / "test.npz", images=np.zeros(shape, np.uint8), labels=np.arange(3))
    assert refused(folder, changed(ARRAYS, resize="box")) == (
        f"test images are {size}, read as [N, H, W, C]; expected C = 3, as in the config, and "
        "sides of at least 1"
    )


def test_labels_beyond_64_bits_are_refused(folder: Path) -> None:
    labels = np.array([0, 1, 2**63 + 5], dtype=np.uint64)
    images = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    np.savez(folder / "test.npz", images=images, labels=labels)
    write_parquet(folder / "test.parquet", pa.array(labels))
    for entry in (ARRAYS, PARQUET):
        assert (
            refused(folder, entry) == "test labels: 9223372036854775813 is the number of no class"
        )


def test_a_name_that_is_not_utf_8_is_refused_if_it_is_part_of_the_digest(folder: Path) -> None:
    write_images(folder, ("a", "b", "c"))
    image, odd = folder / "test" / "a" / "0.png", os.fsdecode(b"\xff.png")
    hidden = image.with_name(f".{odd}")
    hidden.touch()
    assert "ignored files: 1 (test/a/.\\xff.png)" in content(folder, FOLDERS).notes
    image.rename(image.with_name(odd))
    message = "test/a/\\xff.png: this name is not UTF-8; rename it"
    assert refused(folder, FOLDERS) == message


def test_the_golden_digests_of_data_sets_and_checkpoints_have_not_changed() -> None:
    from pipeline.grid.digests import digest
    from tasks.networks.resnet20 import ResNet20
    from tasks.networks.small import Small
    from tasks.training.recipe import CheckpointSpec

    files = (("train", "2" * 64), ("test", "3" * 64))
    for made, expected in [
        (
            DatasetSpec(
                kind="digits", classes=10, channels=1, side=8, sources=(("digits", "0" * 64),)
            ),
            "df038cffc38362ad279ce2b3d81bb98f5cf7f36141d7ab12ff7de8ba70cd7ef2",
        ),
        (
            DatasetSpec(
                kind="cifar", classes=10, channels=3, side=32, sources=(("archive", "1" * 64),)
            ),
            "58ebd7d91a375e0565d7571e9480f489a7aa778fcb80ddbf3e85bd2c3ada7cbf",
        ),
        (
            DatasetSpec(
                kind="parquet",
                classes=100,
                channels=3,
                side=32,
                label_column="fine_label",
                sources=(("train-00000", "2" * 64), ("test-00000", "3" * 64)),
            ),
            "c189fd1f74ab94ea13d7408681fc1a51035ae31dd849fc81a6f63b5d090539d0",
        ),
        (
            DatasetSpec(kind="folder", classes=10, channels=3, side=32, sources=files),
            "ef432e1501bf9f11a5d0c7af3297a4d24e15fa027f0f39ef5f00d1af9a913ada",
        ),
        (
            DatasetSpec(kind="npz", classes=10, channels=3, side=32, sources=files),
            "7ce7bb5f49eff90b8992ba9a02a2703fa17c4cbc1deca166963a6da0495a9c85",
        ),
        (
            CheckpointSpec(network=ResNet20(), sha256="4" * 64, key_prefix="module."),
            "46cf95a8f3e64e52a2f2c4693fb965b999f8113d16ca6ca88c186d2d23582086",
        ),
        (
            CheckpointSpec(network=Small(), sha256="4" * 64),
            "c8e2351b1d91575f0f966b0a0882719f18c998f1688aa3f1793ba24fcb18c9e0",
        ),
    ]:
        assert digest(made) == expected
