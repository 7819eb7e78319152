"""The commands as functions, for notebooks: `pipeline.load_grid`, `pipeline.run`, `results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.options import additions
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observer, Observers, RunFinished
from pipeline.grid.builder import Overrides

if TYPE_CHECKING:
    import polars as pl


def load_grid(
    name: str = "demo",
    *,
    store: str | Path = "store",
    configs: Sequence[str | Path] = (),
    only: Sequence[str] = (),
    add: Sequence[str] = (),
    images: int | None = None,
    seeds: int = 1,
    redraws: int | None = None,
    adaptive: str | None = None,
    parameters: Mapping[str, object] | None = None,
    data: Mapping[str, str | Path] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    device: str | None = None,
) -> Session:
    """A grid opened on a store, as the options of `pipeline run` open it; nothing is computed.

    only: such as `["attack=targeted-*"]`; add: such as `["defense=jpeg.py"]`; parameters: changed
    in all cells, such as `{"guo.draws": 10}`; data and weights: places by the names of data sets
    and models. BadInput, in one line, where something does not fit.
    """
    return open_session(
        name,
        store=str(store),
        configs=[Path(folder) for folder in configs],
        only=only,
        overrides=Overrides(
            add=additions(add),
            images=images,
            seeds=seeds,
            redraws=redraws,
            adaptive=adaptive,
            parameters=parameters or {},
            data={key: Path(path) for key, path in (data or {}).items()},
            weights={key: Path(path) for key, path in (weights or {}).items()},
        ),
        device=device,
    )


def run(
    session: Session,
    *,
    inline: bool = False,
    address: str | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> RunFinished:
    """Compute the cells that are missing, on a local Ray by default; MLflow is not told.

    inline: in this process; address: of a running Ray cluster; workers: CPUs of the local one;
    progress: shown on stderr. A cell that failed is in the result's `missing`, with its reason.
    """
    from rich.console import Console

    from pipeline.observers.progress import make_progress

    session.check_code()
    told = session.check_contracts()
    told += filter(None, [session.store.prepare()])
    for line in told:
        Console(stderr=True).print(line, markup=False, highlight=False)
    observers: list[Observer] = [make_progress(Console(stderr=True), quiet=False)] * progress
    try:
        return session.run(
            Observers(observers),
            inline=inline,
            address=address,
            workers=workers,
            forced=session.forced("defend") if force else set(),
        )
    finally:
        for observer in observers:
            observer.close()


def results(session: Session) -> pl.DataFrame:
    """One row for each cell of the grid, with all that its score says; percent where not named.

    A cell that is not in the store has nulls, and says why in `missing`. A grid loaded with
    `only` has its other cells too. `gain`: in points, over what the first table with gains
    compares it with; `worst_case`: what is left of its model and defense where each image is
    under the attack that breaks it most; `defense_verdict`: on them, where they were attacked
    adaptively; and a column for each swept parameter, such as `guo.draws`.
    """
    from pipeline.commands.records import swept_values
    from pipeline.commands.report import known_scores
    from pipeline.report.formats import frames as report_frames
    from pipeline.report.views.adaptive import worst_cases
    from pipeline.report.views.table import views
    from pipeline.report.views.verdicts import verdict_rows

    grid, scores = session.grid, known_scores(session)
    gains: dict[tuple[str, str, str], float] = {}
    for view in views(grid, scores):
        for row in view.rows:
            for entry in row.entries:
                if entry.gain is not None:
                    gains.setdefault((row.model, entry.attack, row.defense), entry.gain)
    worst = worst_cases(grid, scores)
    verdicts = {(row.model, row.defense): row.verdict.word for row in verdict_rows(grid, scores)}
    swept = [swept_values(cell, grid.tables) for cell in grid.cells]
    columns: dict[str, list[object]] = {
        "gain": [gains.get((cell.model, cell.attack, cell.defense)) for cell in grid.cells],
        "worst_case": [
            None if (rate := worst.get((cell.model, cell.defense))) is None else rate.accuracy
            for cell in grid.cells
        ],
        "defense_verdict": [verdicts.get((cell.model, cell.defense)) for cell in grid.cells],
        **{
            name: [values.get(name) for values in swept]
            for name in dict.fromkeys(name for values in swept for name in values)
        },
    }
    return report_frames.with_more(report_frames.results(grid, scores), columns)
