"""Order of class names: which label each name has."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from pipeline.problems import BadInput, suggestion

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
    "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
OFFICIAL = {10: CIFAR10, 100: CIFAR100}
"""Krizhevsky's names of the classes of CIFAR, in the order of labels."""


def class_order(names: Collection[str], given: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Class names in the order of their labels.

    Args:
        names: Class names found in the data.
        given: Order from the config, which may include classes without images. Without it, numbers
            are sorted by value and other names alphabetically; if the numbers in such names suggest
            another order than the alphabet, the config has to decide.
        where: Beginning of error messages.

    Raises:
        BadInput: If a name is not in `given`, or the order is ambiguous.
    """
    if given is not None:
        unknown = sorted(set(names) - set(given))
        if unknown:
            hint = suggestion(unknown[0], given)
            raise BadInput(f"{where}: class '{unknown[0]}' is not among its config's classes{hint}")
        return tuple(given)
    if all(name.isdecimal() for name in names):
        by_value = sorted(names, key=lambda name: (int(name), name))
        twice = [name for name, other in pairwise(by_value) if int(name) == int(other)]
        if twice:
            raise BadInput(f"{where}: two classes have the number {int(twice[0])}")
        return tuple(by_value)
    alphabetical, natural = sorted(names), sorted(names, key=_natural)
    if alphabetical != natural:
        place = next(i for i, name in enumerate(natural) if name != alphabetical[i])
        raise BadInput(
            f"{where}: is class {place} '{natural[place]}', by number, or '{alphabetical[place]}', "
            "by the alphabet? Give their order: classes: [...]"
        )
    return tuple(alphabetical)


def official_order(names: Collection[str], where: str, classes: int) -> tuple[str, ...]:
    """CIFAR's classes in the official order, spelled as in the data.

    They may be named by label, or by official name in any case.

    Raises:
        BadInput: If a name is not a class of CIFAR.
    """
    official = OFFICIAL[classes]
    if set(names) == {str(label) for label in range(classes)}:
        return tuple(map(str, range(classes)))
    called: dict[str, str] = {}
    for name in sorted(names):
        plain = plain_name(name)
        if plain not in official or plain in called:
            hint = "" if plain in called else suggestion(plain, official)
            raise BadInput(
                f"{where}: '{name}' is no class of CIFAR-{classes}{hint}; classes of another data "
                "set are read by kind: folder, parquet or npz, in the order of classes: [...]"
            )
        called[plain] = name
    return tuple(called.get(name, name) for name in official)


def plain_name(name: str) -> str:
    """A class name in lower case with `_` between words."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: runs of digits compare as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
