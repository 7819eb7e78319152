"""Locate and read the files of a data set.

A data set is identified by the SHA-256 of its files, never by their location.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.catalogue.entries import DatasetEntry, FilesEntry
from pipeline.catalogue.sources import arrays as source_arrays
from pipeline.catalogue.sources import cifar as source_cifar
from pipeline.catalogue.sources import files as source_files
from pipeline.catalogue.sources import folders as source_folders
from pipeline.catalogue.sources.classes import OFFICIAL
from pipeline.catalogue.sources.files import DatasetFiles, Split
from pipeline.problems import BadInput, shown
from pipeline.store.files import read_whole, sha256_of, sha256_of_all
from tasks.data.spec import DatasetSpec

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.arrays import Splits

DatasetFormat = Literal["digits", "parquet", "cifar", "npz", "folder"]

DIGITS_TRAIN, DIGITS_TEST = 1197, 600
UNNAMED = "unnamed"
"""Role of a file that is known by its SHA-256 but not named. In place of the path is the error
message for a run that has to read it."""


@dataclass(frozen=True)
class DatasetSource:
    """The located files of a data set.

    Attributes:
        files: Pairs of role and path; see `UNNAMED`.
        hashes: Pairs of role and SHA-256.
        train: Number of training images.
        test: Number of test images.
        kind: The format; a data set of kind cifar may be found in another one.
        class_names: See `DatasetSpec.class_names`.
    """

    files: tuple[tuple[str, str], ...]
    hashes: tuple[tuple[str, str], ...]
    train: int
    test: int
    kind: DatasetFormat = "parquet"
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Content:
    """The content of a data set. notes: one-line remarks for the user."""

    splits: Splits
    notes: tuple[str, ...] = ()


def locate(name: str, entry: DatasetEntry, folder: Path | None = None) -> DatasetSource:
    """Find the files of a data set without reading the pixels; BadInput if they are missing."""
    if entry.kind == "digits":
        if folder is not None:
            raise BadInput(f"--data {name}: these digits come with scikit-learn, from no folder")
        found = DatasetFiles((("digits", _digits_file()),), DIGITS_TRAIN, DIGITS_TEST)
        return _source("digits", found)
    if entry.kind == "cifar":
        _check_cifar(name, entry)
    place = folder or (Path(entry.folder).expanduser() if entry.folder else None)
    if place is None:
        published = _published(entry.count) if entry.kind == "cifar" else None
        if entry.files is not None and (
            published is None or published.hashes != tuple(entry.files.sha256.items())
        ):
            return _recorded(name, entry.files)
        if published is not None:
            return published
        raise BadInput(f"data set '{name}' needs a folder: --data {name}=FOLDER")
    if not place.is_dir() and not (entry.kind == "npz" and place.is_file()):
        raise BadInput(f"data set '{name}': no folder {shown(place)}")
    if entry.kind == "cifar" and source_cifar.holds(place, entry.count):
        return _source("cifar", source_cifar.find(entry.count, place))
    kind, found = _found(name, entry, place)
    return _source(kind, found)


def _recorded(name: str, found: FilesEntry) -> DatasetSource:
    """Files that are known by their SHA-256 alone."""
    message = f"data set '{name}': name the files of these results: --data {name}=FOLDER"
    return DatasetSource(
        files=((UNNAMED, message),),
        hashes=tuple(found.sha256.items()),
        train=found.train,
        test=found.test,
        kind=found.kind,
        class_names=found.class_names,
    )


def _check_cifar(name: str, entry: DatasetEntry) -> None:
    """Raise BadInput if the configured classes are not those of CIFAR."""
    if entry.count not in source_cifar.PUBLISHED:
        raise BadInput(f"data set '{name}': CIFAR has 10 or 100 classes, not {entry.count}")
    if entry.names is not None and entry.names != OFFICIAL[entry.count]:
        raise BadInput(
            f"data set '{name}': the order of CIFAR's classes is its own; "
            f"classes: {entry.count}, or another kind for other classes"
        )


def _found(name: str, entry: DatasetEntry, place: Path) -> tuple[DatasetFormat, DatasetFiles]:
    """Detect what a user's folder holds, and in which format."""
    cifar = entry.kind == "cifar"
    kind = source_files.layout_of(place) if cifar else entry.kind
    match kind:
        case "parquet":
            from pipeline.catalogue.sources import tables as source_tables

            return kind, source_tables.find(
                name,
                place,
                entry.count,
                entry.names,
                label_column=entry.label_column,
                image_column=entry.image_column,
                cifar=cifar,
            )
        case "npz":
            return kind, source_arrays.find(name, place, entry.count, entry.names, cifar=cifar)
        case "folder":
            return kind, source_folders.find(name, place, entry.count, entry.names, cifar=cifar)
    archive = source_cifar.PUBLISHED[entry.count].archive
    expected = f"{archive}, {source_files.LAYOUTS}"
    raise BadInput(f"data set '{name}': nothing known in {shown(place)}; expected {expected}")


