"""Commands on a whole store, or files of it: export, export-weights, import, verify, gc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipeline.commands.choosing import GridOptions, choice_words, grid_options, session_from
from pipeline.commands.grouped import GroupedCommand
from pipeline.commands.options import FiniteRange, json_option, store_option, written_file_argument
from pipeline.commands.output import print_json, say
from pipeline.plan.words import counted
from pipeline.problems import BadInput

DAYS = 30.0


@click.command("export")
@written_file_argument
@grid_options
@click.option(
    "--with",
    "extras",
    type=click.Choice(["tensors"]),
    multiple=True,
    help="Also include everything that scores and weights were computed from.",
)
@click.option(
    "--without",
    "omitted",
    type=click.Choice(["weights", "images"]),
    multiple=True,
    help="Leave out the weights of models, or the test images that the report shows.",
)
def export_command(
    file: Path, extras: tuple[str, ...], omitted: tuple[Any, ...], chosen: GridOptions
) -> None:
    """Write the results of the chosen cells into one file.

    `pipeline import` adds it to another store. An existing FILE is replaced; its folder must exist.

    \b
    pipeline export results.zip --grid demo --only model=demo-iat
    """
    from pipeline.commands.sharing import configs_of, modules_left_out
    from pipeline.commands.transfer import export_results, not_held

    session = session_from(chosen)
    options = choice_words(chosen)
    if extras and "images" in omitted:
        raise BadInput("--without images: the tensors of --with tensors include the images")
    parts: Any = {"tensors": "tensors" in extras, "without": omitted}
    counts = export_results(session, file, options=options, **parts)
    say(f"{file}: {_counted(counts)}, {file.stat().st_size / 1e6:.1f} MB")
    for line in not_held(session, counts, **parts):
        say(line, err=True)
    lacking = len(session.chosen) - counts["score"]
    for path in configs_of(session)[1]:
        say(f"not included: {path}; only files that lie in a folder of configs go along", err=True)
    if modules := modules_left_out(session):
        said = "they have to be installed where the file is imported, or lie in its PYTHONPATH"
        say(f"not included: {', '.join(modules)}, which your code imports; {said}", err=True)
    if lacking:
        say(f"{lacking} of {len(session.chosen)} cells have no score yet", err=True)
    if left := session.uncompared():
        say(f"not included, though verdicts compare with them: {', '.join(left)}", err=True)


@click.command("export-weights", cls=GroupedCommand)
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


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@store_option
@click.option(
    "--replace", is_flag=True, help="Replace results of the store that differ from the file's."
)
@click.option(
    "--configs-to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder for the file's grid, configs and code; created if it does not exist.  "
    "[default: imported/NAME of the file]",
)
def import_command(file: Path, store: str, replace: bool, configs_to: Path | None) -> None:
    """Add the results of an exported file to the store.

    Existing results stay. The grid, its configs and the sender's code are written to a folder and
    not run; the command that shows the sender's report is printed.

    \b
    pipeline import results.zip
    """
    from pipeline.commands.transfer import import_results
    from pipeline.problems.sanitize import without_secrets
    from pipeline.store.bucket import SCHEMES
    from pipeline.store.store import Store

    configs = configs_to or Path("imported") / file.stem
    address = without_secrets(store) if store.startswith(SCHEMES) else store
    named = [] if store == "store" else ["--store", address]
    arrivals = import_results(Store(store), file, replace=replace, configs=configs, options=named)
    say(f"imported {_counted(arrivals.added)}; computed on {arrivals.made_on}")
    if arrivals.there:
        say(f"there already: {_counted(arrivals.there)}")
    for line in arrivals.shared:
        say(line)
    for line in arrivals.problems:
        say(line, err=True)


@click.command()
@store_option
@click.option(
    "--set-aside", is_flag=True, help="Move what is found out of the way; a run computes it again."
)
@click.option("--seal", is_flag=True, help="Add the missing checksum to old records.")
@click.option(
    "--suspect",
    is_flag=True,
    help="List scores that an older version may have taken from another network instead.",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context, store: str, set_aside: bool, seal: bool, suspect: bool, as_json: bool
) -> None:
    """Compare every artifact of the store with its record.

    The results in a record are recomputed from the artifact's own files. The exit code is 1 if
    something is damaged. With --suspect it is 1 if a score is suspect: its model shares its weights
    file with another network, and the version that scored it could confuse the two.

    \b
    pipeline verify --set-aside
    pipeline verify --suspect --set-aside
    """
    if suspect:
        ctx.exit(_suspects(store, set_aside=set_aside, as_json=as_json))
    from rich.console import Console
    from rich.progress import Progress

    from pipeline.store.store import Store
    from pipeline.store.verify import verify as check

    place = Store(store)
    _say(place.check())
    base = place.address.partition("?")[0]
    # removed at the end; not drawn if stderr is no terminal
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verify", total=None)
        found = check(
            place,
            set_aside=set_aside,
            seal=seal,
            tell=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        damages = [
            {
                "kind": damage.kind,
                "digest": damage.digest,
                "reason": damage.reason,
                "aside": f"{base}/{damage.aside}" if damage.aside else None,
            }
            for damage in found.damages
        ]
        print_json(
            {
                "sound": found.sound,
                "bytes": found.sound_bytes,
                "unsealed": found.unsealed,
                "sealed": found.sealed,
                "damaged": damages,
            }
        )
    else:
        for damage in found.damages:
            moved = f"; moved to {base}/{damage.aside}" if damage.aside else ""
            name = damage.digest if damage.kind == "file" else damage.digest[:12]
            say(f"damaged: {damage.kind} {name}: {damage.reason}{moved}")
        are = "is" if found.sound == 1 else "are"
        say(f"{counted(found.sound, 'artifact')} {are} sound, {_size(found.sound_bytes)}")
        if found.sealed:
            say(f"{found.sealed} records of an older version were sealed")
        if found.unsealed:
            say(
                f"{found.unsealed} records are of an older version and carry no checksum of their "
                "own; --seal adds it",
                err=True,
            )
        if any(damage.kind != "file" for damage in found.damages) and not set_aside:
            say("--set-aside moves what is damaged away, and a run makes it again", err=True)
    ctx.exit(1 if found.damages else 0)


@click.command()
@store_option
@click.option(
    "--keep",
    type=FiniteRange(0, 36_500, unit="days", example=30),
    metavar="DAYS",
    default=DAYS,
    show_default=True,
    help="Keep artifacts of runs of the last DAYS days.",
)
@click.option("--yes", is_flag=True, help="Delete; without it nothing is deleted.")
@json_option
def gc(store: str, keep: float, yes: bool, as_json: bool) -> None:
    """List artifacts that no recent run refers to.

    Runs of all users count. --yes deletes what is listed, but nothing younger than a day.

    \b
    pipeline gc --keep 90
    """
    from pipeline.store.garbage import DAY_S, collectable, remove
    from pipeline.store.store import Store

    place = Store(store)
    _say(place.check())
    items = collectable(place, keep_s=keep * DAY_S)
    listed = items
    items = remove(place, listed) if yes else listed
    total = sum(item.size_bytes for item in items)
    if as_json:
        base = place.address.partition("?")[0]
        found = [
            {"path": f"{base}/{item.key}", "what": item.what, "bytes": item.size_bytes}
            for item in items
        ]
        print_json({"deleted": yes, "bytes": total, "items": found})
        return
    for item in items:
        say(f"{_size(item.size_bytes):>10}  {item.age_s / DAY_S:4.0f} days  {item.what}")
    if yes:
        say(f"deleted {len(items)}, {_size(total)}")
        if left := len(listed) - len(items):
            say(f"{left} were not deleted: a run began to want them, or they are gone", err=True)
    elif items:
        say(f"{len(items)} would go, {_size(total)}: --yes deletes them")
    else:
        say("nothing to delete")


def _suspects(store: str, *, set_aside: bool, as_json: bool) -> int:
    """Print the suspect artifacts; returns the exit code."""
    from pipeline.store.store import Store
    from pipeline.store.suspect import suspects

    place = Store(store)
    _say(place.check())
    base = place.address.partition("?")[0]
    found = suspects(place, set_aside=set_aside)
    scores = [each for each in found if each.kind == "score"]
    if as_json:
        listed = [
            {
                "kind": each.kind,
                "digest": each.digest,
                "cells": list(each.cells),
                "aside": f"{base}/{each.aside}" if each.aside else None,
            }
            for each in found
        ]
        print_json({"suspect": listed})
        return 1 if found else 0
    for each in scores:
        names = ", ".join(each.cells) or "of no cell that the ledger knows"
        click.echo(f"suspect: score {each.digest[:12]}: {names}")
    others = Counter(each.kind for each in found if each.kind != "score")
    if not found:
        click.echo("no score is suspect")
        return 0
    moved = "; all were moved aside" if set_aside else ""
    click.echo(f"suspect: {_counted({'score': len(scores), **others})}{moved}")
    if set_aside:
        click.echo("the same runs compute them again", err=True)
    else:
        click.echo("--suspect --set-aside moves them away, and a run makes them again", err=True)
    return 1


store_commands = (export_command, export_weights_command, import_command, verify, gc)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing new"


def _say(line: str | None) -> None:
    if line is not None:
        say(line, err=True)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
