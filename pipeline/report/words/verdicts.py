"""Texts about verdicts: a sentence for each defense, and the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.catalogue.claims import Claim
from pipeline.grid.cells import Grid
from pipeline.grid.choices import BARE
from pipeline.plan.words import counted
from pipeline.report.views.adaptive import Rate
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.views.verdicts import Conclusion
from pipeline.report.words.numbers import NOTHING, accuracy, gain, images_range, passes_words
from tasks.evaluation.verdicts import FALLEN, NEGLIGIBLE, Change, Word

HEADING = "Does it hold?"
COLUMNS = (
    "verdict",
    "images",
    "clean",
    "replayed",
    "worst case",
    "bare",
    "gain over bare",
    "over flips and crops",
    "acts on",
    "passes",
    "claimed",
)
IN_WORDS = ("verdict", "claimed")
"""Columns with text instead of numbers."""
MANY = 24
"""Number of sentences above which a summary with a line for each network is shown instead."""
NO_BETTER = "no better than flips and crops"
ORDER: tuple[Word, ...] = ("holds", "no gain", "harms", "undecided", "cannot tell")

READING = """\
Worst-case (robust) accuracy is measured under an adaptive attack: the attacker knows the defense,
but not the random numbers it draws, and each image counts under the example that the defense most
often misclassifies. *Bare* is the same network without the defense. A defense **holds** where the
99 % interval of its gain over bare lies above zero, and **harms** where it lies below."""

CAPTION = """\
Worst-case accuracy of each defense in percent with 95 % intervals, and its gain over the network
without a defense in points with 99 % intervals."""

TERMS = """\
Images: number of test images in the row. Bare: accuracy of the network without the defense under
the attack of the row, on the same images; the gain compares with it. Replayed: accuracy under
adversarial examples that were crafted against the bare network, for the attack that lowers it most;
an upper bound. Over flips and crops: worst-case accuracy minus that of plain test-time augmentation
with the same number of passes, in points. Acts on: share of predictions that differ from the bare
network's, on all clean images of the cell, which may be more than the row's, and in the worst case
(%). Passes: forward + backward passes through the network for one prediction."""

LEGEND = f"""\
Worst case: accuracy under an adaptive attack. The attacker knows the defense, but not the random
numbers it draws, and for each image keeps the candidate example on which the defense fails most
often on the attacker's own draws. Accuracy is then measured on separate redraws, with a Wilson
95 % interval. The bare network is attacked with the same budget. The gain is the difference to
the bare network in points, with a 99 % interval over images: the inverted sign-flip test,
widened by the exact binomial bound where few images differ. A defense **holds** where this
interval lies above zero and **harms** where it lies below. **No gain** means that the interval
contains zero and ends at {NEGLIGIBLE:g} points or less; **undecided**, that it contains zero and
ends above {NEGLIGIBLE:g} points. **Cannot tell** means that the attack has a single candidate, that
an integrity card failed (if it only shows too weak an attack on the defense, **harms** and **no
gain** stand), or that the accuracy of the bare network is {FALLEN:g} % or less. No verdict depends
on which other defenses are listed."""

THREAT = """\
Threat model: white box. The attacker knows the network, the defense, its parameters, the
distribution of its random numbers but not the numbers drawn, and the true label; the named budget
is the only limit on queries. A stronger attack may lower the accuracy further, so "holds" is a
result for this attack, these images and these weights, not a guarantee; "harms" and "no gain" are
observed."""


CLAIMS = """\
Published results, each for a network of its source. Where the source crafted the adversarial
examples against the network alone (`bare attacked`), compare the claim with the column replayed."""


def subjects(rows: Sequence[VerdictRow]) -> list[VerdictRow]:
    """The rows about defenses, without the bare network and controls."""
    return [row for row in rows if row.defense != BARE and not row.is_control]


def about(rows: Sequence[VerdictRow]) -> str:
    """Heading of one network's rows: network, attack, ball and number of images."""
    counts = [row.images for row in rows if row.images] or [0]
    images = images_range(min(counts), max(counts))
    attacks = ", ".join(dict.fromkeys(row.attack for row in rows))
    balls = ", ".join(dict.fromkeys(row.ball for row in rows))
    return f"{rows[0].model}: {balls}, {attacks}, {images}"


def verdict_words(row: VerdictRow) -> str:
    """`holds, at a cost of 12.0 points of clean accuracy, no better than flips and crops`."""
    words: list[str] = [row.verdict.word]
    if row.costs_accuracy and row.clean_change is not None:
        words.append(f"at a cost of {-row.clean_change.points:.1f} points of clean accuracy")
    if _no_better(row):
        words.append(NO_BETTER)
    if row.hides_gradients:
        words.append("hides gradients")
    return ", ".join(words)


