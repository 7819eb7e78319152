"""The command line, which connects all other packages.

Exit codes: 0 success, 1 a failure or a negative answer, 2 bad input, 3 no answer, 4 an unexpected
error, 130 stopped early. The help of `run`, `compare` and `judge` has the details.
"""

from __future__ import annotations

import atexit
import gc
import io
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

import click

from pipeline import __version__
from pipeline.commands.grouped import GroupedCommand
from pipeline.commands.options import (
    UNEXPECTED,
    Epsilon,
    FiniteRange,
    GridOptions,
    RunOptions,
    cell_argument,
    configs_option,
    data_option,
    data_places,
    device_option,
    discard_stdout,
    given_options,
    grid_argument,
    grid_options,
    json_option,
    mlflow_option,
    print_json,
    repeated,
    reports_option,
    running_options,
    say,
    say_wrapped,
    session_from,
    settings_option,
    store_option,
    stored_grid_from,
    terminal_columns,
    weights_option,
    weights_places,
    written_file_argument,
)
from pipeline.commands.store import store_commands
from pipeline.execution.signals import STOPPED
from pipeline.grid.kinds import FORCE_STARTS, ForceStart
from pipeline.problems import BadInput, Unwritable, reader_gone, suggestion, unreachable

ANSWERING = frozenset({"compare", "doctor", "judge", "verify"})
"""Commands whose exit code 1 is an answer, which a full disk must not imitate."""
OF_LISTS = frozenset({"--store", "--configs", "--paths", "--json"})
"""Options of `list` for all its sections; `runs` has --grid too, and `cells` all options."""
OF_COMPARED_RUNS = frozenset(
    {"--grid", "--only", "--store", "--configs", "--all", "--markdown", "--json"}
)
"""Options of `compare` that apply to runs and stores too, or do no harm there."""
LIST_SECTIONS = ("grids", "models", "attacks", "defenses", "datasets", "recipes")


class _Commands(click.Group):
    """A group of commands that reports BadInput in one line, with exit code 2."""

    command_class = GroupedCommand

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as problem:
            say(f"error: {problem}", err=True)
            ctx.exit(2)
        except Unwritable as problem:
            say(f"error: {problem}", err=True)
            ctx.exit(UNEXPECTED if ctx.invoked_subcommand in ANSWERING else 1)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise  # errors of click, not of user code
        except (Exception, SystemExit) as error:
            if reader_gone(error):
                discard_stdout()
                ctx.exit(UNEXPECTED)
            from pipeline.catalogue.code.known import line_of, place_of

            if place_of(error) is not None:
                say(f"error: {line_of(error)}", err=True)
                ctx.exit(2)
            if isinstance(error, SystemExit):
                raise
            if (said := unreachable(error)) is not None:
                say(f"error: {BadInput(said)}", err=True)
                ctx.exit(2)
            traceback.print_exc()
            ctx.exit(UNEXPECTED)
        except KeyboardInterrupt:
            say("stopped; what is finished is kept", err=True)
            ctx.exit(STOPPED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise BadInput(f"no command '{args[0]}'{suggestion(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


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


def _end_sooner() -> None:
    """Leave out the last collection of garbage: of torch, MLflow and the like it takes seconds."""
    # triton, which is loaded to compile a network, reports all that is not collected
    if "triton" not in sys.modules:
        gc.freeze()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pipeline")
def main() -> None:
    """Judge test-time defenses against adversarial examples.

    \b
    pipeline run demo                 compute what is missing and print the tables
    pipeline plan demo                show what a run would compute
    pipeline why CELL --grid demo     show why
    pipeline compare                  show what changed since the run before
    """
    atexit.register(_end_sooner)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # an encoding other than UTF-8 lacks characters of the tables
        sys.stdout.reconfigure(errors="replace")


@main.command()
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


@main.command()
@click.argument("defense")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="A network to judge on, by name or YAML file; may be given several times.  "
    "[default: the demo's]",
)
@click.option(
    "--minutes",
    type=FiniteRange(0, 525_600, low_open=True, unit="minutes", example=10),
    default=10.0,
    show_default=True,
    help="Time limit: the largest attack budget that is estimated to fit is used, then larger "
    "ones while they fit. A verdict that is not ready in time is `cannot tell`.",
)
@click.option(
    "--epsilon",
    type=Epsilon(),
    help="Epsilon of the attacks, in 1/255 or such as 0.5/255.  [default: 8, on digits 40]",
)
@store_option
@configs_option
@data_option
@weights_option
@settings_option
@device_option
@mlflow_option
@reports_option
@running_options
@json_option
@click.pass_context
def judge(
    ctx: click.Context,
    /,
    defense: str,
    models: tuple[str, ...],
    minutes: float,
    epsilon: float | None,
    store: str,
    configs: tuple[Path, ...],
    data: tuple[str, ...],
    weights: tuple[str, ...],
    settings: Path | None,
    device: str | None,
    **running: Any,
) -> None:
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
    from pipeline.commands.judge_options import JudgeOptions

    asked = JudgeOptions(
        defense=defense,
        models=models,
        minutes=minutes,
        epsilon=epsilon,
        store=store,
        configs=configs,
        data=data_places(data),
        weights=weights_places(weights),
        settings=settings,
        device=device,
    )
    how = RunOptions(force=False, start="defend", stop_after=None, system_metrics=False, **running)
    ctx.exit(judged(asked, how, ["pipeline", "judge", defense, *repeated(ctx)]))


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


@main.command("failures")
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


@main.command()
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


@main.command()
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

    from pipeline.commands.report import report_grid

    view = stored_grid_from(chosen)
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


@main.command("export-weights")
@click.argument("model")
@written_file_argument
@grid_options
@click.option("--half", is_flag=True, help="Write float16, half the size.")
def export_weights_command(model: str, file: Path, half: bool, chosen: GridOptions) -> None:
    """Write a model's weights as a safetensors file.

    The `checkpoint` in the YAML file of a model can name it. An existing FILE is replaced; its
    folder must exist.

    \b
    pipeline export-weights demo-iat demo-iat.safetensors --grid demo --half
    """
    from pipeline.commands.weights import export_weights

    written = export_weights(session_from(chosen), model, file, half=half)
    say(f"{file}: {written.weights:,} numbers, {written.size_bytes / 1e6:.2f} MB")
    say(f"sha256: {written.sha256}")


@main.command()
@mlflow_option
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="Port of the pages.",
)
@click.pass_context
def ui(ctx: click.Context, mlflow_uri: str | None, port: int) -> None:
    """Open the MLflow pages on 127.0.0.1 until Ctrl-C.

    \b
    pipeline ui --port 5001
    """
    from pipeline.observers.tracking.server import default_uri, pages
    from pipeline.observers.tracking.server import ui as serve

    uri = mlflow_uri or default_uri(Path.cwd())
    say(f"MLflow    http://127.0.0.1:{port}  (Ctrl-C ends it)", err=True)
    for name, address in pages(uri, port).items():
        say(f"{name:8}  {address}", err=True)
    ctx.exit(serve(uri, port))


