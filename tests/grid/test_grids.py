"""The shipped grids: what each holds, what they share, and which published numbers they cover."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from cells import graph_of
from paper_numbers import EVERY_CELL, NUMBERS
from shared_files import RESNET20

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.paper import published
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.cells import Cell, Grid
from pipeline.grid.coverage import Coverage, key
from pipeline.grid.graph import Graph
from tasks.defenses.counter import Counter as CounterPerturbation
from tasks.defenses.mi_ol import MixupInference
from tasks.training.recipe import TrainSpec

ROOT = Path(__file__).parents[2]
SHIPPED = Catalogue([ROOT / "configs"])
PARTS = ("table1", "table2", "table3", "table4", "figure1", "figure2", "figure3")


@pytest.fixture(autouse=True, scope="module")
def _nothing_downloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans as on a machine that has no data set yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    grid.cache_clear()


@functools.cache
def grid(name: str) -> Grid:
    return load_grid(SHIPPED, name)


def coverage(name: str) -> Coverage:
    return Coverage(published(SHIPPED), grid(name).cells, grid(name).tables)


def digests(name: str, kind: str) -> set[str]:
    graph, _ = graph_of(grid(name).cells)
    return {node.digest for node in graph if node.kind == kind}


def stages(cells: Iterable[Cell], kind: type) -> Mapping[str, object]:
    """The stage of a kind in each cell that has one, by the cell's name."""
    return {
        cell.name: stage
        for cell in cells
        for _, stage in cell.defense_spec.stages()
        if isinstance(stage, kind)
    }


@pytest.mark.parametrize(
    "name",
    # those others ask for somebody else's weights
    [
        name
        for name in SHIPPED.names("grids")
        if "checkpoint" not in name and name not in {"ledger", "ensemble"}
    ],
)
def test_every_shipped_grid_loads_with_no_data_set_here_and_names_its_tables_apart(
    name: str,
) -> None:
    names = [table.name for table in grid(name).tables]
    assert len(set(names)) == len(names)
    assert all(table.title for table in grid(name).tables)


def test_full_covers_each_published_number_in_exactly_one_cell() -> None:
    beside = Counter(key(cell) for cell in grid("full").cells)
    numbers = published(SHIPPED)
    assert [number for number in numbers if beside[number] != 1] == []
    assert next(coverage("full").lines()) == (
        f"{NUMBERS} of the {NUMBERS} published numbers are covered ({EVERY_CELL} cells)"
    )


def test_full_is_all_the_tables_and_figures() -> None:
    names = {cell.name for part in PARTS for cell in grid(part).cells}
    assert names == {cell.name for cell in grid("full").cells}
    assert len(names) == 394


def test_the_cells_without_a_number_are_the_points_that_only_figures_have() -> None:
    alone = coverage("full").alone
    assert {table: len(cells) for table, cells in alone.items()} == {
        "figure1": 10,
        "figure2-cifar10": 28,
        "figure2-cifar100": 28,
        "figure3-cifar10": 32,
        "figure3-cifar100": 56,
    }
    lines = list(coverage("full").lines())
    assert lines[1] == "154 cells without a published number:"
    assert lines[2].startswith("  figure1: 10 of 11: +Pertb(0), +Pertb(1), ")
    assert len(lines) == 7


def test_what_a_grid_leaves_out_of_the_paper_is_told_by_table() -> None:
    assert list(coverage("table1").lines()) == [
        f"102 of the {NUMBERS} published numbers are covered (96 cells)",
        "not covered: all 96 of table2, 30 of table3, all 24 of table4",
    ]
    [line] = coverage("demo").lines()
    assert line.startswith(f"none of the {NUMBERS} published numbers is covered")


