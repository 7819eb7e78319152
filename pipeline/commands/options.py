"""Command-line options shared by several commands."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from pipeline.commands.records import answer
from pipeline.grid.kinds import CARD_SIZES, CardSize, ForceStart
from pipeline.problems import BadInput, suggestion
from pipeline.problems.sanitize import command as fit_to_show
from pipeline.problems.sanitize import printable

if TYPE_CHECKING:
    # imported lazily: reading grids needs slow imports, which --help does without
    from pipeline.catalogue.catalogue import Section
    from pipeline.commands.session import Session
    from pipeline.commands.view import StoredGrid
    from pipeline.grid.builder import Overrides

Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number of `unit`, within a range; infinity and NaN are rejected."""

    def __init__(
        self, low: float, high: float, *, unit: str, example: float, low_open: bool = False
    ) -> None:
        super().__init__(low, high, min_open=low_open)
        self._expected = f"a number of {unit}, such as {example:g}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r}: expected {self._expected}", param, ctx)
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Epsilon(click.ParamType[float]):
    """A perturbation size as in config files: in 1/255, above 0."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See `click.ParamType.convert`."""
        from pydantic import TypeAdapter, ValidationError

        from tasks.specs import WRITTEN, LinfEpsilon

        try:
            given = float(value)
        except ValueError:
            given = value
        if isinstance(given, float) and not math.isfinite(given):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        try:
            size: float = TypeAdapter(LinfEpsilon).validate_python(given, context=WRITTEN)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            self.fail(said, param, ctx)
        if not size > 0:
            self.fail(f"{value!r} is no size above 0.", param, ctx)
        return size


UNEXPECTED = 4
"""Exit code after an error that is neither the user's nor that of a node."""

_PATH = click.Path(path_type=Path)


def _in_a_folder(_: click.Context, __: click.Parameter, file: Path) -> Path:
    """Refuse a file in a folder that does not exist; folders to write into are created."""
    if not file.parent.is_dir():
        raise BadInput(f"{file}: no folder {file.parent}; create it, or name another")
    return file


written_file_argument = click.argument(
    "file", type=click.Path(path_type=Path, dir_okay=False), callback=_in_a_folder
)
"""The file that a command writes."""

store_option = click.option(
    "--store",
    metavar="FOLDER|s3://BUCKET/PREFIX|gs://…|az://…",
    default="store",
    show_default=True,
    envvar="PIPELINE_STORE",
    help="Where artifacts are: a folder, or a bucket, with ?endpoint=URL for any S3 server.",
)


