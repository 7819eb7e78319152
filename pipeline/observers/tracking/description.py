"""The Markdown description of a run for a tracking server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.grid.cells import Grid
from pipeline.report.facts import Facts
from pipeline.report.words.numbers import changes

LONGEST = 7_700
"""Maximum length of a description; MLflow's limit is 8,000 characters."""
VERDICTS = "verdicts.md"
"""File of a report that comes first."""
ELSEWHERE = "The rest is too long for a description: see `report/index.html` among the artifacts."


def story(
    grid: Grid,
    command: str,
    computed: Mapping[str, int],
    scored: Mapping[str, Facts],
    before: Mapping[str, Facts],
    report: Path | None,
) -> str:
    """Describe a run: command, work done, changed cells, and as many tables as fit.

    Args:
        scored: Scores of all cells that have one.
        before: Earlier scores of the cells that were computed in this run.
        report: Folder with the tables.
    """
    work = ", ".join(f"{count} {kind}" for kind, count in computed.items()) or "nothing"
    parts = [
        f"### {grid.title or grid.name}",
        f"{len(scored)} of {len(grid.cells)} cells scored; computed now: {work}.",
        f"    {command}",
    ]
    moved = changes(before, {name: scored[name] for name in before if name in scored})
    if moved:
        lines = "\n".join(f"    {line}" for line in moved)
        parts.append(f"#### Cells that moved\n\n{lines}")
    return _as_far_as_it_goes([*parts, *_tables(report)])


def _tables(report: Path | None) -> list[str]:
    if report is None or not report.is_dir():
        return []
    found = (path for path in report.glob("*.md") if path.name != "README.md")
    files = sorted(found, key=lambda path: (path.name != VERDICTS, path.name))
    # only the part before the first image, since a description cannot show images
    return [path.read_text(encoding="utf-8").partition("\n![")[0].strip() for path in files]


def _as_far_as_it_goes(parts: Sequence[str]) -> str:
    text = parts[0]
    for part in parts[1:]:
        if len(text) + len(part) + 2 > LONGEST:
            return f"{text}\n\n{ELSEWHERE}"
        text += f"\n\n{part}"
    return text
