"""A report in words: numbers as they are printed, tables and pages in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.grid.cells import Cell, Grid
from pipeline.report.scores import LEVEL, Entry, Facts, Row, Scores, View, number
from pipeline.report.words.table import DISCORDANT, gain_lines
from tasks.defenses.base import Defense
from tasks.specs import Kind, Spec
from tasks.training.recipe import CheckpointSpec

NOTHING = "–"

OBLIVIOUS = """\
Attacks are **oblivious** unless their name says `adaptive`: the examples were made on the bare
model, without any defense, and then shown to the defended one. So a number says how a defense
does against an attacker who does not know of it, and it bounds from above what is left against
one who does."""

ADAPTIVE = """\
An **adaptive** attack knows the defense and how its random numbers are drawn, but not which will
be: it climbs the log of the mean probability over fresh draws at each step (expectation over
transformation), passes gradients straight through what has none, also tries what transfers from
the bare model, and gives each image the candidate that fails most often on its own draws. What it
leaves is an upper bound as well: a stronger attack may leave less."""

INTERVALS = """\
Accuracy is in percent, and always about the true label: the mean over images of the share of
right redraws of the whole defended prediction. Intervals are Wilson 95 % intervals over images,
whatever the number of redraws. They are conditional on the trained weights: another training
may lie outside. Where several seeds are averaged the interval is left empty and `seed_spread`
is the standard deviation over seeds."""

GAINS = f"""\
In parentheses is the gain in points, from unrounded accuracies of the same run and seed.
A defense marked `deterministic` has nothing to draw, so it is asked once.

