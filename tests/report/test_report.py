"""Reports: what tables show, what files hold, what fits a terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest
from made_up import (
    MODELS,
    PAPER_COLUMNS,
    PROBLEM,
    make_facts,
    make_grid,
    make_scores,
    printed,
    read_csv,
    scores_of,
)
from made_up_verdicts import grid_of
from made_up_verdicts import scores_of as judged_scores

from pipeline.grid.cells import Cell, Grid, Table
from pipeline.problems import Unwritable
from pipeline.report.formats.frames import CELL_COLUMNS, results, table_values
from pipeline.report.formats.markdown import markdown_table, page
from pipeline.report.scores import Scores
from pipeline.report.views.table_rows import views
from pipeline.report.words.numbers import changes, gain, old_to_new
from pipeline.report.writer import write_report
from tasks.defenses.counter import Counter
from tasks.evaluation.score import Score


def test_every_fact_of_a_score_has_a_typed_column():
    facts = set(Score.model_fields) - {"interval"} | {"interval_low", "interval_high"}
    assert facts <= CELL_COLUMNS.keys()


def test_results_have_a_row_for_each_cell_in_the_grids_order():
    grid = make_grid()
    frame = results(grid, make_scores(grid))
    assert frame["model"].to_list() == [cell.model for cell in grid.cells]
    first = frame.row(0, named=True)
    assert first["accuracy"] == 20.0
    assert (first["interval_low"], first["interval_high"]) == (15.0, 25.25)
    assert first["deterministic"] is True
    assert first["forwards_per_prediction"] == 50.0
    assert first["digest"] == "0" * 64
    assert first["missing"] is None


def test_a_missing_cell_keeps_its_row_with_nulls_and_the_reason():
    grid = make_grid()
    name = grid.cells[3].name
    frame = results(grid, make_scores(grid, {name: "no memory\nleft"}))
    row = frame.row(3, named=True)
    assert row["defense"] == "counter+guo"
    assert row["accuracy"] is None
    assert row["images"] is None
    assert row["missing"] == "no memory left"


def test_results_without_any_score_have_the_same_columns():
    grid = make_grid()
    frame = results(grid, Scores({}))
    assert frame.schema["accuracy"] == pl.Float64
    assert set(frame["missing"]) == {"not computed"}


def test_whole_and_fractional_values_of_one_fact_share_a_column():
    grid = make_grid(models=("demo-iat",), attacks=("clean",))
    scores = make_scores(grid)
    facts = {
        name: {**facts, "cost": 1 if place else 1.5}
        for place, (name, facts) in enumerate(scores.facts.items())
    }
    assert results(grid, Scores(facts))["cost"].to_list() == [1.5, 1.0, 1.0, 1.0]


def test_gains_come_from_unrounded_accuracies():
    # printed 50.2 and 31.1 would make 19.1
    grid = make_grid(("untargeted-pgd10",), models=("demo-mixup",))
    scores = scores_of(
        **{
            "demo-mixup/untargeted-pgd10/guo": 31.14,
            "demo-mixup/untargeted-pgd10/counter+guo": 50.16,
        }
    )
    (view,) = views(grid, scores)
    last = view.rows[-1].entries[0]
    assert last.gain == pytest.approx(19.02)
    assert "31.1" in printed(grid, scores, 100)
    assert "50.2 (+19.0)" in printed(grid, scores, 100)


def test_a_gain_needs_its_baseline_and_the_baseline_has_none():
    grid = make_grid(("clean",), models=("demo-iat",))
    scores = make_scores(grid, {"demo-iat/clean/guo": "failed"})
    (view,) = views(grid, scores)
    gains = {row.defense: row.entries[0].gain for row in view.rows}
    assert gains["none"] is None
    assert gains["counter"] == pytest.approx(1 / 3)
    assert gains["counter+guo"] is None


def test_a_gain_that_rounds_to_zero_is_plus_zero():
    assert gain(-0.04) == "+0.0"
    assert gain(-0.06) == "-0.1"


def test_several_seeds_are_averaged_and_gains_paired_by_seed():
    grid = make_grid(("clean",), models=("demo-iat",), seeds=2)
    scores = scores_of(
        **{
            "demo-iat/clean/none": 10.0,
            "demo-iat/clean/counter": 30.0,
            "demo-iat/clean/counter/seed1": 90.0,
        }
    )
    (view,) = views(grid, scores)
    entries = {row.defense: row.entries[0] for row in view.rows}
    assert entries["counter"].accuracy == 60.0
    assert entries["counter"].gain == 20.0
    assert entries["counter"].interval is None
    assert entries["counter"].seed_spread == pytest.approx(42.426, abs=1e-3)
    assert entries["none"].accuracy == 10.0
    assert entries["none"].interval == (5.0, 15.25)
    assert entries["none"].note is not None
    assert view.notes[entries["none"].note - 1] == "mean of 1 of 2 seeds; seed 1: not computed"
    assert "Means over 2 seeds." in printed(grid, scores, 80)


def test_missing_cells_share_a_footnote_when_they_share_a_reason():
    grid = make_grid(("clean", "targeted-pgd10"), models=("demo-iat",))
    missing = {
        "demo-iat/clean/guo": "worker died",
        "demo-iat/targeted-pgd10/guo": "worker died",
        "demo-iat/clean/counter": "no zeros allowed",
    }
    text = printed(grid, make_scores(grid, missing), 100)
    assert text.count("– [2]") == 2
    assert text.count("– [1]") == 1
    assert "[2] worker died" in text


def test_a_selection_shows_only_its_rows_and_columns():
    whole = make_grid(PAPER_COLUMNS)
    cells = tuple(
        cell
        for cell in whole.cells
        if (cell.model, cell.attack, cell.defense)
        in {
            ("demo-iat", "targeted-pgd50", "guo"),
            ("demo-iat", "targeted-pgd10", "guo"),
            ("demo-iat", "targeted-pgd10", "none"),
        }
    )
    grid = Grid("demo", "", cells, whole.tables)
    (view,) = views(grid, make_scores(grid))
    assert view.attacks == ("targeted-pgd10", "targeted-pgd50")
    assert [row.defense for row in view.rows] == ["none", "guo"]
    assert view.notes == ("not among the cells asked for",)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_fit_the_terminal(width: int):
    grid = make_grid(PAPER_COLUMNS)
    name = "demo-iat/targeted-pgd50/guo"
    text = printed(grid, make_scores(grid, {name: "worker died"}), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("–") >= 1
    assert "[1] worker died" in text
    for shown in ("Digits under PGD", "demo-mixup", "demo-iat", "none *", "counter+guo"):
        assert shown in text
    assert "…" not in text
    # the last cell's accuracy and gain, whole: the 48th cell, and its baseline before it
    assert "35.7" in text
    assert "(+0.3)" in text


def test_at_80_columns_the_papers_six_attacks_stand_side_by_side():
    text = printed(make_grid(PAPER_COLUMNS), make_scores(make_grid(PAPER_COLUMNS)), 80)
    (heading,) = [line for line in text.splitlines() if "pgd200" in line]
    assert heading.split() == ["pgd10", "pgd50", "pgd200", "pgd10", "pgd50", "pgd200"]
    assert "untarg" in text


def test_a_wide_terminal_gets_whole_names_and_one_line_a_row():
    grid = make_grid(PAPER_COLUMNS)
    text = printed(grid, make_scores(grid), 200)
    assert all(attack in text for attack in PAPER_COLUMNS)
    (row,) = [line for line in text.splitlines() if line.startswith("  counter+guo")][:1]
    assert row.count("(+") == 6


def test_names_with_brackets_are_not_taken_for_markup():
    grid = make_grid(("clean",), models=("[red]m[/red]", "demo-iat"))
    assert "[red]m[/red]" in printed(grid, make_scores(grid), 80)


def test_the_report_is_the_same_bytes_for_the_same_scores(tmp_path: Path):
    grid = make_grid()
    made = {"device": "x86_64 CPU", "torch": "2.15"}
    for folder in ("one", "two"):
        write_report(grid, make_scores(grid), tmp_path / folder, made)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder / "demo").iterdir()}
        for folder in ("one", "two")
    )
    assert one == two
    assert set(one) == {
        "README.md",
        "index.html",
        "results.csv",
        "results.parquet",
        "table1.csv",
        "table1.md",
        "table1.parquet",
        "table1.tex",
    }


def test_a_second_report_replaces_the_first(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    write_report(grid, Scores({}), tmp_path)
    write_report(grid, scores_of(**{"demo-iat/clean/none": 97.5}), tmp_path)
    rows = read_csv(tmp_path / "demo" / "table1.csv")
    assert rows[0]["accuracy"] == "97.5"
    assert rows[0]["deterministic"] == "true"
    assert rows[1]["note"] == "not computed"


def test_csv_and_parquet_hold_the_same_numbers(tmp_path: Path):
    grid = make_grid()
    write_report(grid, make_scores(grid), tmp_path)
    frame = pl.read_parquet(tmp_path / "demo" / "table1.parquet")
    assert frame.equals(table_values(views(grid, make_scores(grid))[0]))
    rows = read_csv(tmp_path / "demo" / "table1.csv")
    assert [float(row["accuracy"]) for row in rows] == frame["accuracy"].to_list()


def test_the_front_page_says_what_the_numbers_mean(tmp_path: Path):
    grid = make_grid()
    scores = make_scores(grid, {grid.cells[0].name: "a | b"})
    write_report(grid, scores, tmp_path, {"device": "x86_64 CPU"})
    text = (tmp_path / "demo" / "README.md").read_text("utf-8")
    for said in (
        "# The demo",
        "16 cells, 1 of them missing",
        "360 test images of 10 classes, 36 a class on average",
        "oblivious",
        "Wilson 95 %",
        "conditional on the trained weights",
        "- device: x86_64 CPU",
        "| demo-iat | counter | deterministic |",
        "| demo-iat | guo | 3 |",
        "[1] a | b",
        "at most ±5.1 points",
        "points gained over the same defense without counter",
        "`untargeted-pgd10`: pgd, norm linf, epsilon 8,",
        "method iat",
        "guo, draws 50",
    ):
        assert said in text, said


def test_settings_that_differ_under_one_label_are_told_with_the_place():
    grid = make_grid(("clean", "targeted-pgd10"), models=MODELS)
    untargeted = Counter(direction="untargeted").resolved(PROBLEM)
    cells = tuple(
        Cell(**{**vars(cell), "defense_spec": untargeted})
        if cell.name == "demo-iat/targeted-pgd10/counter"
        else cell
        for cell in grid.cells
    )
    grid = Grid("demo", "", cells, grid.tables)
    from pipeline.report.formats.markdown import page

    text = page(grid, make_scores(grid), [], {})
    assert "- `counter`: counter, draws 1, direction targeted" in text
    assert "- `counter` in `demo-iat/targeted-pgd10`: counter, draws 1, direction untarg" in text


def test_tables_of_one_name_or_of_a_reserved_one_do_not_overwrite_each_other(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    (table,) = grid.tables
    names = ("README", "a/b", "A b", "a-b")
    tables = tuple(Table(**{**vars(table), "name": name}) for name in names)
    page = write_report(Grid("demo", "", grid.cells, tables), make_scores(grid), tmp_path)
    found = {path.name for path in page.parent.glob("*.md")}
    assert found == {"README.md", "README-2.md", "a-b.md", "A-b-2.md", "a-b-3.md"}
    assert "oblivious" in page.with_name("README.md").read_text("utf-8")


def test_files_of_an_earlier_report_that_this_one_has_not_are_deleted(tmp_path: Path):
    """Nothing in them says that their numbers are of other scores."""
    folder = tmp_path / "demo"
    judged = grid_of()
    write_report(judged, judged_scores(judged), tmp_path)
    before = {path.name for path in folder.iterdir()}
    assert {"verdicts.csv", "verdicts.md", "stress.tex", "stress-robustness.csv"} <= before
    mine = {"notes.md", "stress.zip", "stress-robustness.txt", "results-1.csv", ".hidden"}
    for name in mine:
        (folder / name).write_text("mine")
    (folder / "training.csv").mkdir()
    grid = make_grid(("clean",))
    write_report(grid, make_scores(grid), tmp_path)
    after = {path.name for path in folder.iterdir()}
    assert after >= mine | {"training.csv", "table1.csv", "results.csv", "README.md", "index.html"}
    assert not {name for name in after - mine if name.startswith(("verdicts", "stress"))}
    fresh = write_report(grid, make_scores(grid), tmp_path / "fresh").parent
    assert after - mine - {"training.csv"} == {path.name for path in fresh.iterdir()}


def test_a_table_that_is_called_like_the_candidates_of_another_has_files_of_its_own(
    tmp_path: Path,
):
    grid = grid_of()
    (table,) = grid.tables
    named = f"{table.name}-candidates"
    tables = (table, dataclasses.replace(table, name=named))
    page = write_report(Grid("demo", "", grid.cells, tables), judged_scores(grid), tmp_path)
    texts = {path.name for path in page.parent.glob("*.tex")}
    assert texts == {f"{table.name}.tex", f"{named}-2.tex", "verdicts.tex"}


def test_names_are_no_emphasis_in_markdown():
    rows = [["a*b*", "_x_ of `_y_` in step_size", "**+1.0**"]]
    head, _, row = markdown_table(["_model_", "defense"], ["*pgd*"], rows)
    assert head == r"| \_model\_ | defense | \*pgd\* |"
    assert row == r"| a\*b\* | \_x\_ of `_y_` in step_size | **+1.0** |"


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Unwritable, match=r"reports .*file.*: not a directory") as caught:
        write_report(make_grid(), Scores({}), tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_nothing_of_a_failed_write_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    grid = make_grid(("clean",))
    write_report(grid, Scores({}), tmp_path)
    before = (tmp_path / "demo" / "results.csv").read_bytes()

    def fail(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(Unwritable, match="no space left on device"):
        write_report(grid, make_scores(grid), tmp_path)
    assert (tmp_path / "demo" / "results.csv").read_bytes() == before
    assert not list((tmp_path / "demo").glob(".*"))


def test_changes_tell_old_and_new_values_of_changed_cells_only():
    before = {"a": make_facts(52.04), "b": make_facts(40.0), "c": make_facts(1.0)}
    after = {"b": make_facts(40.0), "a": make_facts(53.21), "new": make_facts(9.0)}
    assert changes(before, after) == ["a  52.0 → 53.2 %"]


def test_a_small_change_gets_the_decimals_that_show_it():
    assert old_to_new(make_facts(52.041), make_facts(52.044)) == "52.041 → 52.044 %"


def test_a_change_of_the_number_of_images_is_told():
    more = {**make_facts(53.0), "images": 1000}
    assert old_to_new(make_facts(53.0), more) == "53.0 % of 360 → 53.0 % of 1000 images"


@pytest.mark.parametrize(
    ("by_class", "said"),
    [
        ([36] * 10, "36 a class"),
        ([50] * 10, "36 a class"),
        ([30, *[50] * 9], "30 to 37 a class"),
        ([18, 18, *[81] * 4, 0, 0, 0, 0], "0 to 81 a class"),
    ],
)
def test_the_front_page_counts_the_images_of_each_class(by_class: list[int], said: str):
    grid = make_grid()
    scores = dataclasses.replace(make_scores(grid), by_class={"digits": by_class})
    assert f"360 test images of 10 classes, {said}\n" in page(grid, scores, [], {})