@main.command("list")
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


@main.command()
@store_option
@mlflow_option
@click.option("--address", help="Address of a Ray cluster to check.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, store: str, mlflow_uri: str | None, address: str | None, as_json: bool
) -> None:
    """Check whether this machine has what a run needs.

    \b
    pipeline doctor --address auto
    """
    from pipeline.commands.doctor import examine
    from pipeline.observers.tracking.server import default_uri

    findings = examine(store, mlflow_uri or default_uri(Path.cwd()), address)
    if as_json:
        print_json({"findings": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            say(f"{'ok ' if finding.well else 'BAD'} {finding.subject:9} {finding.seen}")
    ctx.exit(0 if all(finding.well for finding in findings) else 1)


@main.command()
@click.argument("kind", type=click.Choice(["defense", "attack", "model"]))
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("configs"),
    show_default=True,
    help="Folder of configs to write into; created if it does not exist.",
)
@click.option(
    "--form",
    type=click.Choice(["draws", "views", "votes", "optimiser"]),
    default="draws",
    show_default=True,
    help="Template of a defense: random copies of an image, views that are always all evaluated, "
    "votes that may abstain, or an optimiser before the classifier.",
)
def new(
    kind: str, name: str, folder: Path, form: Literal["draws", "views", "votes", "optimiser"]
) -> None:
    """Create a defense, an attack or a model to start from.

    Also writes its YAML file and its test.

    \b
    pipeline new defense my-idea
    pipeline new defense my-views --form views
    python configs/defenses/test_my_idea.py
    pipeline judge my-idea
    pipeline run --grid demo --add defense=my-idea
    """
    import shlex

    from pipeline.commands.new import write_skeleton
    from pipeline.problems import shown

    written = write_skeleton(kind, name, folder, form)
    for path in written:
        say(f"wrote {shown(path)}")
    configs = "" if folder == Path("configs") else f" --configs {shlex.quote(str(folder))}"
    say(f"test  python {shlex.quote(shown(written[-1]))}")
    if kind == "defense":
        say(f"judge pipeline judge {name}{configs}")
    say(f"run   pipeline run --grid demo --add {kind}={name}{configs}")


@main.command()
def reference() -> None:
    """Print every key of the YAML files: values, default, unit.

    \b
    pipeline reference | less
    """
    from pipeline.commands.reference import reference as text

    click.echo(text(), nl=False)


@main.command()
def accept() -> None:
    """Record that changed code gives the same results as before.

    `run` and `plan` stop if the program's own code in `tasks`, or that which reads data sets, has
    changed. If the change affects no results, this command records the code and nothing is computed
    again. If it does affect results, raise the `version` of the class first; its cells are then
    computed again.

    \b
    pipeline accept
    """
    from pipeline.catalogue.code.fingerprint import accept as record

    say(f"recorded in {record()}")


for command in store_commands:
    main.add_command(command)
