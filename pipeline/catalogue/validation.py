"""Validation of parts of config files by pydantic models, with one-line, located errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipeline.catalogue.documents import Document, Place
from pipeline.problems import BadInput, suggestion
from pipeline.problems.sanitize import clean
from tasks.specs import WRITTEN, Spec

Model = TypeVar("Model", bound=BaseModel)


class ConfigEntry(BaseModel):
    """Base class for models of config files: strict and frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def validated(
    model: type[Model],
    document: Document,
    place: Place,
    value: object,
    prefix: str = "",
    *,
    written: bool = True,
) -> Model:
    """Validate a part of a document with `model`.

    Args:
        place: Where the part is in the document.
        prefix: What the document writes before the model's own keys, such as `attack.`.
        written: Whether the values are as a user wrote them; see `WRITTEN`.

    Raises:
        BadInput: If the value is invalid, located at the key that is wrong.
    """
    try:
        return model.model_validate(value, context=WRITTEN if written else None)
    except ValidationError as error:
        raise _problem(model, document, place, error, value, prefix) from None


def inherited_class(cls: type[Spec]) -> type[Spec]:
    """The class of this program that a user's class derives from; any other class itself."""
    return next(
        parent for parent in cls.__mro__ if issubclass(parent, Spec) and not parent.source_digest
    )


def check_inherited(
    spec: Spec,
    document: Document,
    place: Place,
    values: Mapping[str, object],
    prefix: str = "",
    *,
    written: bool,
) -> None:
    """Check a user's spec by the class of this program that its class derives from.

    A field that the user declares again, such as `draws: int = 2`, is without the limits of the
    field that it replaces.

    Args:
        values: The values of the spec, by field.
        written: See `validated`.

    Raises:
        BadInput: If a value is outside these limits; see `validated`.
    """
    base = inherited_class(type(spec))
    own = {name: values[name] for name in base.model_fields if name in values}
    validated(base, document, place, own, prefix, written=written)


def _problem(
    model: type[BaseModel],
    document: Document,
    place: Place,
    error: ValidationError,
    value: object,
    prefix: str,
) -> BadInput:
    """Convert the first error of a ValidationError into a BadInput at its place in the file."""
    first, *others = error.errors(include_url=False)
    if first["type"] == "missing":
        # a misspelt key beside it is the likely reason
        unknown = (each for each in others if each["type"] == "extra_forbidden")
        first = next((each for each in unknown if each["loc"][:-1] == first["loc"][:-1]), first)
    where = _within(value, first["loc"], missing=first["type"] == "missing")
    said = ""
    if first["type"] == "value_error":
        where, said = _of_a_key(value, where, str(first["ctx"]["error"]))
    if where and prefix:
        where = (f"{prefix}{where[0]}", *where[1:])
    where = (*place, *where)
    if first["type"] == "extra_forbidden":
        *outer, inner = first["loc"]
        return document.problem(where, f"unknown key{suggestion(str(inner), _keys(model, outer))}")
    if first["type"] == "missing":
        return document.problem(where, "is missing")
    if said:
        return document.problem(where, said)
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] in {"tuple_type", "list_type"}:
        message = "expected a list"
    elif first["type"] == "too_short":
        least = first["ctx"]["min_length"]
        message = f"expected a list of at least {least} {'value' if least == 1 else 'values'}"
    got = repr(first["input"])
    return document.problem(where, message if len(got) > 60 else f"{message}, got {got}")


def _within(value: object, location: Sequence[str | int], *, missing: bool) -> Place:
    """An error's location without the parts that pydantic adds for branches of a union."""
    where: list[str | int] = []
    for part in location:
        inside = part in value if isinstance(value, Mapping) else isinstance(part, int)
        if inside:
            where.append(part)
            value = value[part] if isinstance(value, Mapping | list | tuple) else None  # type: ignore[index]
    return (*where, location[-1]) if missing else tuple(where)


def _keys(model: type[BaseModel], outer: Iterable[str | int]) -> set[str]:
    """The known keys of a model, or of the model nested in it at a location."""
    for part in outer:
        if part in model.model_fields:
            model = next(_models(model.model_fields[str(part)].annotation), model)
    return set(model.model_fields)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _of_a_key(value: object, where: Place, said: str) -> tuple[Place, str]:
    """Split a validator's message `key: problem` and locate it at that key, if the value has it."""
    for part in where:
        known = isinstance(value, Mapping | list | tuple)
        value = value[part] if known else None  # type: ignore[index]
    key, sign, rest = said.partition(": ")
    if sign and isinstance(value, Mapping) and key in value:
        return (*where, key), rest
    return where, said


def check_once(key: str, names: Sequence[str]) -> None:
    """Check that a list has no duplicates.

    Raises:
        ValueError: If a name occurs twice; the message begins with the key.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{key}: '{name}' is given {count} times")


def _one_line(text: str) -> str:
    """Strip line breaks and other unprintable characters from a heading."""
    return clean(text)


Heading = Annotated[str, AfterValidator(_one_line)]
