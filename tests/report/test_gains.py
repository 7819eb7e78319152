"""Gains in tables: which are significant, which are bold, and what is said of the others."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from made_up import make_facts, make_grid, read_csv
from rich.console import Console
from scipy.stats import binomtest

from pipeline.grid.cells import Grid
from pipeline.report.answers import Answers, PerImage
from pipeline.report.formats.markdown import table_markdown
from pipeline.report.formats.terminal import render_terminal
from pipeline.report.scores import Scores
from pipeline.report.views.table import Entry
from pipeline.report.views.table_rows import views
from pipeline.report.words.table import caption
from pipeline.report.writer import write_report
from tasks.data.spec import DatasetSpec

BASES = {"counter": "none", "counter+guo": "guo"}


def scores_from(right: Mapping[str, np.ndarray]) -> Scores:
    """Scores of cells whose right answers, bool [N, R], are given."""

    def read(name: str) -> Answers:
        ids = np.arange(len(right[name]))
        return Answers(ids, ids % 10, right[name])

    facts = {
        name: {**make_facts(100 * float(found.mean())), "images": len(found)}
        for name, found in right.items()
    }
    return Scores(facts, per_image=PerImage(read))


def shifted(wins: int, losses: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers to the same images, and a baseline's, that differ on some."""
    first, base = np.ones((2, images, 1), dtype=bool)
    base[:wins] = False
    first[wins : wins + losses] = False
    return first, base


def one_model(attacks: tuple[str, ...] = ("clean",), seeds: int = 1) -> Grid:
    return make_grid(attacks, models=("demo-iat",), seeds=seeds)


def scored(gains: Mapping[str, tuple[int, int]], images: int) -> Scores:
    """Scores of one model's clean cells: wins and losses over its baseline by defense."""
    right = {}
    for defense, (wins, losses) in gains.items():
        pair = shifted(wins, losses, images)
        for label, found in zip((defense, BASES[defense]), pair, strict=True):
            right[f"demo-iat/clean/{label}"] = found
    return scores_from(right)


def test_p_values_are_exact_mcnemars_with_holms_correction_over_the_table():
    (view,) = views(one_model(), scored({"counter": (20, 4), "counter+guo": (12, 3)}, 300))
    found = {row.defense: row.entries[0] for row in view.rows}
    first, second = binomtest(20, 24).pvalue, binomtest(12, 15).pvalue
    assert found["counter"].p_value == pytest.approx(first)
    assert found["counter"].p_holm == pytest.approx(2 * first)
    assert found["counter+guo"].p_value == found["counter+guo"].p_holm == pytest.approx(second)
    assert found["none"].p_value is found["none"].p_holm is found["none"].significant is None


def over_clean(**changes: object) -> tuple[Grid, Entry]:
    """A table of gains over the clean column, and the entry of an attack on 100 of 300 images."""
    grid = one_model(("clean", "untargeted-pgd10"))
    (table,) = grid.tables
    table = dataclasses.replace(table, gains_of=None, gains_over="clean")
    cells = tuple(
        dataclasses.replace(cell, **changes) if cell.attack == "clean" else cell
        for cell in grid.cells
    )
    grid = dataclasses.replace(grid, cells=cells, tables=(table,))
    # of the first 100 clean images 60 are right, of all 300 only 20 %
    clean = (np.arange(300) < 60)[:, None]
    attacked = (np.arange(100) < 50)[:, None]
    names = [cell.name for cell in grid.cells]
    scores = scores_from({name: clean if "/clean/" in name else attacked for name in names})
    (view,) = views(grid, scores)
    return grid, {row.defense: row for row in view.rows}["guo"].entries[1]


def test_a_gain_over_a_column_of_more_images_is_about_the_images_of_both():
    _, entry = over_clean()
    assert entry.gain == pytest.approx(-10.0)
    assert entry.p_value == pytest.approx(binomtest(0, 10).pvalue)
    assert entry.untested is None


def test_there_is_no_gain_over_a_cell_of_other_images():
    other = DatasetSpec(kind="cifar", classes=10, channels=3, side=32)
    _, entry = over_clean(dataset_spec=other, dataset="cifar10")
    assert (entry.gain, entry.p_value) == (None, None)


def test_only_a_significant_gain_is_bold_in_markdown():
    # alone, 12 wins and 3 losses would be significant at 5 %; among several gains they are not
    assert binomtest(13, 17).pvalue < 0.05 < 2 * binomtest(13, 17).pvalue
    scores = scored({"counter": (13, 4), "counter+guo": (12, 4)}, 300)
    text = table_markdown(views(one_model(), scores)[0])
    assert "**" not in text
    assert "2 gains tested, 0 significant at 5 % (bold)." in text
    text = table_markdown(
        views(one_model(), scored({"counter": (40, 4), "counter+guo": (12, 4)}, 300))[0]
    )
    assert "| 98.7 (**+12.0**) |" in text
    assert "| 98.7 (+2.7) |" in text
    assert "2 gains tested, 1 significant at 5 % (bold)." in text


def test_a_significant_loss_is_bold_too():
    text = table_markdown(views(one_model(), scored({"counter": (2, 30)}, 300))[0])
    assert "(**-9.3**)" in text


