"""Commands about a project's files and this machine: new, reference, accept, doctor, ui."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pipeline.commands.grouped import GroupedCommand
from pipeline.commands.options import json_option, mlflow_option, store_option
from pipeline.commands.output import print_json, say


@click.command(cls=GroupedCommand)
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


@click.command(cls=GroupedCommand)
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


@click.command(cls=GroupedCommand)
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


@click.command(cls=GroupedCommand)
def reference() -> None:
    """Print every key of the YAML files: values, default, unit.

    \b
    pipeline reference | less
    """
    from pipeline.commands.reference import reference as text

    click.echo(text(), nl=False)


@click.command(cls=GroupedCommand)
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


project_commands = (ui, doctor, new, reference, accept)