def sentence(row: VerdictRow) -> str:
    """The verdict on one defense on one network, in Markdown."""
    name = f"{_name(row)} on {row.model}: "
    if row.verdict.word == "cannot tell":
        return f"{name}**cannot tell**: {row.verdict.why}."
    assert row.gain is not None
    assert row.worst is not None
    assert row.without is not None
    worst = f"worst-case accuracy {accuracy(row.worst.accuracy)} %"
    if row.worst.interval is not None:
        worst += " [{:.0f}, {:.0f}]".format(*row.worst.interval)
    both = f"{_capital(worst)}, {accuracy(row.without.accuracy)} % without the defense"
    words = verdict_words(row)
    found = f"{name}**{row.verdict.word}**{words[len(row.verdict.word) :]}. {both}: "
    found += f"gain {_change(row.gain)} points"
    if row.verdict.needed is not None:
        found += f". About {row.verdict.needed:,} images would decide if the gain stayed the same"
    if row.verdict.why:
        found += f", an upper bound: {row.verdict.why}"
    return f"{found}."


def judged_sentence(rows: Sequence[VerdictRow], answer: Conclusion) -> str:
    """The verdict on one defense on some networks, with their names and data set.

    If the networks differ in the number of images or in the attack, these follow each network. They
    differ if a larger budget was finished on some of the networks only. Uninformative networks are
    named only if there are no others.
    """
    rows = [row for row in rows if not row.verdict.fallen] or rows
    first = rows[0]
    bases = {
        row.model: f"{counted(row.images, 'image')}, {row.attack}"
        if row.images
        else "nothing was scored"
        for row in rows
    }
    if len(set(bases.values())) == 1:
        where = f"{' and '.join(bases)}, {bases[first.model]}"
    else:
        where = " and ".join(f"{model} ({basis})" for model, basis in bases.items())
    said = {
        "holds": f"`{first.defense}` **holds** on {first.dataset}",
        "does not hold": f"`{first.defense}` **does not hold** on {first.dataset}",
        "cannot tell": f"whether `{first.defense}` holds on {first.dataset} **cannot be told**",
    }[answer]
    return f"{_capital(said)}: {where}, {first.ball}."


def plain(text: str) -> str:
    """A line of Markdown without markup, for a terminal."""
    return text.replace("**", "").replace("`", "")


def known(rows: Sequence[VerdictRow]) -> list[VerdictRow]:
    """The rows that have values to show."""
    return [row for row in rows if row.computed]


def sentences(rows: Sequence[VerdictRow]) -> list[str]:
    """The verdict on each defense on each network, or on the bare network if it is alone.

    Defenses that were not computed are named in a final line for each network.
    """
    about = subjects(rows) or rows
    return [*map(sentence, known(about)), *_not_computed(about)]


def _not_computed(rows: Sequence[VerdictRow]) -> Iterator[str]:
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        waiting = [row for row in own if not row.computed and row.worst is not None]
        if waiting:
            attacks = ", ".join(dict.fromkeys(row.attack for row in waiting))
            yield (
                f"On {model}, no verdict on {_names(waiting)}: `{BARE}` under {attacks} is not "
                "computed."
            )
        absent = [row for row in own if not row.computed and row.worst is None]
        if absent:
            every = 1 < len(absent) == len(own)
            on = "any defense" if every else _names(absent)
            yield f"On {model}, not computed: an adaptive attack on {on}."


def _names(rows: Sequence[VerdictRow]) -> str:
    return ", ".join(_name(row) + (f" ({NO_BETTER})" if _no_better(row) else "") for row in rows)


def _no_better(row: VerdictRow) -> bool:
    """Whether a defense holds, but flips and crops of the same cost do as well."""
    return row.verdict.word == "holds" and row.beats_control is False


def _name(row: VerdictRow) -> str:
    """The row's title, with the defense as code: "`guo` (linf 8/255)"."""
    return row.title.replace(row.defense, f"`{row.defense}`", 1)


def summary(rows: Sequence[VerdictRow]) -> list[str]:
    """A line for each network: which defenses hold, gain nothing, or harm."""
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        own = known([row for row in subjects(rows) if row.model == model])
        words = []
        for word in ORDER:
            alike = [row for row in own if row.verdict.word == word]
            if alike:
                words.append(f"**{word}**{_fallen(alike)}: {_names(alike)}")
            elif word == "holds":
                words.append("no defense **holds**")
        if own:
            lines.append(f"On {model}, {'; '.join(words)}.")
    return [*lines, *_not_computed(subjects(rows))]


def _fallen(rows: Sequence[VerdictRow]) -> str:
    """Why rows of a network are uninformative, if the reason is the network without a defense."""
    if not all(row.verdict.fallen for row in rows):
        return ""
    return f", since the accuracy without a defense is at most {FALLEN:g} %"


def answers(rows: Sequence[VerdictRow], most: int = MANY) -> list[str]:
    """The `sentences`, or the `summary` if there are more than `most` of them."""
    told = sentences(rows)
    return told if len(told) <= most else summary(rows)


