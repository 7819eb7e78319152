from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from made_up import make_grid, make_scores
from matplotlib.figure import Figure

from pipeline.catalogue.grid_entries import FigureEntry
from pipeline.grid.cells import Grid
from pipeline.report.formats.figures.drawings import cost_drawing
from pipeline.report.formats.figures.points import APART, draw_costs, side_by_side
from pipeline.report.scores import Scores
from pipeline.report.views.costs import Costs, costs, passes, prediction_costs
from pipeline.report.views.table_rows import views

PASSES = {"none": 1.0, "counter": 11.0, "guo": 50.0, "counter+guo": 60.0}
DEFENSES = tuple(PASSES)


def priced(grid: Grid) -> Scores:
    scores = make_scores(grid)
    facts = {
        cell.name: {
            **scores.facts[cell.name],
            "forwards_per_prediction": PASSES[cell.defense] - 1,
            "backwards_per_prediction": 1.0,
        }
        for cell in grid.cells
    }
    return dataclasses.replace(scores, facts=facts)


def found(grid: Grid, scores: Scores) -> Costs | None:
    (view,) = views(grid, scores)
    return costs(view, grid, scores)


def test_a_defense_is_drawn_at_its_passes_under_the_attack_that_leaves_it_the_least() -> None:
    grid = make_grid(("untargeted-pgd10", "targeted-pgd10"))
    drawn = found(grid, priced(grid))
    assert drawn is not None
    assert [panel.model for panel in drawn.panels] == ["demo-mixup", "demo-iat"]
    assert {point.defense: point.passes for point in drawn.panels[0].points} == PASSES
    first = drawn.panels[0].points[0]
    # the made-up scores rise from cell to cell
    assert (first.attack, first.accuracy, first.interval) == (
        "untargeted-pgd10",
        20.0,
        (15.0, 25.25),
    )
    assert drawn.defenses == DEFENSES


def test_nothing_is_drawn_of_equal_costs_of_few_defenses_or_of_a_sweep() -> None:
    grid = make_grid(("clean",), models=("demo-iat",))
    assert found(grid, make_scores(grid)) is None
    few = Grid("demo", "", grid.cells[:2], grid.tables)
    assert found(few, priced(few)) is None
    swept = dataclasses.replace(grid.tables[0], figure=FigureEntry(x="step_size"))
    grid = dataclasses.replace(grid, tables=(swept,))
    assert found(grid, priced(grid)) is None


@pytest.mark.parametrize("strong", [True, False])
def test_a_defense_without_an_adaptive_accuracy_is_left_out_and_named(strong: bool) -> None:
    attacks = ("untargeted-pgd10", "direct", "adaptive-quick") if strong else ("direct",)
    grid = make_grid(("clean", *attacks), models=("demo-iat",))
    scores = priced(grid)
    missing = "demo-iat/adaptive-quick/guo" if strong else "demo-iat/direct/guo"
    scores = dataclasses.replace(scores, missing={missing: "not computed"})
    scores = dataclasses.replace(
        scores, facts={name: each for name, each in scores.facts.items() if name != missing}
    )
    drawn = found(grid, scores)
    assert drawn is not None
    assert drawn.defenses == ("none", "counter", "counter+guo")
    assert drawn.left_out == ("demo-iat/guo",)
    (view,) = views(grid, scores)
    drawing = cost_drawing(view, "table-cost", grid, scores)
    assert drawing is not None
    assert drawing.alt == "Lowest accuracy of each defense by number of passes"
    assert "1 row left out, without an adaptive accuracy: demo-iat/guo." in drawing.caption


def test_passes_are_forwards_and_backwards_together() -> None:
    both = {"forwards_per_prediction": 2.0, "backwards_per_prediction": 9.0}
    assert passes(both) == 11.0
    assert passes({"forwards_per_prediction": 2.0}) == 2.0
    assert passes({}) is None


