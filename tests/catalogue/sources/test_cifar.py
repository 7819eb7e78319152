"""CIFAR as published, in archives of the same layout: no test needs a network."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from test_files import write_arrays, write_images
from test_locate import write_parquet
from torchvision import datasets

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.entries import DatasetEntry
from pipeline.catalogue.sources import cifar as source_cifar
from pipeline.catalogue.sources.classes import CIFAR10, OFFICIAL
from pipeline.catalogue.sources.locate import described, locate, read
from pipeline.problems import BadInput
from tasks.data.arrays import Splits
from tasks.data.spec import DatasetSpec

SHIPPED = Path(__file__).parents[3] / "configs"
ENTRIES = {
    classes: DatasetEntry(kind="cifar", classes=classes, channels=3, side_px=32)
    for classes in (10, 100)
}
Publish = Callable[[int], Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def checksum(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of what is asked for."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a server of this machine's own offers what is made."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "made").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "made"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # so that leaving the block waits for every answer's end
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> Publish:
    """Writes an archive of a few images, and has it taken for the published one."""

    def published(classes: int) -> Path:
        known = source_cifar.PUBLISHED[classes]
        place = tmp_path / "made" / known.folder
        place.mkdir()
        key = "labels" if classes == 10 else "fine_labels"
        row = 0
        for role, name in known.files:
            content: dict[str, object] = {"label_names": [], "fine_label_names": []}
            if role != "names":
                labels = [(row + place) % classes for place in range(4)]
                # every pixel of an image is its label
                data = np.repeat(np.array(labels, dtype=np.uint8)[:, None], 3072, axis=1)
                content = {"data": data, key: labels}
                row += 4
            (place / name).write_bytes(pickle.dumps(content))
        archive = tmp_path / "made" / known.archive
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(place, known.folder)
        source = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
        sums = {role: [name, checksum(place / name)] for role, name in known.files}
        for attribute, split in (("train_list", "train-"), ("test_list", "test-")):
            listed = [pair for role, pair in sums.items() if role.startswith(split)]
            monkeypatch.setattr(source, attribute, listed)
        meta = {**source.meta, "md5": sums["names"][1]}
        monkeypatch.setattr(source, "meta", meta)
        monkeypatch.setattr(source, "tgz_md5", checksum(archive))
        monkeypatch.setattr(source, "url", f"{address}/{archive.name}")
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        monkeypatch.setitem(source_cifar.PUBLISHED, classes, replace(known, sha256=sha256))
        return archive

    return published


def spec_of(entry: DatasetEntry, hashes: tuple[tuple[str, str], ...]) -> DatasetSpec:
    return DatasetSpec(kind="cifar", classes=entry.classes, channels=3, side=32, sources=hashes)


def found_and_read(entry: DatasetEntry, folder: Path | None = None) -> Splits:
    source = locate("cifar10", entry, folder)
    return read(spec_of(entry, source.hashes), dict(source.files)).splits


def refused(entry: DatasetEntry, folder: Path | None = None) -> str:
    """The one line that says why the data set cannot be found or read."""
    with pytest.raises(BadInput) as raised:
        found_and_read(entry, folder)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize("classes", [10, 100])
def test_the_archive_and_what_it_unpacks_to_hold_the_same_images(
    publish: Publish, classes: int
) -> None:
    archive = publish(classes)
    entry, name = ENTRIES[classes], source_cifar.PUBLISHED[classes].folder
    unpacked = archive.parent / name
    packed = locate("cifar", entry, archive.parent)
    assert [role for role, _ in packed.files] == ["archive"]
    away = archive.rename(archive.parents[1] / archive.name)
    for folder in (archive.parent, unpacked):
        loose = locate("cifar", entry, folder)
        assert len(loose.files) == len(source_cifar.PUBLISHED[classes].files)
    away.rename(archive)
    for source in (packed, loose):
        assert (source.kind, source.train, source.test) == ("cifar", 50_000, 10_000)
        splits = read(spec_of(entry, source.hashes), dict(source.files)).splits
        assert len(splits.train) == (20 if classes == 10 else 4)
        assert len(splits.test) == 4
        assert splits.test.pixels.shape[1:] == (3, 32, 32)
        assert torch.equal(splits.train.pixels[:, 2, 31, 0].long(), splits.train.labels)


def test_a_plan_needs_no_download(tmp_path: Path) -> None:
    source = locate("cifar10", ENTRIES[10])
    assert (source.train, source.test) == (50_000, 10_000)
    assert dict(source.hashes) == {"archive": source_cifar.PUBLISHED[10].sha256}
    assert not (tmp_path / "cache").exists()


def test_the_archive_is_downloaded_once_and_is_the_data_set_that_was_planned(
    publish: Publish,
) -> None:
    archive = publish(10)
    planned = locate("cifar10", ENTRIES[10])
    first = read(spec_of(ENTRIES[10], planned.hashes), dict(planned.files)).splits
    kept = Path(dict(planned.files)["archive"])
    assert kept.read_bytes() == archive.read_bytes()
    assert [path.name for path in kept.parent.iterdir()] == [archive.name]
    archive.unlink()
    assert locate("cifar10", ENTRIES[10]) == planned
    second = read(spec_of(ENTRIES[10], planned.hashes), dict(planned.files)).splits
    assert torch.equal(first.train.pixels, second.train.pixels)


def test_without_a_network_the_line_says_where_to_put_which_archive(
    publish: Publish, tmp_path: Path
) -> None:
    publish(10).unlink()
    message = refused(ENTRIES[10])
    assert message.startswith("cifar-10-python.tar.gz cannot be downloaded (")
    assert f"put it into {tmp_path}/cache/test-time-defense-bench/cifar, " in message
    assert message.endswith("--data cifar10=FOLDER")


def test_another_archive_than_the_published_one_is_not_kept(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(10)
    other = replace(source_cifar.PUBLISHED[10], sha256="0" * 64)
    monkeypatch.setitem(source_cifar.PUBLISHED, 10, other)
    assert "(what came is another archive)" in refused(ENTRIES[10])
    assert list(source_cifar.default_folder().iterdir()) == []


def test_a_truncated_archive_is_told_before_anything_is_read(publish: Publish) -> None:
    archive = publish(10)
    archive.write_bytes(archive.read_bytes()[:-100])
    assert "cifar-10-python.tar.gz: truncated or another archive: " in refused(
        ENTRIES[10], archive.parent
    )


def test_a_file_that_is_missing_or_changed_is_told_and_not_unpickled(publish: Publish) -> None:
    archive = publish(10)
    archive.unlink()
    batch = archive.parent / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(b"cbuiltins\nprint\n(S'code was run'\ntR.")
    assert "not the published files: " in refused(ENTRIES[10], archive.parent)
    batch.unlink()
    assert refused(ENTRIES[10], archive.parent) == (
        f"{batch.parent}: the file data_batch_3 is missing"
    )


@pytest.mark.parametrize("layout", ["parquet", "npz", "folder"])
def test_a_folder_in_another_layout_is_looked_at(tmp_path: Path, layout: str) -> None:
    if layout == "parquet":
        for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
            write_parquet(tmp_path / name, [0, 1, 2])
    elif layout == "npz":
        write_arrays(tmp_path, count=3)
    else:
        write_images(tmp_path, CIFAR10)
    assert locate("cifar10", ENTRIES[10], tmp_path).kind == layout


def test_a_folder_with_nothing_known_in_it_is_told_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    assert refused(ENTRIES[10], tmp_path).startswith(
        f"data set 'cifar10': nothing known in {tmp_path}; expected cifar-10-python.tar.gz, "
    )
    assert refused(ENTRIES[10], tmp_path / "none") == (
        f"data set 'cifar10': no folder {tmp_path / 'none'}"
    )


def test_cifar_with_another_number_of_classes_is_told() -> None:
    entry = ENTRIES[10].model_copy(update={"classes": 20})
    assert refused(entry) == "data set 'cifar10': CIFAR has 10 or 100 classes, not 20"


@pytest.mark.parametrize(("name", "column"), [("cifar10", "label"), ("cifar100", "fine_label")])
def test_the_shipped_data_sets_take_the_public_parquet_exports(
    name: str, column: str, shared: Callable[[str], Path]
) -> None:
    folder = shared(f"data/{name}")
    entry = Catalogue([SHIPPED]).dataset(name)
    assert (entry.kind, entry.label_column) == ("cifar", column)
    assert locate(name, entry, folder).kind == "parquet"


def test_published_files_are_those_whose_checksum_is_in_the_spec(publish: Publish) -> None:
    archive = publish(10)
    packed = locate("cifar10", ENTRIES[10], archive.parent)
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(BadInput, match=r"python\.tar\.gz: changed since the grid was loaded"):
        read(described(ENTRIES[10], packed), dict(packed.files))
    archive.unlink()
    loose = locate("cifar10", ENTRIES[10], archive.parent)
    (archive.parent / "cifar-10-batches-py" / "test_batch").write_bytes(b"other")
    with pytest.raises(BadInput, match="test_batch: changed since the grid was loaded"):
        read(described(ENTRIES[10], loose), dict(loose.files))


def test_folders_of_cifar_have_the_official_labels_in_whatever_case(tmp_path: Path) -> None:
    mixed = ("Airplane", "automobile", "Bird", *CIFAR10[3:])
    numbers = tuple(map(str, range(10)))
    for place, classes in (("mixed", mixed), ("numbers", numbers)):
        write_images(tmp_path / place, classes)
        source = locate("cifar10", ENTRIES[10].model_copy(update={"side_px": 4}), tmp_path / place)
        entry = ENTRIES[10].model_copy(update={"side_px": 4})
        splits = read(described(entry, source), dict(source.files)).splits
        assert torch.equal(splits.test.pixels[:, 0, 0, 0].long() // 20, splits.test.labels)
    # by their names as published there is one order only, and no other digest
    write_images(tmp_path / "names", CIFAR10)
    assert locate("cifar10", ENTRIES[10], tmp_path / "names").class_names is None


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (("plane", "car", *CIFAR10[2:]), "'car' is no class of CIFAR-10"),
        (tuple(map(str, range(1, 11))), "'1' is no class of CIFAR-10"),
        (("Airplane", "airplane", *CIFAR10[2:]), "'airplane' is no class of CIFAR-10"),
    ],
)
def test_folders_of_other_classes_are_not_taken_for_those_of_cifar(
    tmp_path: Path, classes: tuple[str, ...], named: str
) -> None:
    write_images(tmp_path, classes)
    assert named in refused(ENTRIES[10], tmp_path)


def test_an_order_of_cifars_classes_cannot_be_given() -> None:
    entry = ENTRIES[10].model_copy(update={"classes": tuple(reversed(CIFAR10))})
    assert refused(entry).startswith("data set 'cifar10': the order of CIFAR's classes is its own")
    locate("cifar10", entry.model_copy(update={"classes": CIFAR10}))


def test_a_table_that_calls_cifars_labels_otherwise_is_refused(tmp_path: Path) -> None:
    for names, other in (
        (("truck", *CIFAR10[1:9], "airplane"), "from 0 on are truck, automobile, bird and 7 more"),
        (CIFAR10[:9], "from 9 on are none, where CIFAR-10 has truck"),
    ):
        for split in ("train", "test"):
            write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", [0, 1], class_names=names)
        assert other in refused(ENTRIES[10], tmp_path)
    # one export of CIFAR-100 misspells a class
    misspelt = tuple("cra" if name == "crab" else name for name in OFFICIAL[100])
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", [0, 1], class_names=misspelt)
    assert locate("cifar100", ENTRIES[100], tmp_path).class_names is None