def without_verdict(grid: Grid) -> str:
    """Text shown if nothing was attacked adaptively; otherwise empty."""
    if any(cell.attack_spec.compound for cell in grid.cells):
        return ""
    return (
        "No verdict: no attack of this grid knows the defense, so the accuracy of a defense is an "
        f"upper bound. `pipeline run --grid {grid.name} --adaptive quick`, with the other options "
        "of this run, adds an adaptive attack."
    )


def row_words(row: VerdictRow) -> list[str]:
    """The texts of a row, in the order of `COLUMNS`."""
    clean = _rate(row.clean)
    if row.clean_change is not None and row.defense != BARE:
        clean += f" ({gain(row.clean_change.points)})"
    passes = NOTHING
    if row.cost is not None:
        passes = passes_words(row.cost.forwards, row.cost.backwards)
    return [
        verdict_words(row),
        f"{row.images:,}" if row.images else NOTHING,
        clean,
        _rate(row.replayed),
        _rate(row.worst),
        NOTHING if row.without is None else accuracy(row.without.accuracy),
        _change(row.gain),
        _change(row.over_control),
        _acts_on(row),
        passes,
        claimed_words(row),
    ]


def claimed_words(row: VerdictRow) -> str:
    """`42.5 → 60.9, bare attacked`: the first claim, preferably about this network."""
    for claim in row.claims:
        return _claim(claim)
    return NOTHING


def claim_lines(rows: Sequence[VerdictRow]) -> list[str]:
    """All claims about the defenses of these rows, a line of Markdown for each source."""
    found = dict.fromkeys(claim for row in rows for claim in row.claims)
    lines = []
    for source, by in dict.fromkeys((claim.source, claim.by) for claim in found):
        own = [_claim_told(claim) for claim in found if claim.source == source]
        who = "" if by == "authors" else " (not by its authors)"
        lines.append(f"{source}{who}: {'; '.join(own)}.")
    return lines


def _claim_told(claim: Claim) -> str:
    size = f" at {claim.epsilon:g}/255" if claim.epsilon is not None else ""
    images = f", {claim.images:,} images" if claim.images is not None else ""
    where = f"{claim.attack}{size}, {claim.network}, {claim.dataset}{images}"
    return f"`{claim.defense}` {_claim(claim)} ({where})"


def _claim(claim: Claim) -> str:
    before = NOTHING if claim.before is None else accuracy(claim.before)
    return f"{before} → {accuracy(claim.after)}, {claim.attacked} attacked"


def _acts_on(row: VerdictRow) -> str:
    """`2.0, 15.3`: on clean images, then in the worst case."""
    if row.acts_on is None and row.acts_on_clean is None:
        return NOTHING
    return f"{accuracy(row.acts_on_clean)}, {accuracy(row.acts_on)}"


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return NOTHING
    if rate.interval is None:
        return accuracy(rate.accuracy)
    low, high = rate.interval
    return f"{accuracy(rate.accuracy)} [{low:.0f}, {high:.0f}]"


def _change(change: Change | None) -> str:
    if change is None:
        return NOTHING
    return f"{_signed(change.points)} [{_signed(change.low)}, {_signed(change.high)}]"


def _signed(points: float) -> str:
    """Points with their sign; values that round to zero have none."""
    return gain(points) if round(points, 1) else "0.0"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def notes(rows: Sequence[VerdictRow]) -> Iterator[str]:
    """Remarks below the table of these rows."""
    expensive = [
        row for row in subjects(rows) if row.cost and row.cost.forwards + row.cost.backwards > 1
    ]
    if expensive and all(row.control is None for row in expensive):
        yield "No flips and crops of equal cost are among the cells (`equal_cost: flip-crop`)."
    yield from _other_devices(rows)
    yield from _lower(rows)
    for row in rows:
        if row.hidden is not None and row.hides_gradients:
            count = row.hidden.images
            on = "" if count == row.images else f", both on {counted(count, 'image')}"
            yield (
                f"{_name(row)} on {row.model} hides gradients: under a single gradient ascent "
                f"from the clean image, its gain is {_change(row.hidden)} points higher than in "
                f"the worst case{on}."
            )


def _lower(rows: Sequence[VerdictRow]) -> Iterator[str]:
    """Which attacks of the table left a defense less than the one that decides."""
    for row in rows:
        if row.lower is not None:
            attack, left = row.lower
            yield (
                f"`{attack}` leaves {_name(row)} on {row.model} only {_rate(left)} % of the same "
                "images. The row is about one attack on both the defense and the bare network: "
                f"of those made on both, `{row.attack}` has the most candidates."
            )


def _other_devices(rows: Sequence[VerdictRow]) -> Iterator[str]:
    """Which rows were computed on another device than the bare network that they compare with."""
    found: dict[tuple[str, str, str], list[VerdictRow]] = {}
    for row in rows:
        if row.device and row.bare_device and row.device != row.bare_device:
            found.setdefault((row.model, row.device, row.bare_device), []).append(row)
    for (model, device, bare_device), own in found.items():
        yield (
            f"Computed on {device}, with `{BARE}` computed on {bare_device}, on {model}: "
            f"{_names(own)}. The two round differently, so that an attack finds other examples."
        )
