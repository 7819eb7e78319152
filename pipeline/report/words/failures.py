"""Texts about the failures of a defense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from pipeline.plan.words import counted
from pipeline.report.views.failures import Confusion, Failures, ModelFailures

HEADING = "Where a defense fails"
SAID = """\
Accuracy by class, the most frequent confusions, and the images concerned, from the stored
predictions. Each row is a defense; the percentages are accuracies on the images of a class, the
lowest of a row in **bold**."""
ANY_CELL = "`pipeline failures CELL` shows the same for any cell, with every class and image."
CLASSES = 10
"""Maximum number of classes in a table; of more, those with the lowest overall accuracy."""
PAIRS = 3
"""Maximum number of confusions in a row, the most frequent ones."""
IMAGES = 12
"""Maximum number of images listed by id."""


def listed(images: Sequence[int]) -> str:
    """`2 images: 4, 17`, with the ids of the first few."""
    if not images:
        return "no image"
    shown = ", ".join(map(str, images[:IMAGES]))
    more = ", …" if len(images) > IMAGES else ""
    return f"{len(images)} image{'s' if len(images) > 1 else ''}: {shown}{more}"


def share(confusion: Confusion, true: int, named: int) -> str:
    """Percentage of the answers about a class that name another class, such as `40 %`."""
    row = confusion[true]
    answers = row[named] if named < len(row) else 0  # a bare model does not abstain
    return f"{100 * answers / max(1, row.sum()):.0f} %"


def confusions(found: Failures) -> Iterator[str]:
    """Confusions such as `8 → 3 in 40 % (none: 10 %)`, most frequent first; empty if unknown."""
    names = found.names
    for true, named, _ in found.pairs():
        assert found.after is not None
        before = "" if found.before is None else f" (none: {share(found.before, true, named)})"
        pair = f"{names.get(true, true)} → {names.get(named, named)}"
        yield f"{pair} in {share(found.after, true, named)}{before}"


def extremes(one: ModelFailures) -> str:
    """Which images all attacks break, and which none breaks."""
    found = one.any
    cells = counted(len(found.cells), "attacked cell")
    return (
        f"Of {found.common:,} images, in {cells} of this model: "
        f"always wrong, {listed(found.always)}; always right, {listed(found.never)}."
    )


Row = tuple[str, list[str], list[int], str]
"""A defense, its percentages, the indices of the lowest ones, and its confusions as text."""


def table(one: ModelFailures) -> tuple[list[str], list[Row]]:
    """Headings for the classes, and the rows below them."""
    classes = {each.label: each for _, found in one.cells for each in found.classes}
    rates = {
        label: [f.after for _, found in one.cells for f in found.classes if f.label == label]
        for label in classes
    }
    worst = sorted(classes, key=lambda label: sum(rates[label]) / len(rates[label]))[:CLASSES]
    shown = sorted(worst)
    rows = []
    for cell, found in one.cells:
        after = {each.label: each.after for each in found.classes}
        known = [after.get(label) for label in shown]
        least = min((value for value in known if value is not None), default=None)
        places = [place for place, value in enumerate(known) if value == least]
        taken = "; ".join(islice(confusions(found), PAIRS))
        rows.append(
            (
                cell.defense,
                ["–" if value is None else f"{value:.0f}" for value in known],
                # if all are equal, none is emphasised
                places if len(places) < len(known) else [],
                taken.replace(" %", "\u00a0%"),
            )
        )
    return [classes[label].name for label in shown], rows
