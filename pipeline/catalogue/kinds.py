"""The specs that mappings with a `kind` describe: of this program, a package or a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.catalogue.code.known import WrongReference, declared_at, line_of
from pipeline.catalogue.code.own import is_reference, own_class, packaged, with_source
from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.validation import check_inherited, validated
from pipeline.problems import BadInput, suggestion
from tasks import registry
from tasks.attacks.base import Attack
from tasks.defenses.base import Defense
from tasks.networks.base import Network
from tasks.networks.factory import Factory
from tasks.registry import Family
from tasks.specs import Kind

BASES: Mapping[Family, type[Kind]] = {"attacks": Attack, "defenses": Defense, "networks": Network}


@dataclass(frozen=True)
class Built:
    """A spec, and the code that its config refers to.

    Attributes:
        file: The Python file as the config names it; None if the spec needs none.
        folder: The folder that it is relative to.
    """

    spec: Kind
    file: str | None
    folder: Path


def spec_of(document: Document, family: Family, value: object, place: Place) -> Built:
    """Build the spec that a mapping with a `kind` describes.

    The kind may be built in, offered by an installed package, or a class in a user's file.

    Args:
        place: Where the mapping is in the document.

    Raises:
        BadInput: If it describes none, or a value is invalid; located in the document.
        WrongReference: The same, for a document that is no YAML file.
    """
    if not isinstance(value, Mapping):
        raise document.problem(place, "expected a mapping with a kind")
    kind = value.get("kind")
    known = registry.written_kinds(family)
    if isinstance(kind, str) and kind in known:
        spec = validated(registry.kind_class(family, kind), document, place, dict(value))
        named_at = (*place, "factory")
        folder = document.file_of(named_at).parent
        if not isinstance(spec, Factory):
            return Built(spec, None, folder)
        try:
            return Built(with_source(spec, folder), _file(spec.factory), folder)
        except WrongReference as error:
            raise document.problem(named_at, str(error)) from None
    offered = packaged(family)
    reference = offered.get(kind, kind) if isinstance(kind, str) else ""
    if not isinstance(reference, str) or not is_reference(reference):
        what = "no kind" if kind is None else f"unknown kind {kind!r}"
        hint = suggestion(str(kind), {*known, *offered})
        raise document.problem((*place, "kind"), f"{what}{hint}")
    folder = document.file_of((*place, "kind")).parent
    return Built(_own(document, family, value, place, reference), _file(reference), folder)


def _file(reference: str) -> str | None:
    """The Python file in a reference such as `jpeg.py:Jpeg`; None for a module."""
    file = reference.partition(":")[0]
    return file if file.endswith(".py") else None


def _own(
    document: Document,
    family: Family,
    value: Mapping[str, object],
    place: Place,
    reference: str,
) -> Kind:
    """Build a spec of a user's own class."""
    kind_place = (*place, "kind")
    try:
        cls = own_class(reference, document.file_of(kind_place).parent, BASES[family])
        given = {key: each for key, each in value.items() if key != "kind"}
        spec = validated(cls, document, place, given)
    except WrongReference as error:
        # a class of a file or a package may have been named without a YAML file
        if document.file_of(kind_place).suffix != ".yaml":
            raise
        raise document.problem(kind_place, str(error)) from None
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise document.problem(place, line_of(error)) from error
    _check_values(spec, given, document, place)
    return spec


def _check_values(
    spec: Kind, given: Mapping[str, object], document: Document, place: Place
) -> None:
    """Check the values of a user's class, defaults included, which pydantic does not validate.

    Args:
        given: The values that the document has, by field.

    Raises:
        BadInput: If one is invalid; at its line in the YAML file, else in the class.
    """
    values: dict[str, object] = {}
    lines: dict[Place, tuple[Path, int]] = {}
    for name, field in type(spec).model_fields.items():
        if name == "kind":
            continue
        made = field.default_factory is not None
        default = getattr(spec, name) if made else field.default
        values[name] = given.get(name, default)
        path, line = declared_at(type(spec), name) or (str(document.path), 1)
        lines[(name,)] = document.places.get((*place, name)) or (Path(path), line)
    found = Document(document.path, values, lines)
    validated(type(spec), found, (), values)
    check_inherited(spec, found, (), values, written=True)