def test_a_few_missing_numbers_and_lone_cells_are_named() -> None:
    full, lone = grid("full"), "cifar10-iat/targeted-pgd10/counter[step_size=1]"
    cells = [cell for cell in full.cells if cell.name != "cifar10-iat/clean/xie"]
    cells = [cell for cell in cells if cell.name == lone or key(cell) in published(SHIPPED)]
    cells.append(grid("full").cell("cifar10-mixup/targeted-pgd10/counter[step_size=1]"))
    cells.append(grid("full").cell("cifar10-mixup/untargeted-pgd10/counter[step_size=2]"))
    cells.append(grid("full").cell("cifar10-iat/untargeted-pgd10/counter[step_size=1]"))
    lines = list(Coverage(published(SHIPPED), cells, full.tables).lines())
    assert lines[:3] == [
        f"{NUMBERS - 1} of the {NUMBERS} published numbers are covered ({EVERY_CELL - 1} cells)",
        "not covered: cifar10-iat/clean/xie",
        "4 cells without a published number:",
    ]
    assert lines[3] == "  figure2-cifar10: 4 of 8: counter[step_size=1], counter[step_size=2]"


def test_a_column_and_single_cells_without_numbers_are_told_as_such() -> None:
    lines = list(coverage("fidelity").lines())
    assert "  fidelity-attack: 12 of 24: untargeted-pgd10[label=predicted]" in lines
    models = ("cifar10-mixup", "cifar10-mixup-rate0.1", "cifar10-mixup-torchvision")
    lone = ", ".join(f"{model}/clean/counter+guo" for model in models)
    assert f"  fidelity-mixup: 3 of 36: {lone}" in lines


def test_a_model_that_stands_for_another_is_beside_its_numbers() -> None:
    for name in ("cifar10-cpu", "table1-gpu"):
        cells = grid(name).cells
        assert {cell.stands_for for cell in cells} == {"cifar10-mixup", "cifar10-iat"}
        assert coverage(name).alone == {}
    stand_in = grid("cifar10-cpu").cell("cifar10-cpu-iat/clean/none")
    assert published(SHIPPED)[key(stand_in)].value == 89.7
    assert grid("table4").cell("cifar10-iat/clean/none").stands_for is None


def test_the_published_points_of_the_figures_are_the_tables_own_cells() -> None:
    tables = {cell.name: cell for part in ("table1", "table2") for cell in grid(part).cells}
    for name in ("figure2", "figure3"):
        shared = [cell for cell in grid(name).cells if cell.name in tables]
        assert len(shared) == 8
        assert all(cell == tables[cell.name] for cell in shared)
        assert {cell.defense for cell in shared} == {"counter"}


def test_the_figures_craft_nothing_that_the_tables_do_not() -> None:
    crafted = digests("table1", "craft") | digests("table2", "craft")
    for name in ("figure1", "figure2", "figure3"):
        assert digests(name, "craft") < crafted


def swept(name: str, data: str, field: str) -> set[object]:
    specs = stages((cell for cell in grid(name).cells if cell.dataset == data), CounterPerturbation)
    return {getattr(spec, field) for spec in specs.values()}


def test_the_figures_sweep_what_the_paper_sweeps() -> None:
    for data in ("cifar10", "cifar100"):
        assert swept("figure2", data, "step_size") == set(range(1, 9))
        assert swept("figure2", data, "label_count") == {9}
        assert swept("figure3", data, "step_size") == {4}
    assert swept("figure3", "cifar10", "label_count") == set(range(1, 10))
    assert swept("figure3", "cifar100", "label_count") == {*range(1, 10), 12, 15, 20, 30, 50, 99}
    assert swept("figure1", "cifar10", "labels") == {(label,) for label in range(10)}


def test_what_takes_every_label_is_asked_once_and_all_else_three_times() -> None:
    redraws = {
        (cell.dataset, spec.label_count): cell.redraws
        for cell in grid("figure3").cells
        for _, spec in cell.defense_spec.stages()
        if isinstance(spec, CounterPerturbation)
    }
    once = {place for place, count in redraws.items() if count == 1}
    assert once == {("cifar10", 9), ("cifar100", 99)}
    assert set(redraws.values()) == {1, 3}
    assert {cell.redraws for cell in grid("figure1").cells} == {1}


