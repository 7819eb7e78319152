"""Command-line options shared by several commands, except those that choose a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from pipeline.grid.kinds import ForceStart
from pipeline.problems import BadInput
from pipeline.problems.sanitize import command as fit_to_show

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
ONCE = frozenset({"grid", "only", "stop_after", "quiet", "verbose", "as_json"})
"""Options that are not repeated in a suggested follow-up command."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


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


_JUDGING = (
    click.argument("defense"),
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="A network to judge on, by name or YAML file; may be given several times.  "
        "[default: the demo's]",
    ),
    click.option(
        "--minutes",
        type=FiniteRange(0, 525_600, low_open=True, unit="minutes", example=10),
        default=10.0,
        show_default=True,
        help="Time limit: the largest attack budget that is estimated to fit is used, then larger "
        "ones while they fit. A verdict that is not ready in time is `cannot tell`.",
    ),
    click.option(
        "--epsilon",
        type=Epsilon(),
        help="Epsilon of the attacks, in 1/255 or such as 0.5/255.  [default: 8, on digits 40]",
    ),
    store_option,
    configs_option,
    data_option,
    weights_option,
    settings_option,
    device_option,
    mlflow_option,
    reports_option,
    running_options,
    json_option,
)


def judging_options(command: Command) -> Command:
    """Decorator: add the argument and the options of `judge`."""
    for option in reversed(_JUDGING):
        command = option(command)
    return command


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
