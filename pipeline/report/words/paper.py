"""Texts that compare measured with published numbers."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.plan.words import counted
from pipeline.report.paper import Reference
from pipeline.report.views.table import Entry, View
from pipeline.report.words.numbers import accuracy
from pipeline.report.words.settings import value_words
from tasks.specs import Kind, Spec
from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec, TrainSpec


def published_words(reference: Reference) -> str:
    """`57.8`, or `≤ 1.0` for a bound."""
    bound = "≤ " if reference.published.upper_bound else ""
    return f"{bound}{accuracy(reference.published.value)}"


def compact_words(entry: Entry) -> list[str]:
    """`31.2`, `(57.8)`, and `in` or `out` if it is judged."""
    if entry.reference is None:
        return [accuracy(entry.accuracy)]
    words = [accuracy(entry.accuracy), f"({published_words(entry.reference)})"]
    marks = {"inside": "in", "outside": "out"}
    if entry.verdict in marks:
        words.append(marks[entry.verdict])
    return words


def judged(view: View) -> list[str]:
    """How many published numbers lie inside their intervals, if any is judged."""
    verdicts = [entry.verdict for row in view.rows for entry in row.entries]
    inside, outside = verdicts.count("inside"), verdicts.count("outside")
    if not inside + outside:
        return []
    return [f"published numbers inside the measured interval: {inside} of {inside + outside}"]


def differing(view: View) -> list[str]:
    """Differences from the paper's setup, once for each model, attack and defense."""
    models: dict[str, None] = {}
    others: dict[str, None] = {}
    for reference in _references(view):
        cell, paper = reference.cell, reference.paper
        if paper is None:
            others[f"`{cell.name}`: it is not known what the paper computed"] = None
            continue
        words = _model_differences(cell.model_spec, paper.model_spec)
        if cell.dataset != paper.dataset:
            words.insert(0, f"data set {cell.dataset} instead of {paper.dataset}")
        if words:
            models[f"`{cell.model}` beside the paper's `{paper.model}`: {'; '.join(words)}"] = None
        for label, ours, theirs in (
            (cell.attack, cell.attack_spec, paper.attack_spec),
            (cell.defense, cell.defense_spec, paper.defense_spec),
        ):
            if words := differences(ours, theirs):
                others[f"`{label}`: {'; '.join(words)}"] = None
    return [*models, *others]


def differences(ours: Spec, theirs: Spec, within: str = "") -> list[str]:
    """Differences of one spec from another, such as `epochs 16 instead of 200`."""
    kinds = [
        spec.kind if isinstance(spec, Kind) else type(spec).__name__ for spec in (ours, theirs)
    ]
    if type(ours) is not type(theirs):
        return [f"{within}{kinds[0]} instead of {kinds[1]}"]
    words: list[str] = []
    for name in type(ours).model_fields:
        one, other = getattr(ours, name), getattr(theirs, name)
        what = within + name.replace("_", " ")
        if one == other:
            continue
        if isinstance(one, Spec) and isinstance(other, Spec):
            words += differences(one, other, f"{what} ")
        elif _are_specs(one) and _are_specs(other) and len(one) == len(other):
            for first, second in zip(one, other, strict=True):
                words += differences(first, second, f"{within}{first.kind} ")
        else:
            words.append(f"{what} {value_words(one)} instead of {value_words(other)}")
    return words


def _are_specs(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, Kind) for part in value)


def _model_differences(ours: ClassifierSpec, theirs: ClassifierSpec) -> list[str]:
    words = differences(ours.network, theirs.network)
    if isinstance(ours, TrainSpec) and isinstance(theirs, TrainSpec):
        return words + differences(ours.recipe, theirs.recipe)
    if ours != theirs:
        words.append(f"{_weights(ours)} instead of {_weights(theirs)}")
    return words


def _weights(spec: ClassifierSpec) -> str:
    if isinstance(spec, CheckpointSpec):
        return f"a checkpoint ({spec.sha256[:12]})"
    if isinstance(spec, EnsembleSpec):
        return f"an ensemble of {len(spec.members)}"
    return f"{counted(spec.recipe.epochs, 'epoch')} of {spec.recipe.method}"


def _references(view: View) -> Iterator[Reference]:
    return (entry.reference for row in view.rows for entry in row.entries if entry.reference)
