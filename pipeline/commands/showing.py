"""Commands that show names, and what a store holds: list, why, show, failures, compare, report."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.choosing import (
    GridOptions,
    cell_argument,
    grid_argument,
    grid_options,
    session_from,
    stored_grid_from,
)
from pipeline.commands.grouped import GroupedCommand
from pipeline.commands.options import (
    UNEXPECTED,
    given_options,
    json_option,
    mlflow_option,
    repeated,
    reports_option,
)
from pipeline.commands.output import print_json, say, say_wrapped, terminal_columns
from pipeline.problems import BadInput

OF_LISTS = frozenset({"--store", "--configs", "--paths", "--json"})
"""Options of `list` for all its sections; `runs` has --grid too, and `cells` all options."""


OF_COMPARED_RUNS = frozenset(
    {"--grid", "--only", "--store", "--configs", "--all", "--markdown", "--json"}
)
"""Options of `compare` that apply to runs and stores too, or do no harm there."""


LIST_SECTIONS = ("grids", "models", "attacks", "defenses", "datasets", "recipes")


@click.command(cls=GroupedCommand)
@cell_argument
@grid_options
@json_option
def why(cell: str, as_json: bool, chosen: GridOptions) -> None:
    """Show why a cell would be computed, and what changed.

    \b
    pipeline why demo-iat/untargeted-pgd10/counter+guo
    """
    from pipeline.plan.why import why as explain

    session = session_from(chosen)
    node = session.scores[session.grid.cell(cell).name]
    lines = explain(cell, session.grid.name, node, session.graph, session.store, session.ledger)
    if as_json:
        from pipeline.commands.records import cell_record

        print_json({**cell_record(session.grid.cell(cell)), "reasons": lines})
        return
    for line in lines:
        say(line)


@click.command(cls=GroupedCommand)
@cell_argument
@grid_options
@mlflow_option
@json_option
@click.pass_context
def show(
    ctx: click.Context, /, cell: str, mlflow_uri: str | None, as_json: bool, chosen: GridOptions
) -> None:
    """Show a cell in full: parameters, artifacts, score.

    \b
    pipeline show demo-iat/untargeted-pgd10/counter+guo
    """
    from pipeline.commands.show import story, story_lines

    session = session_from(chosen)
    found = story(session, session.grid.cell(cell), mlflow_uri, repeated(ctx))
    if as_json:
        print_json(found)
        return
    for line in story_lines(found):
        say(line)


@click.command("failures", cls=GroupedCommand)
@cell_argument
@grid_options
@json_option
def failures_command(cell: str, as_json: bool, chosen: GridOptions) -> None:
    """Show where a defense fails: which classes and images.

    Lists accuracies by class and confusions, compared with the same model under the same attack
    without a defense, and the images that every attack on the model breaks, whatever the defense,
    or that none breaks.

    \b
    pipeline failures demo-iat/untargeted-pgd50/guo
    """
    from pipeline.commands.failures import failures_facts, failures_lines, failures_of

    session = session_from(chosen)
    asked = session.grid.cell(cell)
    found = failures_of(session, asked)
    if as_json:
        print_json(failures_facts(asked, found))
        return
    for line in failures_lines(asked, found):
        say_wrapped(line)


@click.command(cls=GroupedCommand)
@click.argument("before", required=False)
@click.argument("after", required=False)
@grid_options
@click.option("--all", "every", is_flag=True, help="List every cell, unchanged ones included.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    before: str | None,
    after: str | None,
    every: bool,
    markdown: bool,
    as_json: bool,
    chosen: GridOptions,
) -> None:
    """Show which cells changed between two runs, and why.

    BEFORE and AFTER are runs of the store (last, last~1, or what `pipeline list runs` prints),
    stores, STORE@RUN, or two defenses, attacks or models of the grid. By default, the last run (of
    --grid, if it is given) is compared with the previous run of the same cells. Of the options that
    choose cells, only --grid and --only apply to runs and stores. Exit codes: 0 no cell got
    significantly worse, 1 one did, 2 bad input, 4 an unexpected error.

    \b
    pipeline compare
    pipeline compare guo 'guo[draws=30]' --grid mine
    pipeline compare s3://lab/store store
    """
    from pipeline.commands.compare import comparison

    given = given_options(ctx)
    found = comparison(
        lambda: session_from(chosen),
        chosen.store,
        before,
        after,
        grid=chosen.grid if "--grid" in given else None,
        only=chosen.only,
        others=[flag for flag in given if flag not in OF_COMPARED_RUNS],
    )
    if as_json:
        print_json(found.facts())
    elif markdown:
        from pipeline.report.formats.comparison import comparison_markdown

        click.echo(comparison_markdown(found, every=every), nl=False)
    else:
        from rich.console import Console

        from pipeline.report.formats.comparison import comparison_terminal

        console = Console()
        shown = comparison_terminal(found, every=every, width=console.width)
        console.print(shown, highlight=False)
    ctx.exit(1 if found.having("worse") else 0)


@click.command(cls=GroupedCommand)
@grid_argument
@grid_options
@mlflow_option
@reports_option
@json_option
@click.pass_context
def report(
    ctx: click.Context,
    /,
    mlflow_uri: str | None,
    reports: Path,
    as_json: bool,
    chosen: GridOptions,
) -> None:
    """Write and print the tables of the results in the store.

    Also writes a page to open in a browser; nothing is computed.

    \b
    pipeline report --grid demo
    """
    from click.core import ParameterSource

    from pipeline.commands.report import check_folder, report_grid

    view = stored_grid_from(chosen)
    check_folder(reports / view.grid.name)
    if ctx.get_parameter_source("store") is not ParameterSource.DEFAULT:
        view.store.backend.check()  # a typing error would replace a report by an empty one
    reported = report_grid(
        view,
        reports,
        as_json=as_json,
        uri=mlflow_uri or "",
        again=repeated(ctx),
    )
    for doubt in reported.doubts:
        say(f"doubt   {doubt}", err=True)
    if reported.page is not None:
        say(f"report  {reported.page}", err=True)
    if reported.unread:
        ctx.exit(UNEXPECTED)
    ctx.exit(2 if reported.page is None else 0)


@click.command("list", cls=GroupedCommand)
@click.argument("section", type=click.Choice([*LIST_SECTIONS, "cells", "runs"]), default="grids")
@grid_options
@click.option("--paths", is_flag=True, help="Show the file that defines each.")
@json_option
@click.pass_context
def list_names(
    ctx: click.Context, /, section: str, paths: bool, as_json: bool, chosen: GridOptions
) -> None:
    """List names, the cells of a grid, or the runs of a store.

    Names of grids, models, attacks, defenses, data sets and recipes are listed with their meanings.
    The runs are those of --grid, if it is given, or of all grids.

    \b
    pipeline list defenses
    pipeline list cells --grid demo
    """
    from pipeline.catalogue.catalogue import SECTIONS, Catalogue, config_folders
    from pipeline.commands.listing import listed, listed_lines, listed_runs
    from pipeline.commands.records import cell_record

    items: list[dict[str, object]]
    given = given_options(ctx)
    read = OF_LISTS | {"--grid"} if section == "runs" else OF_LISTS
    if section != "cells" and (unread := [flag for flag in given if flag not in read]):
        raise BadInput(f"list {section}: no option {', '.join(unread)}; list cells has it")
    if section == "runs":
        grid = chosen.grid if "--grid" in given else None
        named = "--store" in given
        items, lines = listed_runs(chosen.store, grid, terminal_columns(), named=named)
        if not items:
            of = "" if grid is None else f" of grid {grid}"
            say(f"store {chosen.store} has no run{of} that scored a cell", err=True)
    elif section == "cells":
        cells = session_from(chosen).cells
        items, lines = [cell_record(cell) for cell in cells], [cell.name for cell in cells]
    else:
        known = next(each for each in SECTIONS if each == section)
        found = listed(Catalogue(config_folders(chosen.configs)), known)
        items = [each.facts() for each in found]
        lines = list(listed_lines(found, paths=paths, columns=terminal_columns()))
    if as_json:
        print_json({"section": section, "items": items})
        return
    for line in lines:
        say(line)


showing_commands = (why, show, failures_command, compare, report, list_names)
