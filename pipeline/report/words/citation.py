"""Citation of a report."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.grid.cells import Grid
from pipeline.report.scores import Scores
from pipeline.report.words.identity import digest

HEADING = "How to cite it"


def bibtex(grid: Grid, scores: Scores, provenance: Mapping[str, object]) -> str:
    """A BibTeX entry: the program, its version, and the results.

    provenance: see `write_report`.
    """
    version = provenance.get("test-time-defense-bench")
    days = str(provenance.get("computed", ""))
    fields = {
        "author": "{The test-time-defense-bench developers}",
        "title": "Test-time defense bench",
        "version": version,
        "year": days[-10:-6],
        "note": f"Grid {grid.name}, digest {digest(scores)[:16]}" + (f", {days}" if days else ""),
    }
    lines = [f"  {key} = {{{value}}}," for key, value in fields.items() if value]
    return "\n".join(["@software{test-time-defense-bench,", *lines, "}"])
