"""Robustness of each defense: the summary of a table with an adaptive attack."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up import DEFENSES, PROBLEM, make_cell, printed
from matplotlib.figure import Figure

from pipeline.grid.cards import card_nodes
from pipeline.grid.cells import Cell, Grid, Table
from pipeline.grid.nodes import CellNodes
from pipeline.report.answers import Answers, NotTested, PerImage
from pipeline.report.cards import Card, Cards
from pipeline.report.formats.figures.points import draw_robustness
from pipeline.report.formats.frames import (
    results,
    robustness_values,
    verdict_values,
    with_more,
)
from pipeline.report.formats.markdown import robustness_markdown, verdicts_markdown
from pipeline.report.sanity import Sanity
from pipeline.report.scores import Scores
from pipeline.report.views.adaptive import (
    Doubling,
    Robustness,
    robustness_rows,
    under_all_attacks,
)
from pipeline.report.views.table_rows import views
from pipeline.report.views.verdicts import verdict_of, verdict_rows
from pipeline.report.words.adaptive import SHORT, robustness_words, short_robustness_words
from pipeline.report.words.numbers import passes_words, rough
from pipeline.report.words.verdicts import about, sentences, summary
from pipeline.report.writer import write_report
from pipeline.store.store import Store
from tasks.attacks.adaptive import Adaptive
from tasks.integrity.findings import Finding

ATTACKS = ("clean", "untargeted-pgd10", "untargeted-pgd50")
MODEL = "demo-mixup"


def adaptive_cell(defense: str) -> Cell:
    plain = make_cell(MODEL, "clean", defense)
    spec = Adaptive().resolved(PROBLEM)
    return dataclasses.replace(plain, attack="adaptive-quick", attack_spec=spec, images=4)


def grid_of() -> Grid:
    cells = [make_cell(MODEL, attack, defense) for attack in ATTACKS for defense in DEFENSES]
    cells += [adaptive_cell(defense) for defense in DEFENSES]
    attacks = (*ATTACKS, "adaptive-quick")
    table = Table("stress", "Stress", (MODEL,), attacks, tuple(DEFENSES), "counter", None)
    return Grid("demo", "The demo", tuple(cells), (table,))


# of six images the adaptive attack was made on the first four
RIGHT = {
    "clean": [1, 1, 1, 1, 1, 1],
    "untargeted-pgd10": [1, 1, 0, 1, 1, 1],
    "untargeted-pgd50": [0, 1, 1, 0, 1, 1],
    "adaptive-quick": [1, 0, 0, 0],
}


def scores_of(grid: Grid, absent: frozenset[str] = frozenset()) -> Scores:
    def read(name: str) -> Answers:
        attack = name.split("/")[1]
        if attack in absent:
            raise NotTested("gone")
        right = np.array(RIGHT[attack], dtype=bool)[:, None]
        ids = np.arange(len(right))
        return Answers(ids, ids % 10, right)

    facts = {
        cell.name: {
            "accuracy": 50.0,
            "forwards_per_prediction": 1.0 if cell.defense == "none" else 50.0,
            "backwards_per_prediction": 0.0,
            "seconds_per_prediction": 0.001 if cell.defense == "none" else 0.02,
        }
        for cell in grid.cells
    }
    return Scores(facts, per_image=PerImage(read))


def rows_of(absent: frozenset[str] = frozenset()) -> dict[str, Robustness]:
    grid = grid_of()
    scores = scores_of(grid, absent)
    return {row.defense: row for row in robustness_rows(views(grid, scores)[0], grid, scores)}


def test_every_column_is_about_the_images_of_the_adaptive_attack():
    row = rows_of()["guo"]
    assert row.images == 4
    assert row.adaptive.accuracy == 25.0
    assert row.clean is not None
    assert row.clean.accuracy == 100.0


def test_what_all_attacks_leave_is_image_by_image_over_the_images_that_all_were_made_on():
    grid = grid_of()
    # the adaptive attack, on four images, and pgd50 leave none of them
    assert under_all_attacks(grid, scores_of(grid))[f"{MODEL}/clean/guo"].accuracy == 0.0
    assert rows_of()["guo"].all_attacks.accuracy == 0.0
    # without it the six images: pgd10 breaks one, pgd50 two others
    oblivious = under_all_attacks(grid, scores_of(grid, frozenset({"adaptive-quick"})))
    assert oblivious[f"{MODEL}/untargeted-pgd10/guo"].accuracy == 50.0
    unattacked = dataclasses.replace(
        grid, cells=tuple(cell for cell in grid.cells if cell.attack == "clean")
    )
    assert under_all_attacks(unattacked, scores_of(unattacked)) == {}


def test_the_replayed_attack_is_the_one_that_leaves_least_on_those_images():
    row = rows_of()["guo"]
    assert row.replayed == "untargeted-pgd50"  # 2 of the 4, where pgd10 leaves 3
    assert row.oblivious is not None
    assert row.oblivious.accuracy == 50.0


def in_two_balls() -> tuple[Grid, Scores]:
    """PGD and an adaptive attack, with epsilon 8 and 16 each; the larger ball breaks all images."""
    cells = []
    for epsilon in (8.0, 16.0):
        for defense in ("none", "guo"):
            replayed = make_cell(MODEL, "untargeted-pgd10", defense)
            for cell in (replayed, adaptive_cell(defense)):
                spec = type(cell.attack_spec)(epsilon=epsilon).resolved(PROBLEM)
                name = f"{cell.attack}[epsilon={epsilon:g}]"
                cells.append(dataclasses.replace(cell, attack=name, attack_spec=spec, images=4))
    cells += [make_cell(MODEL, "clean", defense) for defense in ("none", "guo")]
    attacks = tuple(dict.fromkeys(cell.attack for cell in cells))
    table = Table("sweep", "Sweep", (MODEL,), attacks, ("none", "guo"), None, None)
    grid = Grid("sweep", "Sweep", tuple(cells), (table,))

    def read(name: str) -> Answers:
        attack = name.split("/")[1]
        right = [1, 1, 1, 0] if attack == "clean" else [1, 1, 0, 0]
        if attack.startswith("untargeted"):
            right = [1, 0, 1, 1]
        if "epsilon=16" in attack:
            right = [0, 0, 0, 0]
        return Answers(np.arange(4), np.arange(4) % 10, np.array(right, dtype=bool)[:, None])

    facts = {cell.name: {"accuracy": 50.0, "images": 4} for cell in grid.cells}
    return grid, Scores(facts, per_image=PerImage(read))


def test_a_row_is_about_attacks_in_the_ball_of_its_adaptive_attack():
    grid, scores = in_two_balls()
    rows = {
        (row.adaptive_attack, row.defense): row
        for row in robustness_rows(views(grid, scores)[0], grid, scores)
    }
    small = rows["adaptive-quick[epsilon=8]", "guo"]
    assert (small.replayed, small.bare_attack) == ("untargeted-pgd10[epsilon=8]",) * 2
    assert small.oblivious is not None
    assert small.oblivious.accuracy == 75.0
    # clean images lie in every ball: one of the four is broken by each attack alone
    assert small.all_attacks.accuracy == 25.0
    large = rows["adaptive-quick[epsilon=16]", "guo"]
    assert large.replayed == "untargeted-pgd10[epsilon=16]"
    assert large.all_attacks.accuracy == 0.0


def test_what_all_attacks_leave_is_over_those_of_one_ball():
    grid, scores = in_two_balls()
    found = under_all_attacks(grid, scores)
    assert {name.split("/")[1]: rate.accuracy for name, rate in found.items()} == {
        "untargeted-pgd10[epsilon=8]": 25.0,
        "adaptive-quick[epsilon=8]": 25.0,
        "untargeted-pgd10[epsilon=16]": 0.0,
        "adaptive-quick[epsilon=16]": 0.0,
    }  # clean images are in both balls, so they have no value


def test_a_verdict_is_beside_what_was_replayed_in_its_own_ball():
    grid, scores = in_two_balls()
    rows = {(row.epsilon, row.defense): row for row in verdict_rows(grid, scores)}
    row = rows[8.0, "guo"]
    assert row.replayed_attack == "untargeted-pgd10[epsilon=8]"
    assert row.replayed is not None
    assert row.replayed.accuracy == 75.0
    assert rows[16.0, "guo"].replayed_attack == "untargeted-pgd10[epsilon=16]"


def test_verdicts_in_several_balls_are_told_apart():
    grid, scores = in_two_balls()
    rows = verdict_rows(grid, scores)
    told = sentences(rows)
    assert [line.partition(" on ")[0] for line in told] == [
        "`guo` (linf 8/255)",
        "`guo` (linf 16/255)",
    ]
    assert "`guo` (linf 8/255)" in " ".join(summary(rows))
    assert about(rows).startswith(f"{MODEL}: linf 8/255, linf 16/255, ")
    assert "| guo (linf 16/255) |" in verdicts_markdown(rows, "verdicts.csv")
    words = {row.epsilon: row.verdict.word for row in rows if row.defense == "guo"}
    guo = [row for row in rows if row.defense == "guo"]
    beside = {cell.attack: verdict_of(cell, guo) for cell in grid.cells if cell.defense == "guo"}
    assert beside == {
        "untargeted-pgd10[epsilon=8]": words[8.0],
        "adaptive-quick[epsilon=8]": words[8.0],
        "untargeted-pgd10[epsilon=16]": words[16.0],
        "adaptive-quick[epsilon=16]": words[16.0],
        "clean": None,
    }
    assert len(set(words.values())) == 2


def test_a_card_compares_an_adaptive_attack_with_attacks_in_its_own_ball(tmp_path: Path):
    grid, scores = in_two_balls()
    assert scores.per_image is not None
    made = CellNodes()
    nodes = card_nodes(made, grid.cells, "full")
    scored = {cell.name: made.score(cell) for cell in grid.cells}
    answers = scores.per_image
    sane = Sanity(grid.cells, scores.facts, scored, lambda _: {}, answers)
    cards = Cards(grid, nodes, Store(tmp_path / "store"), scores.facts, answers, sane)
    card = cards.of(f"{MODEL}/adaptive-quick[epsilon=8]/guo")
    assert card is not None
    found = {finding.check: finding for finding in card.findings}["adaptive"]
    # 50 % under the adaptive attack, 75 % under the replayed one; the larger ball leaves 0 %
    assert found.measured == {"adaptive": 50.0, "other": 75.0}
    assert found.verdict == "pass"


def test_bare_is_the_same_in_every_row_of_a_model_whatever_breaks_the_defended_one_most():
    def read(name: str) -> Answers:
        _, attack, defense = name.split("/")
        right = {
            # pgd50 leaves the bare model least, pgd10 leaves guo least
            ("untargeted-pgd10", "guo"): [0, 0, 0, 1],
            ("untargeted-pgd50", "guo"): [1, 1, 0, 1],
            ("untargeted-pgd10", "none"): [1, 1, 0, 0],
            ("untargeted-pgd50", "none"): [1, 0, 0, 0],
        }.get((attack, defense), RIGHT[attack][:4])
        return Answers(np.arange(4), np.arange(4) % 10, np.array(right, dtype=bool)[:, None])

    grid = grid_of()
    scores = dataclasses.replace(scores_of(grid), per_image=PerImage(read))
    rows = {row.defense: row for row in robustness_rows(views(grid, scores)[0], grid, scores)}
    assert {row.bare.accuracy for row in rows.values() if row.bare} == {25.0}
    assert {row.bare_attack for row in rows.values()} == {"untargeted-pgd50"}
    assert rows["guo"].replayed == "untargeted-pgd10"
    assert rows["guo"].oblivious is not None
    assert rows["guo"].oblivious.accuracy == 25.0
    text = robustness_markdown(list(rows.values()))
    assert "is untargeted-pgd50 for the bare model, untargeted-pgd10, " in text


def test_what_twice_the_steps_and_draws_are_worth_is_told_beside_the_adaptive_number(tmp_path):
    grid = grid_of()
    words = "40 steps of 10 draws lower the accuracy of 20 steps of 5 by 1.5 points"
    measured = {"20 steps of 5": 40.0, "40 steps of 10 draws": 38.5}
    finding = Finding(check="convergence", verdict="warn", measured=measured, words=words)
    skipped = Finding(check="convergence", verdict="skipped", words="there is no budget")
    cards = {
        f"{MODEL}/adaptive-quick/{defense}": Card(
            f"{MODEL}/{defense}", 80, attack="adaptive-quick", model=(found,)
        )
        for defense, found in (("guo", finding), ("counter", skipped))
    }
    scores = dataclasses.replace(scores_of(grid), cards=cards)
    rows = {row.defense: row for row in robustness_rows(views(grid, scores)[0], grid, scores)}
    assert rows["guo"].doubling == Doubling(1.5, 80, "20 steps of 5", "40 steps of 10 draws")
    assert rows["counter"].doubling is None
    text = robustness_markdown(list(rows.values()))
    header, guo, counter = (
        [cell.strip() for cell in line.split("|")]
        for line in text.splitlines()
        if line.startswith(("| model", f"| {MODEL} | guo |", f"| {MODEL} | counter |"))
    )
    assert header[4:7] == ["bare, replayed", "replayed", "adaptive"]
    place = header.index("doubled")
    assert header[place - 1] == "adaptive"
    assert {guo[place], counter[place]} == {"-1.5 (80)", "–"}
    values = robustness_values(list(rows.values())).filter(pl.col("defense") == "guo")
    assert values["doubling_points"].to_list() == [1.5]
    assert values["doubling_to"].to_list() == ["40 steps of 10 draws"]


def test_under_all_attacks_each_image_meets_whichever_breaks_it():
    rate = rows_of()["guo"].all_attacks
    assert rate.accuracy == 0.0
    assert rate.interval is not None
    assert rate.interval[1] == pytest.approx(49.0, abs=0.1)  # of 4 images


def test_columns_without_a_value_have_the_type_of_those_with_values():
    """Otherwise polars does not scan the files of two reports together."""
    grid = grid_of()
    costs_unknown = {cell.name: {"accuracy": 50.0} for cell in grid.cells}
    scores = dataclasses.replace(scores_of(grid), facts=costs_unknown)
    rows = robustness_rows(views(grid, scores)[0], grid, scores)
    empty = robustness_values(rows)
    full = robustness_values(list(rows_of().values()))
    assert empty["milliseconds"].null_count() == len(empty)
    assert empty.schema == full.schema
    assert empty.schema["doubling_images"] == pl.Int64
    assert empty.schema["doubling_to"] == pl.String
    verdicts = verdict_values(verdict_rows(grid, scores))
    for name, dtype in {
        "over_control": pl.Float64, "control": pl.String, "hides_gradients": pl.Boolean,
        "images_needed": pl.Int64, "device": pl.String, "why": pl.String,
    }.items():  # fmt: skip
        assert verdicts.schema[name] == dtype
    assert pl.Null not in {*verdicts.dtypes, *empty.dtypes}
    columns = {"gain": [None] * len(grid.cells), "defense_verdict": [None] * len(grid.cells)}
    frame = with_more(results(grid, scores), columns)
    assert (frame.schema["gain"], frame.schema["defense_verdict"]) == (pl.Float64, pl.String)


def test_cost_stands_beside_the_bare_models_in_the_same_table():
    cost = rows_of()["guo"].cost
    assert cost is not None
    assert cost.milliseconds == pytest.approx(20.0)
    assert cost.times_bare == pytest.approx(20.0)


def test_a_prediction_has_one_cost_whatever_it_was_timed_under_and_two_digits_of_it(
    tmp_path: Path,
):
    """The clock of each attack's cell differs by the noise of the machine."""
    grid = grid_of()
    scores = scores_of(grid)
    seconds = {"clean": 0.0203117, "untargeted-pgd10": 0.0234567, "untargeted-pgd50": 0.0234571}
    facts = {
        cell.name: {
            **scores.facts[cell.name],
            "seconds_per_prediction": seconds.get(cell.attack, 0.0999)
            * (1 if cell.defense == "guo" else 0.1),
        }
        for cell in grid.cells
    }
    scores = dataclasses.replace(scores, facts=facts)
    adaptive = robustness_rows(views(grid, scores)[0], grid, scores)
    (guo,) = (row for row in adaptive if row.defense == "guo")
    assert robustness_words(guo)[-2:] == ["50+0", "20 (10×)"]
    assert short_robustness_words(guo)[-2:] == ["50+0", "10×"]
    page = write_report(grid, scores, tmp_path).read_text(encoding="utf-8")
    listed = re.findall(r"/guo</a></th>.*<td>([\d.]+)</td></tr>", page)
    assert listed == ["20"] * 4


