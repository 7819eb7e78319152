"""The figure of verdicts: what it shows, whom it leaves out, and that it is the committed one."""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

import polars as pl
import pytest
from made_up_verdicts import ATTACKS, CONTROL, SHARES, grid_of, scores_of
from matplotlib.figure import Figure

from pipeline.report.formats.figures.drawings import verdict_drawing
from pipeline.report.formats.figures.verdicts import LOOKS, draw_verdicts
from pipeline.report.formats.frames import as_csv, verdict_values
from pipeline.report.views.adaptive import Rate
from pipeline.report.views.verdict_panels import VerdictMark, VerdictPanel, verdict_panels
from pipeline.report.views.verdicts import verdict_rows
from pipeline.report.writer import write_report

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
BARE = Rate(40.0, (34.6, 45.6))


def facts_of(missing: tuple[str, ...] = (), models: tuple[str, ...] = ("demo-iat",)):
    grid = grid_of(models=models)
    return [row.facts() for row in verdict_rows(grid, scores_of(grid, SHARES, missing))]


def mark(name: str, word: str = "no gain", at: float = 50.0, **more: object) -> VerdictMark:
    made = VerdictMark(name, word, Rate(at, (at - 5, at + 6)), BARE, Rate(at + 10, None))
    return dataclasses.replace(made, **more)


def panel(*marks: VerdictMark) -> VerdictPanel:
    return VerdictPanel("net", "linf", 8.0, (200, 300), marks)


def test_a_panel_is_a_network_with_its_defenses_by_their_worst_case():
    both = verdict_panels(facts_of(models=("demo-iat", "demo-mixup")))
    assert [each.model for each in both] == ["demo-iat", "demo-mixup"]
    first = both[0]
    assert (first.norm, first.epsilon, first.images) == ("linf", 8.0, (300, 300))
    # without the bare network, which is what the others are compared with
    assert [each.defense for each in first.marks] == [CONTROL, "guo", "counter"]
    counter = first.marks[-1]
    assert (counter.verdict, counter.worst.accuracy) == ("harms", pytest.approx(20.0))
    assert counter.without is not None
    assert counter.without.accuracy == pytest.approx(40.0)
    assert counter.replayed is not None
    assert counter.replayed.accuracy == pytest.approx(80.0)
    reversed_facts = facts_of()[::-1]
    assert verdict_panels(reversed_facts)[0].marks == first.marks


def test_what_was_not_computed_has_no_mark_and_a_network_without_a_mark_no_panel():
    every = [f"demo-iat/{attack}/{defense}" for attack in ATTACKS for defense in ("guo", CONTROL)]
    (one,) = verdict_panels(facts_of(missing=tuple(every)))
    assert [each.defense for each in one.marks] == ["counter"]
    alone = [row for row in facts_of() if row["defense"] == "none"]
    assert verdict_panels(alone) == []
    assert verdict_drawing(alone, "verdicts") is None


def test_a_network_that_tells_nothing_is_named_below_the_figure_and_has_a_panel_only_if_alone():
    facts = facts_of(models=("demo-iat", "demo-mixup"))
    for row in facts:
        if row["model"] == "demo-mixup":
            row["verdict"] = "cannot tell"
    drawing = verdict_drawing(facts, "verdicts")
    assert drawing is not None
    assert drawing.caption.endswith('every verdict is "cannot tell": demo-mixup.')
    assert b"demo-iat" in drawing.files["svg"].content()
    assert b"demo-mixup" not in drawing.files["svg"].content()
    alone = verdict_drawing([row for row in facts if row["model"] == "demo-mixup"], "verdicts")
    assert alone is not None
    assert "cannot tell" not in alone.caption
    assert b"demo-mixup" in alone.files["svg"].content()


def test_the_file_of_verdicts_gives_the_figure_that_their_rows_give(tmp_path: Path):
    grid = grid_of()
    rows = verdict_rows(grid, scores_of(grid))
    (tmp_path / "verdicts.csv").write_text(as_csv(verdict_values(rows)), encoding="utf-8")
    read = pl.read_csv(tmp_path / "verdicts.csv", infer_schema_length=None).to_dicts()
    assert verdict_panels(read) == verdict_panels(row.facts() for row in rows)


def test_equal_verdicts_give_equal_bytes_with_a_title_and_the_numbers_in_words(tmp_path: Path):
    panels = [panel(mark("a<b", "holds"), mark("counter", "harms", 20.0))]
    paths = [tmp_path / name for name in ("one.svg", "two.svg")]
    for path in paths:
        draw_verdicts(panels, path, "svg")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    root = ET.parse(paths[0]).getroot()  # noqa: S314
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == "Worst-case accuracy of each defense, and its verdict"
    assert root[1].tag == f"{SVG}desc"
    assert root[1].text == (
        "On net, linf 8/255, worst-case accuracy without a defense is 40.0 %. "
        "With one: a<b 50.0 % (holds), counter 20.0 % (harms)."
    )
    draw_verdicts(panels, tmp_path / "one.png", "png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_each_verdict_has_a_shape_of_its_own_and_stands_in_the_legend(
    tmp_path: Path, drawn: list[Figure]
):
    words = ("holds", "no gain", "harms", "undecided", "cannot tell")
    assert len({shape for shape, _, _ in LOOKS.values()}) == len(words) == len(LOOKS)
    marks = [mark(word, word, 60.0 - place) for place, word in enumerate(words)]
    draw_verdicts([panel(*marks)], tmp_path / "verdicts.svg", "svg")
    (figure,) = drawn
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *(f"worst case: {word}" for word in words),
        "without a defense",
        "replayed",
    ]
    (axes,) = figure.axes
    shapes = {line.get_marker() for line in axes.get_lines()}
    assert {shape for shape, _, _ in LOOKS.values()} <= shapes