def _published(classes: int) -> DatasetSource:
    """The published CIFAR archive, which may not have been downloaded yet."""
    place = source_cifar.default_folder()
    if source_cifar.holds(place, classes):
        return _source("cifar", source_cifar.find(classes, place))
    found = source_cifar.to_download(classes)
    [(role, path)] = found.files
    return DatasetSource(
        files=((role, str(path)),),
        hashes=((role, source_cifar.PUBLISHED[classes].sha256),),
        train=found.train,
        test=found.test,
        kind="cifar",
    )


def _source(kind: DatasetFormat, found: DatasetFiles) -> DatasetSource:
    return DatasetSource(
        files=tuple((role, str(path)) for role, path in found.files),
        hashes=tuple((role, _sha256(path)) for role, path in found.files),
        train=found.train,
        test=found.test,
        kind=kind,
        class_names=found.class_names,
    )


def _sha256(path: Path) -> str:
    if not path.is_dir():
        return sha256_of(path)
    return sha256_of_all(path, source_folders.listing(path).images)


def _digits_file() -> Path:
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise BadInput("the digits come with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise BadInput(f"scikit-learn's digits are not at {path}")
    return path


def described(entry: DatasetEntry, source: DatasetSource) -> DatasetSpec:
    """The spec of a located data set, which does not depend on its location."""
    # only Parquet files have columns
    columns: dict[str, Any] = {}
    if source.kind == "parquet":
        columns = {"label_column": entry.label_column, "image_column": entry.image_column}
    return DatasetSpec(
        kind=source.kind,
        classes=entry.count,
        channels=entry.channels,
        side=entry.side_px,
        sources=source.hashes,
        class_names=source.class_names,
        resize=entry.resize,
        **columns,
    )


def read(spec: DatasetSpec, files: Mapping[str, str]) -> Content:
    """Read a data set into its fixed order, with remarks on what is unusual about it.

    Raises:
        BadTensor, BadInput: If the bytes do not have the spec's SHA-256, or are not as declared.
    """
    from tasks.data import splits as data

    hashes, notes = dict(spec.sources), list[str]()
    class_names = _class_names(spec, files)
    if spec.kind == "digits":
        for role, path in files.items():
            read_whole(Path(path), hashes[role])
        found = data.digits()
    else:
        paths = {role: Path(path) for role, path in files.items()}
        found = _read_files(spec, paths, hashes, class_names, notes)
    for split, images in (("train", found.train), ("test", found.test)):
        _check_size(split, images.pixels, spec)
        if images.classes != spec.classes:
            raise BadInput(f"{images.classes} classes; its config says {spec.classes}")
    official = OFFICIAL.get(spec.classes) if spec.kind == "cifar" else None
    return Content(found, (*notes, *data.oddities(found, class_names or official)))


def _class_names(spec: DatasetSpec, files: Mapping[str, str]) -> tuple[str, ...] | None:
    """The class names by label, which for folders may follow from the files; None for numbers."""
    if spec.kind == "folder" and spec.class_names is None:
        return source_folders.class_names(map(Path, files.values()))
    return spec.class_names


def _read_files(
    spec: DatasetSpec,
    files: Mapping[str, Path],
    hashes: Mapping[str, str],
    class_names: Sequence[str] | None,
    notes: list[str],
) -> Splits:
    from tasks.data import splits as data

    splits = _read_splits(spec, files, hashes, class_names, notes)
    notes += source_files.notes_about(spec.kind, files)
    if class_names is not None:
        notes.append(f"{len(class_names)} classes in the order {', '.join(class_names)}")
    pixels = {split: _pixels(split, content, spec) for split, content in splits.items()}
    for split, images in pixels.items():
        _check_size(split, images, spec)
    if "train" not in splits:
        notes.append("no train split: nothing can be trained on it")
        pixels["train"], splits["train"] = pixels["test"][:0], Split([], [])
    labels = {word: _labels(word, content, class_names) for word, content in splits.items()}
    return data.prepare(
        train_pixels=pixels["train"],
        train_labels=labels["train"],
        test_pixels=pixels["test"],
        test_labels=labels["test"],
        classes=spec.classes,
    )


def _read_splits(
    spec: DatasetSpec,
    files: Mapping[str, Path],
    hashes: Mapping[str, str],
    class_names: Sequence[str] | None,
    notes: list[str],
) -> dict[str, Split]:
    """Read the splits from files; remarks are appended to `notes`."""
    if spec.kind == "cifar":
        places = {role: str(path) for role, path in files.items()}
        return source_cifar.read(spec.classes, places, hashes)
    if spec.kind == "parquet":
        from pipeline.catalogue.sources import tables as source_tables

        columns = (spec.label_column, spec.image_column)
        present = [word for word in source_files.SPLITS if f"{word}-00000" in files]
        return {word: source_tables.read(files, hashes, word, *columns) for word in present}
    splits: dict[str, Split] = {}
    for role, path in files.items():
        if spec.kind == "folder":
            splits[role], said = source_folders.read(path, hashes[role], class_names or ())
        else:
            word = None if role == source_arrays.WHOLE else role
            content, said = source_arrays.read(path, hashes[role], word)
            splits |= content
        notes += said
    return splits


def _labels(word: str, split: Split, class_names: Sequence[str] | None) -> Tensor:
    """Labels as int64 [N]; class names become their index in `class_names`."""
    import numpy as np
    import torch

    places = {name: label for label, name in enumerate(class_names or ())}
    numbers = [places[label] if isinstance(label, str) else int(label) for label in split.labels]
    highest = max(numbers, default=0)
    if highest > np.iinfo(np.int64).max:
        raise BadInput(f"{word} labels: {highest} is the number of no class")
    return torch.tensor(numbers, dtype=torch.int64)


def _pixels(word: str, split: Split, spec: DatasetSpec) -> Tensor:
    import torch

    from tasks.data import splits as data

    if isinstance(split.images, list):
        return data.decode_images(
            split.images, spec.channels, names=split.names, side=spec.side, resize=spec.resize
        )
    pixels = data.channels_first(torch.from_numpy(split.images))
    if spec.resize is None:
        return pixels
    if pixels.shape[1] != spec.channels or 0 in pixels.shape[2:]:
        raise BadInput(
            f"{word} images are {_size(pixels.shape[1:])}, read as [N, H, W, C]; expected "
            f"C = {spec.channels}, as in the config, and sides of at least 1"
        )
    return data.resized(pixels, spec.side, spec.resize)


def _check_size(split: str, pixels: Tensor, spec: DatasetSpec) -> None:
    shape, declared = tuple(pixels.shape[1:]), (spec.channels, spec.side, spec.side)
    if shape != declared:
        raise BadInput(f"{split} images are {_size(shape)}; its config says {_size(declared)}")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
