"""CIFAR-10 and CIFAR-100: download, unpack and read with torchvision.

The published archives are identified by their known SHA-256, so a plan needs no download.
"""

from __future__ import annotations

import io
import socket
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from pipeline.catalogue.sources.files import DatasetFiles, Split
from pipeline.problems import BadInput, shown
from pipeline.store.files import cache_folder, read_whole, sha256_of

TRAIN, TEST = 50_000, 10_000
SILENCE_S = 30.0
"""Socket timeout of downloads, in seconds."""


@dataclass(frozen=True)
class PublishedDataset:
    """A published archive, its SHA-256, and the folder and files, by role, that it unpacks to."""

    archive: str
    sha256: str
    folder: str
    files: tuple[tuple[str, str], ...]


PUBLISHED = {
    10: PublishedDataset(
        "cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "cifar-10-batches-py",
        (
            *((f"train-{batch:05}", f"data_batch_{batch + 1}") for batch in range(5)),
            ("test-00000", "test_batch"),
            ("names", "batches.meta"),
        ),
    ),
    100: PublishedDataset(
        "cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        "cifar-100-python",
        (("train-00000", "train"), ("test-00000", "test"), ("names", "meta")),
    ),
}
"""Published archives by number of classes."""


def default_folder() -> Path:
    """Where archives are downloaded to."""
    return cache_folder() / "cifar"


def holds(folder: Path, classes: int) -> bool:
    """Whether a folder contains the archive or the unpacked files."""
    published = PUBLISHED[classes]
    return (folder / published.archive).exists() or _unpacked(folder, published) is not None


def find(classes: int, folder: Path) -> DatasetFiles:
    """The archive, or the unpacked files, in a folder for which `holds` is true.

    Raises:
        BadInput: If the archive is not the published one, or a file is missing.
    """
    published = PUBLISHED[classes]
    archive = folder / published.archive
    if archive.exists():
        found = sha256_of(archive)
        if found != published.sha256:
            expected = f"SHA-256 {found[:12]}..., the published one has {published.sha256[:12]}..."
            raise BadInput(f"{shown(archive)}: truncated or another archive: {expected}")
        return DatasetFiles((("archive", archive),), TRAIN, TEST)
    place = _unpacked(folder, published)
    assert place is not None
    for _, name in published.files:
        if not (place / name).is_file():
            raise BadInput(f"{shown(place)}: the file {name} is missing")
    return DatasetFiles(tuple((role, place / name) for role, name in published.files), TRAIN, TEST)


def to_download(classes: int) -> DatasetFiles:
    """The archive at the path that `read` will download it to."""
    archive = default_folder() / PUBLISHED[classes].archive
    return DatasetFiles((("archive", archive),), TRAIN, TEST)


def read(classes: int, files: Mapping[str, str], hashes: Mapping[str, str]) -> dict[str, Split]:
    """Read both splits, uint8 [N, 32, 32, 3]; downloads the archive first if it is absent.

    hashes: SHA-256 of the files by role. torchvision compares every file with its published
    checksum before it unpickles it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / PUBLISHED[classes].folder
        if "archive" not in files:
            # copied, so that torchvision reads the same bytes whose checksum was compared
            folder.mkdir()
            for role, path in files.items():
                (folder / Path(path).name).write_bytes(read_whole(Path(path), hashes[role]))
            return _read_unpacked(classes, folder, Path(files["names"]).parent)
        archive = Path(files["archive"])
        if not archive.exists():
            _download(classes, archive)
        data = read_whole(archive, hashes["archive"])
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as content:
                content.extractall(scratch, filter="data")
        except (OSError, EOFError, tarfile.TarError) as error:
            raise BadInput(f"{shown(archive)}: not a whole archive: {_line(error)}") from None
        return _read_unpacked(classes, folder, archive)


def _unpacked(folder: Path, published: PublishedDataset) -> Path | None:
    if folder.name == published.folder and folder.is_dir():
        return folder
    inner = folder / published.folder
    return inner if inner.is_dir() else None


def _torchvision(classes: int) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    return CIFAR10 if classes == 10 else CIFAR100


def _read_unpacked(classes: int, folder: Path, place: Path) -> dict[str, Split]:
    """Read both splits from `folder`, a copy of the files at `place`, which messages name."""
    import numpy as np

    splits = {}
    for split in ("train", "test"):
        try:
            with warnings.catch_warnings():
                # newer versions of numpy warn about pickles of the old one
                warnings.simplefilter("ignore")
                content = _torchvision(classes)(folder.parent, train=split == "train")
        except (RuntimeError, OSError) as error:
            reason = _line(error)
            raise BadInput(f"{shown(place)}: not the published files: {reason}") from None
        splits[split] = Split(content.data, np.asarray(content.targets, dtype=np.int64))
    return splits


def _download(classes: int, archive: Path) -> None:
    """Download to a temporary folder and move into place: the file is complete or absent."""
    from torchvision.datasets.utils import download_url

    published, source = PUBLISHED[classes], _torchvision(classes)
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent) as scratch, _patience():
            download_url(source.url, scratch, published.archive, source.tgz_md5)
            draft = Path(scratch) / published.archive
            whole = sha256_of(draft) == published.sha256
            if whole:
                draft.replace(archive)
    except (OSError, RuntimeError, EOFError) as error:
        if isinstance(error, HTTPError):
            # closes the connection
            error.close()
        raise _not_downloaded(classes, archive, _line(error)) from None
    if not whole:
        raise _not_downloaded(classes, archive, "what came is another archive")


def _not_downloaded(classes: int, archive: Path, reason: str) -> BadInput:
    return BadInput(
        f"{archive.name} cannot be downloaded ({reason}): put it into {archive.parent}, "
        f"or name the folder that has it: --data cifar{classes}=FOLDER"
    )


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
