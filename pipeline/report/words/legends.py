"""Explanations below the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report.views.table import LEVEL
from pipeline.report.words.table import DISCORDANT

if TYPE_CHECKING:
    from pipeline.grid.cells import Grid


def oblivious(grid: Grid) -> str:
    """What accuracy under a replayed attack means, and which attacks of a grid are not replayed."""
    knowing = dict.fromkeys(cell.attack for cell in grid.cells if cell.attack_spec.compound)
    but = f" except {', '.join(f'`{attack}`' for attack in knowing)}" if knowing else ""
    return f"""\
All attacks{but} are **oblivious**: the adversarial examples were crafted against the bare model,
without any defense, and then replayed on the defended one. So the accuracy is that against an
attacker who does not know the defense. It is an upper bound, up to its interval, on the accuracy
against one who does."""


ADAPTIVE = """\
An **adaptive** attack knows the defense and the distribution of its random numbers, but not the
numbers drawn. Its gradient ascent is on the log of the mean probability over fresh draws at
each step (expectation over transformation, EOT), with straight-through gradients where an operation
has none. It also tries examples transferred from the bare model. For each image it keeps the
candidate on which the defense fails most often, on the attacker's own draws; accuracy is then
measured on redraws that no attack has seen. The result is an upper bound, up to the interval, on
the accuracy under a stronger attack. The minimum over several attacks, image by image, is such a
bound for a deterministic defense only: for a randomised one, the attack is then chosen on the same
few redraws that are counted, and chance lowers the result."""


INTERVALS = """\
Accuracy is in percent and always refers to the true label: it is the mean over images of the share
of redraws that are correct, each redraw being a whole prediction of the defense. Intervals are
Wilson 95 % intervals over images, whatever the number of redraws. They are conditional on the
trained weights: the accuracy of another training run may lie outside. Where several seeds are
averaged, the interval is empty and `seed_spread` is the standard deviation over seeds."""


GAINS = f"""\
In parentheses is the gain in points, computed from unrounded accuracies of the same run and seed.
A defense marked `deterministic` draws no random numbers, so it is evaluated once.

A gain or loss is **bold** only where it is significant at {100 * LEVEL:g} %: by the two-sided exact
permutation test that flips the signs of per-image differences (with one redraw each, the exact
McNemar test), with Holm's correction over all gains of the table. Several seeds are tested
together: the differences of an image are added up before their sign is flipped. Like the intervals,
the test is conditional on the trained weights. Below each table is the smallest gain that would be
significant at the strictest level of Holm's method, with one redraw, if predictions differed on
{100 * DISCORDANT:g} % of the images; where fewer differ, smaller gains are significant too.
A gain that is not bold has not been shown, which does not mean that there is none."""


BESIDE = """\
Next to a measured accuracy is the number that the paper published, if it did. Whether that number
lies inside or outside the measured interval is judged only where data set, network, recipe, attack
and defense are those of the paper; elsewhere the verdict names the first that differs, and all
differences are listed below the table. A mean over seeds has no interval and is not judged
(results.csv judges each seed). A published upper bound is inside where the interval reaches it or
lies below it."""
