"""Data sets in `.npz` files: one file for each split, or one file with all of them."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.catalogue.sources.classes import class_order, official_order
from pipeline.catalogue.sources.files import (
    SCORED,
    WORDS,
    DatasetFiles,
    Split,
    array_layout,
    some,
)
from pipeline.problems import BadInput, shown
from pipeline.store.files import read_whole

if TYPE_CHECKING:
    import numpy as np

BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
"""What numpy and zipfile raise for a file that is truncated or of another format."""
WHOLE = "arrays"
"""Role of a file that holds several splits."""

Keys = tuple[str, str]
"""Names of the arrays of images and of labels of one split."""
PAIRS: Mapping[str, tuple[Keys, ...]] = {
    word: (
        (f"{word}_images", f"{word}_labels"),
        (f"x_{word}", f"y_{word}"),
        (f"X_{word}", f"y_{word}"),
    )
    for word in WORDS
}
"""The names that a split's arrays may have in a file of several splits."""


def find(
    name: str,
    place: Path,
    classes: int,
    given: Sequence[str] | None,
    *,
    cifar: bool = False,
) -> DatasetFiles:
    """Find the splits in a folder of `.npz` files, or in one such file, from its headers.

    Args:
        given: Class names in the order of the labels, for labels that are names.
        cifar: Whether the classes are those of CIFAR.

    Raises:
        BadInput: If the splits are not found, or the classes do not match the config.
    """
    layout = None if place.is_file() else array_layout(place)
    if place.is_file():
        whole = place
    elif layout is None:
        several = len(list(place.glob("*.npz"))) > 1
        expected = "train.npz and test.npz" if several else "train.npz, test.npz or one .npz"
        raise BadInput(f"data set '{name}': no {expected} in {shown(place)}")
    elif layout.test[0].stem in SCORED:
        files = tuple((split, path) for split, (path,) in layout.places.items())
        return _found(
            [(split, path, _keys_of_one(path)) for split, path in files],
            files,
            classes,
            given,
            place,
            cifar=cifar,
        )
    else:
        [whole] = layout.test
    inside = _inside(whole)
    if "images" in inside:
        return _found(
            [("test", whole, _keys_of_one(whole))],
            (("test", whole),),
            classes,
            given,
            place,
            cifar=cifar,
        )
    parts = [(split, whole, keys) for split, keys in _keys(whole, inside).items()]
    return _found(parts, ((WHOLE, whole),), classes, given, place, cifar=cifar)


def read(path: Path, sha256: str, split: str | None) -> tuple[dict[str, Split], list[str]]:
    """Read the split that a file holds, or all splits if `split` is None; with notes for the user.

    Raises:
        BadInput: If the file is damaged or does not have the SHA-256.
    """
    import numpy as np

    data = read_whole(path, sha256)
    inside, notes = _inside(path, data), list[str]()
    parts = _keys(path, inside) if split is None else {split: _keys_of_one(path, data)}
    unused = set(inside).difference(*parts.values())
    if unused:
        notes.append(f"arrays of {path.name} that are not used: {some(sorted(unused))}")
    if split is None and not parts["test"][0].lower().removeprefix("x_").startswith("test"):
        notes.append(f"no test split: the images of '{parts['test'][0]}' are scored on")
    found = {}
    for word, keys in parts.items():
        for key in keys:
            _array_shape(path, key, data)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as content:
                images, labels = (content[key] for key in keys)
        except BROKEN as error:
            raise _not_whole(path, error) from None
        found[word] = _checked(path, keys, images, labels)
    return found, notes


def _found(
    parts: Iterable[tuple[str, Path, Keys]],
    files: tuple[tuple[str, Path], ...],
    classes: int,
    given: Sequence[str] | None,
    place: Path,
    *,
    cifar: bool,
) -> DatasetFiles:
    counts = {"train": 0, "test": 0}
    names: set[str] = set()
    kinds: set[bool] = set()
    for split, path, (images, labels) in parts:
        counts[split] = _array_shape(path, images)[0]
        called = _label_names(path, labels)
        if counts[split]:
            kinds.add(not called)
        names |= called
    if len(kinds) > 1:
        raise BadInput(f"{shown(place)}: labels are numbers in one split and names in the other")
    order = None
    if names and cifar:
        order = official_order(names, shown(place), classes)
    elif names:
        order = class_order(names, given, shown(place))
    if order is not None and len(order) != classes:
        found = f"{shown(place)} has labels of {len(order)} classes"
        raise BadInput(f"{found}; its config says {classes} classes")
    return DatasetFiles(files, counts["train"], counts["test"], order)


def _keys_of_one(path: Path, data: bytes | None = None) -> Keys:
    """The arrays of a file of one split; BadInput if it has images of another name as well."""
    _array_shape(path, "images", data)
    inside = _inside(path, data)
    others = [keys[0] for word in WORDS for keys in PAIRS[word] if keys[0] in inside]
    if others:
        raise BadInput(
            f"{shown(path)}: 'images' and {some(others)}: which are meant? Keep 'images' alone, "
            "or rename it"
        )
    return "images", "labels"


def _keys(path: Path, inside: Collection[str]) -> dict[str, Keys]:
    """The arrays of each split in a file of several; BadInput if no test split is found."""
    found: dict[str, Keys] = {}
    for word in WORDS:
        names = [keys for keys in PAIRS[word] if set(keys) <= set(inside)]
        split = "train" if word == "train" else "test"
        if names and split not in found:
            found[split] = names[0]
    if "test" not in found:
        known = ", ".join(sorted(inside)) or "nothing"
        raise BadInput(
            f"{shown(path)}: no array 'images', 'test_images' or 'x_test' with its labels; "
            f"it holds: {known}"
        )
    return found


def _inside(path: Path, data: bytes | None = None) -> list[str]:
    try:
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except BROKEN as error:
        raise _not_whole(path, error) from None


def _array_shape(path: Path, key: str, data: bytes | None = None) -> tuple[int, ...]:
    """The shape of an array in an archive, from its header; BadInput if there is no such array."""
    import numpy as np

    try:
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
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
    except BROKEN as error:
        raise _not_whole(path, error) from None
    if not shape:
        raise BadInput(f"{shown(path)}: '{key}' is a single number, not an array")
    return shape


def _label_names(path: Path, key: str) -> set[str]:
    """The distinct labels if they are names, otherwise an empty set."""
    import numpy as np

    _array_shape(path, key)
    try:
        with np.load(path, allow_pickle=False) as content:
            labels = content[key]
    except BROKEN as error:
        raise _not_whole(path, error) from None
    return set(map(str, labels.ravel())) if labels.dtype.kind == "U" else set()


def _checked(path: Path, keys: Keys, images: np.ndarray, labels: np.ndarray) -> Split:
    import numpy as np

    if images.dtype != np.uint8 or images.ndim not in {3, 4}:
        raise BadInput(
            f"{shown(path)}: '{keys[0]}' is {_kind(images)}; "
            "expected uint8 [N, H, W, C] or [N, H, W]"
        )
    if labels.shape == (len(images), 1):
        labels = labels[:, 0]
    if labels.dtype.kind not in "iuU" or labels.shape != (len(images),):
        raise BadInput(
            f"{shown(path)}: '{keys[1]}' is {_kind(labels)}; expected integers [{len(images)}]"
        )
    if labels.dtype.kind == "U":
        return Split(images, [str(label) for label in labels])
    return Split(images, labels)


def _not_whole(path: Path, error: Exception) -> BadInput:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BadInput(f"{shown(path)}: not a whole .npz file: {reason}")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
