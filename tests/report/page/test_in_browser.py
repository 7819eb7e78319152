"""The page in a browser: nothing overflows, is missing or asked of a network; what moves, moves."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from tiny import FILES, Tiny, write_configs

from pipeline.report.answers import stored_answers
from pipeline.report.scores import Scores
from pipeline.report.views.pictures import Artifacts
from pipeline.report.writer import write_report

pytestmark = pytest.mark.slow

SWEPT = """
  - name: sizes
    models: [mixed]
    attacks: [pgd]
    figure: {x: step_size}
    defenses:
      - {label: 'counter[10]', use: counter, set: {step_size: 10}}
      - counter
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a tiny grid with both kinds of plot and a gallery."""
    folder = tmp_path_factory.mktemp("browser")
    grid = FILES["grids/tiny.yaml"] + SWEPT.removeprefix("\n")
    tiny = Tiny(write_configs(folder / "configs", {"grids/tiny.yaml": grid}), folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    session = tiny.session()
    digests = {name: node.digest for name, node in session.scores.items()}
    per_image = stored_answers(session.store, session.scores)
    scores = Scores(session.facts(), {}, digests, per_image=per_image)
    artifacts = Artifacts(session.store, session.scores, session.exhibits)
    return write_report(session.grid, scores, folder / "reports", session.provenance(), artifacts)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@dataclass
class Visit:
    """A page that was opened, and what it said and asked for on the way."""

    tab: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def value(self, script: str) -> Any:
        return self.tab.evaluate(script)


def opened(browser: Any, page: Path, width: int = 1400, scheme: str = "light") -> Visit:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    visit = Visit(context.new_page())
    visit.tab.on("console", lambda message: visit.said.append(message.text))
    visit.tab.on("pageerror", lambda error: visit.said.append(str(error)))
    visit.tab.on("request", lambda request: visit.asked.append(request.url))
    visit.tab.goto(page.as_uri())
    return visit


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_is_whole_and_fits_and_asks_nobody(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    visit = opened(browser, page, width, scheme)
    # whether defenses hold, or what would tell it, is read without scrolling
    verdict = "document.querySelector('.verdict').getBoundingClientRect()"
    assert 0 < visit.value(f"{verdict}.top") < visit.value(f"{verdict}.bottom") < 900
    visit.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert visit.value("document.documentElement.scrollWidth") == width
    assert visit.value("document.querySelector('#failures table').offsetWidth") > 200
    pictures = visit.value("[...document.images].map((one) => one.complete && one.naturalWidth)")
    assert len(pictures) >= 5
    assert all(pictures)
    plots = "[...document.querySelectorAll('svg')].map((one) => one.getBoundingClientRect().width)"
    assert len(visit.value(plots)) == 3  # two of the table, and how the network was trained
    assert all(width > 200 for width in visit.value(plots))
    # nothing lies beyond the page, but in what scrolls by itself
    beyond = visit.value(
        "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll')"
        " && !one.closest('.skip') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [page.as_uri()]
    assert visit.said == []
    dark = visit.value("getComputedStyle(document.documentElement).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    ink = visit.value("getComputedStyle(document.querySelector('svg text, svg g g')).color")
    assert ink == visit.value("getComputedStyle(document.body).color")


def test_headings_of_neighbouring_sections_do_not_overlap(browser: Any, page: Path) -> None:
    visit = opened(browser, page, 390)
    boxes = json.loads(
        visit.value(
            "JSON.stringify([...document.querySelectorAll('main > *')]"
            ".map((one) => one.getBoundingClientRect()).map((one) => [one.top, one.bottom]))"
        )
    )
    assert len(boxes) >= 5
    assert all(above[1] <= below[0] + 1 for above, below in itertools.pairwise(boxes))


def test_a_filter_leaves_the_rows_with_its_words_and_counts_them(browser: Any, page: Path) -> None:
    tab = opened(browser, page).tab
    rows = "#table-1 tbody tr:not(.gt_group_heading_row):visible"
    assert tab.locator(rows).count() == 5
    tab.fill("#table-1-filter", "mixed GUO")
    assert tab.locator(f"{rows} .gt_stub").all_inner_texts() == ["guo", "counter+guo"]
    assert tab.locator("output[for=table-1-filter]").inner_text() == "2 of 5"
    tab.fill("#table-1-filter", "nothing like it")
    assert tab.locator("#table-1 tbody tr:visible").count() == 0
    tab.fill("#table-1-filter", "")
    assert tab.locator(rows).count() == 5
    tab.fill("#cells-filter", "pgd counter[10]")
    assert tab.locator("#cells-told details:visible").count() == 1
    assert tab.locator("#cells-table tbody tr:visible").count() == 1


def test_a_column_is_sorted_up_and_then_down(browser: Any, page: Path) -> None:
    tab = opened(browser, page).tab
    button = tab.locator("#cells-table th button", has_text="accuracy")
    cells = tab.locator("#cells-table tbody td:nth-child(2)")
    button.click()
    values = [float(text) for text in cells.all_inner_texts()]
    assert values == sorted(values)
    heading = tab.locator("#cells-table th", has_text="accuracy")
    assert heading.get_attribute("aria-sort") == "ascending"
    button.click()
    assert [float(text) for text in cells.all_inner_texts()] == sorted(values, reverse=True)


def test_a_number_of_a_table_opens_its_cell_and_its_address_does_too(
    browser: Any, page: Path
) -> None:
    visit = opened(browser, page)
    tab = visit.tab
    row = tab.locator("#table-1 tbody tr", has=tab.get_by_text("counter+guo", exact=True))
    row.locator("td a").last.click()
    anchor = "cell-mixed/pgd/counter+guo"
    assert tab.url.endswith(f"#{anchor}")
    story = tab.locator(f"details[id='{anchor}']")
    assert story.get_attribute("open") is not None
    assert story.locator("summary").is_visible()
    assert story.get_by_text("--only cell=mixed/pgd/counter+guo").is_visible()
    assert visit.value("document.activeElement.tagName") == "SUMMARY"
    # the same address typed into a new tab
    tab.goto(f"{page.as_uri()}#{anchor}")
    tab.reload()
    assert tab.locator(f"details[id='{anchor}'] dl").is_visible()
    assert visit.said == []


def test_the_page_is_used_with_the_keyboard_alone(browser: Any, page: Path) -> None:
    visit = opened(browser, page)
    tab = visit.tab
    tab.keyboard.press("Tab")
    assert tab.locator(":focus").inner_text() == "Skip to the tables"
    tab.keyboard.press("Enter")
    seen = []
    for _ in range(12):
        tab.keyboard.press("Tab")
        seen.append(
            visit.value(
                "[document.activeElement.tagName, document.activeElement.id,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
    assert seen[0][0] == "SUMMARY"
    assert ["INPUT", "table-1-filter"] in [one[:2] for one in seen]
    assert ["DIV", "table-1"] in [one[:2] for one in seen]
    assert all(outline != "none" for _, _, outline in seen)
    tab.locator(".meaning > summary").focus()
    tab.keyboard.press("Enter")
    assert tab.locator(".meaning").get_attribute("open") is not None


def test_without_scripts_the_page_still_has_every_cell_and_no_dead_control(
    browser: Any, page: Path
) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("#cells-table tbody tr").count() == tab.locator("details.cell").count() == 11
    assert tab.locator("input:visible").count() == 0
