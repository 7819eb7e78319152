"""The public Python API: `pipeline.load_grid`, `pipeline.run` and `pipeline.results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.choosing import additions
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observer, Observers, RunFinished
from pipeline.grid.builder import Overrides
from pipeline.problems import BadInput

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
    """Load a grid and open a store, with the same options as `pipeline run`. Nothing is computed.

    Args:
        name: Name of the grid, a file in a `grids` folder of the configs.
        store: Folder or address of the artifact store.
        configs: Further folders of configs, searched before the default ones.
        only: Filters that select cells, such as `["attack=targeted-*"]`.
        add: Attacks and defenses to add to every table, such as `["defense=jpeg.py"]`.
        images: Number of test images, instead of the grid's.
        seeds: Number of seeds to run the grid with.
        redraws: Number of repeated predictions of randomised defenses, instead of the grid's.
        adaptive: Budget of an adaptive attack to add to every table, such as `"quick"`.
        parameters: Parameters to change in all cells, such as `{"guo.draws": 10}`.
        data: Folders of data sets, by the name of the data set.
        weights: Checkpoint files, by the name of the model.
        device: `"auto"`, `"cpu"` or `"cuda"`, instead of the settings'.

    Raises:
        BadInput: If a config or an argument is invalid; the message is one line.
    """
    for option, given in (("configs", configs), ("only", only), ("add", add)):
        if isinstance(given, str | Path):
            raise BadInput(f"{option}={str(given)!r}: expected a list, such as [{str(given)!r}]")
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
    """Compute the cells that are missing in the store.

    Unlike `pipeline run` it does not log to MLflow and writes no report.

    Args:
        session: What `load_grid` returned.
        inline: Compute in this process instead of on Ray.
        address: Address of a running Ray cluster; a local Ray is started by default.
        workers: Number of CPUs of the local Ray.
        force: Compute the defended predictions and scores again even if they are stored.
        progress: Show the progress on stderr.

    Returns:
        The result of the run. Its `missing` maps each cell that failed to the reason.
    """
    from rich.console import Console

    from pipeline.observers.progress import make_progress

    session.check_code()
    adopted = session.store.prepare()
    for line in (*session.check_contracts(), *filter(None, [adopted])):
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
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
    """A table of the results: one row for each cell of the grid, with all values of its score.

    Accuracies and other rates are in percent unless the column's name says otherwise. A cell that
    is not in the store has nulls, and the column `missing` says why. All cells of the grid are
    included, even if it was loaded with `only`. Columns beside those of the score, the same for all
    seeds of a cell (of the gain and `all_attacks`, the mean over seeds):

    - `gain`: difference in percentage points from the baseline of the first table that has gains.
    - `all_attacks`: accuracy of the model and defense if each image meets the attack that is most
      successful on it, of those in the ball of the cell's attack.
    - `defense_verdict`: verdict on the model and defense, if they were attacked adaptively; of
      several, that in the ball of the cell's attack.
    - one column for each swept parameter, such as `guo.draws`.
    """
    from pipeline.commands.records import swept_values
    from pipeline.commands.report import known_scores
    from pipeline.report.formats import frames as report_frames
    from pipeline.report.views.adaptive import under_all_attacks
    from pipeline.report.views.table_rows import views
    from pipeline.report.views.verdict_row import VerdictRow
    from pipeline.report.views.verdicts import verdict_of, verdict_rows

    # the state at the end of the session's own run may be hours old
    session.last_snapshot = None
    grid, scores = session.grid, known_scores(session)
    gains: dict[tuple[str, str, str], float] = {}
    for view in views(grid, scores):
        for row in view.rows:
            for entry in row.entries:
                if entry.gain is not None:
                    gains.setdefault((row.model, entry.attack, row.defense), entry.gain)
    under_all = under_all_attacks(grid, scores)
    verdicts: dict[tuple[str, str], list[VerdictRow]] = {}
    for verdict in verdict_rows(grid, scores):
        verdicts.setdefault((verdict.model, verdict.defense), []).append(verdict)
    swept = [swept_values(cell, grid.tables) for cell in grid.cells]
    columns: dict[str, list[object]] = {
        "gain": [gains.get((cell.model, cell.attack, cell.defense)) for cell in grid.cells],
        "all_attacks": [
            None if (rate := under_all.get(cell.name)) is None else rate.accuracy
            for cell in grid.cells
        ],
        "defense_verdict": [
            verdict_of(cell, verdicts.get((cell.model, cell.defense), ())) for cell in grid.cells
        ],
        **{
            name: [values.get(name) for values in swept]
            for name in dict.fromkeys(name for values in swept for name in values)
        },
    }
    return report_frames.with_more(report_frames.results(grid, scores), columns)
