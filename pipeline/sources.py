"""Where a data set's files are on this machine, and how they are read.

A data set's identity is the SHA-256 of its files, never their place.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import arrow
from pipeline.config import DatasetEntry
from pipeline.file_hashes import sha256_of
from pipeline.problems import BadInput
from pipeline.yaml_files import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.arrays import Splits
    from tasks.datasets import DatasetSpec

DIGITS_TRAIN, DIGITS_TEST = 1197, 600


@dataclass(frozen=True)
class Source:
    """A data set found: (role, path), (role, SHA-256), and the sizes of its splits."""

    files: tuple[tuple[str, str], ...]
    hashes: tuple[tuple[str, str], ...]
    train: int
    test: int


def locate(name: str, entry: DatasetEntry, folder: Path | None = None) -> Source:
    """Find a data set's files without reading them; BadInput where they are not there."""
    if entry.kind == "digits":
        if folder is not None:
            raise BadInput(f"--data {name}: these digits come with scikit-learn, from no folder")
        files: tuple[tuple[str, Path], ...] = (("digits", _digits_file()),)
        sizes = (DIGITS_TRAIN, DIGITS_TEST)
    else:
        place = folder or (Path(entry.folder).expanduser() if entry.folder else None)
        if place is None:
            raise BadInput(f"data set '{name}' needs a folder: --data {name}=FOLDER")
        files = _parquet_files(name, place)
        counts = {"train": 0, "test": 0}
        for role, path in files:
            counts[role.partition("-")[0]] += arrow.parquet_rows(path)
        sizes = (counts["train"], counts["test"])
    return Source(
        files=tuple((role, str(path)) for role, path in files),
        hashes=tuple((role, sha256_of(path)) for role, path in files),
        train=sizes[0],
        test=sizes[1],
    )


def _digits_file() -> Path:
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise BadInput("the digits come with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise BadInput(f"scikit-learn's digits are not at {path}")
    return path


def _parquet_files(name: str, folder: Path) -> tuple[tuple[str, Path], ...]:
    if not folder.is_dir():
        raise BadInput(f"data set '{name}': no folder {shown(folder)}")
    files = []
    for split in ("train", "test"):
        found = sorted(folder.glob(f"{split}-*.parquet"))
        if not found:
            raise BadInput(f"data set '{name}': no {split}-*.parquet in {shown(folder)}")
        files += [(f"{split}-{index:05}", path) for index, path in enumerate(found)]
    return tuple(files)


def read(spec: DatasetSpec, files: Mapping[str, str]) -> Splits:
    """A data set in its fixed order; BadTensor or BadInput in one line if it is not as declared."""
    from tasks import data

    found = data.digits() if spec.kind == "digits" else _read_parquet(spec, files)
    for split, images in (("train", found.train), ("test", found.test)):
        shape, declared = tuple(images.pixels.shape[1:]), (spec.channels, spec.side, spec.side)
        if shape != declared:
            raise BadInput(f"{split} images are {_size(shape)}; its config says {_size(declared)}")
        if images.classes != spec.classes:
            raise BadInput(f"{images.classes} classes; its config says {spec.classes}")
    return found


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _read_parquet(spec: DatasetSpec, files: Mapping[str, str]) -> Splits:
    import torch

    from tasks import data

    splits = {}
    for split in ("train", "test"):
        encoded: list[bytes] = []
        labels: list[int] = []
        for role, path in sorted(files.items()):
            if role.startswith(f"{split}-"):
                images, column = arrow.read_parquet_images(Path(path), spec.label_column)
                encoded += images
                labels += column
        splits[split] = (data.decode_images(encoded, spec.channels), labels)
    return data.prepare(
        train_pixels=splits["train"][0],
        train_labels=torch.tensor(splits["train"][1]),
        test_pixels=splits["test"][0],
        test_labels=torch.tensor(splits["test"][1]),
        classes=spec.classes,
    )
