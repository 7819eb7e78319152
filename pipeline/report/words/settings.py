"""Texts about settings: data sets, and parameters of models, attacks and defenses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.grid.cells import Cell
from pipeline.plan.words import counted
from tasks.defenses.base import Defense
from tasks.specs import Kind, Spec
from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec


def joined(values: Iterable[object]) -> str:
    """Values separated by commas."""
    return ", ".join(map(str, values))


def datasets_said(cells: Sequence[Cell], by_class: Mapping[str, Sequence[int]]) -> list[str]:
    """A line of Markdown for each data set: its images and classes."""
    found = dict.fromkeys((cell.dataset, cell.images, cell.dataset_spec.classes) for cell in cells)
    return [
        f"- `{name}`: {counted(images, 'test image')} of {classes} classes, "
        + _per_class(images, classes, by_class.get(name))
        for name, images, classes in found
    ]


def _per_class(images: int, classes: int, by_class: Sequence[int] | None) -> str:
    """How many of the first images belong to each class, as text; the classes take turns."""
    if by_class is None:
        return f"{images / classes:.4g} a class on average"
    rounds = 0
    while rounds < max(by_class) and sum(min(n, rounds + 1) for n in by_class) <= images:
        rounds += 1
    whole = [min(n, rounds) for n in by_class]
    fewest, most = min(whole), max(whole) + (sum(whole) < images)
    return f"{most} a class" if fewest == most else f"{fewest} to {most} a class"


def settings_said(cells: Sequence[Cell]) -> Iterator[tuple[str, list[str]]]:
    """Models, attacks and defenses with their parameters: a heading, and lines of Markdown each."""
    # cells share specs, so their texts are cached
    words: dict[int, str] = {}

    def said(spec: Spec, of: Callable[[Any], str]) -> str:
        if id(spec) not in words:
            words[id(spec)] = of(spec)
        return words[id(spec)]

    models = [(cell.model, said(cell.model_spec, _model), f"seed {cell.seed}") for cell in cells]
    yield "Models", _by_label(models)
    yield (
        "Attacks",
        _by_label((cell.attack, said(cell.attack_spec, _spec), cell.model) for cell in cells),
    )
    yield (
        "Defenses",
        _by_label(
            (cell.defense, said(cell.defense_spec, _defense), f"{cell.model}/{cell.attack}")
            for cell in cells
        ),
    )


def _by_label(described: Iterable[tuple[str, str, str]]) -> list[str]:
    """A line for each label, or several with their cells if a label has different parameters."""
    labels: dict[str, dict[str, dict[str, None]]] = {}
    for label, words, where in described:
        labels.setdefault(label, {}).setdefault(words, {})[where] = None
    lines = []
    for label, ways in labels.items():
        most = max(ways, key=lambda words: len(ways[words]))
        lines.append(f"- `{label}`: {most}")
        lines.extend(
            f"- `{label}` in {joined(f'`{where}`' for where in places)}: {words}"
            for words, places in ways.items()
            if words != most
        )
    return lines


def _model(spec: ClassifierSpec) -> str:
    if isinstance(spec, EnsembleSpec):
        return "the mean probability of " + "; and of ".join(map(_model, spec.members))
    network = _spec(spec.network)
    if isinstance(spec, CheckpointSpec):
        return f"{network}; checkpoint {spec.sha256[:12]}"
    return f"{network}; trained: {_spec(spec.recipe)}"


def _defense(spec: Defense) -> str:
    return ", then ".join(_spec(part) for _, part in spec.stages())


def _spec(spec: Spec) -> str:
    """Kind and parameters of a spec."""
    words = [spec.kind] if isinstance(spec, Kind) else []
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Spec):
            words.append(f"{name} ({_spec(value)})")
        elif name != "kind" and value is not None:
            words.append(f"{name.replace('_', ' ')} {value_words(value)}")
    return ", ".join(words)


def value_words(value: object) -> str:
    """The value of a parameter as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case Spec():
            return f"({_spec(value)})"
        case tuple():
            return " ".join(map(value_words, value))
        case _:
            return str(value)
