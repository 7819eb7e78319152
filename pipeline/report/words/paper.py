"""The paper beside what was measured, in words: a table of both, and what differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from pipeline.report.paper import Reference
from pipeline.report.scores import Entry, View
from pipeline.report.words.settings import NOTHING, accuracy, gain, markdown_table, value_words
from tasks.specs import Kind, Spec
from tasks.training.recipe import CheckpointSpec, TrainSpec

LEGEND = "Entries: measured (published, difference in points), and the verdict."
GAIN_LEGEND = "Entries: measured (published), both computed from accuracies; none over a bound."


def beside(view: View) -> View | None:
    """The rows and columns of a table that hold a published number; None if there are none."""
    places = [
        place
        for place in range(len(view.attacks))
        if any(row.entries[place].reference for row in view.rows)
    ]
    rows = tuple(
        dataclasses.replace(row, entries=tuple(row.entries[place] for place in places))
        for row in view.rows
        if any(entry.reference for entry in row.entries)
    )
    if not rows:
        return None
    attacks = tuple(view.attacks[place] for place in places)
    return dataclasses.replace(view, attacks=attacks, rows=rows)


def published_words(reference: Reference) -> str:
    """`57.8`, or `≤ 1.0` for a bound."""
    bound = "≤ " if reference.published.upper_bound else ""
    return f"{bound}{accuracy(reference.published.value)}"


def compact_words(entry: Entry) -> list[str]:
    """`31.2`, `(57.8)`, and `in` or `out` where that is judged."""
    if entry.reference is None:
        return [accuracy(entry.accuracy)]
    words = [accuracy(entry.accuracy), f"({published_words(entry.reference)})"]
    marks = {"inside": "in", "outside": "out"}
    if entry.verdict in marks:
        words.append(marks[entry.verdict])
    return words


def beside_markdown(view: View) -> str:
    """`Beside the paper`: published numbers, gains and what differs; empty without any."""
    both = beside(view)
    if both is None:
        return ""
    lines = ["### Beside the paper", ""]
    lines += [*_table(both, _words), "", LEGEND]
    gains = [row for row in both.rows if any(one.published_gain is not None for one in row.entries)]
    if gains:
        gained = dataclasses.replace(both, rows=tuple(gains))
        lines += ["", "Gains in points:", "", *_table(gained, _gain_words), "", GAIN_LEGEND]
    said = [*judged(both), *differing(both)]
    if said:
        lines += ["", *(f"- {line}" for line in said)]
    return "\n".join(lines) + "\n"


def judged(view: View) -> list[str]:
    """How many published numbers lie inside their intervals, if any could be judged."""
    verdicts = [entry.verdict for row in view.rows for entry in row.entries]
    inside, outside = verdicts.count("inside"), verdicts.count("outside")
    if not inside + outside:
        return []
    return [f"published numbers inside the measured interval: {inside} of {inside + outside}"]


def differing(view: View) -> list[str]:
    """What is not the paper's: once for each model, attack and defense."""
    models: dict[str, None] = {}
    others: dict[str, None] = {}
    for reference in _references(view):
        cell, paper = reference.cell, reference.paper
        if paper is None:
            others[f"`{cell.name}`: it is not known what the paper computed"] = None
            continue
        words = _model_differences(cell.model_spec, paper.model_spec)
        if cell.dataset != paper.dataset:
            words.insert(0, f"data set {cell.dataset} for {paper.dataset}")
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
    """How one spec differs from another, as `epochs 16 for 200`."""
    kinds = [
        spec.kind if isinstance(spec, Kind) else type(spec).__name__ for spec in (ours, theirs)
    ]
    if type(ours) is not type(theirs):
        return [f"{within}{kinds[0]} for {kinds[1]}"]
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
            words.append(f"{what} {value_words(one)} for {value_words(other)}")
    return words


def _are_specs(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, Kind) for part in value)


def _model_differences(
    ours: TrainSpec | CheckpointSpec, theirs: TrainSpec | CheckpointSpec
) -> list[str]:
    words = differences(ours.network, theirs.network)
    if isinstance(ours, TrainSpec) and isinstance(theirs, TrainSpec):
        return words + differences(ours.recipe, theirs.recipe)
    if ours != theirs:
        words.append(f"{_weights(ours)} for {_weights(theirs)}")
    return words


def _weights(spec: TrainSpec | CheckpointSpec) -> str:
    if isinstance(spec, CheckpointSpec):
        return f"a checkpoint ({spec.sha256[:12]})"
    return f"{spec.recipe.epochs} epochs of {spec.recipe.method}"


def _references(view: View) -> Iterator[Reference]:
    return (entry.reference for row in view.rows for entry in row.entries if entry.reference)


def _table(view: View, words: Callable[[Entry], str]) -> list[str]:
    rows = [[row.model, row.defense, *map(words, row.entries)] for row in view.rows]
    return markdown_table(["model", "defense"], view.attacks, rows)


def _words(entry: Entry) -> str:
    if entry.reference is None:
        return NOTHING
    both = [published_words(entry.reference)]
    if entry.difference is not None:
        both.append(gain(entry.difference))
    return " ".join([accuracy(entry.accuracy), f"({', '.join(both)})", entry.verdict or ""]).strip()


def _gain_words(entry: Entry) -> str:
    if entry.published_gain is None:
        return NOTHING
    measured = NOTHING if entry.gain is None else gain(entry.gain)
    return f"{measured} ({gain(entry.published_gain)})"
