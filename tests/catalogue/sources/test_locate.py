"""Data sets on this machine: found, known by their files' SHA-256, and read as declared."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shared_files import CIFAR10

from pipeline.catalogue.entries import DatasetEntry
from pipeline.catalogue.sources.locate import DatasetSource, described, locate, read
from pipeline.catalogue.sources.parquet import read_parquet_images
from pipeline.problems import BadInput
from pipeline.store import files as file_hashes
from pipeline.store.files import MEMORY, cache_folder, sha256_of
from tasks.data.arrays import BadTensor
from tasks.data.spec import DatasetSpec

PARQUET = DatasetEntry(kind="parquet", classes=3, channels=3, side_px=4)
DIGITS = DatasetEntry(kind="digits", classes=10, channels=1, side_px=8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # files of tests are young, and are remembered all the same
    monkeypatch.setattr(file_hashes, "FRESH_NS", 0)


def png(value: int, side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path,
    labels: list[int] | list[str],
    *,
    column: str = "label",
    side: int = 4,
    class_names: Sequence[str] | None = None,
    **more: pa.Array,
) -> None:
    """Image i has the value i. class_names: as Hugging Face's metadata say them; more: columns."""
    images = [{"bytes": png(index, side), "path": None} for index in range(len(labels))]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({**more, "img": pa.array(images, kind), column: pa.array(labels)})
    if class_names is not None:
        features = {column: {"names": [*class_names], "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five training images in two files, three test images in one."""
    place = tmp_path / "data"
    write_parquet(place / "train-00000-of-00002.parquet", [0, 1, 2])
    write_parquet(place / "train-00001-of-00002.parquet", [0, 1])
    write_parquet(place / "test-00000-of-00001.parquet", [2, 1, 0])
    return place


def parquet_images(path: Path, label_column: str = "label") -> object:
    return read_parquet_images(path, path.read_bytes(), label_column, None)


def spec_of(source: DatasetSource, entry: DatasetEntry = PARQUET) -> DatasetSpec:
    return described(entry, source)


def test_the_digits_are_found_and_read() -> None:
    source = locate("digits", DIGITS)
    assert (source.train, source.test) == (1197, 600)
    assert [role for role, _ in source.files] == ["digits"]
    splits = read(spec_of(source, DIGITS), dict(source.files)).splits
    assert (len(splits.train), len(splits.test)) == (1197, 600)
    assert splits.test.pixels.shape[1:] == (1, 8, 8)


def test_the_digits_come_from_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--data digits: these digits come with scikit-learn"):
        locate("digits", DIGITS, tmp_path)


def test_parquet_files_are_found_by_role_with_hashes_and_sizes(folder: Path) -> None:
    source = locate("mine", PARQUET, folder)
    assert [role for role, _ in source.files] == ["train-00000", "train-00001", "test-00000"]
    assert (source.train, source.test) == (5, 3)
    for (role, path), (same, digest) in zip(source.files, source.hashes, strict=True):
        assert role == same
        assert digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_data_set_is_the_same_wherever_its_files_lie(folder: Path, tmp_path: Path) -> None:
    before = locate("mine", PARQUET, folder)
    moved = locate("other", PARQUET, folder.rename(tmp_path / "elsewhere"))
    assert spec_of(moved) == spec_of(before)
    assert moved.files != before.files


def test_other_bytes_are_another_data_set(folder: Path) -> None:
    before = spec_of(locate("mine", PARQUET, folder))
    write_parquet(folder / "test-00000-of-00001.parquet", [2, 1, 1])
    assert spec_of(locate("mine", PARQUET, folder)) != before


def test_parquet_images_are_read_with_their_labels(folder: Path) -> None:
    source = locate("mine", PARQUET, folder)
    splits = read(spec_of(source), dict(source.files)).splits
    assert splits.train.pixels.shape == (5, 3, 4, 4)
    assert sorted(splits.train.labels.tolist()) == [0, 0, 1, 1, 2]
    # the test image of value v was given the label 2 - v
    values = splits.test.pixels[:, 0, 0, 0].to(torch.int64)
    assert torch.equal(splits.test.labels, 2 - values)
    assert sorted(values.tolist()) == [0, 1, 2]


def test_without_a_folder_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data set 'mine' needs a folder: --data mine=FOLDER"):
        locate("mine", PARQUET)
    with pytest.raises(BadInput, match=r"data set 'mine': no folder .*none"):
        locate("mine", PARQUET, tmp_path / "none")
    entry = PARQUET.model_copy(update={"folder": str(tmp_path / "empty")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"data set 'mine': no train-\*.parquet, test-.* in .*empty"):
        locate("mine", entry)


def test_a_folder_without_test_files_is_told(folder: Path) -> None:
    (folder / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(BadInput, match="train is there alone, and training images are not scored"):
        locate("mine", PARQUET, folder)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all" * 10])
def test_a_file_that_is_no_parquet_is_told_in_one_line(folder: Path, data: bytes) -> None:
    path = folder / "test-00000-of-00001.parquet"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"test-00000-of-00001.parquet: not a whole") as raised:
        locate("mine", PARQUET, folder)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(BadInput, match="not a whole Parquet file"):
        parquet_images(path)


def test_a_folder_that_is_named_like_a_file_is_told(folder: Path) -> None:
    (folder / "train-00001-of-00002.parquet").unlink()
    (folder / "train-00001-of-00002.parquet").mkdir()
    with pytest.raises(BadInput, match=r"train-00001-of-00002.parquet: not a whole"):
        locate("mine", PARQUET, folder)


def test_a_missing_label_column_is_told_with_the_ones_there_are(folder: Path) -> None:
    path = folder / "test-00000-of-00001.parquet"
    message = r"test-00000-of-00001.parquet: no label column 'fine'; its columns: img, label"
    with pytest.raises(BadInput, match=message):
        parquet_images(path, "fine")


def test_columns_that_are_no_images_or_labels_are_told(tmp_path: Path) -> None:
    image = pa.array([{"bytes": png(0)}], pa.struct({"bytes": pa.binary()}))
    gap = pa.array([{"bytes": None}], pa.struct({"bytes": pa.binary()}))
    hole = pa.array([None], pa.struct({"bytes": pa.binary()}))
    path_only = pa.array([{"path": "x"}], pa.struct({"path": pa.string()}))
    label = pa.array([1])
    for columns, message in [
        ({"label": label}, "no image column"),
        ({"img": path_only, "label": label}, "no image column"),
        (
            {"img": image, "label": pa.array([0.5])},
            "labels in 'label' are double, neither integers",
        ),
        ({"img": image, "label": pa.array([None], pa.int64())}, "rows without a label: 1"),
        ({"img": gap, "label": label}, "rows without an image: 1"),
        ({"img": hole, "label": label}, "rows without an image: 1"),
    ]:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        with pytest.raises(BadInput, match=message):
            parquet_images(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side_px": 8}, "train images are 3x4x4; its config says 3x8x8"),
        ({"side_px": 5}, "train images are 3x4x4; its config says 3x5x5"),
    ],
)
def test_images_of_another_size_than_declared_are_told(
    folder: Path, change: dict[str, int], message: str
) -> None:
    entry = PARQUET.model_copy(update=change)
    source = locate("mine", entry, folder)
    with pytest.raises(BadInput, match=message):
        read(spec_of(source, entry), dict(source.files))


def test_labels_beyond_the_declared_classes_are_told(folder: Path) -> None:
    entry = PARQUET.model_copy(update={"classes": 2})
    source = locate("mine", entry, folder)
    with pytest.raises(BadTensor, match="labels: expected 0 to 1"):
        read(spec_of(source, entry), dict(source.files))


def test_digits_declared_as_something_else_are_told() -> None:
    for change, message in [
        ({"classes": 7}, "10 classes; its config says 7"),
        ({"channels": 3}, "train images are 1x8x8; its config says 3x8x8"),
    ]:
        entry = DIGITS.model_copy(update=change)
        source = locate("digits", entry)
        with pytest.raises(BadInput, match=message):
            read(spec_of(source, entry), dict(source.files))


def test_a_real_data_set_is_found(shared: Callable[[str], Path]) -> None:
    entry = DatasetEntry(kind="parquet", classes=10)
    source = locate("cifar10", entry, shared(CIFAR10))
    path = Path(dict(source.files)["test-00000"])
    images, labels = read_parquet_images(path, path.read_bytes(), "label", None)
    assert len(images) == len(labels) == source.test
    assert source.train > 4 * source.test
    assert set(labels) == set(range(10))


def test_a_hash_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    reads: list[str] = []
    original = hashlib.file_digest

    def counted(handle: io.BufferedReader, name: str) -> object:
        reads.append(name)
        return original(handle, name)

    monkeypatch.setattr(file_hashes.hashlib, "file_digest", counted)
    assert sha256_of(path) == sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    path.write_bytes(b"other")
    assert sha256_of(path) == hashlib.sha256(b"other").hexdigest()
    path.write_bytes(b"third")
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert sha256_of(path) == hashlib.sha256(b"third").hexdigest()
    assert len(reads) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"PATH": 5}', '{"PATH": [1, 2]}'])
def test_a_spoiled_memory_of_hashes_is_read_past(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    cache_folder().mkdir(parents=True)
    (cache_folder() / MEMORY).write_text(text.replace("PATH", str(path)))
    assert sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    assert str(path) in json.loads((cache_folder() / MEMORY).read_text())


def test_without_a_place_to_remember_hashes_are_worked_out_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"one").hexdigest()


def test_a_user_without_a_home_has_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().name == "test-time-defense-bench"


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none: cannot be read: no such file or directory"):
        sha256_of(tmp_path / "none")
    with pytest.raises(BadInput, match="cannot be read: is a directory"):
        sha256_of(tmp_path)
