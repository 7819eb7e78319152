"""`--only`: which cells of a grid are meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import FILES, write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.cells import Grid
from pipeline.grid.selection import selected
from pipeline.problems import BadInput


@pytest.fixture(scope="module")
def grid() -> Grid:
    configs = Path(__file__).parents[2] / "configs"
    return load_grid(Catalogue([configs]), "demo", Overrides(seeds=2))


def test_nothing_chosen_means_every_cell(grid: Grid) -> None:
    assert selected(grid, []) == grid.cells


def test_patterns_of_one_key_widen_and_other_keys_narrow(grid: Grid) -> None:
    only = ["attack=targeted-*", "attack=clean", "model=demo-iat", "defense=*counter*", "seed=0"]
    cells = selected(grid, only)
    assert {cell.model for cell in cells} == {"demo-iat"}
    assert {cell.attack for cell in cells} == {"targeted-pgd10", "targeted-pgd50", "clean"}
    assert {cell.seed for cell in cells} == {0}
    assert all("counter" in cell.defense for cell in cells)
    assert len(cells) == 2 * 4 + 3  # the clean ones of two tables


def test_the_chosen_keep_the_grids_order(grid: Grid) -> None:
    cells = selected(grid, ["defense=counter+guo", "defense=guo"])
    assert list(cells) == [cell for cell in grid.cells if cell.defense in {"guo", "counter+guo"}]


def test_a_cell_is_chosen_by_its_whole_name(grid: Grid) -> None:
    assert selected(grid, ["cell=demo-iat/clean/none/seed1"]) == (
        grid.cell("demo-iat/clean/none/seed1"),
    )


def test_a_label_that_reads_as_a_pattern_is_chosen_by_itself(tmp_path: Path) -> None:
    labels = ("counter[step_size=1]", "counter[step_size=2]")
    defenses = [
        f"{{label: '{label}', use: counter, set: {{step_size: {step}}}}}"
        for step, label in enumerate(labels, start=1)
    ]
    text = FILES["grids/tiny.yaml"].replace("[none,", f"[{', '.join(defenses)}, none,")
    folder = write_configs(tmp_path, {"grids/tiny.yaml": text})
    tiny = load_grid(Catalogue([folder]), "tiny")
    for label in labels:
        assert {cell.defense for cell in selected(tiny, [f"defense={label}"])} == {label}
        [cell] = selected(tiny, [f"cell=mixed/pgd/{label}"])
        assert cell.defense == label


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["demo-iat"], "--only demo-iat: expected KEY=PATTERN, such as model=demo-iat"),
        (["modle=demo-iat"], "--only modle=demo-iat: no key 'modle'; did you mean 'model'?"),
        (
            ["model=demo-ait"],
            "--only model=demo-ait: no such model in grid 'demo'; did you mean 'demo-iat'?",
        ),
        (["model=demo-iat", "defense=gou"], "--only defense=gou: no such defense in grid 'demo'"),
        (["seed=7"], "--only seed=7: no such seed in grid 'demo'; known: 0, 1"),
        (["cell=x"], "--only cell=x: no such cell in grid 'demo'"),
        (
            ["attack=clean", "defense=xie+guo"],
            "no cell of grid 'demo' matches every --only",
        ),
    ],
)
def test_what_matches_nothing_is_told(grid: Grid, only: list[str], message: str) -> None:
    with pytest.raises(BadInput) as raised:
        selected(grid, only)
    assert str(raised.value).startswith(message)
