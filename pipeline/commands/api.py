"""The commands as functions, for notebooks: `pipeline.load_grid`, `pipeline.run`, `results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.options import additions
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observer, Observers, RunFinished
from pipeline.grid.builder import Overrides
from pipeline.report.scores import Scores

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
    `only` has its other cells too.
    """
    from pipeline.report.formats import frames as report_frames
    from pipeline.report.paper import references_of

    scores = Scores(
        facts=session.facts(),
        digests={name: node.digest for name, node in session.scores.items()},
        published=references_of(session.grid, session.catalogue),
    )
    return report_frames.results(session.grid, scores)
