"""`python tests/benchmarks`: time the chosen comparisons and write what was measured.

Prints ratios with their spread as they come. Each module's are written once it is done, with every
repeat: `attacks.md` and `attacks.csv`, say. README.md lists what is there.
"""

from __future__ import annotations

import csv
import importlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import torch
from apart import Apart
from harness import Comparison, Timing, fastest, median_rate, ratio, timed
from machine import facts
from rich.console import Console
from rich.table import Table

from pipeline.execution.work.memory import keep_freed_memory

MODULES = (
    *("attacks", "expectation", "defenses", "training", "accuracy"),
    *("linear", "planning", "ray_overhead", "demo"),
)
LONG = ("autoattack",)
"""Those that take hours, and are measured where they are named."""
PEAK = "peak"
INDEX = """\
# Benchmarks

What `make bench` measured: contenders do the same work, one after the other, again and again. A
rate is the median of the repeats; a ratio is the median of the repeats' own ratios, with the least
and the most. Peers run in a process of their own, as their users run them.

"""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*MODULES, *LONG]))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--threads", default=0, help="CPU threads; all by default.")
@click.option("--only", default="", help="Comparisons whose name holds this.")
@click.option("--out", default="reports/bench", show_default=True, type=click.Path(path_type=Path))
def main(
    names: Sequence[str], repeats: int, device: str, threads: int, only: str, out: Path
) -> None:
    """Measure the comparisons of these modules, by default all but those that take hours."""
    threads = threads or torch.get_num_threads()
    keep_freed_memory()  # as a worker does
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    for name in names or MODULES:
        torch.set_num_threads(threads)  # whatever ran before may have set its own
        about = [f"Measured on {time.strftime('%Y-%m-%d %H:%M')}, {repeats} repeats in turn.", ""]
        about += [f"- {key}: {value}" for key, value in facts().items()]
        sections, timings = _measured(name, device, repeats, only, console)
        text = "\n".join([f"# {_title(name)}", "", *about, "", *sections])
        (out / f"{name}.md").write_text(text, encoding="utf-8")
        _write_timings(out / f"{name}.csv", timings)
    (out / "README.md").write_text(_index(out), encoding="utf-8")
    console.print(f"{out / 'README.md'}")


def _measured(
    name: str, device: str, repeats: int, only: str, console: Console
) -> tuple[list[str], list[Timing]]:
    """The comparisons of a module: each as Markdown, and all of their calls."""
    peaks: dict[str, float] = {}
    sections: list[str] = []
    every: list[Timing] = []
    with Apart(name, device) as apart:
        for place, comparison in enumerate(importlib.import_module(name).comparisons(device)):
            if only not in comparison.name and comparison.name != PEAK:
                continue
            with console.status(comparison.what):
                timings = list(timed(comparison, repeats, partial(apart.seconds, place)))
            every += timings
            if comparison.name == PEAK:
                peaks = _peaks(comparison, timings)
            rows = _rows(comparison, timings, peaks)
            shown = [_table(comparison, rows)] if rows else [comparison.what]
            console.print(*shown, *comparison.told, sep="\n")
            sections.append(_markdown(comparison, rows))
    return sections, every


def _rows(
    comparison: Comparison, timings: Sequence[Timing], peaks: dict[str, float]
) -> list[tuple[str, ...]]:
    peers = [name for name in comparison.contenders if name not in comparison.ours]
    best = comparison.beside or (fastest(timings, peers) if peers else None)
    rows = []
    for name in comparison.contenders:
        rate = median_rate(timings, name)
        times = "" if best is None or name == best else str(ratio(timings, name, best))
        flops, share = "", ""
        if comparison.flop is not None:
            speed = rate * comparison.flop
            flops = f"{speed / 1e9:,.0f}"
            top = next((peak for kind, peak in peaks.items() if name.endswith(kind)), None)
            top = top or peaks.get("float32")
            share = "" if top is None or comparison.name == PEAK else f"{100 * speed / top:.0f} %"
        rows.append((name, f"{rate:,.4g}", times, flops, share))
    return rows


def _peaks(comparison: Comparison, timings: Sequence[Timing]) -> dict[str, float]:
    """The kind of number → floating point operations a second."""
    flop = comparison.flop or 0.0
    return {name.split()[-1]: median_rate(timings, name) * flop for name in comparison.contenders}


def _filled(
    comparison: Comparison, rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, without columns that have nothing to tell of this comparison."""
    beside = comparison.beside or "the fastest peer"
    headings = ("contender", "a second", f"times {beside}", "GFLOP/s", "of the peak")
    kept = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    return [headings[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _table(comparison: Comparison, rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=f"{comparison.what} ({comparison.unit} a second)", title_justify="left")
    headings, rows = _filled(comparison, rows)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(comparison: Comparison, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"## {comparison.what}", ""]
    if rows:
        lines += [f"{comparison.unit.capitalize()} a second, median.", ""]
        headings, rows = _filled(comparison, rows)
        rule = ["---", *["---:"] * (len(headings) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)]
        lines.append("")
    lines += [f"- {line}" for line in comparison.told]
    return "\n".join(lines).rstrip() + "\n"


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _index(out: Path) -> str:
    """What is in the folder, measured in this run or before, here or on other machines."""
    found = [name for name in (*MODULES, *LONG) if (out / f"{name}.md").exists()]
    lines = [
        f"- [{_title(name)}]({name}.md), every repeat: [{name}.csv]({name}.csv)" for name in found
    ]
    others = sorted(place.parent.name for place in out.glob("*/README.md"))
    lines += [f"- Another machine: [{name}]({name}/README.md)" for name in others]
    return INDEX + "\n".join(lines) + "\n"


def _write_timings(path: Path, timings: Sequence[Timing]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["comparison", "contender", "repeat", "seconds", "rate"])
        for one in timings:
            writer.writerow([one.comparison, one.contender, one.repeat, one.seconds, one.rate])


if __name__ == "__main__":
    main()