def test_steps_are_untargeted_only_where_the_paper_says_so() -> None:
    untargeted = {
        name
        for name, spec in stages(grid("full").cells, CounterPerturbation).items()
        if isinstance(spec, CounterPerturbation) and spec.direction == "untargeted"
    }
    expected = {
        cell.name
        for cell in grid("full").cells
        if cell.defense == "counter-untargeted"
        or (
            cell.model == "cifar100-iat"
            and cell.attack.startswith("targeted-")
            and "counter" in cell.defense
        )
    }
    assert untargeted == expected
    assert len(untargeted) == 4 + 3 * 4 + 7 + 14


@pytest.mark.parametrize("name", ["full", "table1-gpu", "cifar10-cpu", "fidelity"])
def test_mi_ol_weighs_the_input_by_how_the_model_was_trained(name: str) -> None:
    found = stages(grid(name).cells, MixupInference)
    weights = {
        (grid(name).cell(cell).model, spec.input_weight)
        for cell, spec in found.items()
        if isinstance(spec, MixupInference)
    }
    assert weights == {(model, 0.6 if "-iat" in model else 0.5) for model, _ in weights}
    assert {weight for _, weight in weights} == {0.5, 0.6}


def test_the_papers_models_are_trained_as_the_protocol_says() -> None:
    specs = {cell.model: cell.model_spec for cell in grid("table4").cells}
    assert len(specs) == 4
    for name, spec in specs.items():
        assert isinstance(spec, TrainSpec)
        recipe = spec.recipe
        assert spec.network.kind == "resnet50-mi"
        assert (recipe.epochs, recipe.batch_size, recipe.milestones) == (200, 64, (100, 150))
        assert (recipe.decay, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 0)
        assert (recipe.mixup_alpha, recipe.crop_padding_px, recipe.flip) == (1, 4, True)
        assert recipe.precision == "float32"
        if name.endswith("-mixup"):
            assert (recipe.method, recipe.learning_rate, recipe.inner) == ("mixup", 0.01, None)
        else:
            assert (recipe.method, recipe.learning_rate) == ("iat", 0.1)
            assert recipe.inner is not None
            inner = recipe.inner
            assert (inner.epsilon, inner.step_size, inner.steps, inner.label) == (8, 2, 10, "true")


def test_every_switch_of_fidelity_differs_from_its_default_in_itself_alone() -> None:
    found = []
    for table in grid("fidelity").tables:
        for model in table.models:
            for attack in table.attacks:
                for defense in table.defenses:
                    base = table.baseline(model, attack, defense)
                    if base is not None:
                        one = grid("fidelity").cell(f"{model}/{attack}/{defense}")
                        other = grid("fidelity").cell("/".join(base))
                        found.append((table.name, changes(one, other)))
    assert {(name, change) for name, change in found} == {
        ("fidelity-mixup", ("recipe.learning_rate",)),
        ("fidelity-mixup", ("network.kind",)),
        ("fidelity-iat", ("recipe.inner.label",)),
        ("fidelity-iat", ("network.kind",)),
        ("fidelity-attack", ("label",)),
        ("fidelity-xie", ("interpolation",)),
        ("fidelity-xie", ("form",)),
        ("fidelity-xie", ("largest", "smallest")),
        ("fidelity-xie", ("draws",)),
        ("fidelity-xie", ("round_to_8_bits",)),
        ("fidelity-guo", ("round_to_8_bits",)),
        ("fidelity-rotation", ("parts.0.round_to_8_bits",)),
        ("fidelity-mi-ol", ("pool",)),
        ("fidelity-counter", ("label_pool",)),
    }


def test_the_defaults_of_fidelity_are_the_full_grids_cells() -> None:
    known = {cell.name: cell for cell in grid("full").cells}
    for table in grid("fidelity").tables:
        places = {
            base
            for model in table.models
            for attack in table.attacks
            for defense in table.defenses
            if (base := table.baseline(model, attack, defense)) is not None
        }
        for place in places:
            name = "/".join(place)
            # Table IV has no chain
            assert name in known or name.endswith("/clean/counter+guo")
            assert grid("fidelity").cell(name) == known.get(name, grid("fidelity").cell(name))