def test_times_of_two_devices_are_neither_joined_nor_divided() -> None:
    grid = make_grid(("clean", "untargeted-pgd10"), models=("demo-iat",))
    seconds = {"none": 0.01, "guo": 0.5, "counter": 0.11, "counter+guo": 0.6}
    cpu, gpu = "x86_64 CPU", "NVIDIA H100"
    devices = {cell.name: cpu for cell in grid.cells}
    for name in ("clean/none", "untargeted-pgd10/counter"):
        devices[f"demo-iat/{name}"] = gpu
    devices["demo-iat/untargeted-pgd10/none"] = gpu
    scores = priced(grid)
    facts = {
        cell.name: {
            **scores.facts[cell.name],
            "seconds_per_prediction": seconds[cell.defense]
            / (100 if devices[cell.name] == gpu else 1),
        }
        for cell in grid.cells
    }
    scores = dataclasses.replace(scores, facts=facts, devices=devices)
    told = {
        name.removeprefix("demo-iat/"): (round(cost.milliseconds, 6), cost.times_bare)
        for name, cost in prediction_costs(grid, scores).items()
    }
    assert told["clean/guo"] == (500.0, None)
    assert told["clean/counter"] == (110.0, None)
    assert told["untargeted-pgd10/counter"] == (1.1, pytest.approx(11.0))
    assert told["clean/none"] == (0.1, 1.0)
    mixed = dict.fromkeys(devices, f"{gpu}, {cpu}")
    costs_of = prediction_costs(grid, dataclasses.replace(scores, devices=mixed))
    assert costs_of["demo-iat/clean/guo"].times_bare is None


def test_equal_costs_give_equal_bytes_and_every_defense_is_in_the_legend(tmp_path: Path) -> None:
    grid = make_grid(("clean",))
    drawn = found(grid, priced(grid))
    assert drawn is not None
    paths = [tmp_path / name for name in ("one.svg", "two.svg")]
    for path in paths:
        draw_costs(drawn, path, "svg")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    names = {group.get("id") for group in ET.parse(paths[0]).iter() if group.get("id")}  # noqa: S314
    assert "legend_1" in names


def test_a_defense_has_the_colour_of_its_place_in_the_grid(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    grid = make_grid(("clean",), models=("demo-iat",))
    (table,) = grid.tables
    few = dataclasses.replace(grid, tables=(dataclasses.replace(table, defenses=DEFENSES[1:]),))
    several = dataclasses.replace(grid, tables=(table, *few.tables))
    scores = priced(grid)
    looks = []
    for view in views(several, scores):
        shown = costs(view, several, scores)
        assert shown is not None
        draw_costs(shown, tmp_path / "cost.svg", "svg")
        (axes,) = drawn[-1].axes
        looks.append([(bar[0].get_color(), bar[0].get_marker()) for bar in axes.containers])
    assert looks[1] == looks[0][1:]


def test_the_axis_says_that_equal_costs_are_drawn_side_by_side(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    grid = make_grid(("clean",))
    shown = found(grid, priced(grid))
    assert shown is not None
    draw_costs(shown, tmp_path / "cost.svg", "svg")
    for axes in drawn[0].axes:
        assert "equal ones drawn side by side" in axes.get_xlabel()


def test_marks_that_would_lie_on_one_another_stand_side_by_side_and_others_where_they_are() -> None:
    gap = APART * 10
    moved = side_by_side([50.0, 60.0, 50.0, 50.0, 55.0], logarithmic=False)
    assert [round(place, 6) for place in moved] == [50 - gap, 60, 50, 50 + gap, 55]
    # what moves onto a neighbour takes it along, and the order stays
    crowd = side_by_side([0.0, 1.0, 1.0, 1.0 + gap, 10.0], logarithmic=False)
    assert crowd[0] == 0.0
    assert crowd[4] == 10.0
    for one, other in itertools.pairwise(sorted(crowd)):
        assert other - one >= gap - 1e-9
    assert sorted(crowd) == crowd
    wide = side_by_side([1.0, 50.0, 50.0], logarithmic=True)
    assert wide[0] == pytest.approx(1.0)
    assert wide[2] / wide[1] == pytest.approx(50**APART)
    assert side_by_side([7.0, 7.0, 7.0], logarithmic=False) == [7.0, 7.0, 7.0]
