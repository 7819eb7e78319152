"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.grid import Overrides
from pipeline.problems import BadInput
from pipeline.session import Session, open_session

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)

store_option = click.option(
    "--store",
    type=_PATH,
    default=Path("store"),
    show_default=True,
    envvar="PIPELINE_STORE",
    help="Folder of artifacts.",
)
mlflow_option = click.option(
    "--mlflow",
    "mlflow_uri",
    metavar="URI",
    envvar="MLFLOW_TRACKING_URI",
    help="MLflow tracking server.  [default: ./mlflow.db]",
)
reports_option = click.option(
    "--reports",
    type=_PATH,
    default=Path("reports"),
    show_default=True,
    help="Folder that tables are written to.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer as JSON on stdout.")

_GRID = (
    click.option("--grid", default="demo", show_default=True, help="A grid's name."),
    store_option,
    click.option(
        "--configs", type=_PATH, multiple=True, help="A folder of configs to look into first."
    ),
    click.option(
        "--only",
        multiple=True,
        metavar="KEY=PATTERN",
        help="Only the cells that match; KEY is model, attack, defense, dataset, seed or cell.",
    ),
    click.option("--images", type=click.IntRange(min=1), help="Use the first N test images."),
    click.option(
        "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Train N times."
    ),
    click.option(
        "--redraws", type=click.IntRange(min=1), help="Ask each randomised defense N times."
    ),
    click.option(
        "--data", multiple=True, metavar="NAME=FOLDER", help="Where a data set's files are."
    ),
    click.option("--settings", type=_PATH, help="A YAML file that says how to run."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute."),
)


def grid_options(command: Command) -> Command:
    """The options that choose a grid, cells of it, and where they live."""
    for option in reversed(_GRID):
        command = option(command)
    return command


def session_from(options: dict[str, Any]) -> Session:
    """The session that the grid options ask for."""
    data = {}
    for item in options["data"]:
        name, sign, folder = item.partition("=")
        if not sign or not folder:
            raise BadInput(f"--data {item}: expected NAME=FOLDER, such as cifar10=/data/cifar10")
        data[name] = Path(folder).expanduser()
    return open_session(
        options["grid"],
        store=options["store"],
        configs=options["configs"],
        only=options["only"],
        overrides=Overrides(
            images=options["images"],
            seeds=options["seeds"],
            redraws=options["redraws"],
            data=data,
        ),
        settings=options["settings"],
        device=options["device"],
    )
