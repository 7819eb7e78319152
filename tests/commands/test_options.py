"""What is typed reaches the commands as frozen, typed options."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.commands.choosing import GridOptions, grid_options
from pipeline.commands.cli import main
from pipeline.commands.options import RunOptions


def names(options: type) -> set[str]:
    return {field.name for field in dataclasses.fields(options)}


def test_a_run_has_a_typed_field_for_each_of_its_options_and_no_other() -> None:
    run = main.commands["run"]
    options = {each.name for each in run.params if isinstance(each, click.Option)}
    assert options == names(GridOptions) | names(RunOptions)
    assert not names(GridOptions) & names(RunOptions)


def test_a_command_is_called_with_the_grid_options_as_one_value_beside_its_own() -> None:
    called: list[tuple[GridOptions, bool]] = []

    @click.command()
    @grid_options
    @click.option("--loud", is_flag=True)
    def toy(loud: bool, chosen: GridOptions) -> None:
        called.append((chosen, loud))

    words = ["--grid", "full", "--only", "seed=0", "--only", "model=m", "--images", "5", "--loud"]
    done = CliRunner().invoke(toy, [*words, "--configs", "here"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [(chosen, loud)] = called
    assert loud
    assert (chosen.grid, chosen.images, chosen.seeds) == ("full", 5, 1)
    assert (chosen.only, chosen.configs) == (("seed=0", "model=m"), (Path("here"),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.images = 6  # type: ignore[misc]
