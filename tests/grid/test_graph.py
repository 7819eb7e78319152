"""Graphs of nodes, and the nodes that a grid's cells become."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from cells import graph_of

from pipeline.catalogue.catalogue import Catalogue
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.nodes import shards
from tasks.attacks.pgd import PGD
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.evaluation.specs import DefendSpec, ScoreSpec
from tasks.specs import SHARD, Shard

CONFIGS = Path(__file__).parents[2] / "configs"


def demo(**overrides: int) -> Grid:
    return load_grid(Catalogue([CONFIGS]), "demo", Overrides(**overrides))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def grid() -> Grid:
    return demo()


def node(start: int, *parents: Node, files: tuple[tuple[str, str], ...] = ()) -> Node:
    roles = tuple((f"shard{index}", parent) for index, parent in enumerate(parents))
    return Node("defend", Shard(start=start, stop=start + 1), roles, files)


def score_of(cell: Cell) -> Node:
    return graph_of([cell])[1][cell.name]


def test_the_golden_digest_of_a_node_has_not_changed() -> None:
    child = Node("score", ScoreSpec(), (("shard0", node(0)), ("shard1", node(1))))
    assert node(0).digest == "bcb2438bd14c0de0695f0f3c17e7b361264cda9bce14a5ab56802d0dff83c0a2"
    assert child.digest == "b7f49845ba4ed732f73319f1748820e2d4b1252443dc4359f0ae676d1f9b9d56"


def test_kind_spec_roles_and_parents_enter_the_digest_and_files_do_not() -> None:
    one, two = node(1), node(2)
    others = [
        Node("craft", Shard(start=1, stop=2)),
        node(2),
        node(1, one),
        node(1, two),
        node(1, one, two),
        node(1, two, one),
        Node("defend", Shard(start=1, stop=2), (("model", one),)),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == len(others) + 1
    moved = node(1, files=(("weights", "elsewhere"),))
    assert moved == one
    assert hash(moved) == hash(one)


def test_a_change_of_an_ancestor_changes_every_digest_below() -> None:
    assert node(9, node(8, node(1))) != node(9, node(8, node(2)))


def test_parents_come_before_children_and_equal_nodes_are_one() -> None:
    root = node(0)
    left, right = node(1, root), node(2, node(0))
    leaf = node(3, left, right)
    graph = Graph([leaf, left, leaf])
    assert list(graph) == [root, left, right, leaf]
    assert len(graph) == 4
    assert graph.children(root) == [left, right]
    assert graph.children(leaf) == []
    assert graph[leaf.digest].parent("shard1") == right
    assert node(5).digest not in graph
    assert root.digest in graph


def test_a_node_that_reads_a_parent_in_two_roles_is_its_child_once() -> None:
    root = node(0)
    assert Graph([node(1, root, root)]).children(root) == [node(1, root, root)]


def test_descendants_are_everything_below_and_nothing_else() -> None:
    root, other = node(0), node(1)
    middle, leaf = node(2, root), node(3, node(2, root), other)
    graph = Graph([leaf])
    assert graph.descendants(root.digest) == {middle.digest, leaf.digest}
    assert graph.descendants(other.digest) == {leaf.digest}
    assert graph.descendants(leaf.digest) == set()


def test_what_a_node_was_made_from_is_found_once_along_however_many_paths() -> None:
    # each level doubles the paths, so that walking all of them would never end
    last = node(0)
    for level in range(1, 80):
        last = node(level, last, last)
    found = last.with_batched_ancestors()
    assert len(found) == 80
    assert found[0] is last


def test_a_grid_says_how_many_images_a_task_of_an_adaptive_attack_has(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    for size, name in ((100, "usual"), (250, "large")):
        (tmp_path / "grids" / f"{name}.yaml").write_text(
            f"images: 300\nadaptive_shard: {size}\ntables:\n  - name: one\n"
            "    models: [demo-mixup]\n    attacks: [clean, adaptive-quick]\n    defenses: [none]\n"
        )
    catalogue = Catalogue([tmp_path, CONFIGS])
    found = {}
    for name in ("usual", "large"):
        _, scores = graph_of(load_grid(catalogue, name).cells)
        for cell, score in scores.items():
            parts = [
                each.spec.shard for _, each in score.parents if isinstance(each.spec, DefendSpec)
            ]
            found[name, cell] = [(part.start, part.stop) for part in parts]
    adaptive, clean = "demo-mixup/adaptive-quick/none", "demo-mixup/clean/none"
    assert found["usual", adaptive] == [(0, 100), (100, 200)]
    assert found["large", adaptive] == [(0, 200)]
    assert found["usual", clean] == found["large", clean] == [(0, 300)]


def test_shards_are_whole_but_for_the_last() -> None:
    assert [(part.start, part.stop) for part in shards(1200)] == [
        (0, 500),
        (500, 1000),
        (1000, 1200),
    ]
    assert [(part.start, part.stop) for part in shards(500)] == [(0, 500)]
    assert [(part.start, part.stop) for part in shards(1)] == [(0, 1)]


def test_the_shipped_grid_has_the_nodes_that_its_cells_share(grid: Grid) -> None:
    graph, scores = graph_of(grid.cells)
    counts = Counter(node.kind for node in graph)
    cells = len(grid.cells)
    assert len(scores) == cells
    adaptive = sum(cell.attack_spec.compound for cell in grid.cells)
    assert counts == {
        "dataset": 1,
        "train": 2,
        # two models, four attacks that craft, two shards of 600 images; four that are
        # transferred, two shards of 200; and from two starts on each defended model
        "craft": 2 * 4 * 2 + 2 * 4 * 2 + 2 * adaptive * 2,
        # of what is transferred, and after each candidate
        "select": 3 * adaptive * 2,
        "defend": (cells - adaptive) * 2 + adaptive * 2,
        "score": cells,
    }


def test_all_defenses_of_a_model_share_its_examples(grid: Grid) -> None:
    chosen = [
        cell for cell in grid.cells if (cell.model, cell.attack) == ("demo-iat", "targeted-pgd10")
    ]
    crafts = {
        defend.parent("examples")
        for cell in chosen
        for _, defend in score_of(cell).parents
        if defend.spec.model_dump()["shard"]["start"] == 0
    }
    assert len(chosen) == 8
    assert len(crafts) == 1


def test_clean_examples_are_the_data_set_itself(grid: Grid) -> None:
    score = score_of(grid.cell("demo-mixup/clean/guo"))
    graph = Graph([score])
    assert Counter(node.kind for node in graph) == {
        "dataset": 1,
        "train": 1,
        "defend": 2,
        "score": 1,
    }
    assert score.parent("shard0").parent("examples").kind == "dataset"


def test_only_a_defense_that_mixes_with_a_pool_reads_one(grid: Grid) -> None:
    roles = {
        cell.defense: {role for role, _ in score_of(cell).parent("shard0").parents}
        for cell in grid.cells
    }
    with_pool = {defense for defense, found in roles.items() if "pool" in found}
    assert with_pool == {"mi-ol", "counter+mi-ol", "mi-ol+guo"}


def test_more_images_keep_the_whole_shards_of_fewer() -> None:
    fewer, more = (
        score_of(demo(images=images).cell("demo-iat/targeted-pgd10/guo")) for images in (500, 600)
    )
    assert fewer.parent("shard0") == more.parent("shard0")
    assert [role for role, _ in more.parents] == ["shard0", "shard1"]
    assert fewer != more
    assert more.parent("shard1").spec.model_dump()["shard"] == {"start": SHARD, "stop": 600}


def test_a_shard_that_is_not_whole_is_another_node() -> None:
    fewer, more = (
        score_of(demo(images=images).cell("demo-iat/clean/guo")) for images in (499, 500)
    )
    assert fewer.parent("shard0") != more.parent("shard0")


def test_files_and_names_never_enter_a_digest(grid: Grid) -> None:
    cell = grid.cell("demo-iat/targeted-pgd10/mi-ol")
    moved = dataclasses.replace(
        cell,
        dataset="d",
        model="m",
        attack="a",
        defense="x",
        files=(("digits", "elsewhere"),),
        model_files=(("weights", "elsewhere"),),
    )
    assert score_of(moved) == score_of(cell)


def test_each_setting_of_a_cell_changes_its_score_and_just_what_depends_on_it(grid: Grid) -> None:
    cell = grid.cell("demo-iat/targeted-pgd10/guo")
    before = {node.kind: node for node in Graph([score_of(cell)])}
    attack = cell.attack_spec.model_copy(update={"steps": 11})
    defense = cell.defense_spec.model_copy(update={"draws": 51})
    model = cell.model_spec.model_copy(update={"seed": 1})
    assert isinstance(attack, PGD)
    assert isinstance(defense, Guo)
    for change, kept in [
        ({"attack_spec": attack}, {"dataset", "train"}),
        ({"defense_spec": defense}, {"dataset", "train", "craft"}),
        ({"model_spec": model}, {"dataset"}),
        ({"redraws": 4}, {"dataset", "train", "craft"}),
        ({"seed": 1}, {"dataset", "train"}),
        ({"precision": "tf32"}, {"dataset", "train"}),
        ({"defense_spec": MixupInference(pool_size=9)}, {"dataset", "train", "craft"}),
    ]:
        changed = dataclasses.replace(cell, **change)  # type: ignore[arg-type]
        after = {node.kind: node for node in Graph([score_of(changed)])}
        assert {kind for kind, node in after.items() if node == before[kind]} == kept
