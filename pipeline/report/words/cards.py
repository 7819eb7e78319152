"""Texts about integrity cards: what did not pass, by model and by cell."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.report.cards import Card
from pipeline.report.words.numbers import NOTHING

NAMES = ("model and defense", "attack", "card", "what did not pass", "draws", "images")

LEGEND = """\
An integrity card compares several attacks on the same model: where their results contradict one
another, a number may say more about the attack than about the defense. Where a card **fails**, the
gain is not bold and a footnote under its table says why; a **warning** does neither. Cells with
replayed examples use the card of the bare model, against which the examples were crafted. The
budget of a card is a quarter of its adaptive cell's own compute (`--card full` lifts that limit).
Its predictions are means over the number of draws in the column draws. Where these are fewer than
the defense's own, its accuracies are few-draw accuracies: they compare with one another, and not
with those of a table."""


def card_rows(cards: Mapping[str, Card]) -> list[tuple[str, ...]]:
    """The texts of a row for each examined model, in the order of `NAMES`."""
    return list(dict.fromkeys(_row(card) for card in cards.values()))


def stored_lines(cards: Mapping[str, Card]) -> list[str]:
    """Checks of stored answers that did not pass, a line of Markdown each."""
    return [
        f"`{name}`: {finding.check} ({finding.verdict}): {finding.words}"
        for name, card in cards.items()
        for finding in card.stored
        if finding.verdict in {"warn", "fail"}
    ]


def _row(card: Card) -> tuple[str, ...]:
    """A model's card, which is the same for all cells that share it."""
    found = [finding for finding in card.not_passed() if finding in card.model]
    words = "; ".join(f"{finding.check} ({finding.verdict}): {finding.words}" for finding in found)
    verdict = card.examined
    if not card.model:
        words = "not computed"
    images = str(card.images)
    return (
        card.of,
        card.attack or "replayed",
        verdict,
        words or NOTHING,
        card.draws_words,
        images,
    )
