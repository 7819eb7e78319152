"""Layout of data set files: which files of a folder belong to which split.

Sizes of splits come from footers, headers and directory listings. Pixels are read only by `read`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.problems import BadInput, shown

if TYPE_CHECKING:
    import numpy as np

FileFormat = Literal["parquet", "npz", "folder"]

SPLITS = ("train", "test")
SCORED = ("test", "validation", "valid", "val")
"""Names of the split that is evaluated; if there are several, the first one here is used."""
WORDS = ("train", *SCORED)
LAYOUTS = (
    "train-*.parquet and test-*.parquet, train.npz and test.npz, "
    "or train/CLASS/*.png and test/CLASS/*.png"
)
"""The layouts that `layout_of` recognises, for messages."""
PART = r"{word}-(\d+)(?:-of-(\d+))?(?:-[0-9a-f]{{16}})?\.parquet"
"""Name of a part of a split; Hugging Face's older exports end it with a hash."""
NAMED = 3
"""How many of several names a message lists."""


@dataclass(frozen=True)
class DatasetFiles:
    """Files, or folders of images, by role, and the number of images in each split.

    class_names: see `DatasetSpec.class_names`.
    """

    files: tuple[tuple[str, Path], ...]
    train: int
    test: int
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Split:
    """The content of a split.

    Attributes:
        images: Encoded files, or uint8 [N, H, W, C] or [N, H, W].
        labels: Integers or class names [N].
        names: Names of the images for messages; None for arrays.
    """

    images: list[bytes] | np.ndarray
    labels: Sequence[int] | Sequence[str] | np.ndarray
    names: list[str] | None = None


@dataclass(frozen=True)
class Layout:
    """The paths of a folder's splits: test and possibly train. A split may be several files.

    notes: lines for the user, on what is used as the test split if none has that name, and on files
    that are not used.
    """

    places: Mapping[str, tuple[Path, ...]]
    notes: tuple[str, ...] = ()

    @property
    def test(self) -> tuple[Path, ...]:
        """The split that is evaluated; it always exists."""
        return self.places["test"]


def layout_of(folder: Path) -> FileFormat | None:
    """The format of the data set in a folder, judged by file names; None if none is recognised."""
    if any(_parquet_word(path) for path in folder.glob("*.parquet")):
        return "parquet"
    if any(folder.glob("*.npz")):
        return "npz"
    if any((folder / word).is_dir() for word in WORDS):
        return "folder"
    return None


def table_layout(folder: Path) -> Layout | None:
    """The Parquet files of a folder by split, sorted by name; None if there are none.

    Raises:
        BadInput: If a split is neither one file, `word.parquet`, nor numbered parts (see `PART`),
            or a part is missing or occurs twice.
    """
    found: dict[str, list[Path]] = {}
    others = []
    for path in sorted(folder.glob("*.parquet")):
        word = _parquet_word(path)
        if word:
            found.setdefault(word, []).append(path)
        else:
            others.append(path.name)
    for word, paths in found.items():
        _check_parts(word, paths)
    return _chosen({word: tuple(paths) for word, paths in found.items()}, others)


def array_layout(folder: Path) -> Layout | None:
    """The `.npz` files of a folder by split; a single file of any name is the test split."""
    paths = sorted(folder.glob("*.npz"))
    found = {path.stem: (path,) for path in paths if path.stem in WORDS}
    if not found and len(paths) == 1:
        return Layout({"test": (paths[0],)})
    return _chosen(found, [path.name for path in paths if path.stem not in WORDS])


def folder_layout(folder: Path) -> Layout | None:
    """The subfolders of a folder that have the name of a split; None if there are none."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    found = {path.name: (path,) for path in inner if path.name in WORDS}
    others = [p.name for p in inner if p.name not in WORDS and not p.name.startswith(".")]
    return _chosen(found, others)


def notes_about(kind: str, files: Mapping[str, Path]) -> tuple[str, ...]:
    """The notes of the layout that these files, by role, belong to."""
    path = next(iter(files.values()))
    layout = None
    match kind:
        case "parquet":
            layout = table_layout(path.parent)
        case "npz" if path.stem in WORDS:
            layout = array_layout(path.parent)
        case "folder":
            layout = folder_layout(path.parent)
    return layout.notes if layout else ()


def some(names: Sequence[str]) -> str:
    """The first few of some names, and the number of further ones."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _chosen(found: Mapping[str, tuple[Path, ...]], others: Sequence[str]) -> Layout | None:
    scored = next((word for word in SCORED if word in found), None)
    if scored is None:
        if "train" in found:
            where = shown(found["train"][0].parent)
            raise BadInput(
                f"{where}: train is there alone, and training images are not scored on; call the "
                "images that are test or validation"
            )
        return None
    notes = []
    if scored != "test":
        notes.append(f"no test split: the images of '{scored}' are scored on")
    unused = [word for word in found if word not in {scored, "train"}] + [*others]
    if unused:
        notes.append(f"not used: {some(unused)}")
    places = {"test": found[scored]}
    if "train" in found:
        places = {"train": found["train"], **places}
    return Layout(places, tuple(notes))


def _parquet_word(path: Path) -> str | None:
    word = re.split(r"[-.]", path.name, maxsplit=1)[0]
    return word if word in WORDS else None


def _check_parts(word: str, paths: Sequence[Path]) -> None:
    """Raise BadInput unless a split is `word.parquet` alone, or its parts are here, each once."""
    names = [path.name for path in paths]
    if names == [f"{word}.parquet"]:
        return
    where = shown(paths[0].parent)
    numbered = [match for name in names if (match := re.fullmatch(PART.format(word=word), name))]
    if len(numbered) < len(names):
        raise BadInput(
            f"{where}: {some(names)}: expected one file, {word}.parquet, or parts, {word}-N.parquet"
            f" or {word}-N-of-M.parquet; rename or remove the others"
        )
    totals = {int(match[2]) for match in numbered if match[2]}
    numbers = sorted(int(match[1]) for match in numbered)
    if len(totals) > 1 or (totals and not all(match[2] for match in numbered)):
        message = f"{word}-*.parquet are parts of different wholes: "
        raise BadInput(f"{where}: {message}{some(names)}")
    expected = range(totals.pop()) if totals else range(numbers[0] and 1, numbers[-1] + 1)
    if [*expected] == numbers:
        return
    lacking = [str(number) for number in expected if number not in numbers]
    if lacking:
        raise BadInput(
            f"{where}: {len(numbers)} of {len(expected)} parts of {word}-*.parquet are here; "
            f"missing: {some(lacking)}"
        )
    raise BadInput(f"{where}: more parts of {word}-*.parquet than there should be")
