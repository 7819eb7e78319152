"""The catalogue of named configs: data sets, models, recipes, attacks, defenses and grids.

A name is the stem of a file: `configs/defenses/guo.yaml` is the defense `guo`. The user's folders
of configs are searched before the bundled one. `extends: NAME` starts from another file of the same
section. An attack or a defense may also be a single Python file, `jpeg.py`, or come from an
installed package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pipeline.catalogue.code.own import packaged
from pipeline.catalogue.documents import Document, Place, read_yaml
from pipeline.catalogue.entries import NOTE, AttackNote, CheckpointEntry, DatasetEntry, ModelEntry
from pipeline.catalogue.grid_entries import GridEntry
from pipeline.catalogue.kinds import spec_of
from pipeline.catalogue.validation import validated
from pipeline.problems import BadInput, shown, suggestion
from tasks.attacks.base import Attack
from tasks.defenses.base import Defense
from tasks.networks.base import Network
from tasks.registry import Family
from tasks.specs import Kind
from tasks.training.recipe import Recipe

Section = Literal[
    "datasets", "models", "recipes", "attacks", "defenses", "grids", "paper", "claims"
]
SECTIONS: tuple[Section, ...] = get_args(Section)

CODED: Mapping[Section, Family] = {"attacks": "attacks", "defenses": "defenses"}
"""Sections in which a name may also be a Python file, and the family of classes in it."""


class Catalogue:
    """Looks up configs by name in a list of `configs` folders; earlier folders take precedence."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._files: dict[Section, dict[str, Path]] = {}
        self._grids: dict[str, GridEntry] = {}
        self.read: dict[str, list[Path]] = {}
        """Files read so far, keyed by `section/file`; several if their folders differ."""

    def add(self, section: Section, choice: str) -> str:
        """Register the file of an `--add` option, if it is one, under the stem of its path.

        Args:
            choice: A name, which is returned as it is, or the path of a `.py` or `.yaml` file.

        Returns:
            The name of the entry. For a Python file it is that of the YAML file beside it, if that
            is in a folder of configs and sets the file's parameters, as `pipeline new` writes it.

        Raises:
            BadInput: If the file does not exist, or if its name is already taken: two entries of
                one name would share one row.
        """
        path = Path(choice).expanduser()
        if path.suffix not in {".py", ".yaml"}:
            if path.is_file() and choice not in {*self.names(section), *self._packaged(section)}:
                what = section[:-1]
                raise BadInput(
                    f"{what} {choice}: expected a .py or .yaml file, or the name of "
                    f"{'an' if what == 'attack' else 'a'} {what}"
                )
            return choice
        if not path.is_file():
            raise BadInput(f"there is no file {choice}")
        name, path = path.stem, path.resolve()
        option = f"{section[:-1]} {choice}"
        if "+" in name or "/" in name:
            raise BadInput(f"{option}: '{name}' would be a chain of defenses; rename the file")
        known = self.names(section).get(name)
        if known is not None and known.resolve() == path.with_suffix(".yaml") != path:
            kind = str(read_yaml(known).value.get("kind"))
            if kind.partition(":")[0] == path.name:
                return name
        offered = self._packaged(section).get(name)
        if offered is not None or (known is not None and known.resolve() != path):
            other = offered if known is None else shown(known)
            raise BadInput(f"{option}: {other} is called '{name}' too; rename one of them")
        self._files.setdefault(section, {})[name] = path
        return name

    def names(self, section: Section) -> dict[str, Path]:
        """All names of a section and their files, sorted by name."""
        found: dict[str, Path] = {}
        for folder in reversed(self._folders):
            if section in CODED:
                own = (folder / section).glob("*.py")
                found.update({p.stem: p for p in own if not p.stem.startswith(("_", "test_"))})
            found.update({path.stem: path for path in (folder / section).glob("*.yaml")})
        found.update(self._files.get(section, {}))
        return dict(sorted(found.items()))

    def document(self, section: Section, name: str) -> Document:
        """The parsed file of a name, with the files that it extends merged in.

        Raises:
            BadInput: If there is no such name; the message suggests a similar one.
        """
        names = self.names(section)
        if name in names:
            return self._extended(section, names, name, frozenset())
        offered = self._packaged(section)
        if name in offered:
            return Document(Path(offered[name]), {"kind": offered[name]})
        hint = _file_meant(name) if section in CODED else ""
        hint = hint or suggestion(name, {*names, *offered})
        raise BadInput(_unknown(section, name, hint))

    @staticmethod
    def _packaged(section: Section) -> dict[str, str]:
        return packaged(section) if section in CODED else {}

    def _extended(
        self, section: Section, names: Mapping[str, Path], name: str, above: frozenset[str]
    ) -> Document:
        path = names[name]
        self._note_read(f"{section}/{path.name}", path)
        if path.suffix == ".py":
            return Document(path, {"kind": path.name})
        document = read_yaml(path)
        base = document.value.pop("extends", None)
        if base is None:
            return document
        above |= {name}
        if not isinstance(base, str) or base not in names or base in above:
            message = f"no other {section[:-1]} '{base}'{suggestion(str(base), set(names) - above)}"
            raise document.problem(("extends",), message)
        extended = self._extended(section, names, base, above)
        # a note describes the results of the base's parameters, so it is not inherited
        extended.value.pop(NOTE, None)
        return document.over(extended)

    def dataset(self, name: str) -> DatasetEntry:
        """The entry of a data set, its `folder` made absolute."""
        document = self.document("datasets", name)
        entry = validated(DatasetEntry, document, (), document.value)
        if entry.folder is None:
            return entry
        folder = document.file_of(("folder",)).parent / Path(entry.folder).expanduser()
        return entry.model_copy(update={"folder": str(folder.resolve())})

    def attack(self, name: str) -> Attack:
        """The spec of an attack, before defaults that depend on the grid are filled in."""
        document = self.document("attacks", name)
        value = {key: each for key, each in document.value.items() if key != NOTE}
        spec = self._kind(document, "attacks", value, ())
        assert isinstance(spec, Attack)
        return spec

    def attack_note(self, name: str) -> str | None:
        """The `note` in an attack's config, a comment on its results; see `AttackNote`."""
        document = self.document("attacks", name)
        given = {key: each for key, each in document.value.items() if key == NOTE}
        return validated(AttackNote, document, (), given).note

    def defense(self, name: str) -> Defense:
        """The spec of a single defense, not of a chain."""
        document = self.document("defenses", name)
        spec = self._kind(document, "defenses", document.value, ())
        assert isinstance(spec, Defense)
        return spec

    def add_grid(self, name: str, entry: GridEntry) -> None:
        """Register a grid that has no file. It takes precedence over files of that name."""
        self._grids[name] = entry

    def grid(self, name: str) -> tuple[GridEntry, Document]:
        """The entry of a grid, and its document, which locates errors in it."""
        if name in self._grids:
            return self._grids[name], Document(Path(name), {})
        document = self.document("grids", name)
        return validated(GridEntry, document, (), document.value), document

    def model_entry(self, name: str) -> tuple[ModelEntry, Document]:
        """The entry of a model and its document, after checking the names that it refers to."""
        document = self.document("models", name)
        entry = validated(ModelEntry, document, (), document.value)
        self.require("datasets", entry.dataset, document, ("dataset",))
        if entry.stands_for is not None:
            self.require("models", entry.stands_for, document, ("stands_for",))
        for number, member in enumerate(entry.members or ()):
            place: Place = ("members", number)
            self.require("models", member, document, place)
            inner = self.document("models", member).value
            if "members" in inner:
                raise document.problem(place, f"'{member}' is an ensemble itself")
            if inner.get("dataset") != entry.dataset:
                message = f"'{member}' is of {inner.get('dataset')}, not of {entry.dataset}"
                raise document.problem(place, message)
        return entry, document

    def model(self, name: str) -> tuple[ModelEntry, Network, Recipe | CheckpointEntry, Document]:
        """The entry, network, weights (a recipe or a checkpoint) and document of a model.

        Not for ensembles, which have no network of their own; see `model_entry`.
        """
        entry, document = self.model_entry(name)
        assert entry.network is not None
        network = self._kind(document, "networks", entry.network, ("network",))
        assert isinstance(network, Network)
        weights: Recipe | CheckpointEntry
        match entry.recipe, entry.checkpoint:
            case None, CheckpointEntry() as weights:
                pass
            case str(recipe), None:
                self.require("recipes", recipe, document, ("recipe",))
                named = self.document("recipes", recipe)
                weights = validated(Recipe, named, (), named.value)
                _check_schedule(weights, named, ())
            case dict(), None:
                weights = validated(Recipe, document, ("recipe",), entry.recipe)
                _check_schedule(weights, document, ("recipe",))
            case _:
                message = "give either a recipe to train by or a checkpoint to load"
                raise document.problem((), message)
        return entry, network, weights, document

    def require(self, section: Section, name: str, document: Document, place: Place) -> None:
        """Check that a section has a name.

        Raises:
            BadInput: If it has not; the message points to the place in `document` that refers to
                it.
        """
        known = {*self.names(section)}
        if name not in known and name not in (offered := self._packaged(section)):
            known |= {*offered}
            message = _unknown(section, name, suggestion(name, known))
            raise document.problem(place, message)

    def _kind(self, document: Document, family: Family, value: object, place: Place) -> Kind:
        """Build the spec that a mapping with a `kind` describes, and record the code file read."""
        built = spec_of(document, family, value, place)
        if built.file is not None:
            section = "models" if family == "networks" else family
            self._note_read(f"{section}/{built.file}", built.folder / Path(built.file).expanduser())
        return built.spec

    def _note_read(self, name: str, path: Path) -> None:
        places = self.read.setdefault(name, [])
        if path not in places:
            places.append(path)


