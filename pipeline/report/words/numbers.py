"""Formatting of accuracies, intervals and gains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.report.facts import Facts, number
from pipeline.report.views.table import Entry

NOTHING = "–"


def accuracy(value: float | None) -> str:
    """Percent with one decimal, without the sign."""
    return NOTHING if value is None else f"{value:.1f}"


def interval_words(interval: tuple[float, float] | None) -> str:
    """An interval in percent, such as `45.1 to 55.9`; empty if there is none."""
    return "" if interval is None else f"{accuracy(interval[0])} to {accuracy(interval[1])}"


def gain(value: float) -> str:
    """Points with their sign; values that round to zero are `+0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def rough(value: float) -> str:
    """Two significant digits, the precision of timings: `0.035`, `4.6`, `120`."""
    return f"{float(f'{value:.2g}'):.12g}"


def passes_words(forwards: float, backwards: float) -> str:
    """Number of forward and backward passes: `51+50`."""
    return "+".join(f"{round(count, 1):,.12g}" for count in (forwards, backwards))


def entry_words(entry: Entry) -> list[str]:
    """An entry's accuracy, and its gain and footnote if there are any: `50.5`, `(+19.3)`, `[1]`."""
    words = [accuracy(entry.accuracy)]
    if entry.gain is not None:
        words.append(f"({gain(entry.gain)})")
    words += [f"[{note}]" for note in (entry.note, entry.card_note) if note is not None]
    return words


def old_to_new(before: Facts, after: Facts) -> str | None:
    """`52.0 → 53.2 %`, with the numbers of images if they differ; None if nothing changed.

    Accuracies that are equal when rounded are shown with as many decimals as necessary.
    """
    old, new = number(before, "accuracy"), number(after, "accuracy")
    if old is None or new is None:
        return None
    images = [number(facts, "images") for facts in (before, after)]
    if None not in images and images[0] != images[1]:
        return f"{old:.1f} % of {images[0]:.0f} → {new:.1f} % of {images[1]:.0f} images"
    for decimals in range(1, 7):
        if f"{old:.{decimals}f}" != f"{new:.{decimals}f}":
            return f"{old:.{decimals}f} → {new:.{decimals}f} %"
    return None


def changes(before: Mapping[str, Facts], after: Mapping[str, Facts]) -> list[str]:
    """A line for each cell whose accuracy changed, in the order of `after`."""
    changed = {
        name: words
        for name, facts in after.items()
        if name in before and (words := old_to_new(before[name], facts)) is not None
    }
    width = max(map(len, changed), default=0)
    return [f"{name:<{width}}  {words}" for name, words in changed.items()]


def images_of(counts: Mapping[tuple[str, str], int]) -> str:
    """`500`, or `500 (200 for crossmax)` if rows differ: the most frequent number comes first.

    counts: number of images of each row, by model and defense; at least one.
    """
    (usual, _), *others = Counter(counts.values()).most_common()
    words = []
    for count, _ in others:
        rows = [row for row, images in counts.items() if images == count]
        # a defense without its model, if this is its number on all models
        models = {defense: [m for m, other in counts if other == defense] for _, defense in rows}
        names = dict.fromkeys(
            defense if all((m, defense) in rows for m in models[defense]) else f"{model}/{defense}"
            for model, defense in rows
        )
        words.append(f"{count:,} for {', '.join(names)}")
    return f"{usual:,}" + (f" ({'; '.join(words)})" if words else "")


def images_range(fewest: int, most: int, noun: str = "image") -> str:
    """`1 image`, `500 images`, or `200 to 500 images` if the two numbers differ."""
    first = "" if fewest == most else f"{fewest:,} to "
    return f"{first}{most:,} {noun}" + ("" if most == 1 else "s")
