"""Where a data set's files are on this machine, and how they are read.

A data set's identity is the SHA-256 of its files, never their place.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.catalogue.entries import DatasetEntry
from pipeline.catalogue.sources import cifar as source_cifar
from pipeline.catalogue.sources import files as source_files
from pipeline.catalogue.sources.files import Found, Split
from pipeline.problems import BadInput, shown
from pipeline.store.files import sha256_of, sha256_of_all

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.arrays import Splits
    from tasks.data.spec import DatasetSpec

Kind = Literal["digits", "parquet", "cifar", "npz", "folder"]

DIGITS_TRAIN, DIGITS_TEST = 1197, 600


@dataclass(frozen=True)
class Source:
    """A data set found: (role, path), (role, SHA-256), and the sizes of its splits.

    kind: how its files are read; an entry of kind cifar may be found in another layout.
    """

    files: tuple[tuple[str, str], ...]
    hashes: tuple[tuple[str, str], ...]
    train: int
    test: int
    kind: Kind = "parquet"


def locate(name: str, entry: DatasetEntry, folder: Path | None = None) -> Source:
    """Find a data set's files without reading them; BadInput where they are not there."""
    if entry.kind == "digits":
        if folder is not None:
            raise BadInput(f"--data {name}: these digits come with scikit-learn, from no folder")
        found = Found((("digits", _digits_file()),), DIGITS_TRAIN, DIGITS_TEST)
        return _source("digits", found)
    if entry.kind == "cifar" and entry.classes not in source_cifar.PUBLISHED:
        raise BadInput(f"data set '{name}': CIFAR has 10 or 100 classes, not {entry.classes}")
    place = folder or (Path(entry.folder).expanduser() if entry.folder else None)
    if place is None:
        if entry.kind == "cifar":
            return _published(entry.classes)
        raise BadInput(f"data set '{name}' needs a folder: --data {name}=FOLDER")
    if not place.is_dir():
        raise BadInput(f"data set '{name}': no folder {shown(place)}")
    kind: Kind | None = entry.kind
    if entry.kind == "cifar":
        if source_cifar.holds(place, entry.classes):
            return _source("cifar", source_cifar.find(entry.classes, place))
        kind = source_files.layout_of(place)
    if kind not in {"parquet", "npz", "folder"}:
        archive = source_cifar.PUBLISHED[entry.classes].archive
        expected = f"{archive}, {source_files.LAYOUTS}"
        raise BadInput(f"data set '{name}': nothing known in {shown(place)}; expected {expected}")
    return _source(kind, source_files.find(name, kind, place, entry.classes))


def _published(classes: int) -> Source:
    """The published archive, which need not have been downloaded yet."""
    place = source_cifar.default_folder()
    if source_cifar.holds(place, classes):
        return _source("cifar", source_cifar.find(classes, place))
    found = source_cifar.to_download(classes)
    [(role, path)] = found.files
    return Source(
        files=((role, str(path)),),
        hashes=((role, source_cifar.PUBLISHED[classes].sha256),),
        train=found.train,
        test=found.test,
        kind="cifar",
    )


def _source(kind: Kind, found: Found) -> Source:
    return Source(
        files=tuple((role, str(path)) for role, path in found.files),
        hashes=tuple((role, _sha256(path)) for role, path in found.files),
        train=found.train,
        test=found.test,
        kind=kind,
    )


def _sha256(path: Path) -> str:
    return sha256_of_all(path, source_files.image_files(path)) if path.is_dir() else sha256_of(path)


def _digits_file() -> Path:
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise BadInput("the digits come with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise BadInput(f"scikit-learn's digits are not at {path}")
    return path


def read(spec: DatasetSpec, files: Mapping[str, str]) -> Splits:
    """A data set in its fixed order; BadTensor or BadInput in one line if it is not as declared."""
    from tasks.data import splits as data

    found = data.digits() if spec.kind == "digits" else _read_files(spec, files)
    for split, images in (("train", found.train), ("test", found.test)):
        _check_size(split, images.pixels, spec)
        if images.classes != spec.classes:
            raise BadInput(f"{images.classes} classes; its config says {spec.classes}")
    return found


def _read_files(spec: DatasetSpec, files: Mapping[str, str]) -> Splits:
    import torch

    from tasks.data import splits as data

    if spec.kind == "cifar":
        splits = source_cifar.read(spec.classes, files)
    else:
        assert spec.kind != "digits"
        splits = {
            split: source_files.read(spec.kind, files, split, spec.label_column)
            for split in source_files.SPLITS
        }
    pixels = {split: _pixels(content, spec.channels) for split, content in splits.items()}
    for split, images in pixels.items():
        _check_size(split, images, spec)
    return data.prepare(
        train_pixels=pixels["train"],
        train_labels=torch.as_tensor(splits["train"].labels),
        test_pixels=pixels["test"],
        test_labels=torch.as_tensor(splits["test"].labels),
        classes=spec.classes,
    )


def _pixels(split: Split, channels: int) -> Tensor:
    import torch

    from tasks.data import splits as data

    if isinstance(split.images, list):
        return data.decode_images(split.images, channels, names=split.names)
    return data.channels_first(torch.from_numpy(split.images))


def _check_size(split: str, pixels: Tensor, spec: DatasetSpec) -> None:
    shape, declared = tuple(pixels.shape[1:]), (spec.channels, spec.side, spec.side)
    if shape != declared:
        raise BadInput(f"{split} images are {_size(shape)}; its config says {_size(declared)}")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
