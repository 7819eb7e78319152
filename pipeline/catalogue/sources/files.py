"""Data sets in files of a user's: Parquet, arrays in .npz, folders of images.

Sizes of splits come from footers, headers and listings; pixels are read only by `read`.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.problems import BadInput, shown

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["parquet", "npz", "folder"]

SPLITS = ("train", "test")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
LAYOUTS = (
    "train-*.parquet and test-*.parquet, train.npz and test.npz, "
    "or train/CLASS/*.png and test/CLASS/*.png"
)
"""What `layout_of` knows, in words."""

_BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
"""What numpy and zipfile raise over a file that is not whole, or not theirs."""


@dataclass(frozen=True)
class Found:
    """Files, or folders of images, by their roles, and how many images a split has."""

    files: tuple[tuple[str, Path], ...]
    train: int
    test: int


@dataclass(frozen=True)
class Split:
    """images: encoded files, or uint8 [N, H, W, C] or [N, H, W]; labels: integers [N].

    names: of the images, for messages; none for arrays.
    """

    images: list[bytes] | np.ndarray
    labels: Sequence[int] | np.ndarray
    names: list[str] | None = None


def layout_of(folder: Path) -> Kind | None:
    """How a folder holds a data set, by the names in it."""
    if any(any(folder.glob(f"{split}-*.parquet")) for split in SPLITS):
        return "parquet"
    if any((folder / f"{split}.npz").exists() for split in SPLITS):
        return "npz"
    if any((folder / split).is_dir() for split in SPLITS):
        return "folder"
    return None


def find(name: str, kind: Kind, folder: Path, classes: int) -> Found:
    """A data set's files in a folder; BadInput where one is not there or not whole."""
    match kind:
        case "parquet":
            from pipeline.catalogue.sources import parquet

            files = _parquet_files(name, folder)
            counts = [parquet.parquet_rows(path) for _, path in files]
        case "npz":
            files = _npz_files(name, folder)
            counts = [_array_shape(path, "images")[0] for _, path in files]
        case "folder":
            files = _image_folders(name, folder, classes)
            counts = [len(image_files(path)) for _, path in files]
    rows = dict.fromkeys(SPLITS, 0)
    for (role, _), count in zip(files, counts, strict=True):
        rows[role.partition("-")[0]] += count
    return Found(files, rows["train"], rows["test"])


def read(kind: Kind, files: Mapping[str, str], split: str, label_column: str) -> Split:
    """A split as its files have it; BadInput where they are not what they should be."""
    if kind == "npz":
        return _read_npz(Path(files[split]))
    if kind == "folder":
        return _read_folder(Path(files[split]))
    from pipeline.catalogue.sources import parquet

    images: list[bytes] = []
    labels: list[int] = []
    names: list[str] = []
    for role, path in sorted(files.items()):
        if role.startswith(f"{split}-"):
            encoded, column = parquet.read_parquet_images(Path(path), label_column)
            images += encoded
            labels += column
            names += [f"{Path(path).name}: row {row}" for row in range(len(column))]
    return Split(images, labels, names)


def image_files(split: Path) -> list[Path]:
    """The images of a split, by class and then by name."""
    return sorted(
        path
        for path in split.glob("*/*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _parquet_files(name: str, folder: Path) -> tuple[tuple[str, Path], ...]:
    files = []
    for split in SPLITS:
        found = sorted(folder.glob(f"{split}-*.parquet"))
        if not found:
            raise BadInput(f"data set '{name}': no {split}-*.parquet in {shown(folder)}")
        files += [(f"{split}-{index:05}", path) for index, path in enumerate(found)]
    return tuple(files)


def _npz_files(name: str, folder: Path) -> tuple[tuple[str, Path], ...]:
    files = tuple((split, folder / f"{split}.npz") for split in SPLITS)
    for _, path in files:
        if not path.is_file():
            raise BadInput(f"data set '{name}': no {path.name} in {shown(folder)}")
    return files


def _array_shape(path: Path, key: str) -> tuple[int, ...]:
    """The shape of an array of an archive, from its header; BadInput where there is none."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
            if f"{key}.npy" not in inside:
                known = ", ".join(sorted(name.removesuffix(".npy") for name in inside))
                raise BadInput(f"{shown(path)}: no array '{key}'; it holds: {known or 'nothing'}")
            with archive.open(f"{key}.npy") as member:
                version = np.lib.format.read_magic(member)
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape: tuple[int, ...] = read_header(member)[0]
    except _BROKEN as error:
        raise _not_whole(path, error) from None
    if not shape:
        raise BadInput(f"{shown(path)}: '{key}' is a single number, not an array")
    return shape


def _read_npz(path: Path) -> Split:
    import numpy as np

    for key in ("images", "labels"):
        _array_shape(path, key)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except _BROKEN as error:
        raise _not_whole(path, error) from None
    if images.dtype != np.uint8 or images.ndim not in {3, 4}:
        raise BadInput(
            f"{shown(path)}: 'images' is {_kind(images)}; expected uint8 [N, H, W, C] or [N, H, W]"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise BadInput(
            f"{shown(path)}: 'labels' is {_kind(labels)}; expected integers [{len(images)}]"
        )
    return Split(images, labels.astype(np.int64))


def _not_whole(path: Path, error: Exception) -> BadInput:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BadInput(f"{shown(path)}: not a whole .npz file: {reason}")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _image_folders(name: str, folder: Path, classes: int) -> tuple[tuple[str, Path], ...]:
    known: dict[str, list[str]] = {}
    for split in SPLITS:
        place = folder / split
        if not place.is_dir():
            raise BadInput(f"data set '{name}': no folder {split} in {shown(folder)}")
        if not image_files(place):
            raise BadInput(f"data set '{name}': no {split}/CLASS/*.png in {shown(folder)}")
        known[split] = _class_names(place)
    differing = sorted(set(known["train"]) ^ set(known["test"]))
    if differing:
        where = "train" if differing[0] in known["train"] else "test"
        raise BadInput(f"{shown(folder)}: class '{differing[0]}' is in {where} alone")
    if len(known["train"]) != classes:
        found = f"{shown(folder)} has {len(known['train'])} class folders"
        raise BadInput(f"data set '{name}': {found}; its config says {classes} classes")
    return tuple((split, folder / split) for split in SPLITS)


def _class_names(split: Path) -> list[str]:
    return sorted(
        path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _read_folder(split: Path) -> Split:
    classes = {name: label for label, name in enumerate(_class_names(split))}
    paths = image_files(split)
    try:
        images = [path.read_bytes() for path in paths]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{error.filename}: cannot be read: {reason}") from None
    names = [path.relative_to(split.parent).as_posix() for path in paths]
    return Split(images, [classes[path.parent.name] for path in paths], names)
