"""Parts of the report's page as plain values for the template."""

from __future__ import annotations

import base64
import html
import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.grid.cells import Cell, Grid
from pipeline.report.facts import Facts, interval
from pipeline.report.formats.figures.colours import INK, LINE, PAPER
from pipeline.report.scores import Scores
from pipeline.report.views.costs import passes, prediction_costs
from pipeline.report.views.exhibits import Change, Exhibit
from pipeline.report.views.gallery import Gallery
from pipeline.report.words.numbers import NOTHING, interval_words, rough

SHOWN_CLASSES = 3
"""Number of class probabilities shown for a picture."""


@dataclass(frozen=True)
class CellSummary:
    """A cell as shown on the page. numbers: names and values for a list."""

    name: str
    anchor: str
    accuracy: float | None
    interval: str
    passes: float | None
    milliseconds: str
    published: str
    missing: str
    card: str
    digest: str
    command: str
    link: str | None
    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Probability:
    """Probability of a class, in [0, 1]; `true` for the image's own class."""

    label: int
    value: float
    true: bool


@dataclass(frozen=True)
class Frame:
    """A picture of the gallery, with probabilities if a model was queried about it."""

    heading: str
    source: str
    alt: str
    probabilities: tuple[Probability, ...] = ()


@dataclass(frozen=True)
class Strip:
    """The pictures of one image: clean, attacked and defended."""

    heading: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class ModelGallery:
    """The gallery of one model."""

    model: str
    attack: str
    defense: str
    anchor: str
    strips: tuple[Strip, ...]
    absent: str
    problem: str


def anchors(grid: Grid) -> dict[str, str]:
    """HTML id of each cell, by cell name: `cell-model/attack/defense`.

    Characters that a link cannot contain become `_`; a number is appended to make ids unique.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for cell in grid.cells:
        plain = re.sub(r"[^\w./+-]", "_", f"cell-{cell.name}", flags=re.ASCII)
        anchor, count = plain, 1
        while anchor in taken:
            count += 1
            anchor = f"{plain}-{count}"
        taken.add(anchor)
        found[cell.name] = anchor
    return found


def cell_summaries(
    grid: Grid, scores: Scores, again: Sequence[str], links: Mapping[str, str]
) -> list[CellSummary]:
    """Summaries of all cells, in the grid's order.

    Args:
        again: Further options of the command that runs the grid.
        links: Pages of a tracking server, by cell name.
    """
    places = anchors(grid)
    costs = prediction_costs(grid, scores)
    told = []
    for cell in grid.cells:
        cost = costs.get(cell.name)
        facts = scores.facts.get(cell.name, {})
        words = grid.run_words([f"cell={cell.name}"])
        words += [*again, *["--force"] * (not grid.command)]
        told.append(
            CellSummary(
                name=cell.name,
                anchor=places[cell.name],
                accuracy=scores.accuracy(cell.name),
                interval=interval_words(interval(facts)),
                passes=passes(facts),
                milliseconds=rough(cost.milliseconds) if facts and cost else NOTHING,
                published=_published(cell, scores),
                missing=scores.reason(cell.name),
                card=_card(cell, scores),
                digest=scores.digests.get(cell.name, ""),
                command=shlex.join(words),
                link=links.get(cell.name),
                numbers=tuple(_numbers(facts)),
            )
        )
    return told


def model_gallery(gallery: Gallery, anchor: str) -> ModelGallery:
    """A gallery with its pictures as data URIs."""
    cell = gallery.cell
    return ModelGallery(
        model=cell.model,
        attack=cell.attack,
        defense=cell.defense,
        anchor=anchor,
        strips=tuple(_strip(exhibit) for exhibit in gallery.exhibits),
        absent=", ".join(map(str, gallery.absent)),
        problem=gallery.problem,
    )


def themed(svg: str, prefix: str) -> str:
    """The `<svg>` element of a file for embedding, with the page's colours and unique ids."""
    svg = svg[svg.index("<svg") :]
    for colour, other in ((INK, "currentColor"), (LINE, "var(--line)"), (PAPER, "none")):
        svg = svg.replace(colour, other)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def inline(text: str) -> str:
    """Convert `code`, **bold** and *italics* in a line of Markdown to HTML; escape the rest."""
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]*)`", r"<code>\1</code>", escaped)
    escaped = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
    return re.sub(r"(?<![\w*])\*([A-Za-z]+)\*(?![\w*])", r"<em>\1</em>", escaped)


def _published(cell: Cell, scores: Scores) -> str:
    reference = scores.published.get(cell.name)
    if reference is None:
        return ""
    words = f"{'≤ ' if reference.published.upper_bound else ''}{reference.published.value:.1f}"
    verdict = reference.verdict(interval(scores.facts.get(cell.name, {})))
    return words if scores.accuracy(cell.name) is None else f"{words} ({verdict})"


def _card(cell: Cell, scores: Scores) -> str:
    """`pass`, or a worse verdict with the complaint; empty without a card."""
    card = scores.cards.get(cell.name)
    if card is None:
        return ""
    found = card.complaint()
    return f"{card.verdict}: {found}" if found else card.verdict


def _numbers(facts: Facts) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, bool | str):
            yield key.replace("_", " "), str(value)
        elif isinstance(value, int | float):
            yield key.replace("_", " "), f"{value:.6g}"
        elif key == "interval":
            yield key, interval_words(interval(facts))


def _strip(exhibit: Exhibit) -> Strip:
    change, counter = exhibit.perturbation, exhibit.countered
    frames = (
        _frame("clean", exhibit.clean, exhibit.clean_answer, exhibit.label),
        _changed("attack's change", change),
        _frame("adversarial", exhibit.adversarial, exhibit.attacked_answer, exhibit.label),
        _changed("defense's change", counter),
        _frame("after the defense", exhibit.after, exhibit.defended_answer, exhibit.label),
    )
    return Strip(f"class {exhibit.label}, test image {exhibit.place}", frames)


def _frame(
    heading: str, pixels: NDArray[np.float32], answer: NDArray[np.float32], label: int
) -> Frame:
    order = [int(place) for place in np.argsort(-answer, kind="stable")[:SHOWN_CLASSES]]
    if label not in order:
        order[-1] = label
    shown = tuple(Probability(place, float(answer[place]), place == label) for place in order)
    seen = int(answer.argmax())
    alt = f"{heading} image of class {label}, predicted as class {seen} with {answer[seen]:.2f}"
    return Frame(heading, data_uri(pixels), alt, shown)


def _changed(heading: str, change: Change) -> Frame:
    alt = f"{heading}, {change.times:g} times as large around grey"
    return Frame(f"{heading}, ×{change.times:g}", data_uri(change.pixels), alt)


def data_uri(pixels: NDArray[np.float32]) -> str:
    """float32 [H, W, C] in [0, 1], grey or colour, as a PNG data URI."""
    values = np.rint(255 * pixels).astype(np.uint8)
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
