"""Commands that compute, or tell what a run would: run, judge, plan, scale."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from pipeline.commands.choosing import GridOptions, grid_argument, grid_options, session_from
from pipeline.commands.grouped import GroupedCommand
from pipeline.commands.options import (
    FiniteRange,
    RunOptions,
    given_options,
    json_option,
    judging_options,
    mlflow_option,
    repeated,
    reports_option,
    running_options,
)
from pipeline.commands.output import print_json, say, say_wrapped
from pipeline.grid.kinds import FORCE_STARTS, ForceStart
from pipeline.problems import BadInput

start_option = click.option(
    "--from",
    "start",
    type=click.Choice(FORCE_STARTS),
    default=FORCE_STARTS[0],
    show_default=True,
    help="First step that --force computes again.",
)


def _check_start(ctx: click.Context) -> None:
    """Raise BadInput for `--from` without `--force`, which would have no effect."""
    if "--from" in (given := given_options(ctx)) and "--force" not in given:
        raise BadInput("--from needs --force")


@click.command(cls=GroupedCommand)
@grid_argument
@grid_options
@mlflow_option
@reports_option
@click.option("--force", is_flag=True, help="Compute the chosen cells again.")
@start_option
@running_options
@click.option(
    "--stop-after",
    type=FiniteRange(0, 525_600, low_open=True, unit="minutes", example=10),
    metavar="MINUTES",
    help="Stop cleanly after this time; the same command resumes from there.",
)
@click.option("--system-metrics", is_flag=True, help="Log this machine's system metrics to MLflow.")
@json_option
@click.pass_context
def run(ctx: click.Context, /, chosen: GridOptions, **options: Any) -> None:
    """Compute the missing cells of a grid and print its tables.

    Exit codes: 0 all cells are computed; 1 a node failed, or the store or the reports can no longer
    be written; 2 bad input, or MLflow cannot be reached, or Ray does not start; 4 an unexpected
    error; 130 stopped by Ctrl-C or --stop-after. If several apply, 130 comes before 1, and 1 before
    2.

    \b
    pipeline run demo --only model=demo-iat --only defense=counter+guo --force
    """
    from pipeline.commands.run import run_grid

    _check_start(ctx)
    ctx.exit(
        run_grid(session_from(chosen), RunOptions(**options), only=chosen.only, again=repeated(ctx))
    )


@click.command(cls=GroupedCommand)
@judging_options
@click.pass_context
def judge(ctx: click.Context, /, **options: Any) -> None:
    """Judge a defense: a name, or a Python or YAML file.

    Checks the contract, then attacks the defense on the demo's networks and compares it with no
    defense and with flips and crops of equal cost, to tell whether it holds. Exit codes: 0 it
    holds, 1 it does not, 2 bad input, or MLflow cannot be reached, or Ray does not start, 3 cannot
    tell, 4 an unexpected error, 130 stopped by Ctrl-C.

    \b
    pipeline judge jpeg.py
    pipeline judge jpeg.py --model mine.yaml --minutes 60
    """
    from pipeline.commands.judge import judge as judged
    from pipeline.commands.judge_options import asked_from

    of_runs = {each.name for each in fields(RunOptions)}
    running = {name: value for name, value in options.items() if name in of_runs}
    how = RunOptions(force=False, start="defend", stop_after=None, system_metrics=False, **running)
    command = ["pipeline", "judge", options["defense"], *repeated(ctx)]
    ctx.exit(judged(asked_from(options), how, command))


@click.command(cls=GroupedCommand)
@grid_argument
@grid_options
@click.option("--force", is_flag=True, help="Plan for a run with --force.")
@start_option
@click.option("--all", "every", is_flag=True, help="List every cell, however many there are.")
@click.option("--for-device", metavar="NAME", help="Device to estimate for.  [default: this CPU]")
@click.option(
    "--workers",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    help="Number of these devices to estimate for.",
)
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    /,
    force: bool,
    start: ForceStart,
    every: bool,
    for_device: str | None,
    workers: int,
    as_json: bool,
    chosen: GridOptions,
) -> None:
    """Show what a run would compute and how long it may take.

    Also shows which of the paper's numbers the results would be compared with. Times are estimates.
    If the speed of this machine is unknown, it is measured once, which takes some seconds. Nothing
    is written to the store.

    \b
    pipeline plan --grid full --for-device 'NVIDIA H100' --workers 8
    """
    from pipeline.commands.plan import plan_facts, plan_lines

    _check_start(ctx)
    session = session_from(chosen)
    session.check_code()
    forced = session.forced(start) if force else set()
    about: Any = {"forced": forced, "device": for_device, "workers": workers, "measures": True}
    if as_json:
        print_json(plan_facts(session, **about))
        return
    for line in plan_lines(session, every=every, **about):
        say_wrapped(line)


@click.command(cls=GroupedCommand)
@grid_argument
@grid_options
@reports_option
@click.option(
    "--for-device", metavar="NAME", help="Device whose speed is assumed.  [default: this CPU]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 100_000),
    multiple=True,
    default=(1, 8, 64, 512),
    show_default=True,
    help="Number of workers to simulate; may be given several times.",
)
def scale(
    reports: Path, for_device: str | None, workers: tuple[int, ...], chosen: GridOptions
) -> None:
    """Simulate a grid on many workers and show what limits it.

    Estimates how long the grid takes, from how many workers on more of them do not help, and why.
    The report is written to the subfolder `scale` of --reports; nothing is computed.

    \b
    pipeline scale --grid full --for-device 'NVIDIA H100'
    """
    from pipeline.commands.scale import scaling, write_scaling

    found = scaling(session_from(chosen), device=for_device, workers=workers)
    for count in found.asked:
        say(found.said(count))
    say(f"report  {write_scaling(found, reports)}")


computing_commands = (run, judge, plan, scale)
