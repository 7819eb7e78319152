from __future__ import annotations

from pathlib import Path

from made_up import make_facts, make_grid

from pipeline.observers.tracking.description import ELSEWHERE, LONGEST, story

GRID = make_grid(("clean",), models=("demo-iat",))


def told(report: Path | None = None, **changes: float) -> str:
    scored = {cell.name: make_facts(40.0) for cell in GRID.cells}
    before = {name: make_facts(value) for name, value in changes.items()}
    return story(GRID, "pipeline run", {"craft": 2, "score": 4}, scored, before, report)


def test_a_story_says_what_was_asked_and_done() -> None:
    assert told() == (
        "### The demo\n\n4 of 4 cells scored; computed now: 2 craft, 4 score.\n\n    pipeline run"
    )


def test_only_cells_whose_number_changed_are_said_to_have_moved() -> None:
    text = told(**{"demo-iat/clean/guo": 38.5, "demo-iat/clean/none": 40.0})
    assert "demo-iat/clean/guo  38.5 → 40.0 %" in text
    assert "demo-iat/clean/none" not in text


def test_tables_go_in_as_far_as_there_is_room_and_the_rest_is_named(tmp_path: Path) -> None:
    for name, size in (("a.md", 100), ("b.md", LONGEST), ("README.md", 100)):
        (tmp_path / name).write_text(f"## {name}\n\n{'x' * size}\n", encoding="utf-8")
    text = told(tmp_path)
    assert "## a.md" in text
    assert "## b.md" not in text
    assert "README" not in text
    assert text.endswith(ELSEWHERE)
    assert len(text) < LONGEST + len(ELSEWHERE) + 10
