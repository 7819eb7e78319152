from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from made_up import PAPER_COLUMNS, make_grid, make_scores
from made_up_verdicts import grid_of as verdict_grid
from made_up_verdicts import scores_of as verdict_scores

from pipeline.grid.cells import Grid
from pipeline.report.formats.latex import escaped, table_latex
from pipeline.report.views.table import View, spans
from pipeline.report.views.table_rows import views
from pipeline.report.writer import write_report


def view_of(grid: Grid, without: dict[str, str] | None = None) -> View:
    (view,) = views(grid, make_scores(grid, without))
    return view


def test_every_row_of_a_latex_table_has_as_many_columns_as_its_head_says() -> None:
    text = table_latex(view_of(make_grid(PAPER_COLUMNS)))
    assert r"\begin{tabular}{llrrrrrr}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 + 8
    assert {row.count("&") for row in rows[1:]} == {7}
    for part in (r"\toprule", r"\bottomrule", r"\begin{table}", r"\end{table}"):
        assert text.count(part) == 1
    assert text.count("{") == text.count("}")


def test_shared_headings_span_their_columns_in_latex() -> None:
    text = table_latex(view_of(make_grid(PAPER_COLUMNS)))
    assert r"\multicolumn{3}{c}{untargeted} & \multicolumn{3}{c}{targeted}" in text
    assert r"\cmidrule(lr){3-5} \cmidrule(lr){6-8}" in text
    assert "model & defense & pgd10 & pgd50 & pgd200 & pgd10" in text


def test_a_significant_gain_is_bold_in_latex_and_another_is_not() -> None:
    view = view_of(make_grid(("clean",), models=("demo-iat",)))
    assert r"\textbf" not in table_latex(view)
    rows = tuple(
        dataclasses.replace(
            row, entries=tuple(dataclasses.replace(entry, p_holm=0.01) for entry in row.entries)
        )
        for row in view.rows
    )
    assert r"(\textbf{+0.3})" in table_latex(dataclasses.replace(view, rows=rows))


def test_notes_of_missing_cells_stand_below_a_latex_table() -> None:
    grid = make_grid(("clean",), models=("demo-iat",))
    text = table_latex(view_of(grid, {"demo-iat/clean/guo": "100 % of a_b failed"}))
    assert r"-- $^{1}$" in text
    assert r"[1] 100 \% of a\_b failed" in text


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("{x}\\~^", r"\{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}"),
        ("±3 ≤ 4 – 5", r"$\pm$3 $\le$ 4 -- 5"),
        ("a<b>c|d", r"a\textless{}b\textgreater{}c\textbar{}d"),
        ('say "x"', "say ''x''"),
        ("ε ≥ −1×α, μ λ Ω", r"$\epsilon$ $\ge$ $-$1$\times$$\alpha$, $\mu$ $\lambda$ $\Omega$"),
        ("é 網", "é ?"),
    ],
)
def test_what_latex_would_take_for_commands_is_printed(text: str, latex: str) -> None:
    assert escaped(text) == latex


def test_nothing_is_left_that_plain_latex_cannot_typeset() -> None:
    every = "".join(map(chr, range(32, 0x3000)))
    assert max(escaped(every)) <= "\u017f"
    assert not set(escaped(every)) & set('<>|"~')


def test_the_verdicts_are_a_latex_table_too(tmp_path: Path) -> None:
    grid = verdict_grid()
    page = write_report(grid, verdict_scores(grid), tmp_path)
    text = page.with_name("verdicts.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 + 4
    assert {row.count("&") for row in rows if "multicolumn" not in row} == {10}
    (counter,) = (row for row in rows if row.startswith("counter &"))
    assert "& harms, " in counter
    assert "$-$20.0 [$-$" in counter
    write_report(make_grid(("clean",)), make_scores(make_grid(("clean",))), tmp_path)
    assert not page.with_name("verdicts.tex").exists()


def test_a_heading_is_shared_by_neighbours_only() -> None:
    assert spans(["a-1", "a-2", "b-1", "a-3", "plain"]) == [
        ("a", 2),
        ("", 1),
        ("", 1),
        ("", 1),
    ]
