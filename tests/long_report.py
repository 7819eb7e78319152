"""The report of a grid of many cells, in a process of its own: a script, since it is measured.

long_report.py DEFENSES ATTACKS FOLDER writes it for one model, prints it as for a terminal, and
prints as JSON: seconds of the processor, the most memory in MB, and the page's size in MB.
"""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from made_up import make_cell, make_facts
from rich.console import Console

from pipeline.grid.cells import Cell, Grid, Table
from pipeline.report.formats.terminal import render_terminal
from pipeline.report.scores import Scores
from pipeline.report.writer import write_report


def cells(defenses: int, attacks: int) -> tuple[Cell, ...]:
    bare = make_cell("demo-mixup", "untargeted-pgd10", "none")
    other = make_cell("demo-mixup", "untargeted-pgd10", "guo")
    return tuple(
        replace(other if row else bare, attack=f"attack-{column}", defense=_defense(row))
        for row in range(defenses)
        for column in range(attacks)
    )


def _defense(row: int) -> str:
    return f"defense-{row}" if row else "none"


def _most_memory_kb() -> int:
    """Of this process alone: what `getrusage` tells begins with what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def main(defenses: int, attacks: int, folder: Path) -> None:
    """See this module."""
    found = cells(defenses, attacks)
    table = Table(
        "main",
        "A long table",
        ("demo-mixup",),
        tuple(dict.fromkeys(cell.attack for cell in found)),
        tuple(dict.fromkeys(cell.defense for cell in found)),
        None,
        "none",
    )
    grid = Grid("long", "A long grid", found, (table,))
    facts = {cell.name: make_facts(place % 900 / 10) for place, cell in enumerate(found)}
    digests = {cell.name: f"{place:064x}" for place, cell in enumerate(found)}
    scores = Scores(facts, {}, digests)
    began = time.process_time()
    page = write_report(grid, scores, folder)
    console = Console(file=io.StringIO(), width=120)
    console.print(render_terminal(grid, scores, width=120))
    measured = {
        "seconds": time.process_time() - began,
        "memory_mb": _most_memory_kb() / 1024,
        "page_mb": page.stat().st_size / 1e6,
    }
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