def _unknown(section: Section, name: str, hint: str) -> str:
    """The message for a name that a section does not have."""
    if not name and section == "defenses":
        return "a defense without a name; a chain has none before or after a +, as in counter+guo"
    return f"no {section[:-1]} named '{name}'{hint}"


def _file_meant(name: str) -> str:
    """A hint if a name that does not exist is that of a Python file without its ending."""
    file, colon, _ = name.partition(":")
    if colon and Path(file).is_file():
        return f"; a YAML file selects a class of a file: `kind: {name}`"
    return f"; did you mean the file {name}.py?" if Path(f"{name}.py").is_file() else ""


def config_folders(extra: Sequence[Path] = ()) -> list[Path]:
    """The folders to search for configs, first to last: `extra`, `./configs`, the bundled ones."""
    for folder in extra:
        _check_folder(folder.expanduser())
    local = Path.cwd() / "configs"
    folders = [
        *(folder.expanduser() for folder in extra),
        *([local] if local.is_dir() else []),
        bundled_folder(),
    ]
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def bundled_folder() -> Path:
    """The folder of configs that comes with the program."""
    here = Path(__file__).parents[1]
    own = here / "configs"
    return own if own.is_dir() else here.parent / "configs"


def _check_folder(folder: Path) -> None:
    """Raise BadInput if a folder of configs does not exist or holds none."""
    if not folder.is_dir():
        raise BadInput(f"--configs {folder}: there is no such folder")
    if not any((folder / name).exists() for name in (*SECTIONS, "settings.yaml", "devices.yaml")):
        raise BadInput(f"--configs {folder}: holds no folder of configs, such as defenses or grids")


def _check_schedule(recipe: Recipe, document: Document, place: Place) -> None:
    """Raise BadInput if a recipe has milestones that its schedule or its epochs never reach."""
    given = recipe.model_fields_set
    if recipe.schedule == "one-cycle":
        for key in sorted({"milestones", "decay"} & given):
            raise document.problem((*place, key), "the schedule one-cycle has none; leave it out")
    if "milestones" not in given:
        return
    if list(recipe.milestones) != sorted(set(recipe.milestones)):
        raise document.problem((*place, "milestones"), "each has to come after the one before it")
    for index, milestone in enumerate(recipe.milestones):
        if milestone >= recipe.epochs:
            message = f"{milestone} is not before the end of epoch {recipe.epochs}, the last"
            raise document.problem((*place, "milestones", index), message)
