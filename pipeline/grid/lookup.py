"""Resolves the names that cells consist of, each once: data sets, models, attacks, defenses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.entries import CheckpointEntry
from pipeline.catalogue.sources.classes import OFFICIAL
from pipeline.catalogue.sources.locate import UNNAMED, DatasetSource, described, locate
from pipeline.problems import BadInput, shown
from pipeline.store.files import cache_folder, sha256_of
from tasks.attacks.base import Attack
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Defense
from tasks.networks.exported import Exported
from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec, Recipe, TrainSpec


@dataclass(frozen=True)
class ModelParts:
    """A resolved model, its defaults not yet filled in.

    Attributes:
        dataset: Name of its data set.
        spec: Its spec.
        files: Role and path of its files. For an ensemble the role begins with the member's index,
            such as `1/weights`.
        members: Names of an ensemble's members.
        stands_for: Another model whose published numbers are shown beside its own.
        published_accuracy: Published accuracy of a checkpoint on clean images, in percent.
    """

    dataset: str
    spec: ClassifierSpec
    files: tuple[tuple[str, str], ...] = ()
    members: tuple[str, ...] = ()
    stands_for: str | None = None
    published_accuracy: float | None = None


class Ingredients:
    """Looks up data sets, models, attacks and defenses in the catalogue, and caches them.

    An unknown name raises BadInput, located where the document refers to it.

    Args:
        data: Folders of data sets, by name.
        weights: Checkpoint files, by the name of the model.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        data: Mapping[str, Path],
        weights: Mapping[str, Path] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._data = data
        self._weights = weights or {}
        self._datasets: dict[str, tuple[DatasetSpec, DatasetSource]] = {}
        self._models: dict[str, ModelParts] = {}
        self._attacks: dict[str, Attack] = {}
        self._defenses: dict[str, Defense] = {}

    def attack(self, name: str, document: Document, place: Place) -> Attack:
        """The spec of an attack, its defaults not yet filled in."""
        if name not in self._attacks:
            self._catalogue.require("attacks", name, document, place)
            self._attacks[name] = self._catalogue.attack(name)
        return self._attacks[name]

    def defense(self, name: str, document: Document, place: Place) -> Defense:
        """The spec of a single defense, its defaults not yet filled in."""
        if name not in self._defenses:
            self._catalogue.require("defenses", name, document, place)
            self._defenses[name] = self._catalogue.defense(name)
        return self._defenses[name]

    def model(self, name: str, document: Document, place: Place) -> ModelParts:
        """A model; its data set is known to exist."""
        if name not in self._models:
            self._catalogue.require("models", name, document, place)
            self._models[name] = self._model(name)
        return self._models[name]

    def dataset(self, name: str) -> tuple[DatasetSpec, DatasetSource]:
        """The spec of an existing data set, and its files on this machine."""
        if name not in self._datasets:
            entry = self._catalogue.dataset(name)
            source = locate(name, entry, self._data.get(name))
            self._datasets[name] = (described(entry, source), source)
        return self._datasets[name]

    def class_names(self, name: str) -> tuple[str, ...] | None:
        """Names of a data set's classes, in the order of the labels; None if they are numbers.

        The spec has them only if the labels depend on them.
        """
        entry = self._catalogue.dataset(name)
        official = OFFICIAL.get(entry.count) if entry.kind == "cifar" else None
        return self.dataset(name)[0].class_names or entry.names or official

    def _model(self, name: str) -> ModelParts:
        found, document = self._catalogue.model_entry(name)
        if found.members is not None:
            return self._ensemble(name, found.dataset, found.members, document)
        entry, network, weights, document = self._catalogue.model(name)
        given = self._weights.get(name)
        if isinstance(weights, Recipe):
            if given is not None:
                raise BadInput(f"--weights {name}: the model is trained, not loaded from a file")
            trained = TrainSpec(
                network=network,
                recipe=weights,
                seed=entry.seed,
                randomised=entry.randomised or None,
            )
            return ModelParts(entry.dataset, trained, stands_for=entry.stands_for)
        files: tuple[tuple[str, str], ...]
        if weights.url is not None and weights.sha256 is not None and given is None:
            sha256 = weights.sha256
            path = cache_folder() / "weights" / sha256
            files = (("weights", str(path)), ("url", weights.url))
        elif given is None and weights.file is None:
            sha256, files = _unnamed(name, weights, document)
        else:
            path, sha256 = _checkpoint_file(name, weights, given, document)
            files = (("weights", str(path)),)
        spec = CheckpointSpec(
            network=network,
            sha256=sha256,
            key_prefix=weights.key_prefix,
            randomised=entry.randomised or None,
            weights_key=weights.weights_key,
        )
        known = weights.published_accuracy
        return ModelParts(
            entry.dataset, spec, files, stands_for=entry.stands_for, published_accuracy=known
        )

    def _ensemble(
        self, name: str, dataset: str, names: tuple[str, ...], document: Document
    ) -> ModelParts:
        if name in self._weights:
            raise BadInput(f"--weights {name}: an ensemble has those of {', '.join(names)}")
        specs: list[TrainSpec | CheckpointSpec] = []
        files: list[tuple[str, str]] = []
        for number, member in enumerate(names):
            place: Place = ("members", number)
            parts = self.model(member, document, place)
            assert not isinstance(parts.spec, EnsembleSpec)
            if isinstance(parts.spec.network, Exported):
                message = f"'{member}' is a .pt2 file, which an ensemble cannot hold"
                raise document.problem(place, message)
            if parts.spec in specs:
                message = (
                    f"'{member}' is the same network as '{names[specs.index(parts.spec)]}'; "
                    "of one recipe they differ by their `seed`"
                )
                raise document.problem(place, message)
            specs.append(parts.spec)
            files += [(f"{number}/{role}", path) for role, path in parts.files]
        return ModelParts(dataset, EnsembleSpec.of(specs), tuple(files), names)


def _unnamed(
    name: str, entry: CheckpointEntry, document: Document
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The SHA-256 of a checkpoint whose file is not named, and the message for who needs it."""
    known = f", SHA-256 {entry.sha256}" if entry.sha256 else ""
    published = f", published as {entry.published}" if entry.published else ""
    message = f"name the file: --weights {name}=FILE{known}{published}"
    problem = document.problem(("checkpoint", "file"), message)
    if entry.sha256 is None:
        raise problem
    return entry.sha256, ((UNNAMED, str(problem)),)


def _checkpoint_file(
    name: str, entry: CheckpointEntry, given: Path | None, document: Document
) -> tuple[Path, str]:
    """Locate a checkpoint, preferably the `given` one; returns its path and SHA-256."""
    place: Place = ("checkpoint", "file")
    if given is not None:
        path = given.resolve()
        if not path.is_file():
            raise BadInput(f"--weights {name}: there is no file {shown(path)}")
    else:
        assert entry.file is not None
        path = (document.file_of(place).parent / Path(entry.file).expanduser()).resolve()
        if not path.is_file():
            raise document.problem(place, f"there is no file {shown(path)}")
    found = sha256_of(path)
    if entry.sha256 not in {None, found}:
        message = f"{shown(path)} has the SHA-256 {found}, not this one"
        raise document.problem(("checkpoint", "sha256"), message)
    return path, found