def _mlflow_address(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Validate `--mlflow` or its environment variable; BadInput if it is no address."""
    from pipeline.observers.tracking.server import checked_address

    return checked_address(given) if given else None


mlflow_option = click.option(
    "--mlflow",
    "mlflow_uri",
    callback=_mlflow_address,
    metavar="URI",
    envvar="MLFLOW_TRACKING_URI",
    help="MLflow tracking server.  [default: ./mlflow.db]",
)
reports_option = click.option(
    "--reports",
    type=_PATH,
    default=Path("reports"),
    show_default=True,
    help="Folder to write reports to; created if it does not exist.",
)
configs_option = click.option(
    "--configs", type=_PATH, multiple=True, help="A folder of configs to search first."
)
data_option = click.option(
    "--data", multiple=True, metavar="NAME=FOLDER", help="Where a data set's files are."
)
weights_option = click.option(
    "--weights", multiple=True, metavar="NAME=FILE", help="Where a model's weights are."
)
settings_option = click.option(
    "--settings", type=_PATH, help="A YAML file of settings for the run."
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Device to compute on."
)
ADDABLE: dict[str, Section] = {"model": "models", "attack": "attacks", "defense": "defenses"}
ONCE = frozenset({"grid", "only", "stop_after", "quiet", "verbose", "as_json"})
"""Options that are not repeated in a suggested follow-up command."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def _grids(ctx: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """Shell completion of grid names."""
    from pipeline.catalogue.catalogue import Catalogue, config_folders

    try:
        known = Catalogue(config_folders(ctx.params.get("configs") or ())).names("grids")
    except BadInput:
        return []
    return [name for name in known if name.startswith(typed)]


def _cells(ctx: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """Shell completion of cell names, for the grid on the command line."""
    from pipeline.catalogue.catalogue import Catalogue, config_folders
    from pipeline.grid.builder import load_grid

    try:
        catalogue = Catalogue(config_folders(ctx.params.get("configs") or ()))
        cells = load_grid(catalogue, ctx.params.get("grid") or "demo").cells
    except BadInput:
        return []
    return [cell.name for cell in cells if cell.name.startswith(typed)]


grid_argument = click.argument(
    "grid_named", metavar="[GRID]", required=False, shell_complete=_grids
)
"""Name of a grid, as an alternative to `--grid`."""
cell_argument = click.argument("cell", shell_complete=_cells)

_GRID = (
    click.option(
        "--grid",
        default="demo",
        show_default=True,
        help="A grid's name.",
        shell_complete=_grids,
    ),
    store_option,
    configs_option,
    click.option(
        "--only",
        multiple=True,
        metavar="KEY=PATTERN",
        help="Only the cells that match; KEY is model, attack, defense, dataset, seed or cell.",
    ),
    click.option(
        "--add",
        multiple=True,
        metavar="KEY=NAME",
        help="Also evaluate another model, attack or defense (KEY), by its name or its file.",
    ),
    click.option(
        "--set",
        "parameters",
        multiple=True,
        metavar="NAME.PARAMETER=VALUE",
        help="Change a parameter in all cells: guo.draws=10, attack.epsilon=4, "
        "model.recipe.epochs=5.",
    ),
    click.option("--images", type=click.IntRange(1, 10**8), help="Use the first N test images."),
    click.option(
        "--seeds",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        help="Train, attack and defend N times; a checkpoint's weights stay the same.",
    ),
    click.option(
        "--redraws", type=click.IntRange(1, 10**6), help="Evaluate each randomised defense N times."
    ),
    click.option(
        "--adaptive",
        metavar="BUDGET",
        help="Also attack every defended model adaptively: quick, standard or full.",
    ),
    click.option(
        "--card",
        type=click.Choice(CARD_SIZES),
        default="quarter",
        show_default=True,
        help="Size of the integrity cards of adaptive cells: unlimited, at most a quarter of the "
        "cell's own compute, or no card.",
    ),
    data_option,
    weights_option,
    settings_option,
    device_option,
)


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Values of the options that select a grid, its cells, the store and the files."""

    grid: str
    store: str
    configs: tuple[Path, ...]
    only: tuple[str, ...]
    add: tuple[str, ...]
    parameters: tuple[str, ...]
    images: int | None
    seeds: int
    redraws: int | None
    adaptive: str | None
    card: CardSize
    data: tuple[str, ...]
    weights: tuple[str, ...]
    settings: Path | None
    device: str | None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Values of the options that control a run. stop_after: in minutes."""

    mlflow_uri: str | None
    reports: Path
    force: bool
    start: ForceStart
    inline: bool
    address: str | None
    workers: int | None
    stop_after: float | None
    quiet: bool
    verbose: bool
    system_metrics: bool
    as_json: bool


_RUNNING = (
    click.option("--inline", is_flag=True, help="Run in this process, without Ray."),
    click.option(
        "--address", help="Address of a running Ray cluster; without it a local Ray is started."
    ),
    click.option(
        "--workers", type=click.IntRange(1, 100_000), help="Number of CPUs of the local Ray."
    ),
    click.option("--quiet", is_flag=True, help="Print only problems and the final result."),
    click.option("--verbose", is_flag=True, help="Also print a line for each finished node."),
)


def running_options(command: Command) -> Command:
    """Decorator: add the options of a command that computes."""
    for option in reversed(_RUNNING):
        command = option(command)
    return command


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: add the options that select a grid; passed to the command as `chosen`.

    The grid may also be named by the command's `grid_argument`.
    """

    @functools.wraps(command)
    def typed(*args: Any, **given: Any) -> Any:
        named = given.pop("grid_named", None)
        if named is not None:
            source = click.get_current_context().get_parameter_source("grid")
            if source is not ParameterSource.DEFAULT and given["grid"] != named:
                raise BadInput(f"{named} --grid {given['grid']}: name one grid")
            given["grid"] = named
        chosen = {field.name: given.pop(field.name) for field in fields(GridOptions)}
        return command(*args, chosen=GridOptions(**chosen), **given)

    for option in reversed(_GRID):
        typed = option(typed)
    return typed


def session_from(chosen: GridOptions) -> Session:
    """Open the session that the options select."""
    from pipeline.commands.session import open_session

    with _quiet():
        return open_session(
            chosen.grid,
            store=chosen.store,
            configs=chosen.configs,
            only=chosen.only,
            overrides=_overrides(chosen),
            settings=chosen.settings,
            device=chosen.device,
            card=chosen.card,
        )


def stored_grid_from(chosen: GridOptions) -> StoredGrid:
    """Open the grid and store that the options select, for commands that only read."""
    from pipeline.commands.view import open_stored_grid

    with _quiet():
        return open_stored_grid(
            chosen.grid,
            store=chosen.store,
            configs=chosen.configs,
            only=chosen.only,
            overrides=_overrides(chosen),
            card=chosen.card,
        )


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Redirect stdout to stderr: user code may print during import, and stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _overrides(chosen: GridOptions) -> Overrides:
    from pipeline.grid.assigned import assignments
    from pipeline.grid.builder import Overrides

    return Overrides(
        add=additions(chosen.add),
        images=chosen.images,
        seeds=chosen.seeds,
        redraws=chosen.redraws,
        adaptive=chosen.adaptive,
        parameters=assignments(chosen.parameters),
        data=data_places(chosen.data),
        weights=weights_places(chosen.weights),
    )


def choice_words(chosen: GridOptions) -> list[str]:
    """The options that define a grid, without paths on this machine."""
    words: list[str] = []
    for item in chosen.only:
        words += ["--only", item]
    for item in chosen.add:
        key, _, name = item.partition("=")
        path = Path(name)
        words += ["--add", f"{key}={path.stem if path.suffix in {'.py', '.yaml'} else name}"]
    for item in chosen.parameters:
        words += ["--set", item]
    for flag, value, default in (
        ("--images", chosen.images, None),
        ("--seeds", chosen.seeds, 1),
        ("--redraws", chosen.redraws, None),
        ("--adaptive", chosen.adaptive, None),
        ("--card", chosen.card, "quarter"),
    ):
        if value != default:
            words += [flag, str(value)]
    return words


def additions(items: Sequence[str]) -> list[tuple[Section, str]]:
    """Parse `--add KEY=NAME` into sections and names; BadInput for an unknown key."""
    found: list[tuple[Section, str]] = []
    for item in items:
        key, sign, name = item.partition("=")
        if not sign or not name:
            raise BadInput(
                f"--add {item}: expected KEY=NAME, such as defense=jpeg.py or model=mine"
            )
        if key not in ADDABLE:
            raise BadInput(f"--add {item}: no key '{key}'{suggestion(key, ADDABLE)}")
        found.append((ADDABLE[key], name))
    return found


def print_json(value: Mapping[str, object]) -> None:
    """Print a JSON answer for programs on stdout, with the schema version."""
    json.dump(answer(value), sys.stdout, indent=1)
    sys.stdout.write("\n")
    sys.stdout.flush()  # the last moment at which a missing reader can be noticed


def discard_stdout() -> None:
    """Discard what is still written to stdout, whose reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str, *, err: bool = False) -> None:
    """Print a line, on stdout by default, without terminal control characters."""
    click.echo(printable(line), err=err)


def terminal_columns() -> int | None:
    """Width of the terminal; None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_wrapped(line: str) -> None:
    """Print a line of prose, wrapped at words if the terminal is narrower."""
    columns = terminal_columns()
    if columns is None or len(line) <= columns:
        say(line)
        return
    for part in textwrap.wrap(
        line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ):
        say(part)


def given_options(context: click.Context) -> list[str]:
    """The long names of the options that were given on the command line."""
    return [
        max(option.opts, key=len)
        for option in context.command.params
        if isinstance(option, click.Option)
        and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]


def repeated(context: click.Context) -> list[str]:
    """The options of this command line that a suggested follow-up command has to repeat.

    Left out are the options in `ONCE`, such as --grid and --only, and values from environment
    variables, which will still be set. Secrets in addresses are hidden.
    """
    words: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        source = context.get_parameter_source(name)
        given = isinstance(option, click.Option) and source is ParameterSource.COMMANDLINE
        if name in ONCE or not given:
            continue
        value, flag = context.params[name], max(option.opts, key=len)
        if isinstance(option, click.Option) and option.is_flag:
            words.append(flag)
            continue
        for part in value if isinstance(value, tuple) else (value,):
            words += [flag, *fit_to_show([str(part)])]
    return words


def data_places(given: Sequence[str]) -> dict[str, Path]:
    """Parse `--data`: folders by the name of the data set."""
    return _places("--data", given, "NAME=FOLDER, such as cifar10=/data/cifar10")


def weights_places(given: Sequence[str]) -> dict[str, Path]:
    """Parse `--weights`: files by the name of the model."""
    return _places("--weights", given, "NAME=FILE, such as cifar10-resnet20=resnet20.th")


def _places(option: str, items: Sequence[str], expected: str) -> dict[str, Path]:
    """Parse NAME=PATH options into paths by name."""
    places: dict[str, Path] = {}
    for item in items:
        name, sign, path = item.partition("=")
        if not sign or not path:
            raise BadInput(f"{option} {item}: expected {expected}")
        if name in places:
            raise BadInput(f"{option} {name}: given twice")
        places[name] = Path(path).expanduser()
    return places