def test_the_terminal_shows_a_significant_gain_in_bold_and_no_other():
    scores = scored({"counter": (40, 4), "counter+guo": (12, 4)}, 300)
    console = Console(
        file=io.StringIO(), width=80, force_terminal=True, color_system="standard", _environ={}
    )
    console.print(render_terminal(one_model(), scores, width=80))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    (strong,) = [line for line in lines if "+12.0" in line]
    (plain,) = [line for line in lines if "+2.7" in line]
    assert "\x1b[1;32m(+12.0)" in strong
    assert "\x1b[32m(+2.7)" in plain
    assert "\x1b[1" not in plain


def test_where_nothing_can_be_bold_nothing_is_said_of_bold():
    console = Console(file=io.StringIO(), width=80)
    scores = scored({"counter": (40, 4), "counter+guo": (12, 4)}, 300)
    console.print(render_terminal(one_model(), scores, width=80, bold=console.is_terminal))
    assert isinstance(console.file, io.StringIO)
    text = " ".join(console.file.getvalue().split())
    assert "2 gains tested, 1 significant at 5 %. If predictions" in text
    assert "bold" not in text


def test_a_point_on_200_images_is_not_bold_and_the_images_it_takes_are_told():
    (view,) = views(one_model(), scored({"counter": (11, 9)}, 200))
    text = table_markdown(view)
    assert "(+1.0)" in text
    assert (
        "1 gain tested, 0 significant at 5 % (bold). If predictions differed on 10 % of the 200 "
        "images, gains from 5.0 points up would be significant; for 1 point it would take about "
        "4,200 images."
    ) in text


def test_with_too_few_images_it_says_that_no_gain_shows():
    (view,) = views(one_model(), scored({"counter": (4, 0)}, 40))
    said = "of the 40 images, no gain would be significant; for 1 point"
    assert any(said in line for line in caption(view))


def test_where_a_point_shows_nothing_is_asked_for():
    (view,) = views(one_model(), scored({"counter": (600, 400)}, 10_000))
    (line,) = [line for line in caption(view) if "tested" in line]
    assert line.endswith("10,000 images, gains from 0.6 points up would be significant.")


def test_gains_without_per_image_answers_are_said_to_be_untested():
    grid = one_model()
    scores = scored({"counter": (40, 0), "counter+guo": (40, 0)}, 300)
    text = table_markdown(views(grid, Scores(scores.facts))[0])
    assert "2 gains not tested, so not bold: per-image answers were not looked at." in text
    assert "**" not in text


def test_files_hold_the_p_values_and_the_verdict(tmp_path: Path):
    scores = scored({"counter": (40, 4), "counter+guo": (12, 4)}, 300)
    write_report(one_model(), scores, tmp_path)
    rows = {row["defense"]: row for row in read_csv(tmp_path / "demo" / "table1.csv")}
    assert [rows[name]["significant"] for name in rows] == ["", "true", "", "false"]
    assert float(rows["counter"]["p_holm"]) == 2 * float(rows["counter"]["p_value"]) > 0
    assert rows["none"]["p_value"] == rows["none"]["p_holm"] == ""


def test_seeds_are_tested_together_where_both_have_a_score():
    first, base = shifted(20, 4, 300)
    right = {
        "demo-iat/clean/counter": first,
        "demo-iat/clean/none": base,
        "demo-iat/clean/counter/seed1": first,
    }
    (view,) = views(one_model(seeds=2), scores_from(right))
    found = {row.defense: row.entries[0] for row in view.rows}
    assert found["counter"].p_value == pytest.approx(binomtest(20, 24).pvalue)
    right["demo-iat/clean/none/seed1"] = first
    (view,) = views(one_model(seeds=2), scores_from(right))
    found = {row.defense: row.entries[0] for row in view.rows}
    # half the gain, and the same images won and lost: the evidence is the same
    assert found["counter"].p_value == pytest.approx(binomtest(20, 24).pvalue)


def test_on_null_data_at_most_5_percent_of_the_tables_find_anything():
    generator = np.random.default_rng(4)
    grid = one_model()
    tables, images, redraws = 200, 100, 10
    tables_with_any = 0
    gains_below = np.zeros(3)
    for _ in range(tables):
        # an image's chance is the same for every defense, and far from the same for every image
        chance = generator.beta(0.5, 0.5, size=(images, 1))
        right = {cell.name: generator.random((images, redraws)) < chance for cell in grid.cells}
        (view,) = views(grid, scores_from(right))
        found = [row.entries[0] for row in view.rows if row.entries[0].p_value is not None]
        assert len(found) == 2
        tables_with_any += any(entry.significant for entry in found)
        p_values = np.array([entry.p_value for entry in found])
        gains_below += [(p_values <= level).sum() for level in (0.05, 0.2, 0.5)]
    # At most 5 %, and three standard deviations of a binomial of 200 tables: 10 + 9.2.
    slack = 3 * np.sqrt(tables * 0.05 * 0.95)
    assert tables_with_any <= tables * 0.05 + slack
    # The single p-values are not merely large: each level is used up.
    for level, count in zip((0.05, 0.2, 0.5), gains_below, strict=True):
        spread = np.sqrt(2 * tables * level * (1 - level))
        assert abs(count - 2 * tables * level) <= 4 * spread


def test_a_true_gain_of_many_redraws_is_found():
    generator = np.random.default_rng(5)
    grid = one_model()
    chances = {"none": 0.3, "counter": 0.4, "guo": 0.5, "counter+guo": 0.6}
    right = {cell.name: generator.random((200, 10)) < chances[cell.defense] for cell in grid.cells}
    (view,) = views(grid, scores_from(right))
    assert [row.entries[0].significant for row in view.rows] == [None, True, None, True]
