"""Which integrity cards a grid gets, how large they are, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from cells import graph_of
from tiny import write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.grid.builder import load_grid
from pipeline.grid.cards import card_nodes
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import CardSize
from pipeline.grid.names import node_name
from pipeline.grid.nodes import CellNodes
from pipeline.grid.workloads import speed_class, stated, workload
from tasks.defenses.none import NoDefense
from tasks.evaluation.specs import CardSpec

BUDGETS = {
    "mini": "kind: adaptive\nsteps: 20\nimages: 200\nlosses: [margin]\n",
    "maxi": "kind: adaptive\nsteps: 60\ndraws: 20\nimages: 500\nrandom_starts: 2\nredraws: 10\n",
}


OWN = (
    "dataset: digits\nrecipe: short\n"
    "network: {kind: factory, factory: 'torchvision.models.squeezenet:squeezenet1_1'}\n"
)


def loaded(
    folder: Path, attacks: str, defenses: str, changes: Mapping[str, str] | None = None
) -> Grid:
    text = (
        "epsilon: 40\nimages: 500\nredraws: 2\ntables:\n"
        f"  - name: main\n    models: [mixed]\n    attacks: {attacks}\n"
        f"    defenses: {defenses}\n"
    )
    budgets = {f"attacks/adaptive-{name}.yaml": budget for name, budget in BUDGETS.items()}
    return load_grid(
        Catalogue([write_configs(folder, {"grids/tiny.yaml": text, **budgets, **(changes or {})})]),
        "tiny",
    )


def cards_of(grid: Grid, size: CardSize = "quarter") -> dict[str, Node]:
    return card_nodes(CellNodes(), grid.cells, size)


def spec_of(node: Node) -> CardSpec:
    assert isinstance(node.spec, CardSpec)
    return node.spec


def test_adaptive_cells_have_a_card_of_their_own_and_others_that_of_the_bare_model(tmp_path: Path):
    grid = loaded(tmp_path, "[clean, pgd, adaptive-mini]", "[none, guo, counter+guo]")
    cards = cards_of(grid)
    assert cards.keys() == {cell.name for cell in grid.cells}
    bare = cards["mixed/adaptive-mini/none"]
    assert isinstance(spec_of(bare).against, NoDefense)
    for attack in ("clean", "pgd"):
        for defense in ("none", "guo", "counter+guo"):
            assert cards[f"mixed/{attack}/{defense}"] == bare
    for defense in ("guo", "counter+guo"):
        cell = grid.cell(f"mixed/adaptive-mini/{defense}")
        assert spec_of(cards[cell.name]).against == cell.defense_spec
    assert len(set(cards.values())) == 3


def test_a_cell_has_the_card_of_the_bare_model_in_its_own_ball(tmp_path: Path):
    attacks = (
        "[pgd, {label: far, use: pgd, set: {epsilon: 60}}, adaptive-mini, "
        "{label: adaptive-far, use: adaptive-mini, set: {epsilon: 60}}]"
    )
    cards = cards_of(loaded(tmp_path, attacks, "[none, guo]"))
    for attack, epsilon in (("pgd", 40), ("far", 60), ("adaptive-mini", 40), ("adaptive-far", 60)):
        assert spec_of(cards[f"mixed/{attack}/none"]).epsilon == epsilon


def test_a_bare_model_is_examined_even_where_only_defended_ones_are_attacked(tmp_path: Path):
    cards = cards_of(loaded(tmp_path, "[pgd, adaptive-mini]", "[guo]"))
    assert isinstance(spec_of(cards["mixed/pgd/guo"]).against, NoDefense)


def test_a_grid_without_an_adaptive_attack_has_no_cards(tmp_path: Path):
    assert cards_of(loaded(tmp_path, "[clean, pgd]", "[none, guo]")) == {}


def test_a_ball_of_one_point_has_no_card(tmp_path: Path):
    grid = loaded(tmp_path, "[{label: none, use: adaptive-mini, set: {epsilon: 0}}]", "[none, guo]")
    assert cards_of(grid) == {}


def test_no_card_is_planned_where_none_is_wanted(tmp_path: Path):
    assert cards_of(loaded(tmp_path, "[adaptive-mini]", "[none, guo]"), "none") == {}


@pytest.mark.parametrize("budget", list(BUDGETS))
def test_a_card_costs_a_quarter_of_its_adaptive_cell_at_most(budget: str, tmp_path: Path):
    grid = loaded(tmp_path, f"[adaptive-{budget}]", "[none, counter, guo, counter+guo, mi-ol]")
    graph, _ = graph_of(grid.cells)
    kinds = {"craft", "select", "defend"}
    spent = sum(workload(node, {}).amount for node in graph if node.kind in kinds)
    cards = set(cards_of(grid).values())
    assert len(cards) == 5
    assert sum(workload(card, {}).amount for card in cards) <= spent / 4
    largest = set(cards_of(grid, "full").values())
    assert sum(workload(card, {}).amount for card in largest) > spent / 4 or budget == "maxi"


def test_a_network_whose_cost_only_a_run_can_tell_has_cards_of_the_same_size(tmp_path: Path):
    """A card is compared with its own cell, and both are of one network."""
    known = cards_of(loaded(tmp_path / "known", "[adaptive-mini]", "[none, guo]"))
    unknown = {"models/mixed.yaml": OWN}
    cards = cards_of(loaded(tmp_path / "unknown", "[adaptive-mini]", "[none, guo]", unknown))
    assert {name: spec_of(card) for name, card in cards.items()} == {
        name: spec_of(card) for name, card in known.items()
    }
    with pytest.raises(NotImplementedError):
        stated(cards["mixed/adaptive-mini/guo"].parent("model"))


def test_a_larger_budget_buys_a_larger_card_and_full_all_of_it(tmp_path: Path):
    grid = loaded(tmp_path, "[adaptive-mini, adaptive-maxi]", "[guo]")
    quarter, full = cards_of(grid), cards_of(grid, "full")
    small, large = (spec_of(quarter[f"mixed/adaptive-{budget}/guo"]) for budget in ("mini", "maxi"))
    assert (small.images, small.steps) < (large.images, large.steps)
    whole = spec_of(full["mixed/adaptive-mini/guo"])
    assert (whole.images, whole.steps, whole.climb_steps) == (100, (10, 50, 200), 20)
    assert whole.converges
    assert whole.queries == 1000
    assert large.draws == 20


def test_one_more_defense_or_attack_makes_no_card_stale(tmp_path: Path):
    small = cards_of(loaded(tmp_path / "a", "[adaptive-mini]", "[guo]"))
    large = cards_of(
        loaded(tmp_path / "b", "[clean, pgd, adaptive-mini, adaptive-maxi]", "[none, guo, counter]")
    )
    assert {name: large[name].digest for name in small} == {
        name: card.digest for name, card in small.items()
    }


def test_nothing_is_made_from_a_card(tmp_path: Path):
    """So whether there are cards changes no digest of a cell."""
    grid = loaded(tmp_path, "[pgd, adaptive-mini]", "[none, guo]")
    nodes = CellNodes()
    _, scores = graph_of(grid.cells)
    cards = card_nodes(nodes, grid.cells, "quarter")
    graph = Graph([*scores.values(), *cards.values()])
    assert not any(graph.children(card) for card in cards.values())
    assert {role for card in cards.values() for role, _ in card.parents} == {"dataset", "model"}


def test_a_card_of_a_defense_with_a_pool_reads_it(tmp_path: Path):
    card = cards_of(loaded(tmp_path, "[adaptive-mini]", "[mi-ol]"))["mixed/adaptive-mini/mi-ol"]
    assert card.parent("pool") == card.parent("dataset")


def test_a_card_is_named_by_its_model_and_its_speed_is_known_by_its_defense(tmp_path: Path):
    grid = loaded(tmp_path, "[pgd, adaptive-mini]", "[none, counter+guo]")
    cards = cards_of(grid)
    own = cards["mixed/adaptive-mini/counter+guo"]
    assert node_name(own, grid) == "card mixed/counter+guo"
    assert node_name(cards["mixed/pgd/counter+guo"], grid) == "card mixed/none"
    assert speed_class(own).method == "counter+guo"
