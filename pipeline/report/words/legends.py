"""What stands below the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report.views.table import LEVEL
from pipeline.report.words.table import DISCORDANT

if TYPE_CHECKING:
    from pipeline.grid.cells import Grid


def oblivious(grid: Grid) -> str:
    """What the accuracy under an oblivious attack says, and which attacks of a grid are not one."""
    knowing = dict.fromkeys(cell.attack for cell in grid.cells if cell.attack_spec.compound)
    but = f" but {', '.join(f'`{attack}`' for attack in knowing)}" if knowing else ""
    return f"""\
Attacks{but} are **oblivious**: the examples were made on the bare model, without any defense, and
then shown to the defended one. So a number says how a defense does against an attacker who does
not know of it, and it bounds from above, up to its interval, what is left against one who does."""


ADAPTIVE = """\
An **adaptive** attack knows the defense and how its random numbers are drawn, but not which will
be: it climbs the log of the mean probability over fresh draws at each step (expectation over
transformation), passes gradients straight through what has none, also tries what transfers from
the bare model, and gives each image the candidate that fails most often on the attacker's own
draws, which is then counted on redraws that no attack has seen. So what it leaves bounds from
above what a stronger attack would leave, up to the interval. The minimum over several attacks,
image by image, is such a bound for a deterministic defense alone: of one that draws at random the
attack is then chosen by the same few redraws that are counted, and chance lowers it."""


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
