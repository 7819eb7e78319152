"""Options that choose a grid, its cells, the store and the files, and the opening of these."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.commands.options import (
    configs_option,
    data_option,
    data_places,
    device_option,
    settings_option,
    store_option,
    weights_option,
    weights_places,
)
from pipeline.grid.kinds import CARD_SIZES, CardSize
from pipeline.problems import BadInput, suggestion

if TYPE_CHECKING:
    # imported lazily: reading grids needs slow imports, which --help does without
    from pipeline.catalogue.catalogue import Section
    from pipeline.commands.session import Session
    from pipeline.commands.view import StoredGrid
    from pipeline.grid.builder import Overrides


ADDABLE: dict[str, Section] = {"model": "models", "attack": "attacks", "defense": "defenses"}


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
