"""Data sets in Parquet files: parts, columns and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.catalogue.sources import parquet
from pipeline.catalogue.sources.classes import OFFICIAL, class_order, official_order, plain_name
from pipeline.catalogue.sources.files import DatasetFiles, Split, some, table_layout
from pipeline.problems import BadInput, shown
from pipeline.store.files import read_whole


def find(
    name: str,
    folder: Path,
    classes: int,
    given: Sequence[str] | None,
    *,
    label_column: str,
    image_column: str | None,
    cifar: bool = False,
) -> DatasetFiles:
    """Find the parts of a folder's splits.

    Args:
        given: Class names in the order of the labels, from the config.
        cifar: Whether the classes are those of CIFAR.

    Raises:
        BadInput: If a part is missing or damaged, or the classes do not match the config.
    """
    layout = table_layout(folder)
    if layout is None:
        expected = "train-*.parquet, test-*.parquet or validation-*.parquet"
        raise BadInput(f"data set '{name}': no {expected} in {shown(folder)}")
    files: list[tuple[str, Path]] = []
    rows = {"train": 0, "test": 0}
    names: set[str] = set()
    kinds: set[bool] = set()
    for split, paths in layout.places.items():
        for index, path in enumerate(paths):
            columns = parquet.parquet_columns(path, label_column)
            parquet.one_image_column(path, columns, image_column)
            _check_names(path, columns.class_names, classes, given, cifar=cifar)
            files.append((f"{split}-{index:05}", path))
            rows[split] += columns.rows
            kinds.add(columns.numbers)
            if not columns.numbers:
                names |= parquet.parquet_label_names(path, label_column)
    if len(kinds) > 1:
        raise BadInput(f"{shown(folder)}: labels are numbers in some files and names in others")
    order = None
    if names and cifar:
        order = official_order(names, shown(folder), classes)
    elif names:
        order = class_order(names, given, shown(folder))
    if order is not None and len(order) != classes:
        found = f"{shown(folder)} has labels of {len(order)} classes"
        raise BadInput(f"data set '{name}': {found}; its config says {classes} classes")
    return DatasetFiles(tuple(files), rows["train"], rows["test"], order)


def read(
    files: Mapping[str, Path],
    hashes: Mapping[str, str],
    split: str,
    label_column: str,
    image_column: str | None,
) -> Split:
    """Read a split from its parts, each checked against its SHA-256."""
    images: list[bytes] = []
    labels: list[Any] = []
    names: list[str] = []
    for role, path in sorted(files.items()):
        if role.startswith(f"{split}-"):
            data = read_whole(path, hashes[role])
            encoded, column = parquet.read_parquet_images(path, data, label_column, image_column)
            images += encoded
            labels += column
            names += [f"{path.name}: row {row}" for row in range(len(column))]
    return Split(images, labels, names)


def _check_names(
    path: Path,
    found: Sequence[str] | None,
    classes: int,
    given: Sequence[str] | None,
    *,
    cifar: bool,
) -> None:
    """Raise BadInput if a file's class names contradict those of the config or of CIFAR."""
    if found is None:
        return
    expected = OFFICIAL[classes] if cifar else given
    if expected is None:
        return
    called = [plain_name(name) if cifar else name for name in found]
    known = {name: label for label, name in enumerate(expected)}
    # one export of CIFAR-100 misspells a name, so unknown ones are accepted there if most are known
    elsewhere = [label for label, name in enumerate(called) if known.get(name, label) != label]
    strange = [label for label, name in enumerate(called) if name not in known]
    tolerated = 2 * len(strange) < len(called) if cifar else not strange
    if len(called) == len(expected) and not elsewhere and tolerated:
        return
    place = min([*elsewhere, *strange, len(called), len(expected)])
    what = f"CIFAR-{classes} has" if cifar else "its config says"
    raise BadInput(
        f"{shown(path)}: its labels from {place} on are {some(found[place:]) or 'none'}, where "
        f"{what} {some(expected[place:]) or 'none'}"
    )