@pytest.mark.parametrize(
    ("value", "words"), [(0.034567, "0.035"), (4.56, "4.6"), (20.0, "20"), (1234.5, "1200")]
)
def test_a_timing_is_told_with_two_digits(value: float, words: str):
    assert rough(value) == words


def test_passes_are_counted_and_told_whole():
    assert passes_words(1234.0, 11.0) == "1,234+11"
    assert passes_words(10.25, 0.0) == "10.2+0"


def test_without_answers_of_the_adaptive_cell_there_is_no_row_and_of_others_only_a_gap():
    assert rows_of(frozenset({"adaptive-quick"})) == {}
    row = rows_of(frozenset({"clean", "untargeted-pgd10", "untargeted-pgd50"}))["guo"]
    assert row.clean is None
    assert row.oblivious is None
    assert row.all_attacks.accuracy == 25.0


def test_a_report_shows_the_summary_in_the_page_the_files_and_the_terminal(tmp_path: Path):
    grid = grid_of()
    scores = scores_of(grid)
    page = write_report(grid, scores, tmp_path)
    text = (page.parent / "README.md").read_text(encoding="utf-8")
    assert "### Robustness of each defense under adaptive-quick; images: 4" in text
    assert "An **adaptive** attack knows the defense" in text
    frame = pl.read_csv(tmp_path / "demo" / "stress-robustness.csv")
    assert frame.filter(pl.col("defense") == "guo")["all_attacks"].to_list() == [0.0]
    shown = printed(grid, scores, 80)
    assert "Robustness of each defense under adaptive-quick" in shown
    # no heading is cut; one of two words may take two lines
    (line,) = (line for line in shown.splitlines() if " doubled " in line)
    last_words = line.replace("all attacks", "attacks").split()
    assert last_words == [heading.split()[-1] for heading in SHORT]
    legend = " ".join(shown.split())
    assert "Time: as a multiple of the bare model's" in legend
    assert "Ms: its time" not in legend
    assert "Ms: its time in milliseconds" in " ".join(text.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_what_the_configs_say_of_an_attacks_numbers_stands_below_them(tmp_path: Path):
    grid = grid_of()
    said = "leaves up to 3 points more than a larger budget"
    noted = [dataclasses.replace(cell, attack_note=said) for cell in grid.cells]
    grid = dataclasses.replace(grid, cells=tuple(noted))
    scores = scores_of(grid)
    page = write_report(grid, scores, tmp_path)
    expected = f"adaptive-quick: {said}."
    for path in (page, page.parent / "README.md"):
        assert path.read_text(encoding="utf-8").count(expected) == 1
    assert expected in " ".join(printed(grid, scores, 80).split())


def test_a_terminal_explains_the_columns_once_however_many_tables_there_are():
    grid = grid_of()
    (table,) = grid.tables
    twice = dataclasses.replace(grid, tables=(table, dataclasses.replace(table, name="again")))
    shown = printed(twice, scores_of(grid), 80)
    assert shown.count("Robustness of each defense under adaptive-quick") == 2
    assert shown.count("All columns refer to the same images") == 1


def test_the_marks_of_two_defenses_do_not_touch_the_edges_of_the_figure(
    tmp_path: Path, drawn: list[Figure]
):
    rows = list(rows_of().values())[:2]
    draw_robustness(rows, tmp_path / "robustness.svg", "svg")
    bottom, top = drawn[0].axes[0].get_ylim()
    assert top <= -0.5  # the first line, at 0, is at the top
    assert bottom >= 1.5


def test_a_table_without_an_adaptive_attack_has_no_summary():
    grid = grid_of()
    plain = dataclasses.replace(grid.tables[0], attacks=ATTACKS)
    grid = Grid("demo", "The demo", grid.cells[: len(ATTACKS) * len(DEFENSES)], (plain,))
    scores = scores_of(grid)
    assert robustness_rows(views(grid, scores)[0], grid, scores) == []
    assert robustness_markdown([]) == ""


def test_a_report_tells_how_many_images_each_candidate_was_asked_for(tmp_path: Path) -> None:
    grid = grid_of()
    known = scores_of(grid)
    told = [
        {"candidate": "transferred-pgd", "images": 4, "broken": 1, "chosen": 1},
        {"candidate": "margin-image-20x5", "images": 3, "broken": 2, "chosen": 3},
    ]
    of_counter = f"{MODEL}/adaptive-quick/counter"
    facts = {**known.facts, of_counter: {**known.facts[of_counter], "candidates": told}}
    write_report(grid, dataclasses.replace(known, facts=facts), tmp_path)
    text = (tmp_path / "demo" / "README.md").read_text(encoding="utf-8")
    assert f"Attack candidates: adaptive-quick on {MODEL}" in text
    lines = [line for line in text.splitlines() if "margin-image" in line]
    assert [line.replace(" ", "") for line in lines] == ["|margin-image-20x5|3(2)|"]
    written = pl.read_csv(next((tmp_path / "demo").glob("*-candidates.csv")))
    assert written["candidate"].to_list() == ["transferred-pgd", "margin-image-20x5"]
    assert written["images"].to_list() == [4, 3]
    assert written["broken"].to_list() == [1, 2]
