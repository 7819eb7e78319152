"""Captions of tables: the number of tested gains, and the smallest visible one."""

from __future__ import annotations

from collections import Counter

from pipeline.report.views.table import LEVEL, View
from pipeline.report.words.numbers import images_of

DISCORDANT = 0.1
"""Share of images on which answers are assumed to differ, to compute the smallest visible gain."""


REPLAYED = """\
Replayed: the examples were crafted against the network without the defense (*oblivious*), so the
accuracy against an attacker who knows the defense may be lower."""

REDRAWS = """\
Redraws: number of predictions of a randomised defense for each image, each with new random numbers;
the accuracy is their mean. A deterministic defense is evaluated once."""


def terms(view: View) -> list[str]:
    """Explanations of a table's terms, one or two sentences each."""
    drawn = any(row.redraws != "deterministic" for row in view.rows)
    return [*[REPLAYED] * bool(view.replayed), *[REDRAWS] * drawn]


def heading(view: View) -> str:
    """A table's heading, which says where its numbers are upper bounds."""
    title = view.table.title or view.table.name
    if not view.replayed:
        return title
    if len(view.replayed) == len(view.attacks):
        return f"{title}: replayed examples, upper bounds"
    return f"{title} (replayed columns: upper bounds)"


def gain_lines(view: View, *, bold: bool = True) -> list[str]:
    """How many gains were tested, the smallest visible one, and why others were not tested.

    bold: whether significant gains are shown in bold.
    """
    entries = [entry for row in view.rows for entry in row.entries]
    tested = [entry for entry in entries if entry.p_value is not None]
    lines = []
    if tested:
        images = min((entry.images for entry in tested if entry.images is not None), default=0)
        found = sum(entry.bold for entry in tested)
        doubtful = sum(entry.significant is True for entry in tested) - found
        without = f", {doubtful} more would be but for a failed integrity card" if doubtful else ""
        lines.append(
            f"{_gains(len(tested))} tested, {found} significant at {100 * LEVEL:g} %"
            f"{' (bold)' * bold}{without}. {_visible(images, len(tested))}"
        )
    reasons = Counter(entry.untested for entry in entries if entry.untested is not None)
    so = ", so not bold" * bold
    lines += [f"{_gains(n)} not tested{so}: {why}." for why, n in reasons.items()]
    return lines


def _visible(images: int, comparisons: int) -> str:
    """The smallest visible gain with the given images, and how many images a point would need."""
    from tasks.evaluation.statistics import images_needed, smallest_gain

    smallest = smallest_gain(images, comparisons=comparisons, discordant=DISCORDANT, level=LEVEL)
    shows = "no gain" if smallest is None else f"gains from {smallest:.1f} points up"
    share = f"{100 * DISCORDANT:g} % of the {images:,} images"
    line = f"If predictions differed on {share}, {shows} would be significant"
    if smallest is not None and smallest <= 1:
        return f"{line}."
    needed = images_needed(1.0, comparisons=comparisons, discordant=DISCORDANT, level=LEVEL)
    return f"{line}; for 1 point it would take about {round(needed, -2):,} images."


def _gains(count: int) -> str:
    return f"{count} gain{'s' if count != 1 else ''}"


def images_line(view: View) -> str:
    """The number of images of each column; empty if it is the same for all entries."""
    counts = [
        {
            (row.model, row.defense): row.entries[place].images or 0
            for row in view.rows
            if row.entries[place].images
        }
        for place in range(len(view.attacks))
    ]
    columns: dict[str, list[str]] = {}
    for attack, images in zip(view.attacks, counts, strict=True):
        if images:
            columns.setdefault(images_of(images), []).append(attack)
    if len({each for images in counts for each in images.values()}) < 2:
        return ""
    words = [f"{', '.join(attacks)}: {images}" for images, attacks in columns.items()]
    return f"Number of images: {'; '.join(words)}."


def caption(view: View, *, bold: bool = True) -> list[str]:
    """Lines below a table: doubts, numbers of images, baselines of gains, intervals.

    bold: see `gain_lines`.
    """
    table = view.table
    lines = [f"Doubtful: {doubt}." for doubt in view.doubts]
    lines += filter(None, [images_line(view)])
    if any(entry.gain is not None for row in view.rows for entry in row.entries):
        over = f"the same defense without {table.gains_of}"
        if table.gains_of is None:
            over = f"{table.gains_over}"
        lines.append(f"In parentheses: points gained over {over}.")
        lines += gain_lines(view, bold=bold)
    if view.widest_interval is not None:
        lines.append(f"95 % intervals: at most ±{view.widest_interval:.1f} points.")
    seeds = max((entry.seeds for row in view.rows for entry in row.entries), default=0)
    if seeds > 1:
        lines.append(f"Means over {seeds} seeds.")
    return lines
