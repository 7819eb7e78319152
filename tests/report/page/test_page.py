"""The page: whole in one file, true to the scores, and readable by more than one sort of reader."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from made_up import make_facts, make_grid, make_scores

from pipeline.catalogue.paper import Published
from pipeline.grid.cells import Grid
from pipeline.report.cards import Card
from pipeline.report.formats.figures.drawings import robustness_drawing
from pipeline.report.formats.page import page as page_module
from pipeline.report.formats.page.page import TEMPLATES, Plot, Section, page_html
from pipeline.report.formats.page.parts import anchors, inline, themed
from pipeline.report.paper import Reference
from pipeline.report.scores import Scores
from pipeline.report.views.adaptive import Rate, Robustness
from pipeline.report.views.failures import ClassRate, Failures, ModelFailures
from pipeline.report.views.table_rows import views
from pipeline.report.writer import write_report
from tasks.integrity.findings import Finding

TESTS = Path(__file__).parents[2]


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.found if attribute in attributes]


def written(
    tmp_path: Path,
    grid: Grid,
    scores: Scores | None = None,
    again: tuple[str, ...] = (),
    links: dict[str, str] | None = None,
) -> tuple[str, Elements]:
    page = write_report(grid, scores or make_scores(grid), tmp_path, again=again, links=links)
    text = page.read_text("utf-8")
    return text, Elements(text)


def priced_scores(grid: Grid) -> Scores:
    """Scores whose defenses differ in cost, so that there is a plot."""
    scores = make_scores(grid)
    facts = {
        cell.name: {**scores.facts[cell.name], "forwards_per_prediction": 1.0 + place % 4}
        for place, cell in enumerate(grid.cells)
    }
    return dataclasses.replace(scores, facts=facts)


def test_every_id_is_there_once_and_every_link_within_the_page_has_its_target(tmp_path: Path):
    grid = make_grid(models=("demo iat", "demo-iat", "demo_iat"))
    name = grid.cells[2].name
    _, page = written(tmp_path, grid, make_scores(grid, {name: "worker died"}))
    identities = page.values("id")
    assert len(identities) == len(set(identities))
    assert not [one for one in identities if re.search(r"\s", one)]
    within = [unquote(link[1:]) for link in page.values("href") if link.startswith("#")]
    assert len(within) > 2 * len(grid.cells)
    assert set(within) <= set(identities)
    for attribute in ("aria-labelledby", "headers", "for"):
        named = {one for value in page.values(attribute) for one in value.split()}
        assert named <= set(identities), attribute


def test_nothing_of_the_page_comes_from_elsewhere(tmp_path: Path):
    grid = make_grid()
    text, page = written(tmp_path, grid, priced_scores(grid))
    assert page.all("svg")
    assert all(source.startswith("data:") for source in page.values("src"))
    files = {link for link in page.values("href") if not link.startswith(("#", "data:"))}
    assert {"table1.csv", "table1.parquet", "table1.md", "table1.tex", "results.csv"} <= files
    assert all((tmp_path / "demo" / file).is_file() for file in files)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    # the names of SVG's vocabularies, which nobody fetches
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_a_place_of_a_table_leads_to_its_cells_digest_command_and_run(tmp_path: Path):
    grid = make_grid()
    cell = grid.cells[5]
    link = "http://127.0.0.1:5000/#/runs/0123"
    text, _ = written(tmp_path, grid, again=("--store", "my store"), links={cell.name: link})
    anchor = anchors(grid)[cell.name]
    assert f'<a href="#{anchor}">{20 + 5 / 3:.1f}</a>' in text
    story = text[text.index(f'id="{anchor}"') :]
    story = story[: story.index("</details>")]
    assert f"<code>{5:064x}</code>" in story
    assert link in story
    command = f"pipeline run --grid demo --only cell={cell.name} --store &#39;my store&#39; --force"
    assert command in story
    assert text.count(link) == 2  # as an address and as its words


def test_names_and_reasons_are_text_and_no_markup(tmp_path: Path):
    grid = make_grid(("clean",), models=("<b>m</b>", "demo-iat"))
    missing = {grid.cells[0].name: "<script>alert(1)</script> & more"}
    text, page = written(tmp_path, grid, make_scores(grid, missing))
    assert "<script>alert" not in text
    assert "<b>m</b>" not in text
    assert "<b>m</b>" in page.words
    assert "<script>alert(1)</script> & more" in page.words
    assert len(page.all("script")) == 1


def test_a_missing_cell_has_its_note_in_the_table_and_its_reason_in_its_story(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    name = grid.cells[2].name
    text, page = written(tmp_path, grid, make_scores(grid, {name: "worker died"}))
    assert "1 of them missing" in page.words
    assert '<a href="#table-1-note-1" aria-label="note 1">1</a>' in text
    assert '<li id="table-1-note-1">worker died</li>' in text
    story = text[text.index(f'id="{anchors(grid)[name]}"') :]
    assert "<dd>worker died</dd>" in story[: story.index("</details>")]


def test_a_published_number_stands_beside_the_measured_one_with_its_verdict(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    cell = grid.cells[1]
    scores = make_scores(grid)
    reference = Reference(Published(21.0, upper_bound=False, tables=("table1",)), cell, cell)
    scores = dataclasses.replace(scores, published={cell.name: reference})
    text, _ = written(tmp_path, grid, scores)
    assert "paper 21.0, inside" in text
    assert "published numbers inside the measured interval: 1 of 1" in text
    assert ">published</th>" in text
    assert ">published</th>" not in written(tmp_path, grid)[0]


def test_only_a_significant_gain_is_bold(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    (view,) = views(grid, make_scores(grid))
    rows = tuple(
        dataclasses.replace(
            row,
            entries=tuple(
                dataclasses.replace(entry, p_value=0.01, p_holm=0.01 if place == 1 else 0.5)
                for entry in row.entries
            ),
        )
        for place, row in enumerate(view.rows)
    )
    section = Section(dataclasses.replace(view, rows=rows), "table1")
    text = page_html(grid, make_scores(grid), [section], [], provenance={})
    assert text.count('class="gain up significant"') == 1
    assert text.count('class="gain up"') == 1


def test_the_page_names_its_language_headings_captions_and_what_pictures_show(tmp_path: Path):
    grid = make_grid()
    _, page = written(tmp_path, grid, priced_scores(grid))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) == 2
    assert all(image["alt"] for image in page.all("img"))
    plots = [one for one in page.all("div") if one.get("role") == "img"]
    assert len(plots) == len(page.all("svg"))
    assert all(plot["aria-label"] for plot in plots)
    # what scrolls sideways can be reached, and has a name
    scrolling = [one for one in page.all("div") if "scroll" in one.get("class", "").split()]
    assert all("tabindex" in one for one in scrolling)
    assert all("aria-label" in one or "aria-labelledby" in one for one in scrolling)
    labelled = {one["for"] for one in page.all("label")}
    assert {one["id"] for one in page.all("input")} == labelled


def test_attacks_that_share_a_first_word_stand_below_it(tmp_path: Path):
    attacks = ("untargeted-pgd10", "untargeted-pgd50", "targeted-pgd10", "clean")
    text, _ = written(tmp_path, make_grid(attacks))
    assert '<span class="gt_column_spanner">untargeted</span>' in text
    assert '<span class="gt_column_spanner">targeted</span>' not in text
    for heading in (">pgd10</th>", ">pgd50</th>", ">targeted-pgd10</th>", ">clean</th>"):
        assert text.count(heading) == 1


def test_anchors_of_names_that_look_alike_stay_apart():
    grid = make_grid(("clean",), models=("a b", "a_b"))
    found = list(anchors(grid).values())
    assert found[0] == "cell-a_b/clean/none"
    assert len(set(found)) == len(grid.cells)
    assert all(re.fullmatch(r"[\w./+-]+", one) for one in found)


def test_a_plot_takes_the_pages_colours_and_ids_of_its_own():
    svg = (
        '<?xml version="1.0"?>\n<svg><metadata>who</metadata><g id="a" style="fill: #1c1c1c"/>'
        '<use xlink:href="#a" clip-path="url(#c)"/><image xlink:href="data:x"/></svg>'
    )
    assert themed(svg, "t") == (
        '<svg><g id="t-a" style="fill: currentColor"/>'
        '<use xlink:href="#t-a" clip-path="url(#t-c)"/><image xlink:href="data:x"/></svg>'
    )


def test_markdown_of_a_line_becomes_html_and_html_does_not():
    assert inline("`a<b>`, **bold** & <i>, *so*\n*Such* 2*3*4") == (
        "<code>a&lt;b&gt;</code>, <strong>bold</strong> &amp; &lt;i&gt;, <em>so</em>\n"
        "<em>Such</em> 2*3*4"
    )


def test_words_that_stop_a_stranger_are_explained_where_they_stand(tmp_path: Path):
    text, _ = written(tmp_path, make_grid())
    section = text.partition('id="table-1-section"')[2].partition("</section>")[0]
    # open, and not in a fold
    shown = re.sub(r"<details.*?</details>", "", section, flags=re.DOTALL)
    assert "Replayed: the examples were crafted against the network without the defense" in shown
    assert "Redraws: number of predictions of a randomised defense for each image" in shown
    # and where they do not stand, they are not
    _, clean = written(tmp_path, make_grid(("clean",)))
    assert "Replayed:" not in clean.words


def test_a_class_on_which_a_defense_fails_is_told_with_what_it_is_taken_for(tmp_path: Path):
    grid = make_grid(("untargeted-pgd10",), models=("demo-iat",))
    bare, guo = grid.cells[0], grid.cells[2]
    two = [ClassRate(label, name, 5, None, 50.0) for label, name in ((0, "cat"), (1, "d<g"))]
    worse = [replace(two[0], after=20.0), two[1]]
    before, after = np.array([[5, 5], [5, 5]]), np.array([[1, 4], [3, 3]])
    images = {"always": [4], "common": 10, "cells": ("a", "b")}
    found = [
        (bare, Failures(two, after=before, **images)),  # type: ignore[arg-type]
        (guo, Failures(worse, before, after, **images)),  # type: ignore[arg-type]
    ]
    told = [ModelFailures("demo-iat", "untargeted-pgd10", found)]
    provenance: dict[str, object] = {}
    text = page_html(grid, make_scores(grid), [], [], failures=told, provenance=provenance)
    page = Elements(text)
    assert "#failures" in page.values("href")
    section = text.partition('<section id="failures"')[2].partition("</section>")[0]
    assert "always wrong, 1 image: 4; always right, no image." in section
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", section)
    assert len(rows) == 2
    assert '<td class="significant">20</td><td>50</td>' in rows[1]
    assert "significant" not in rows[0]  # both classes are alike
    said = rows[1].replace("\u00a0", " ")
    assert "cat → d&lt;g in 80 % (none: 50 %); d&lt;g → cat in 50 % (none: 50 %)" in said
    without = page_html(grid, make_scores(grid), [], [], provenance=provenance)
    assert "#failures" not in without
    # a grid without a file exists only within its own command
    assert "pipeline failures CELL" in section
    own = replace(grid, command=("pipeline", "judge", "jpeg.py"))
    text = page_html(own, make_scores(own), [], [], failures=told, provenance=provenance)
    assert "pipeline failures" not in text


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground_in_light_and_dark(scheme: str):
    style = (TEMPLATES / "style.css").read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))
        for part in style.split("prefers-color-scheme: dark")[:2]
    )
    colours = light if scheme == "light" else dark
    assert len(colours) == 9
    for ground in ("page", "raised"):
        for words in ("text", "muted", "link", "up", "down"):
            one, other = sorted((_luminance(colours[words]), _luminance(colours[ground])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (words, ground)


def test_a_grid_without_any_score_has_a_page(tmp_path: Path):
    text, page = written(tmp_path, make_grid(), Scores({}))
    assert "16 of them missing" in page.words
    assert "not computed" in text


def test_a_fact_of_another_kind_is_shown_too(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    facts = {**make_facts(50.0), "adaptive_steps": 100, "card": "pass"}
    text, _ = written(tmp_path, grid, Scores({grid.cells[0].name: facts}))
    assert "<dt>adaptive steps</dt><dd>100</dd>" in text
    assert "<dt>card</dt><dd>pass</dd>" in text


def test_the_robustness_of_a_defense_stands_below_its_table_by_adaptive_attack(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    (view,) = views(grid, make_scores(grid))
    rate = Rate(40.0, (30.0, 50.0))
    rows = [
        Robustness("demo-iat", defense, attack, 100, adaptive=rate, all_attacks=Rate(39.0, None))
        for attack in ("adaptive-quick", "adaptive")
        for defense in ("none", "a<b")
    ]
    drawing = robustness_drawing(rows, "table1-robustness")
    assert drawing is not None
    plot = Plot(drawing.files["svg"].content().decode(), drawing.alt, drawing.caption)
    section = Section(view, "table1", [plot], rows)
    text = page_html(grid, make_scores(grid), [section], [], provenance={})
    page = Elements(text)
    assert "Robustness of each defense under adaptive-quick" in page.words
    assert text.count("about the same images: 100</span></caption>") == 2
    assert text.count("40.0 [30, 50]") == 4
    assert "a<b" in page.words
    assert "<b " not in text
    assert len(page.values("id")) == len(set(page.values("id")))
    assert robustness_drawing([], "table1-robustness") is None


def test_a_failed_card_takes_the_bold_away_and_says_why_where_it_stands(tmp_path: Path):
    grid = make_grid(("clean",), models=("demo-iat",))
    (view,) = views(grid, make_scores(grid))
    found = Finding(check="steps", verdict="fail", words="more steps leave <more>")
    card = Card("demo-iat/none", 100, model=(found,))
    entry = dataclasses.replace(
        view.rows[1].entries[0], p_value=0.01, p_holm=0.01, card="fail", card_note=1
    )
    row = dataclasses.replace(view.rows[1], entries=(entry,))
    shown = dataclasses.replace(view, rows=(view.rows[0], row), notes=(card.complaint(),))
    scores = dataclasses.replace(make_scores(grid), cards={grid.cells[1].name: card})
    text = page_html(grid, scores, [Section(shown, "table1")], [], provenance={})
    page = Elements(text)
    assert "significant" not in [one.get("class") for one in page.all("span")]
    assert 'href="#table-1-note-1"' in text
    assert "more steps leave <more>" in page.words
    assert "<more>" not in text
    assert "cards" in page.values("id")
    story = text[text.index(f'id="{anchors(grid)[grid.cells[1].name]}"') :]
    assert "<dt>integrity card</dt><dd>fail: " in story[: story.index("</details>")]


def test_a_long_grid_is_shown_folded_with_every_number_and_all_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "LONG", 10)
    grid = make_grid()
    text, page = written(tmp_path, grid)
    table, cells = re.findall(r"<details>\n<summary>([^<]*)</summary>\n<div class=.scroll", text)
    assert table == f"{len(grid.tables[0].defenses) * 2} rows, 2 columns"
    assert cells == f"{len(grid.cells)} cells"
    targets = {unquote(href[1:]) for href in page.values("href") if href.startswith("#")}
    assert targets <= set(page.values("id"))
    assert set(anchors(grid).values()) <= targets
    assert "cell" not in page.values("class")
    assert all(cell.name in page.words for cell in grid.cells)
    assert "pipeline show CELL" in text
    # which a grid without a file has not
    text, _ = written(tmp_path, replace(grid, command=("pipeline", "judge", "jpeg.py")))
    assert "pipeline show" not in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_report_of_20000_cells_takes_a_minute_a_gigabyte_and_20_mb_and_grows_linearly(
    tmp_path: Path,
) -> None:
    def measured(defenses: int, attacks: int) -> dict[str, float]:
        words = [str(defenses), str(attacks), str(tmp_path)]
        done = subprocess.run(
            [sys.executable, str(TESTS / "long_report.py"), *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, float] = json.loads(done.stdout)
        return found

    small, large = measured(50, 100), measured(141, 142)
    assert large["seconds"] < 60
    assert large["memory_mb"] < 1000
    assert large["page_mb"] < 20
    # four times as many cells
    assert large["seconds"] < 8 * small["seconds"]
