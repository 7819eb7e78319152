"""Sweeps: a swept parameter makes a choice for each value, and `--set` changes it in all cells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_up import printed
from tiny import Tiny, write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.commands.cli import main
from pipeline.commands.session import open_session
from pipeline.grid.assigned import assignments
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.cells import Grid
from pipeline.grid.nodes import CellNodes
from pipeline.grid.selection import selected
from pipeline.problems import BadInput
from pipeline.report.formats.figures.drawings import drawing
from pipeline.report.scores import Scores
from pipeline.report.views.sweeps import sweep
from pipeline.report.views.table_rows import views
from tasks.attacks.pgd import PGD
from tasks.defenses.counter import Counter
from tasks.training.recipe import TrainSpec


def grid_of(folder: Path, text: str, overrides: Overrides | None = None) -> Grid:
    """A grid of one table: its lines after the models, as YAML."""
    body = "epsilon: 40\nimages: 60\nredraws: 1\ntables:\n  - name: t\n    models: [mixed]\n"
    lines = "".join(f"    {line}\n" for line in text.strip().splitlines())
    configs = write_configs(folder, {"grids/swept.yaml": body + lines})
    return load_grid(Catalogue([configs]), "swept", overrides)


def told(folder: Path, text: str, overrides: Overrides | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        grid_of(folder, text, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{folder}/grids/swept.yaml:")


def test_each_value_is_a_row_and_the_default_keeps_its_name_and_cell(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path, "attacks: [pgd]\ndefenses: [none, counter]\nsweep: {counter.step_size: [10, 20]}"
    )
    # half of epsilon is the default
    assert grid.tables[0].defenses == ("none", "counter[step_size=10]", "counter")
    sizes = {
        cell.defense: cell.defense_spec.step_size
        for cell in grid.cells
        if isinstance(cell.defense_spec, Counter)
    }
    assert sizes == {"counter[step_size=10]": 10, "counter": 20}
    plain = grid_of(tmp_path, "attacks: [pgd]\ndefenses: [counter]")
    assert plain.cell("mixed/pgd/counter") == grid.cell("mixed/pgd/counter")


def test_the_default_is_also_known_by_its_value(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        "attacks: [pgd]\ndefenses: [none, counter+guo]\n"
        "sweep: {counter.label_count: [1, 2], guo.draws: [2, 5], attack.epsilon: [20, 40]}",
    )
    assert grid.tables[0].attacks == ("pgd[epsilon=20]", "pgd")
    in_full = "counter[label_count=1]+guo[draws=2]"
    assert grid.label("defenses", in_full) == "counter[label_count=1]+guo"
    assert grid.label("defenses", "none") == "none"
    assert grid.label("defenses", "guo[draws=2]") == "guo[draws=2]"  # no cell has guo alone
    cell = grid.cell(f"mixed/pgd[epsilon=40]/{in_full}")
    assert cell.name == "mixed/pgd/counter[label_count=1]+guo"
    only = [f"defense={in_full}", "attack=pgd[epsilon=40]"]
    assert selected(grid, only) == selected(grid, [f"cell=mixed/pgd/{in_full}"]) == (cell,)
    with pytest.raises(BadInput, match="no cell 'mixed/pgd/guo\\[draws=2]' in grid"):
        grid.cell("mixed/pgd/guo[draws=2]")
    lacking = r"; a defense that the grid lacks needs --add defense=NAME or FILE$"
    with pytest.raises(BadInput, match=lacking):
        grid.cell("mixed/pgd/mine")
    with pytest.raises(BadInput) as raised:
        grid.cell("mixed/pgdd/none")
    assert "--add" not in str(raised.value)


def test_two_parameters_make_a_product_and_one_key_of_two_takes_them_together(
    tmp_path: Path,
) -> None:
    head = "attacks: [pgd]\ndefenses: [counter+guo]\n"
    product = grid_of(
        tmp_path, head + "sweep: {counter.label_count: [1, 2], guo.draws: [2, 5]}"
    ).tables[0]
    assert product.defenses == (
        "counter[label_count=1]+guo",
        "counter[label_count=1]+guo[draws=5]",
        "counter[label_count=2]+guo",
        "counter[label_count=2]+guo[draws=5]",
    )
    grid = grid_of(tmp_path, head + "sweep:\n  counter.label_count, guo.draws: [[1, 2], [2, 5]]")
    assert grid.tables[0].defenses == (
        "counter[label_count=1]+guo",
        "counter[label_count=2]+guo[draws=5]",
    )
    spec = grid.cell("mixed/pgd/counter[label_count=2]+guo[draws=5]").defense_spec
    assert [part.draws for _, part in spec.stages()] == [1, 5]


def test_attacks_and_models_are_swept_by_their_names_or_all_that_have_the_parameter(
    tmp_path: Path,
) -> None:
    grid = grid_of(
        tmp_path,
        "attacks: [clean, pgd]\ndefenses: [none]\n"
        "sweep: {attack.epsilon: [20, 40], mixed.recipe.epochs: [1, 2], model.network.width: [4]}",
    )
    table = grid.tables[0]
    assert table.attacks == ("clean", "pgd[epsilon=20]", "pgd")
    assert table.models == ("mixed[epochs=1]", "mixed")
    cell = grid.cell("mixed[epochs=1]/pgd[epsilon=20]/none")
    assert isinstance(cell.attack_spec, PGD)
    assert (cell.attack_spec.epsilon, cell.attack_spec.step_size) == (20, 5)
    assert isinstance(cell.model_spec, TrainSpec)
    assert cell.model_spec.recipe.epochs == 1
    assert len({node.digest for node in map(CellNodes().score, grid.cells)}) == 6


def test_a_variant_is_swept_too_and_gains_are_counted_as_of_what_it_is_made_of(
    tmp_path: Path,
) -> None:
    table = grid_of(
        tmp_path,
        "attacks: [pgd]\n"
        "defenses: [none, guo, counter+guo, {label: 'g[8 bits]', use: guo, set: "
        "{round_to_8_bits: true}}]\ngains_of: counter\n"
        "sweep: {guo.draws: [2, 5], counter.limit: [8]}",
    ).tables[0]
    assert table.defenses[-2:] == ("g[8 bits]", "g[8 bits,draws=5]")
    assert table.baseline("mixed", "pgd", "counter[limit=8]+guo[draws=5]") == (
        "mixed",
        "pgd",
        "guo[draws=5]",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{guo.drws: [1]}", "9: tables.0.sweep.guo.drws: no such parameter; did you mean 'draws'?"),
        ("{gou.draws: [1]}", "9: tables.0.sweep.gou.draws: nothing is called 'gou' here; did you"),
        ("{draws: [1]}", "9: tables.0.sweep.draws: say of what, such as 'attack.draws'"),
        ("{guo.draws: [0]}", "9: tables.0.sweep.guo.draws: input should be greater than or equal"),
        (
            "{guo.draws: []}",
            "9: tables.0.sweep.guo.draws: expected a list of at least 1 value, got []",
        ),
        ("{attack.querys: [1]}", "9: tables.0.sweep.attack.querys: no attack of this table has"),
        ("{guo.draws: [5, 5]}", "9: tables.0.sweep: defenses: 'guo[draws=5]' is given 2 times"),
        ("{'guo.draws, guo.smallest': [[1, 0.5], [2]]}", "9: tables.0.sweep.guo.draws, guo.small"),
        ("{mixed.dataset: [x]}", "9: tables.0.sweep.mixed.dataset: a model's parameters are recip"),
        ("{counter.label_count: [12]}", "9: tables.0.sweep: counter: label_count is 12, but there"),
    ],
)
def test_what_cannot_be_swept_is_told_where_it_stands(tmp_path: Path, text: str, said: str) -> None:
    body = f"attacks: [pgd]\ndefenses: [guo, counter]\nsweep: {text}"
    assert told(tmp_path, body).startswith(said)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ("guo.drws", "this table does not sweep 'guo.drws'; did you mean 'guo.draws'?"),
        ("counter.direction", "a figure needs numbers; counter.direction has 'targeted'"),
    ],
)
def test_a_figure_against_what_is_not_swept_or_no_number_is_refused(
    tmp_path: Path, x: str, said: str
) -> None:
    body = (
        "attacks: [pgd]\ndefenses: [guo, counter]\n"
        "sweep: {guo.draws: [1, 2], counter.direction: [targeted, untargeted]}\n"
        f"figure: {{x: {x}}}"
    )
    assert told(tmp_path, body) == f"10: tables.0.figure.x: {said}"


def test_a_parameter_set_on_the_command_line_is_changed_in_all_cells(tmp_path: Path) -> None:
    text = "attacks: [clean, pgd]\ndefenses: [none, guo, counter+guo]"
    given = assignments(["guo.draws=7", "attack.epsilon=20", "model.recipe.epochs=1"])
    grid = grid_of(tmp_path, text, Overrides(parameters=given))
    assert {cell.defense_spec.draws for cell in grid.cells if "guo" in cell.defense} == {7}
    attacks = {cell.attack_spec for cell in grid.cells}
    assert {each.epsilon for each in attacks if isinstance(each, PGD)} == {20}
    models = {cell.model_spec for cell in grid.cells}
    assert [each.recipe.epochs for each in models if isinstance(each, TrainSpec)] == [1]
    names = [cell.name for cell in grid_of(tmp_path, text).cells]
    assert [cell.name for cell in grid.cells] == names
    assert grid.parameters == given


@pytest.mark.parametrize(
    ("table", "option", "said"),
    [
        (
            "defenses: [guo]\nsweep: {guo.draws: [1, 2]}",
            "guo.draws=30",
            "'guo[draws=1]' has draws 1",
        ),
        (
            "defenses: [none]\nsweep: {attack.epsilon: [20]}",
            "attack.epsilon=8",
            "'pgd[epsilon=20]'",
        ),
        ("defenses: [none]\nsweep: {mixed.recipe.epochs: [1]}", "model.recipe.epochs=5", "'mixed["),
        (
            "defenses: [counter+guo]\nsweep: {counter.label_count: [3], guo.draws: [5]}",
            "guo.draws=30",
            "'counter[label_count=3]+guo[draws=5]' has draws 5, and a rule or --set makes it 30",
        ),
        (
            "defenses: [{label: 'guo[few]', use: guo, set: {draws: 5}}]",
            "guo.draws=30",
            "'guo[few]' has draws 5, and a rule or --set makes it 30",
        ),
    ],
)
def test_no_setting_changes_a_parameter_by_which_a_variant_is_labelled(
    tmp_path: Path, table: str, option: str, said: str
) -> None:
    text = f"attacks: [pgd]\n{table}"
    assert said in told(tmp_path, text, Overrides(parameters=assignments([option])))
    # what it is anyway, or another parameter, may be set
    grid_of(tmp_path, text, Overrides(parameters=assignments(["pgd.steps=2"])))


def test_no_rule_changes_a_parameter_that_a_table_sweeps(tmp_path: Path) -> None:
    rules = "rules:\n  - where: {defense: 'guo*'}\n    set: {guo.draws: 30}\n"
    text = "attacks: [pgd]\ndefenses: [guo]\nsweep: {guo.draws: [1, 2]}"
    body = "epsilon: 40\nimages: 60\nredraws: 1\ntables:\n  - name: t\n    models: [mixed]\n"
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    configs = write_configs(tmp_path, {"grids/swept.yaml": body + lines + rules})
    with pytest.raises(BadInput, match=r"'guo\[draws=1\]' has draws 1, and a rule or --set makes"):
        load_grid(Catalogue([configs]), "swept")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("guo.draws=x", "--set guo.draws=x: input should be a valid integer, got 'x'"),
        ("gou.draws=2", "--set gou.draws=2: nothing is called 'gou' here; did you mean 'guo'?"),
        ("guo.drws=2", "--set guo.drws=2: no such parameter; did you mean 'draws'?"),
        ("attack.querys=2", "--set attack.querys=2: no attack of this grid has 'querys'"),
        ("draws=2", "--set draws=2: expected NAME.PARAMETER=VALUE, such as guo.draws=10"),
        ("guo.draws=[1", "--set guo.draws: not a value of YAML, such as 10, true or [0, 1]"),
    ],
)
def test_a_setting_that_does_not_fit_is_told_as_the_option_that_it_is(
    tmp_path: Path, option: str, said: str
) -> None:
    configs = write_configs(tmp_path)
    done = CliRunner().invoke(
        main, ["list", "cells", "--grid", "tiny", "--configs", str(configs), "--set", option]
    )
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {said}")


def test_a_figure_has_a_curve_for_what_differs_in_the_parameter_alone(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        "attacks: [clean, pgd]\ndefenses: [none, guo]\nfigure: {x: attack.epsilon}\n"
        "sweep: {attack.epsilon: [20, 40], guo.draws: [1, 2]}",
    )
    facts = {cell.name: _facts(cell.name) for cell in grid.cells}
    (view,) = views(grid, Scores(facts))
    found = sweep(view, grid)
    assert found is not None
    assert found.quantity == "size of the perturbation, ε (1/255 of the pixel range)"
    curves = {curve.defense: curve for curve in found.curves}
    assert list(curves) == ["none", "guo[draws=1]", "guo"]
    for curve in found.curves:
        # clean images are attacked with an epsilon of nothing
        assert (curve.attack, [point.x for point in curve.points]) == ("pgd", [0, 20, 40])
        assert [point.accuracy for point in curve.points] == [90, 60, 30]
        assert not curve.level
    # the clean images are more than the attacked ones
    for name, known in facts.items():
        known["images"] = 60 if "/clean/" in name else 40
    (view,) = views(grid, Scores(facts))
    drawn = drawing(view, "t", grid, None)
    assert drawn is not None
    assert "Number of images: clean: 60; pgd[epsilon=20], pgd: 40." in drawn.caption
    # and so they are no point of a curve about fewer
    apart = sweep(view, grid)
    assert apart is not None
    attacked = [curve for curve in apart.curves if curve.attack == "pgd"]
    assert [[point.x for point in curve.points] for curve in attacked] == [[20, 40]] * 3
    assert all(curve.level for curve in apart.curves if curve.attack == "clean")


@pytest.mark.parametrize(
    ("swept", "said"),
    [("direct.draws", "draws of the defense at each step"), ("guo.draws", "draws averaged")],
)
def test_draws_of_an_attack_are_not_those_that_a_defense_averages(
    tmp_path: Path, swept: str, said: str
) -> None:
    write_configs(tmp_path, {"attacks/direct.yaml": "kind: direct\n"})
    grid = grid_of(
        tmp_path,
        f"attacks: [direct]\ndefenses: [guo]\nfigure: {{x: {swept}}}\nsweep: {{{swept}: [1, 2]}}",
    )
    (view,) = views(grid, Scores({cell.name: _facts(cell.name) for cell in grid.cells}))
    found = sweep(view, grid)
    assert found is not None
    assert found.quantity.startswith(said)


def _facts(name: str) -> dict[str, object]:
    accuracy = 90.0 if "clean" in name else 60.0 if "epsilon=20" in name else 30.0
    return {
        "accuracy": accuracy,
        "interval": [accuracy - 9, accuracy + 9],
        "images": 60,
        "redraws": 1,
    }


def test_a_swept_grid_is_run_and_its_rows_without_the_parameter_are_levels(
    tmp_path: Path,
) -> None:
    text = (
        "epsilon: 40\nimages: 40\nredraws: 1\ntables:\n  - name: t\n    models: [mixed]\n"
        "    attacks: [pgd]\n    defenses: [none, guo]\n"
        "    sweep: {guo.draws: [1, 3]}\n    figure: {x: guo.draws}\n"
    )
    tiny = Tiny(write_configs(tmp_path / "c", {"grids/tiny.yaml": text}), tmp_path / "store")
    _, finished = tiny.run()
    assert not finished.missing
    session = tiny.session()
    scores = Scores(session.facts())
    (view,) = views(session.grid, scores)
    found = sweep(view, session.grid)
    assert found is not None
    assert [(curve.defense, curve.level) for curve in found.curves] == [
        ("guo", False),
        ("none", True),
    ]
    swept, level = found.curves
    assert [point.x for point in swept.points] == [1, 3]
    assert all(point.interval is not None for point in swept.points)
    assert [point.x for point in level.points] == [1, 3]
    assert level.points[0].accuracy == scores.accuracy("mixed/pgd/none")


def test_a_setting_changes_what_is_computed_and_nothing_beside_it(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "c")

    def digests(**parameters: object) -> dict[str, str]:
        overrides = Overrides(parameters={f"guo.{key}": parameters[key] for key in parameters})
        session = open_session("tiny", store=tmp_path, configs=[configs], overrides=overrides)
        return {name: node.digest for name, node in session.scores.items()}

    before, after = digests(), digests(draws=3)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.endswith("guo")}
    assert digests(draws=2) == before  # what it is anyway


def test_a_table_of_swept_attacks_fits_80_columns_and_tells_its_columns_apart(
    tmp_path: Path,
) -> None:
    configs = {"attacks/untargeted-pgd10.yaml": "kind: pgd\n"}
    write_configs(tmp_path, configs)
    grid = grid_of(
        tmp_path,
        "attacks: [untargeted-pgd10]\ndefenses: [none, counter+guo]\n"
        "sweep: {attack.epsilon: [2, 4, 8, 16, 24, 32]}",
    )
    text = printed(grid, Scores({cell.name: _facts(cell.name) for cell in grid.cells}), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    (values,) = (line.split() for line in lines if re.fullmatch(r"[\d\] ]+", line) and line.strip())
    assert values == ["2]", "4]", "8]", "16]", "24]", "32]"]
