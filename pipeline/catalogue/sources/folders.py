"""Image folders, `SPLIT/CLASS/**/IMAGE`. Each file is read, reported as ignored, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.catalogue.sources.classes import class_order, official_order
from pipeline.catalogue.sources.files import DatasetFiles, Split, folder_layout, some
from pipeline.problems import BadInput, reason_of, shown
from pipeline.store.files import Together, require_sha256

IMAGES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff"}
)
"""Extensions of image files, in any case."""
OTHER = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".xml", ".yaml", ".yml", ".html",
     ".log", ".ini", ".db", ".py", ".mat", ".sha256", ".md5"}
)  # fmt: skip
"""Extensions of files that often accompany images: ignored, and reported as such."""
PLAIN = frozenset({"readme", "license", "licence", "copying", "checksums", "manifest"})
"""Names without an extension that are ignored as well."""


@dataclass(frozen=True)
class Listing:
    """Contents of a split: images sorted by path, class folders, and ignored files."""

    split: Path
    images: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)

    def class_of(self, image: Path) -> str:
        """The class folder that an image is in, at any depth."""
        return image.relative_to(self.split).parts[0]


def listing(split: Path) -> Listing:
    """List a split; BadInput if a file is neither an image nor known to be something else.

    Names of images and of class folders have to be UTF-8, since they are part of digests.
    """
    found = Listing(split)
    for path in _walk(split, frozenset()):
        inside = path.relative_to(split)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
        if path.is_dir():
            if not hidden and len(inside.parts) == 1:
                _require_text(path, split)
                found.classes.append(path.name)
            continue
        if hidden or _is_other(path):
            found.ignored.append(path)
        elif path.suffix.lower() not in IMAGES:
            known = ", ".join(sorted(IMAGES))
            raise BadInput(
                f"{_place(path, split)}: not an image that is read here ({known}); "
                "convert it or take it away"
            )
        elif len(inside.parts) == 1:
            raise BadInput(f"{_place(path, split)}: lies in no class's folder")
        else:
            _require_text(path, split)
            found.images.append(path)
    found.images.sort()
    found.classes.sort()
    return found


def find(
    name: str, folder: Path, classes: int, given: Sequence[str] | None, *, cifar: bool = False
) -> DatasetFiles:
    """Find the splits of a folder.

    Args:
        given: Class names in the order of the labels, from the config.
        cifar: Whether the class names are those of CIFAR.

    Raises:
        BadInput: If a split is missing or empty, or its classes do not match the config.
    """
    layout = folder_layout(folder)
    if layout is None:
        raise BadInput(f"data set '{name}': no folder train, test or validation in {shown(folder)}")
    listed = {split: listing(place) for split, (place,) in layout.places.items()}
    for split, each in listed.items():
        if not each.images:
            word = each.split.name
            raise BadInput(f"data set '{name}': no {word}/CLASS/*.png in {shown(folder)}")
        if given is None and each.classes != listed["test"].classes:
            differing = sorted(set(each.classes) ^ set(listed["test"].classes))
            where = split if differing[0] in each.classes else listed["test"].split.name
            raise BadInput(f"{shown(folder)}: class '{differing[0]}' is in {where} alone")
    names = sorted({one for each in listed.values() for one in each.classes})
    if cifar:
        order = official_order(names, shown(folder), classes)
    else:
        order = class_order(names, given, shown(folder))
    if len(order) != classes:
        found = f"{shown(folder)} has {len(order)} class folders"
        raise BadInput(f"data set '{name}': {found}; its config says {classes} classes")
    filled = {each.class_of(image) for each in listed.values() for image in each.images}
    # the hash of a folder covers the paths of images and so the class names, except of empty
    # classes
    alphabetical = [*order] == sorted(filled)
    return DatasetFiles(
        files=tuple((split, each.split) for split, each in listed.items()),
        train=len(listed["train"].images) if "train" in listed else 0,
        test=len(listed["test"].images),
        class_names=None if alphabetical else order,
    )


def class_names(splits: Iterable[Path]) -> tuple[str, ...]:
    """The classes that have images in any of the splits, in alphabetical order."""
    listed = [listing(split) for split in splits]
    return tuple(sorted({each.class_of(image) for each in listed for image in each.images}))


def read(split: Path, sha256: str, order: Sequence[str]) -> tuple[Split, list[str]]:
    """Read a split after comparing its images with the SHA-256; returns it with notes for the user.

    order: class names in the order of the labels.
    """
    found = listing(split)
    labels = {name: label for label, name in enumerate(order)}
    whole, images, names = Together(), [], []
    for path in found.images:
        try:
            images.append(path.read_bytes())
        except OSError as error:
            raise BadInput(f"{path}: cannot be read: {reason_of(error)}") from None
        whole.add(path.relative_to(split).as_posix(), images[-1])
        names.append(path.relative_to(split.parent).as_posix())
    require_sha256(split, whole.sha256, sha256)
    notes = []
    if found.ignored:
        ignored = some([_place(path, split) for path in found.ignored])
        notes.append(f"ignored files: {len(found.ignored)} ({ignored})")
    return Split(images, [labels[found.class_of(path)] for path in found.images], names), notes


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """All paths below a folder, following links; BadInput for a link to a parent folder."""
    real = os.path.realpath(folder)
    if real in above:
        raise BadInput(f"{shown(folder)}: links to a folder that it lies in")
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise BadInput(f"{shown(folder)}: cannot be read: {reason_of(error)}") from None
    for path in inside:
        yield path
        if path.is_dir():
            yield from _walk(path, above | {real})


def _is_other(path: Path) -> bool:
    return path.suffix.lower() in OTHER or (not path.suffix and path.name.lower() in PLAIN)


def _place(path: Path, split: Path) -> str:
    name = path.relative_to(split.parent).as_posix()
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _require_text(path: Path, split: Path) -> None:
    try:
        str(path.relative_to(split)).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{_place(path, split)}: this name is not UTF-8; rename it") from None
