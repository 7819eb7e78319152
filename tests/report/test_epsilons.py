from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from made_up import make_grid, make_scores
from matplotlib.figure import Figure
from statsmodels.stats.proportion import proportion_confint

from pipeline.grid.cells import Grid
from pipeline.report.cards import Card
from pipeline.report.formats.figures.drawings import epsilon_drawing
from pipeline.report.formats.figures.points import draw_epsilons
from pipeline.report.scores import Scores
from pipeline.report.views.epsilons import Epsilons, by_epsilon, epsilons
from pipeline.report.views.table_rows import views
from tasks.integrity.findings import found

MEASURED = {"0/255": 90.0, "128/255": 0.0, "16/255": 2.5, "8/255": 10.0}


def examined(of: str, attack: str | None = None, images: int = 40) -> Card:
    return Card(of, images, attack=attack, model=(found("epsilon", MEASURED, "does not grow"),))


def scored(grid: Grid, cards: dict[str, Card]) -> Scores:
    return dataclasses.replace(make_scores(grid), cards=cards)


def seen(grid: Grid, scores: Scores) -> Epsilons | None:
    (view,) = views(grid, scores)
    return epsilons(view, grid, scores)


@pytest.fixture
def grid() -> Grid:
    """A bare and three defended models, replayed and attacked adaptively."""
    return make_grid(("untargeted-pgd10", "adaptive-quick"), models=("demo-iat",))


@pytest.fixture
def cards() -> dict[str, Card]:
    """As the program makes them: what is replayed has the card of the bare model."""
    bare, own = examined("demo-iat/none"), examined("demo-iat/guo", "adaptive-quick", images=20)
    return {
        "demo-iat/untargeted-pgd10/none": bare,
        "demo-iat/untargeted-pgd10/guo": bare,
        "demo-iat/adaptive-quick/none": bare,
        "demo-iat/adaptive-quick/guo": own,
    }


def test_a_card_gives_the_accuracies_by_ascending_epsilon_with_their_intervals() -> None:
    points = list(by_epsilon(examined("demo-iat/guo")))
    assert [(point.epsilon, point.accuracy) for point in points] == [
        (0.0, 90.0),
        (8.0, 10.0),
        (16.0, 2.5),
        (128.0, 0.0),
    ]
    low, high = proportion_confint(36, 40, method="wilson")
    assert points[0].interval == pytest.approx((100 * low, 100 * high))
    assert list(by_epsilon(Card("demo-iat/guo", 40))) == []


def test_a_defense_is_drawn_from_its_own_card_beside_the_bare_model_and_not_without_one(
    grid: Grid, cards: dict[str, Card]
) -> None:
    drawn = seen(grid, scored(grid, cards))
    assert drawn is not None
    (panel,) = drawn.panels
    assert panel.model == "demo-iat"
    assert [(curve.defense, curve.images) for curve in panel.curves] == [("none", 40), ("guo", 20)]


def test_the_bare_model_is_drawn_in_the_ball_of_the_attack_on_the_defenses(
    grid: Grid, cards: dict[str, Card]
) -> None:
    other = {f"{size}/255": 50.0 for size in (0, 32, 64, 128)}
    cards["demo-iat/untargeted-pgd10/none"] = Card(
        "demo-iat/none", 40, model=(found("epsilon", other, "in another ball"),)
    )
    drawn = seen(grid, scored(grid, cards))
    assert drawn is not None
    assert [[p.epsilon for p in c.points] for c in drawn.panels[0].curves] == [[0, 8, 16, 128]] * 2


def test_nothing_is_drawn_without_a_card_of_a_defended_model(
    grid: Grid, cards: dict[str, Card]
) -> None:
    assert seen(grid, scored(grid, {})) is None
    replayed = {name: card for name, card in cards.items() if card.attack is None}
    assert seen(grid, scored(grid, replayed)) is None


def test_a_table_of_replayed_attacks_alone_does_not_repeat_the_figure(
    grid: Grid, cards: dict[str, Card]
) -> None:
    replayed = dataclasses.replace(grid.tables[0], attacks=("untargeted-pgd10",))
    assert seen(dataclasses.replace(grid, tables=(replayed,)), scored(grid, cards)) is None


def test_the_figure_tells_how_many_images_and_draws_every_curve(
    grid: Grid, cards: dict[str, Card], tmp_path: Path
) -> None:
    scores = scored(grid, cards)
    (view,) = views(grid, scores)
    drawing = epsilon_drawing(view, "table-epsilon", grid, scores)
    assert drawing is not None
    assert "Number of images: 40 (20 for guo)." in drawing.caption
    assert "(table-epsilon.svg)" in drawing.markdown
    drawn = seen(grid, scores)
    assert drawn is not None
    for name in ("first.svg", "second.svg"):
        draw_epsilons(drawn, tmp_path / name, "svg")
    drawn_twice = [(tmp_path / name).read_text() for name in ("first.svg", "second.svg")]
    assert drawn_twice[0] == drawn_twice[1]
    # a line for each of the two curves, in colours that eyes tell apart
    assert all(f"stroke: {colour}" in drawn_twice[0].lower() for colour in ("#0072b2", "#009e73"))


def test_the_legend_says_on_how_many_images_each_curve_is_where_they_differ(
    grid: Grid, cards: dict[str, Card], tmp_path: Path, drawn: list[Figure]
) -> None:
    same = {**cards, "demo-iat/adaptive-quick/guo": examined("demo-iat/guo", "adaptive-quick")}
    labels = []
    for each in (cards, same):
        shown = seen(grid, scored(grid, each))
        assert shown is not None
        draw_epsilons(shown, tmp_path / "epsilon.svg", "svg")
        labels.append([text.get_text() for text in drawn[-1].legends[0].get_texts()])
    assert labels == [["none (40 images)", "guo (20 images)"], ["none", "guo"]]


def test_intervals_of_a_curve_are_of_counts_and_exact_where_every_image_is_right() -> None:
    measured = {"0/255": 100.0, "8/255": 100 * 29 / 100, "16/255": 0.0}
    card = Card("demo-iat/guo", 100, model=(found("epsilon", measured, "does not grow"),))
    first, second, third = by_epsilon(card)
    assert first.interval[1] == 100
    assert third.interval[0] == 0
    low, high = proportion_confint(29, 100, method="wilson")
    assert second.interval == pytest.approx((100 * low, 100 * high), abs=1e-12)


def test_a_curve_of_fewer_draws_than_the_tables_is_called_another_accuracy(
    grid: Grid, cards: dict[str, Card], tmp_path: Path
) -> None:
    own = dataclasses.replace(cards["demo-iat/adaptive-quick/guo"], draws=5, own_draws=50)
    scores = scored(grid, {**cards, "demo-iat/adaptive-quick/guo": own})
    (view,) = views(grid, scores)
    drawing = epsilon_drawing(view, "table-epsilon", grid, scores)
    assert drawing is not None
    assert "These are few-draw accuracies" in drawing.caption
    assert "(guo 5 of 50)" in drawing.caption
    plain = epsilon_drawing(view, "table-epsilon", grid, scored(grid, cards))
    assert plain is not None
    assert "few-draw" not in plain.caption
