"""What commands print: lines for people on a terminal, and JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping

import click

from pipeline.commands.records import answer
from pipeline.problems.sanitize import printable


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