def test_a_mark_is_at_the_worst_case_with_its_interval_beside_the_line_of_the_bare_network(
    tmp_path: Path, drawn: list[Figure]
):
    marks = [mark("guo", at=50.0), mark("counter", "harms", 20.0)]
    draw_verdicts([panel(*marks)], tmp_path / "verdicts.svg", "svg")
    (axes,) = drawn[0].axes
    points = {
        (line.get_marker(), *line.get_xydata()[0]) for line in axes.get_lines() if line.get_marker()
    }
    assert {("s", 50.0, 0.0), ("v", 20.0, 1.0)} <= points
    assert {("o", 60.0, 0.0), ("o", 30.0, 1.0)} <= points
    assert {("|", 45.0, 0.0), ("|", 56.0, 0.0)} <= points  # the ends of the interval
    assert [text.get_text() for text in axes.get_yticklabels()] == ["guo", "counter"]
    assert axes.yaxis_inverted()
    assert _ends_of_lines(axes) == [(40.0, -0.5, 1.5)]
    low, high = axes.get_xlim()
    assert low < 20.0
    assert 60.0 < high < 70.0


def test_a_defense_attacked_with_another_budget_has_a_line_of_its_own(
    tmp_path: Path, drawn: list[Figure]
):
    marks = [mark("a"), mark("b"), mark("c", without=Rate(38.0, None)), mark("d", without=None)]
    draw_verdicts([panel(*marks)], tmp_path / "verdicts.svg", "svg")
    (axes,) = drawn[0].axes
    assert _ends_of_lines(axes) == [(40.0, -0.5, 1.5), (38.0, 1.5, 2.5)]


def test_a_mean_over_seeds_has_neither_an_interval_nor_a_band(tmp_path: Path, drawn: list[Figure]):
    seeds = mark("guo", worst=Rate(50.0, None), without=Rate(40.0, None), replayed=None)
    draw_verdicts([panel(seeds)], tmp_path / "verdicts.svg", "svg")
    (axes,) = drawn[0].axes
    assert len(axes.collections) == 1  # the line
    (legend,) = drawn[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["worst case: no gain", "without a defense"]


def test_a_report_has_the_figure_below_its_sentences_and_one_without_verdicts_has_none(
    tmp_path: Path,
):
    grid = grid_of()
    folder = write_report(grid, scores_of(grid), tmp_path).parent
    readme = (folder / "README.md").read_text(encoding="utf-8")
    shown = readme.index("](verdicts.svg)")
    assert readme.index(", 40.0 % without the defense: gain ") < shown < readme.index("- data: ")
    page = (folder / "index.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="verdicts"') :]
    assert section.index("<svg") < section.index("<table")
    assert section.count("<svg", 0, section.index("</section>")) == 1
    ET.parse(folder / "verdicts.svg")  # noqa: S314
    replayed = grid_of(attacks=ATTACKS[:2])
    folder = write_report(replayed, scores_of(replayed), tmp_path / "replayed").parent
    assert not (folder / "verdicts.svg").exists()
    for name in ("README.md", "index.html"):
        assert "verdicts.svg" not in (folder / name).read_text(encoding="utf-8")
    assert 'id="verdicts"' not in (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ledger", "stress-robust-resnet20"])
def test_the_figure_of_a_committed_report_is_that_of_its_numbers(name: str):
    """Written by `drawing.files["svg"].content()`, as here, where a report has only its numbers."""
    folder = ROOT / "reports" / name
    facts = pl.read_csv(folder / "verdicts.csv", infer_schema_length=None).to_dicts()
    drawing = verdict_drawing(facts, "verdicts")
    assert drawing is not None
    assert drawing.markdown in (folder / "README.md").read_text(encoding="utf-8")
    pinned = re.search(r"^matplotlib==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    if version("matplotlib") != pinned[1]:
        pytest.skip(f"another matplotlib than {pinned[1]} draws other bytes")
    assert drawing.files["svg"].content() == (folder / "verdicts.svg").read_bytes()


def _ends_of_lines(axes) -> list[tuple[float, float, float]]:
    """Of the lines of the bare network: where they stand, and from where to where."""
    found = []
    for collection in axes.collections:
        for path in collection.get_paths():
            (across, top), *_, (also, bottom) = path.vertices
            if len(path.vertices) == 2 and across == also:
                found.append((float(across), float(top), float(bottom)))
    return found