def changes(one: Cell, other: Cell) -> tuple[str, ...]:
    parts = ("model_spec", "attack_spec", "defense_spec", "dataset_spec")
    return tuple(
        sorted(
            place
            for part in parts
            for place in different(
                getattr(one, part).model_dump(), getattr(other, part).model_dump(), ""
            )
        )
    )


def different(one: object, other: object, place: str) -> list[str]:
    """Where two values differ, as keys joined by dots."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {name: f"{place}.{name}".strip(".") for name in one | other}
        return [
            at
            for name, inner in keys.items()
            for at in different(one.get(name), other.get(name), inner)
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        named = [{str(index): part for index, part in enumerate(value)} for value in (one, other)]
        return different(named[0], named[1], place)
    return [] if one == other else [place]


def test_figure_3_on_the_checkpoint_uses_every_example_of_the_checkpoint_grid(
    shared: Callable[[str], Path],
) -> None:
    overrides = Overrides(weights={"cifar10-resnet20": shared(RESNET20)})
    crafted = []
    for name in ("checkpoint", "figure3-checkpoint"):
        cells = load_grid(SHIPPED, name, overrides).cells
        nodes: Graph = graph_of(cells)[0]
        crafted.append({node.digest for node in nodes if node.kind == "craft"})
    assert crafted[1] < crafted[0]
    assert len(crafted[1]) == 2


@pytest.fixture(scope="module")
def ledger_with(shared: Callable[[str], Path]) -> Callable[..., Grid]:
    weights = {"cifar10-resnet20": shared(RESNET20)}

    def loaded(*defenses: str) -> Grid:
        added = [("defenses", name) for name in defenses]
        return load_grid(SHIPPED, "ledger", Overrides(weights=weights, add=added))

    return loaded


def test_the_ledger_judges_every_defense_beside_none_with_its_budget(
    ledger_with: Callable[..., Grid],
) -> None:
    cells = ledger_with().cells
    judged = {cell.defense for cell in cells if "[" not in cell.defense} - {"none"}
    assert {
        "counter",
        "xie",
        "guo",
        "mi-ol",
        "counter+xie",
        "counter+guo",
        "counter+mi-ol",
    } < judged
    assert len(judged) >= 16
    adaptive = {(cell.model, cell.attack) for cell in cells if cell.attack_spec.compound}
    bare = {(cell.model, cell.attack) for cell in cells if cell.defense == "none"}
    assert adaptive < bare
    assert len({model for model, _ in adaptive}) == 4


def test_one_more_defense_in_the_ledger_makes_no_other_cell_stale(
    ledger_with: Callable[..., Grid],
) -> None:
    before, after = ledger_with(), ledger_with("gaussian")
    known = {name: node.digest for name, node in graph_of(before.cells)[1].items()}
    digests = {name: node.digest for name, node in graph_of(after.cells)[1].items()}
    assert {name: digests[name] for name in known} == known
    more = {after.cell(name).defense for name in digests.keys() - known.keys()}
    assert "gaussian" in more
    assert all(name == "gaussian" or name.startswith("flip-crop[") for name in more)


def test_the_full_grid_is_planned_without_what_computes() -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.commands.session import open_session;"
        "from pipeline.commands.plan import plan_lines;"
        f"configs = [Path({str(ROOT / 'configs')!r})];"
        "session = open_session('full', store=Path('none'), configs=configs);"
        "said = plan_lines(session, forced=set(), every=False, device=None, workers=1);"
        "lines = list(said);"
        "print('\\n'.join(lines)); print({'torch', 'ray', 'mlflow', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "set()"
    assert sum("is not here yet" in line for line in lines) == 2
    assert "... and 374 more (--all names them)" in lines
    assert (
        "394 of 394 cells to compute: 2 dataset, 4 train, 480 craft, 7880 defend, 394 score, "
        "4 exhibit"
    ) in lines