A gain or loss is **bold** only where it is significant at {100 * LEVEL:g} %: by the two-sided exact
permutation test that flips the signs of per-image differences (with one redraw each the exact
McNemar test), corrected by Holm's method for all gains of its table. Several seeds are tested
together, an image's differences added up before their sign is flipped; like the intervals this
is conditional on the trained weights. Below each table stands from which gain on one would be
significant at the strictest level of Holm's method, with one redraw, if the two answered
{100 * DISCORDANT:g} % of the images otherwise; where fewer differ, smaller gains are
significant too.
Not bold means not shown, and not that there is none."""

BESIDE = """\
Beside a measured accuracy stands the one that the paper published, where it did. Whether that
lies inside or outside the measured interval is judged only where data set, network, recipe,
attack and defense are the paper's; elsewhere the verdict names the first that is another, and
what differs is told below the table. A mean over seeds has no interval and is not judged
(results.csv judges each seed). A published bound is met by an interval that reaches it."""


def accuracy(value: float | None) -> str:
    """Percent with one decimal, without the sign."""
    return NOTHING if value is None else f"{value:.1f}"


def interval_words(interval: tuple[float, float] | None) -> str:
    """`45.1 to 55.9`, in percent; empty where there is none."""
    return "" if interval is None else f"{accuracy(interval[0])} to {accuracy(interval[1])}"


def gain(value: float) -> str:
    """Points with their sign; what rounds to zero is `+0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def entry_words(entry: Entry) -> list[str]:
    """`50.5`, then `(+19.3)` and `[1]` where there is a gain and a note."""
    words = [accuracy(entry.accuracy)]
    if entry.gain is not None:
        words.append(f"({gain(entry.gain)})")
    words += [f"[{note}]" for note in (entry.note, entry.card_note) if note is not None]
    return words


def old_to_new(before: Facts, after: Facts) -> str | None:
    """`52.0 → 53.2 %`, with the numbers of images where they differ; None if nothing changed.

    Accuracies that look alike rounded are given as many decimals as it takes.
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
    """A line for each cell whose accuracy is another than before, in the order of `after`."""
    changed = {
        name: words
        for name, facts in after.items()
        if name in before and (words := old_to_new(before[name], facts)) is not None
    }
    width = max(map(len, changed), default=0)
    return [f"{name:<{width}}  {words}" for name, words in changed.items()]


def caption(view: View) -> list[str]:
    """What is to be said below a table: what gains are over, intervals, footnotes."""
    table = view.table
    lines: list[str] = []
    if any(entry.gain is not None for row in view.rows for entry in row.entries):
        over = f"the same defense without {table.gains_of}"
        if table.gains_of is None:
            over = f"{table.gains_over}"
        lines.append(f"In parentheses: points gained over {over}.")
        lines += gain_lines(view)
    if view.widest_interval is not None:
        lines.append(f"95 % intervals: at most ±{view.widest_interval:.1f} points.")
    seeds = max((entry.seeds for row in view.rows for entry in row.entries), default=0)
    if seeds > 1:
        lines.append(f"Means over {seeds} seeds.")
    return lines


def table_markdown(view: View) -> str:
    """A table with its title, and what is to be said below it."""
    lines = [f"## {view.table.title or view.table.name}", ""]
    lines += markdown_table(["model", "defense", "redraws"], view.attacks, map(_row, view.rows))
    lines.extend(["", *caption(view)])
    if view.notes:
        lines.append("")
        lines.extend(f"- [{place}] {note}" for place, note in enumerate(view.notes, 1))
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(
    names: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[str]:
    """The lines of a table: columns of names, then columns of numbers, which end flush right."""
    whole = [[*names, *numbers], [*("---" for _ in names), *("---:" for _ in numbers)], *rows]
    return ["| " + " | ".join(word.replace("|", "\\|") for word in row) + " |" for row in whole]


def page(
    grid: Grid,
    scores: Scores,
    parts: Sequence[tuple[str, str]],
    made: Facts,
    cards: str = "",
) -> str:
    """The report's front page: what is measured and how, and every table.

    parts: the tables in Markdown with the stems of their files; made: by what it was computed
    (device, versions), as the caller knows it; cards: what is said of integrity cards.
    """
    missing = [cell.name for cell in grid.cells if scores.accuracy(cell.name) is None]
    lines = [f"# {grid.title or grid.name}", ""]
    lines += [f"Grid `{grid.name}`: {len(grid.cells)} cells, {len(missing)} of them missing.", ""]
    lines += [*datasets_said(grid.cells, scores.by_class), "", OBLIVIOUS, ""]
    lines += [ADAPTIVE, ""] if any(cell.attack_spec.compound for cell in grid.cells) else []
    lines += [INTERVALS, "", GAINS, ""]
    lines += [BESIDE, ""] if scores.published else []
    for markdown, stem in parts:
        lines += [markdown]
        lines += [f"The same with intervals: [{stem}.csv]({stem}.csv).", ""]
    lines += [cards, ""] if cards else []
    lines += ["## How it was made", ""]
    lines += [f"- {what}: {value}" for what, value in made.items()]
    lines += [f"- redraws: {_joined(sorted({cell.redraws for cell in grid.cells}))}"]
    lines += [f"- precision: {_joined(sorted({cell.precision for cell in grid.cells}))}", ""]
    lines += ["Epsilon, step sizes and limits are in 1/255 of the pixel range.", ""]
    for heading, described in settings_said(grid.cells):
        lines += [f"### {heading}", "", *described, ""]
    lines += ["Every cell, with all its numbers: [results.csv](results.csv)."]
    return "\n".join(lines).rstrip() + "\n"


def _row(row: Row) -> list[str]:
    return [row.model, row.defense, row.redraws, *map(_bold, row.entries)]


def _bold(entry: Entry) -> str:
    """An entry's words, its gain in bold where that is significant."""
    words = entry_words(entry)
    if entry.bold:
        words[1] = f"(**{words[1].strip('()')}**)"
    return " ".join(words)


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def datasets_said(cells: Sequence[Cell], by_class: Mapping[str, Sequence[int]]) -> list[str]:
    """A line of Markdown for each data set: its images and classes."""
    found = dict.fromkeys((cell.dataset, cell.images, cell.dataset_spec.classes) for cell in cells)
    return [
        f"- `{name}`: {images} test images of {classes} classes, "
        + _per_class(images, classes, by_class.get(name))
        for name, images, classes in found
    ]


def _per_class(images: int, classes: int, by_class: Sequence[int] | None) -> str:
    """How many of the first images belong to a class, in the order in which classes take turns."""
    if by_class is None:
        return f"{images / classes:.4g} a class on average"
    rounds = 0
    while rounds < max(by_class) and sum(min(n, rounds + 1) for n in by_class) <= images:
        rounds += 1
    whole = [min(n, rounds) for n in by_class]
    fewest, most = min(whole), max(whole) + (sum(whole) < images)
    return f"{most} a class" if fewest == most else f"{fewest} to {most} a class"


def settings_said(cells: Sequence[Cell]) -> Iterator[tuple[str, list[str]]]:
    """Models, attacks and defenses with their parameters: a heading, and lines of Markdown."""
    models = [(cell.model, _model(cell), f"seed {cell.seed}") for cell in cells]
    yield "Models", _by_label(models)
    yield (
        "Attacks",
        _by_label((cell.attack, _spec(cell.attack_spec), cell.model) for cell in cells),
    )
    yield (
        "Defenses",
        _by_label(
            (cell.defense, _defense(cell.defense_spec), f"{cell.model}/{cell.attack}")
            for cell in cells
        ),
    )


def _by_label(described: Iterable[tuple[str, str, str]]) -> list[str]:
    """A line a label; where cells differ under one label, a line for each way, saying where."""
    labels: dict[str, dict[str, dict[str, None]]] = {}
    for label, words, where in described:
        labels.setdefault(label, {}).setdefault(words, {})[where] = None
    lines = []
    for label, ways in labels.items():
        most = max(ways, key=lambda words: len(ways[words]))
        lines.append(f"- `{label}`: {most}")
        lines.extend(
            f"- `{label}` in {_joined(f'`{where}`' for where in places)}: {words}"
            for words, places in ways.items()
            if words != most
        )
    return lines


def _model(cell: Cell) -> str:
    network = _spec(cell.model_spec.network)
    if isinstance(cell.model_spec, CheckpointSpec):
        return f"{network}; checkpoint {cell.model_spec.sha256[:12]}"
    return f"{network}; trained: {_spec(cell.model_spec.recipe)}"


def _defense(spec: Defense) -> str:
    return ", then ".join(_spec(part) for _, part in spec.stages())


def _spec(spec: Spec) -> str:
    """A spec's kind and parameters in words."""
    words = [spec.kind] if isinstance(spec, Kind) else []
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Spec):
            words.append(f"{name} ({_spec(value)})")
        elif name != "kind" and value is not None:
            words.append(f"{name.replace('_', ' ')} {value_words(value)}")
    return ", ".join(words)


def value_words(value: object) -> str:
    """A parameter's value as it is printed."""
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
