"""Does it hold? The verdict of each defense, first in a report and last on a terminal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up import printed
from made_up_verdicts import ATTACKS, CONTROL, IMAGES, SHARES, grid_of, scores_of

from pipeline.catalogue.claims import Claim
from pipeline.grid.cells import Grid
from pipeline.observers.tracking.description import story
from pipeline.report.answers import Answers, PerImage
from pipeline.report.cards import Card
from pipeline.report.formats.markdown import page
from pipeline.report.scores import Scores
from pipeline.report.views.costs import Cost
from pipeline.report.views.table import of_cells
from pipeline.report.views.table_rows import views
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.views.verdicts import conclusion, verdict_rows
from pipeline.report.words.identity import identity
from pipeline.report.words.legends import oblivious
from pipeline.report.words.numbers import images_of, images_range
from pipeline.report.words.table import heading
from pipeline.report.words.verdicts import (
    COLUMNS,
    claim_lines,
    judged_sentence,
    notes,
    row_words,
    sentence,
    sentences,
    summary,
)
from pipeline.report.writer import write_report
from tasks.evaluation.verdicts import DefenseVerdict
from tasks.integrity.findings import Finding


def rows_of(shares=SHARES, grid: Grid | None = None, **more) -> dict[str, VerdictRow]:
    grid = grid or grid_of()
    return {row.defense: row for row in verdict_rows(grid, scores_of(grid, shares, **more))}


def test_a_row_is_the_adaptive_attack_of_most_candidates_with_the_defense_and_without():
    row = rows_of()["counter"]
    assert (row.attack, row.candidates, row.images) == ("adaptive-quick", 6, IMAGES)
    assert row.verdict.word == "harms"
    assert row.worst.accuracy == pytest.approx(20.0)
    assert row.without.accuracy == pytest.approx(40.0)
    assert row.gain.points == pytest.approx(-20.0)
    assert -30 < row.gain.low < -20 < row.gain.high < -10
    assert row.replayed.accuracy == pytest.approx(80.0)
    assert (row.replayed_attack, row.control) == ("untargeted-pgd50", CONTROL)


def test_the_bare_network_gains_nothing_and_rows_come_by_their_worst_case():
    rows = rows_of()
    assert rows["none"].verdict.word == "no gain"
    told = dict(zip(COLUMNS, row_words(rows["none"]), strict=True))
    assert told["gain over bare"] == "0.0 [0.0, 0.0]"
    assert told["images"] == str(rows["none"].images)
    counter = dict(zip(COLUMNS, row_words(rows["counter"]), strict=True))
    # the values that the gain compares, on the same images
    assert (counter["worst case"][:4], counter["bare"]) == ("20.0", "40.0")
    assert (told["worst case"][:4], told["bare"]) == ("40.0", "40.0")
    assert list(rows) == [CONTROL, "none", "guo", "counter"]


def test_what_stands_without_a_defense_is_about_the_images_of_its_verdict():
    grid = grid_of()

    def read(name: str) -> Answers:
        _, attack, defense = name.split("/")
        ids = np.arange(100 if defense == "counter" else IMAGES)
        right = ids < SHARES.get((attack, defense), 0.5) * IMAGES
        return Answers(ids, ids % 10, right[:, None])

    scores = dataclasses.replace(scores_of(grid), per_image=PerImage(read))
    row = {each.defense: each for each in verdict_rows(grid, scores)}["counter"]
    assert row.images == 100
    # of the first hundred images the bare network is left with all, of the three hundred with 40 %
    assert row.without.accuracy == pytest.approx(100.0)
    assert row.worst.accuracy - row.without.accuracy == pytest.approx(row.gain.points)


def test_a_row_of_several_seeds_is_about_the_seeds_that_the_bare_network_has_too():
    grid = grid_of()
    # of the second seed only the defended network is scored, and it is right on every image
    more = [
        dataclasses.replace(cell, seed=1)
        for cell in grid.cells
        if cell.defense == "counter" and cell.attack == "adaptive-quick"
    ]
    grid = dataclasses.replace(grid, cells=(*grid.cells, *more))
    scores = scores_of(grid)
    known = scores.per_image

    def read(name: str) -> Answers:
        if not name.endswith("/seed1"):
            return known.answers(name)
        first = known.answers(name.removesuffix("/seed1"))
        return dataclasses.replace(first, right=np.ones_like(first.right))

    scores = dataclasses.replace(scores, per_image=PerImage(read))
    row = {each.defense: each for each in verdict_rows(grid, scores)}["counter"]
    assert row.worst.accuracy - row.without.accuracy == pytest.approx(row.gain.points)
    assert row.worst.accuracy == pytest.approx(20.0)


def test_a_run_of_some_cells_says_the_verdicts_of_those_alone():
    grid = grid_of()
    scores = scores_of(grid)
    assert "guo on demo-iat: " in printed(grid, scores, 200)
    asked = [cell for cell in grid.cells if cell.defense == "counter"]
    shown = printed(grid, scores, 200, asked)
    assert "counter on demo-iat: harms" in shown
    assert "guo on demo-iat: " not in shown
    clean = [cell for cell in grid.cells if cell.attack == "clean"]
    assert "Does it hold?" not in printed(grid, scores, 200, clean)


def test_a_judged_defense_has_one_table_of_the_robustness_that_its_verdict_is_of() -> None:
    grid = grid_of()
    scores = scores_of(grid)
    under = "Robustness of each defense under"
    assert printed(grid, scores, 80).count(under) == 2  # the direct attack, which decides nothing
    shown = printed(grid, scores, 80, judged="counter")
    assert shown.count(under) == 1
    assert f"{under} adaptive-quick" in shown


def test_a_verdict_does_not_depend_on_which_other_defenses_are_listed():
    alone = rows_of(grid=grid_of(defenses=("none", "counter")))
    assert alone["counter"].verdict == rows_of()["counter"].verdict
    assert alone["counter"].gain == rows_of()["counter"].gain


def test_a_verdict_over_several_seeds_is_about_the_mean_of_an_images_answers():
    """Two trainings of one network: no more images, and no narrower an interval, than of one."""
    once = grid_of()
    again = tuple(dataclasses.replace(each, seed=1) for each in once.cells)
    twice = dataclasses.replace(once, cells=(*once.cells, *again))
    seed1 = {("adaptive-quick", "none"): 0.6, ("adaptive-quick", "counter"): 0.3}

    def scores(of_seed1: dict[tuple[str, str], float], missing: tuple[str, ...] = ()) -> Scores:
        def read(name: str) -> Answers:
            _, attack, defense, *seed = name.split("/")
            share = (SHARES | of_seed1 if seed else SHARES).get((attack, defense), 0.5)
            ids = np.arange(IMAGES)
            return Answers(ids, ids % 10, (ids < share * IMAGES)[:, None])

        made = scores_of(twice, missing=missing)
        return dataclasses.replace(made, per_image=PerImage(read))

    alone = rows_of(grid=once)["counter"]
    same, apart = (
        next(row for row in verdict_rows(twice, scores(each)) if row.defense == "counter")
        for each in ({}, seed1)
    )
    assert (same.gain, same.verdict) == (alone.gain, alone.verdict)
    assert apart.images == IMAGES
    assert apart.worst.accuracy == pytest.approx((20 + 30) / 2)
    assert apart.without.accuracy == pytest.approx((40 + 60) / 2)
    assert apart.gain.points == pytest.approx(-25.0)
    assert apart.verdict.word == "harms"
    absent = scores(seed1, missing=("demo-iat/adaptive-quick/counter/seed1",))
    half = next(row for row in verdict_rows(twice, absent) if row.defense == "counter")
    assert half.gain == alone.gain  # of the seed that has both


def test_what_it_costs_and_what_flips_and_crops_do_stand_beside_it():
    shares = SHARES | {("adaptive-quick", "counter"): 0.5, ("adaptive-quick", CONTROL): 0.5}
    row = rows_of(shares)["counter"]
    assert row.verdict.word == "holds"
    assert row_words(row)[0] == (
        "holds, at a cost of 20.0 points of clean accuracy, no better than flips and crops, "
        "hides gradients"
    )
    assert summary([row]) == ["On demo-iat, **holds**: `counter` (no better than flips and crops)."]
    better = rows_of(shares | {("adaptive-quick", CONTROL): 0.3, ("clean", "counter"): 0.9})
    assert row_words(better["counter"])[0] == "holds, hides gradients"
    assert summary([better["counter"]]) == ["On demo-iat, **holds**: `counter`."]


def test_gradients_are_hidden_where_an_attack_straight_from_the_image_leaves_more_gain():
    assert rows_of()["counter"].hides_gradients
    # the same gain directly as in the worst case, and replayed examples say nothing of it
    shares = SHARES | {("direct", "counter"): 0.3, ("direct", "none"): 0.5}
    row = rows_of(shares)["counter"]
    assert not row.hides_gradients
    assert row.hidden.points == pytest.approx(0.0)
    assert rows_of(grid=grid_of(attacks=ATTACKS[:3]))["counter"].hidden is None


def test_gradients_are_hidden_on_the_images_that_both_attacks_are_about():
    grid = grid_of()
    scores = scores_of(grid, SHARES)
    assert scores.per_image is not None
    whole = scores.per_image.answers

    def read(name: str) -> Answers:
        found = whole(name)
        some = found.ids % 2 == 0 if "/adaptive-quick/" in name else found.ids >= 0
        return Answers(found.ids[some], found.labels[some], found.right[some])

    fewer = dataclasses.replace(scores, per_image=PerImage(read))
    (row,) = (row for row in verdict_rows(grid, fewer) if row.defense == "counter")
    assert (row.images, row.hidden.images) == (IMAGES // 2, IMAGES // 2)
    assert row.hides_gradients


@pytest.mark.parametrize(
    ("defense", "checks", "word"),
    [
        ("counter", ("steps",), "harms"),
        ("counter", ("steps", "ball"), "cannot tell"),
        ("none", ("steps",), "cannot tell"),
    ],
)
def test_harm_stands_where_a_failed_card_makes_the_defended_accuracy_an_upper_bound(
    defense, checks, word
):
    found = tuple(Finding(check=check, verdict="fail", words="it is weak") for check in checks)
    card = Card(f"demo-iat/{defense}", 100, attack="adaptive-quick", model=found)
    row = rows_of(cards={f"demo-iat/adaptive-quick/{defense}": card})["counter"]
    assert row.verdict.word == word
    assert "it is weak" in row.verdict.why
    if word == "harms":
        why = f"an upper bound: {card.complaint()}."
        assert sentence(row).startswith("`counter` on demo-iat: **harms**")
        assert sentence(row).endswith(f"points, {why}")


def test_one_candidate_a_failed_card_a_fallen_network_and_an_absent_cell_tell_nothing():
    direct = rows_of(grid=grid_of(attacks=("clean", "direct")))["counter"]
    assert sentence(direct).startswith(
        "`counter` on demo-iat: **cannot tell**: the attack chooses from 1 candidate"
    )
    found = Finding(check="alone", verdict="fail", words="more steps leave more")
    card = Card("demo-iat/counter", 100, attack="adaptive-quick", model=(found,))
    failed = rows_of(cards={"demo-iat/adaptive-quick/counter": card})
    assert "more steps leave more" in failed["counter"].verdict.why
    assert failed["guo"].verdict.word != "cannot tell"
    fallen = rows_of(SHARES | {("adaptive-quick", "none"): 0.01})
    assert {row.verdict.word for row in fallen.values()} == {"cannot tell"}
    (line,) = summary(list(fallen.values()))
    why = "since the accuracy without a defense is at most 1 %"
    assert f"**cannot tell**, {why}: `guo`, `counter`" in line
    assert "since" not in summary(list(failed.values()))[0]
    absent = rows_of(missing={"demo-iat/adaptive-quick/counter"})
    assert absent["counter"].verdict.why == "demo-iat/adaptive-quick/counter: not computed"


def test_a_fallen_network_is_uninformative_about_a_defense_that_was_not_attacked():
    def scores(bare: float, **more) -> Scores:
        missing = {"demo-iat/adaptive-quick/counter"}
        return scores_of(grid, SHARES | {("adaptive-quick", "none"): bare}, missing, **more)

    def row(scores: Scores) -> VerdictRow:
        return next(each for each in verdict_rows(grid, scores) if each.defense == "counter")

    grid = grid_of()
    fallen = row(scores(0.01))
    assert (fallen.verdict.fallen, fallen.computed, fallen.images) == (True, True, IMAGES)
    # what was computed stands beside it, also if the grid has no such cell
    assert fallen.clean_change is not None
    assert fallen.replayed is not None
    values = (fallen.clean.accuracy, fallen.clean_change.points, fallen.replayed.accuracy)
    assert values == pytest.approx((70.0, -20.0, 80.0))

    def attacking(*defenses: str) -> Grid:
        compound = {"direct", "adaptive-quick"}
        kept = [c for c in grid.cells if c.attack not in compound or c.defense in defenses]
        return dataclasses.replace(grid, cells=tuple(kept))

    smaller = attacking("none")
    rows = {each.defense: each for each in verdict_rows(smaller, scores(0.01))}
    assert rows["counter"] == fallen
    assert "counter" not in {each.defense for each in verdict_rows(smaller, scores(0.02))}
    # a grid that attacks other defenses, and this one on no network, does not ask about it
    others = verdict_rows(attacking("none", "guo"), scores(0.01))
    assert {each.defense for each in others} == {"none", "guo"}
    said = "counter on demo-iat: cannot tell: accuracy without it is 1.0 %"
    asked = [
        each
        for each in grid.cells
        if each.attack in {"clean", "adaptive-quick"} and each.defense in {"none", "counter"}
        if (each.attack, each.defense) != ("adaptive-quick", "counter")
    ]
    assert said in printed(grid, scores(0.01), 200, asked)
    assert "counter on" not in printed(grid, scores(0.01), 200, asked[:1] + asked[2:])
    # with more left the answer is still to come; so it is if a card doubts what is left
    assert not row(scores(0.02)).computed
    doubt = Finding(check="ball", verdict="fail", words="outside")
    card = Card("demo-iat/none", 100, attack="adaptive-quick", model=(doubt,))
    assert not row(scores(0.01, cards={"demo-iat/adaptive-quick/none": card})).computed
    # a failure of the defense is told
    failed = dataclasses.replace(scores(0.01), missing={"demo-iat/adaptive-quick/counter": "NaN"})
    assert row(failed).verdict == DefenseVerdict(
        "cannot tell", "demo-iat/adaptive-quick/counter: NaN"
    )


def test_what_was_not_computed_is_named_in_a_line_and_is_no_row_of_a_table(tmp_path: Path):
    grid = grid_of(models=("demo-iat", "demo-mixup"))
    missing = {f"demo-iat/adaptive-quick/{name}" for name in ("guo", CONTROL)}
    missing |= {each.name for each in grid.cells if each.model == "demo-mixup"}
    scores = scores_of(grid, missing=missing)
    rows = verdict_rows(grid, scores)
    lines = sentences(rows)
    assert len(lines) == 3
    assert lines[0].startswith("`counter` on demo-iat: **harms**")
    assert lines[1:] == [
        "On demo-iat, not computed: an adaptive attack on `guo`.",
        "On demo-mixup, not computed: an adaptive attack on any defense.",
    ]
    assert summary(rows) == [
        "On demo-iat, no defense **holds**; **harms**: `counter`.",
        *lines[1:],
    ]
    alone = {each.name for each in grid.cells if each.defense == "none"}
    without = verdict_rows(grid, scores_of(grid, missing=missing | alone))
    assert sentences(without)[0] == (
        "On demo-iat, no verdict on `counter`: `none` under adaptive-quick is not computed."
    )
    write_report(grid, scores, tmp_path)
    text = (tmp_path / "demo" / "verdicts.md").read_text(encoding="utf-8")
    assert "| counter | harms" in text
    assert "| guo |" not in text
    assert "### demo-mixup" not in text
    # what went wrong is a row, with its reason
    wrong = {"demo-iat/adaptive-quick/guo": "out of memory"}
    failed = dataclasses.replace(scores, missing=wrong)
    assert "out of memory" in " ".join(sentences(verdict_rows(grid, failed)))


def test_the_sentence_names_network_verdict_and_what_stands_with_and_without():
    row = rows_of()["counter"]
    low, high = row.worst.interval
    assert sentence(row) == (
        "`counter` on demo-iat: **harms**, at a cost of 20.0 points of clean accuracy, hides "
        "gradients. "
        f"Worst-case accuracy 20.0 % [{low:.0f}, {high:.0f}], 40.0 % without the defense: "
        f"gain -20.0 [{row.gain.low:.1f}, {row.gain.high:.1f}] points."
    )
    undecided = rows_of(SHARES | {("adaptive-quick", "guo"): 0.42})["guo"]
    assert sentence(undecided).endswith(
        f"points. About {undecided.verdict.needed:,} images would decide "
        "if the gain stayed the same."
    )
    assert summary([row, undecided]) == [
        "On demo-iat, no defense **holds**; **harms**: `counter`; **undecided**: `guo`."
    ]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "fallen"), "holds"),
        (("holds", "no gain"), "does not hold"),
        (("undecided", "harms"), "does not hold"),
        (("holds", "undecided"), "cannot tell"),
        (("holds", "cannot tell"), "cannot tell"),
        (("fallen", "fallen"), "cannot tell"),
        ((), "cannot tell"),
    ],
)
def test_on_several_networks_a_defense_holds_where_it_does_on_all_that_tell(words, answer):
    row = rows_of()["counter"]
    verdicts = [
        DefenseVerdict("cannot tell", fallen=True) if word == "fallen" else DefenseVerdict(word)
        for word in words
    ]
    rows = [dataclasses.replace(row, verdict=verdict) for verdict in verdicts]
    assert conclusion(rows) == answer
    if rows:
        told = judged_sentence(rows, answer)
        assert "demo-iat, 300 images, adaptive-quick, linf 8/255." in told


def test_a_judgement_names_the_images_and_the_attack_of_each_network_where_they_differ():
    row = dataclasses.replace(rows_of()["counter"], verdict=DefenseVerdict("harms"))
    other = dataclasses.replace(row, model="mixed", images=200)
    assert judged_sentence([row, other], "does not hold") == (
        "`counter` **does not hold** on digits: demo-iat (300 images, adaptive-quick) and "
        "mixed (200 images, adaptive-quick), linf 8/255."
    )
    lost = dataclasses.replace(other, verdict=DefenseVerdict("cannot tell", fallen=True))
    assert "mixed" not in judged_sentence([row, lost], "does not hold")
    absent = dataclasses.replace(other, images=0, attack="adaptive-standard")
    assert "and mixed (nothing was scored), linf" in judged_sentence([row, absent], "does not hold")


def test_a_report_begins_with_the_verdict_and_the_terminal_ends_with_it(tmp_path: Path):
    grid = grid_of()
    scores = scores_of(grid)
    write_report(grid, scores, tmp_path, {"computed": "2026-11-27"})
    folder = tmp_path / "demo"
    for name in ("README.md", "index.html"):
        text = (folder / name).read_text(encoding="utf-8")
        answer = text.index(", 40.0 % without the defense: gain ")
        assert answer < text.index("2026-11-27") < text.index("upper bound")
    frame = pl.read_csv(folder / "verdicts.csv")
    assert frame["verdict"].to_list() == [row.verdict.word for row in verdict_rows(grid, scores)]
    assert json.loads(json.dumps(verdict_rows(grid, scores)[0].facts()))["candidates"] == 6
    lines = printed(grid, scores, 200).rstrip().splitlines()
    assert lines[-3].strip() == "Does it hold?"
    assert lines[-1].startswith("counter on demo-iat: harms")
    asked = [each for each in grid.cells if each.defense == "guo"]
    lines = printed(grid, scores, 200, asked).rstrip().splitlines()
    assert lines[-2].strip() == "Does it hold?"
    assert lines[-1].startswith("guo on demo-iat")


def test_a_grid_without_an_attack_that_knows_the_defense_says_which_option_adds_one(tmp_path):
    grid = grid_of(attacks=ATTACKS[:2])
    scores = scores_of(grid)
    write_report(grid, scores, tmp_path)
    said = "pipeline run --grid demo --adaptive quick"
    for name in ("README.md", "index.html"):
        assert said in (tmp_path / "demo" / name).read_text(encoding="utf-8")
    assert said in " ".join(printed(grid, scores, 200).rstrip().splitlines()[-2:])
    assert not (tmp_path / "demo" / "verdicts.csv").exists()


def test_replayed_columns_are_called_upper_bounds_and_their_gains_are_not_green(tmp_path: Path):
    grid = grid_of()
    scores = scores_of(grid)
    (view,) = views(grid, scores)
    row = next(row for row in view.rows if row.defense == "counter")
    gains = dict(zip(view.attacks, row.entries, strict=True))
    up = {name: dataclasses.replace(entry, gain=5.0) for name, entry in gains.items()}
    shown = {name: view.gain_shows(entry) for name, entry in up.items()}
    assert shown == {"clean": "up", "untargeted-pgd50": "", "adaptive-quick": "up", "direct": "up"}
    flat = dataclasses.replace(gains["clean"], gain=0.04)
    assert view.gain_shows(flat) == ""
    assert view.gain_shows(dataclasses.replace(gains["untargeted-pgd50"], gain=-2.0)) == "down"
    assert "(replayed columns: upper bounds)" in printed(grid, scores, 200)


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        (["clean"], ""),
        (["adaptive-quick"], ""),
        (["clean", "adaptive-quick"], ""),
        (["untargeted-pgd50"], ": replayed examples, upper bounds"),
        (["clean", "untargeted-pgd50"], " (replayed columns: upper bounds)"),
    ],
)
def test_the_heading_of_some_columns_tells_of_those_alone(attacks: list[str], said: str):
    grid = grid_of()
    (view,) = views(grid, scores_of(grid))
    part = of_cells(view, [cell for cell in grid.cells if cell.attack in attacks])
    assert part is not None
    assert heading(part) == f"{view.table.title}{said}"


def test_the_legend_names_the_attacks_that_know_the_defense():
    assert "All attacks except `adaptive-quick`, `direct` are **oblivious**" in oblivious(grid_of())
    assert oblivious(grid_of(attacks=ATTACKS[:2])).startswith("All attacks are **oblivious**")


def test_what_identifies_a_result_is_told():
    grid = grid_of()
    found = dict(identity(grid, scores_of(grid), {"computed": "2026-11-27", "commit": "447fe0e"}))
    assert found["data"] == "`digits`, the first 300 test images"
    assert "linf, ε = 8/255" in found["attacks"]
    assert "not the draws" in found["attacker knows"]
    assert found["models"] == "demo-iat (50.0 % clean)"
    assert found["computed"] == "2026-11-27, reported by commit 447fe0e"
    other = dataclasses.replace(scores_of(grid), digests={"a": "b"})
    assert dict(identity(grid, other, {}))["grid"] != found["grid"]


@pytest.mark.parametrize(
    ("attacks", "bounds", "knows"),
    [
        (("adaptive-quick",), "linf, ε = 8/255", "`adaptive-quick`: the network, the defense"),
        (("clean", "untargeted-pgd50"), "linf, ε = 8/255", "the network alone; the examples"),
        (("clean",), "none", "no attack"),
    ],
)
def test_who_knows_what_is_told_of_grids_with_one_kind_of_attack(
    attacks: tuple[str, ...], bounds: str, knows: str
):
    grid = grid_of(attacks=attacks)
    found = dict(identity(grid, scores_of(grid), {}))
    assert found["attacks"] == bounds
    assert found["attacker knows"].startswith(knows)


def test_one_cell_and_one_image_are_not_written_as_several():
    grid = grid_of(attacks=("clean",))
    cell = dataclasses.replace(grid.cells[0], images=1)
    grid = dataclasses.replace(grid, cells=(cell,))
    text = page(grid, scores_of(grid), [], {})
    assert "1 cell, 0 of them missing" in text
    assert "the first 1 test image\n" in text
    assert "1 test image of 10 classes" in text
    assert [images_range(1, 1), images_range(1, 2000)] == ["1 image", "1 to 2,000 images"]


def test_a_table_tells_the_number_of_images_of_each_column_where_they_differ(tmp_path: Path):
    grid = grid_of()
    scores = scores_of(grid)
    assert "Number of images" not in printed(grid, scores, 80)
    fewer = ("adaptive-quick/guo", "adaptive-quick/counter", "direct/none")
    facts = {
        name: {**known, "images": 200 if name.endswith(fewer) else known["images"]}
        for name, known in scores.facts.items()
    }
    scores = dataclasses.replace(scores, facts=facts)
    page = write_report(grid, scores, tmp_path)
    said = (
        "Number of images: clean, untargeted-pgd50: 300; adaptive-quick: "
        "300 (200 for counter, guo); direct: 300 (200 for none)."
    )
    for path in (page, page.with_name("README.md"), page.with_name("stress.md")):
        assert said in path.read_text(encoding="utf-8")
    assert said in page.with_name("stress.tex").read_text(encoding="utf-8")
    assert said in " ".join(printed(grid, scores, 80).split())


def test_rows_of_other_numbers_of_images_are_named():
    counts = {("m", "none"): 500, ("m", "guo"): 200, ("n", "none"): 500, ("n", "guo"): 500}
    assert images_of(counts) == "500 (200 for m/guo)"
    assert images_of({**counts, ("n", "guo"): 200, ("n", "tv"): 9}) == "500 (200 for guo; 9 for tv)"
    assert images_of({("m", "none"): 1000}) == "1,000"


def test_parameters_set_on_the_command_line_identify_a_result():
    grid = grid_of()
    assert "overrides" not in dict(identity(grid, scores_of(grid), {}))
    grid = dataclasses.replace(grid, parameters={"guo.draws": 7, "model.compiled": True})
    found = dict(identity(grid, scores_of(grid), {}))
    assert found["overrides"] == "`guo.draws=7`, `model.compiled=true`"


def test_a_claim_stands_in_the_row_of_its_defense_and_in_full_below():
    claim = Claim(
        file="a",
        source="A paper",
        by="others",
        defense="counter",
        network="a large network",
        dataset="cifar10",
        attack="PGD",
        attacked="bare",
        epsilon=8,
        before=59.2,
        after=65.5,
        images=1000,
    )
    rows = rows_of(claims={"counter": (claim,)})
    assert row_words(rows["counter"])[-1] == "59.2 → 65.5, bare attacked"
    assert row_words(rows["guo"])[-1] == "–"
    assert claim_lines(list(rows.values())) == [
        (
            "A paper (not by its authors): `counter` 59.2 → 65.5, bare attacked "
            "(PGD at 8/255, a large network, cifar10, 1,000 images)."
        )
    ]


def test_a_report_ends_with_how_to_cite_it(tmp_path: Path):
    grid = grid_of()
    made = {"computed": "2026-11-26 to 2026-11-27", "test-time-defense-bench": "0.1.0"}
    write_report(grid, scores_of(grid), tmp_path, made)
    for name in ("README.md", "index.html"):
        text = (tmp_path / "demo" / name).read_text(encoding="utf-8")
        entry = text[text.index("@software{test-time-defense-bench,") :]
        assert "version = {0.1.0}," in entry
        assert "year = {2026}," in entry
        assert "note = {Grid demo, digest " in entry


def test_the_description_of_a_run_on_a_tracking_server_tells_the_verdicts_first(tmp_path: Path):
    grid = grid_of()
    page = write_report(grid, scores_of(grid), tmp_path)
    told = story(grid, "pipeline run", {}, {}, {}, page.parent)
    assert "`counter` on demo-iat: **harms**" in told
    assert told.index("Does it hold?") < told.index("## Stress")


def test_a_defense_of_one_pass_needs_no_control_and_a_dearer_one_without_is_told_so():
    row = rows_of()["counter"]
    cheap = dataclasses.replace(row, control=None, cost=Cost(1.0, 0.0, 1.0))
    dear = dataclasses.replace(row, control=None, cost=Cost(2.0, 9.0, 1.0))
    hides = [line for line in notes([row]) if "hides gradients" in line]
    assert hides[0].endswith("points higher than in the worst case.")
    # the direct attack may have fewer images than the row
    assert row.hidden is not None
    fewer = dataclasses.replace(row, hidden=dataclasses.replace(row.hidden, images=200))
    assert any(line.endswith("the worst case, both on 200 images.") for line in notes([fewer]))
    assert list(notes([cheap])) == hides
    assert next(notes([dear])).startswith("No flips and crops of equal cost are among")


def test_a_row_of_another_device_than_the_bare_network_s_is_named_below_the_table():
    grid = grid_of()
    devices = {
        cell.name: "a CPU" if cell.defense == "counter" else "a GPU"
        for cell in grid.cells
        if cell.defense != "guo"
    }
    rows = verdict_rows(grid, scores_of(grid, devices=devices))
    (line,) = [line for line in notes(rows) if "CPU" in line]
    assert line.startswith(
        "Computed on a CPU, with `none` computed on a GPU, on demo-iat: `counter`."
    )
    assert {row.defense: row.facts()["device"] for row in rows} == {
        CONTROL: "a GPU", "none": "a GPU", "guo": None, "counter": "a CPU",
    }  # fmt: skip


@pytest.mark.parametrize(("right", "told"), [(119, True), (120, False)])
def test_an_attack_that_leaves_less_than_the_row_s_is_named_below_the_table(right, told):
    found = rows_of({**SHARES, ("direct", "guo"): right / IMAGES})
    assert found["guo"].worst.accuracy == pytest.approx(100 * 120 / IMAGES)
    assert [line for line in notes(list(found.values())) if "leaves" in line] == [
        (
            "`direct` leaves `guo` on demo-iat only 39.7 [34, 45] % of the same images. The row is "
            "about one attack on both the defense and the bare network: of those made on both, "
            "`adaptive-quick` has the most candidates."
        )
    ] * told
