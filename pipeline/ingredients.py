"""The named things that cells are made of, each read once: data sets, models, attacks, defenses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Catalogue, CheckpointEntry
from pipeline.file_hashes import sha256_of
from pipeline.sources import Source, locate
from pipeline.yaml_files import Document, Place, shown
from tasks.attacks.base import Attack
from tasks.datasets import DatasetSpec
from tasks.defenses.base import Defense
from tasks.recipe import CheckpointSpec, Recipe, TrainSpec


@dataclass(frozen=True)
class ModelParts:
    """A model: the name of its data set, its spec before its defaults, and its files."""

    dataset: str
    spec: TrainSpec | CheckpointSpec
    files: tuple[tuple[str, str], ...]


class Ingredients:
    """Reads what a grid names. `data` says where data sets' files are.

    BadInput for an unknown name stands at the place in the document that asks for it.
    """

    def __init__(self, catalogue: Catalogue, data: Mapping[str, Path]) -> None:
        self._catalogue = catalogue
        self._data = data
        self._datasets: dict[str, tuple[DatasetSpec, Source]] = {}
        self._models: dict[str, ModelParts] = {}
        self._attacks: dict[str, Attack] = {}
        self._defenses: dict[str, Defense] = {}

    def attack(self, name: str, document: Document, place: Place) -> Attack:
        """An attack, its defaults not yet filled in."""
        if name not in self._attacks:
            self._catalogue.require("attacks", name, document, place)
            self._attacks[name] = self._catalogue.attack(name)
        return self._attacks[name]

    def defense(self, name: str, document: Document, place: Place) -> Defense:
        """A defense of one name, its defaults not yet filled in."""
        if name not in self._defenses:
            self._catalogue.require("defenses", name, document, place)
            self._defenses[name] = self._catalogue.defense(name)
        return self._defenses[name]

    def model(self, name: str, document: Document, place: Place) -> ModelParts:
        """A model, and with it its data set."""
        if name not in self._models:
            self._catalogue.require("models", name, document, place)
            self._models[name] = self._model(name)
        return self._models[name]

    def dataset(self, name: str) -> tuple[DatasetSpec, Source]:
        """A data set whose name is known to be there, and its files on this machine."""
        if name not in self._datasets:
            entry = self._catalogue.dataset(name)
            source = locate(name, entry, self._data.get(name))
            spec = DatasetSpec(
                kind=entry.kind,
                classes=entry.classes,
                channels=entry.channels,
                side=entry.side_px,
                label_column=entry.label_column,
                sources=source.hashes,
            )
            self._datasets[name] = (spec, source)
        return self._datasets[name]

    def _model(self, name: str) -> ModelParts:
        entry, network, weights, document = self._catalogue.model(name)
        if isinstance(weights, Recipe):
            return ModelParts(entry.dataset, TrainSpec(network=network, recipe=weights), ())
        path, sha256 = _checkpoint_file(weights, document)
        spec = CheckpointSpec(network=network, sha256=sha256, key_prefix=weights.key_prefix)
        return ModelParts(entry.dataset, spec, (("weights", str(path)),))


def _checkpoint_file(entry: CheckpointEntry, document: Document) -> tuple[Path, str]:
    place: Place = ("checkpoint", "file")
    path = (document.file_of(place).parent / Path(entry.file).expanduser()).resolve()
    if not path.is_file():
        raise document.problem(place, f"there is no file {shown(path)}")
    found = sha256_of(path)
    if entry.sha256 not in {None, found}:
        message = f"{shown(path)} has the SHA-256 {found}"
        raise document.problem(("checkpoint", "sha256"), message)
    return path, found
