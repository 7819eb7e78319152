"""Texts about robustness, for tables with an adaptive attack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.grid.cells import Grid
from pipeline.report.views.adaptive import Doubling, Rate, Robustness
from pipeline.report.views.costs import Cost
from pipeline.report.words.numbers import NOTHING, accuracy, images_of, passes_words, rough
from pipeline.store.candidates import Candidate

HEADING = "Robustness of each defense"
NAMES = ("model", "defense")
NUMBERS = (
    "clean",
    "bare, replayed",
    "replayed",
    "adaptive",
    "doubled",
    "all attacks",
    "passes",
    "ms",
)
SHORT = (*NUMBERS[:-1], "time")

_COLUMNS = """\
All columns refer to the same images, and to attacks whose examples lie in the ball of the adaptive
attack. Bare, replayed: accuracy of the undefended model under the replayed attack that lowers it
most. Replayed: accuracy of the defended model under the replayed attack that lowers it most.
Adaptive (the worst case of verdicts): accuracy under an attack that knows the defense, but not its
random draws. Doubled: change in accuracy, in points, when one gradient ascent of that attack has
twice its steps and draws, and in parentheses the number of images of the integrity card on which
this was measured; a dash where the card's budget was too small for it. All attacks: accuracy where
each image counts under the attack of the table that is most successful on it; for a randomised
defense this is somewhat too low, since the attack is chosen on the same redraws that are counted.
Passes: forward + backward passes through the network for one prediction of one image."""
LEGEND = f"""\
{_COLUMNS}
Ms: its time in milliseconds, the shortest that was measured over the attacks, and in parentheses
as a multiple of the bare model's time on the same device."""
SHORT_LEGEND = f"{_COLUMNS} Time: as a multiple of the bare model's on the same device."

CANDIDATES = "Attack candidates"
CANDIDATES_LEGEND = """\
Number of images for which each candidate was crafted, which are those that no candidate before it
broke, and in parentheses how many of these it broke. An image is broken if the defended model is
wrong on all of the attacker's draws, by the margin in the attack's settings. Candidates are listed
from cheap to expensive; {} has the number of images for which each was kept, and its cost."""


def candidate_rows(rows: Sequence[Robustness]) -> list[list[str]]:
    """A row for each candidate: its name, and for each defense `images (broken)`."""
    names = dict.fromkeys(each.candidate for row in rows for each in row.candidates)
    found = [{each.candidate: each for each in row.candidates} for row in rows]
    return [[name, *(_asked(each.get(name)) for each in found)] for name in names]


def _asked(candidate: Candidate | None) -> str:
    return NOTHING if candidate is None else f"{candidate.images} ({candidate.broken})"


def robustness_words(row: Robustness) -> list[str]:
    """The texts of a row, in the order of `NUMBERS`, with intervals."""
    passes, time = _cost(row.cost)
    *before, under_all = (_rate(rate, intervals=True) for rate in _rates(row))
    return [*before, _doubling(row.doubling), under_all, passes, time]


def short_robustness_words(row: Robustness) -> list[str]:
    """The same, short enough for a terminal."""
    passes, _ = _cost(row.cost)
    times = row.cost.times_bare if row.cost else None
    *before, under_all = (_rate(rate, intervals=False) for rate in _rates(row))
    time = NOTHING if times is None else f"{rough(times)}×"
    return [*before, _doubling(row.doubling), under_all, passes, time]


def attacks_words(rows: Sequence[Robustness]) -> str:
    """Which attacks the columns `bare, replayed` and `replayed` refer to."""
    bare = sorted({row.bare_attack for row in rows if row.bare_attack})
    defended = sorted({row.replayed for row in rows if row.replayed})
    return (
        f"The replayed attack is {', '.join(bare) or NOTHING} for the bare model, "
        f"{', '.join(defended) or NOTHING} for the defended ones."
    )


def heading(attack: str, rows: Sequence[Robustness]) -> str:
    """Heading of the rows of one adaptive attack: its name and the number of images."""
    return f"{HEADING} under {attack}; images: {images_words(rows)}"


def images_words(rows: Sequence[Robustness]) -> str:
    """Number of images of the rows of one adaptive attack; see `images_of`."""
    return images_of({(row.model, row.defense): row.images for row in rows})


def attack_notes(grid: Grid, attacks: Iterable[str]) -> list[str]:
    """The notes in the configs of these attacks, if there are any."""
    found = {cell.attack: cell.attack_note for cell in grid.cells}
    return [f"{attack}: {found[attack]}." for attack in attacks if found.get(attack)]


def _rates(row: Robustness) -> tuple[Rate | None, ...]:
    return row.clean, row.bare, row.oblivious, row.adaptive, row.all_attacks


def _rate(rate: Rate | None, *, intervals: bool) -> str:
    if rate is None:
        return NOTHING
    if rate.interval is None or not intervals:
        return accuracy(rate.accuracy)
    low, high = rate.interval
    return f"{accuracy(rate.accuracy)} [{low:.0f}, {high:.0f}]"


def _doubling(doubling: Doubling | None) -> str:
    if doubling is None:
        return NOTHING
    return f"{round(-doubling.points, 1) + 0.0:+.1f} ({doubling.images})"


def _cost(cost: Cost | None) -> tuple[str, str]:
    if cost is None:
        return NOTHING, NOTHING
    times = "" if cost.times_bare is None else f" ({rough(cost.times_bare)}×)"
    return passes_words(cost.forwards, cost.backwards), f"{rough(cost.milliseconds)}{times}"
