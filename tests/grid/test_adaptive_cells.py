"""Adaptive cells in grids: their nodes, what they depend on, and a run of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cells import graph_of
from tiny import Tiny, data_files, write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.names import node_name
from pipeline.grid.workloads import workload
from pipeline.problems import BadInput
from pipeline.store.candidates import candidates_in
from tasks.evaluation.specs import CraftSpec, SelectSpec

ADAPTIVE = (
    "kind: adaptive\nlosses: [margin]\nsteps: 3\ndraws: 2\nselect_draws: 3\nimages: 40\n"
    "square_queries: 5\nsquare_images: 20\nsmoothing: 1.0\n"
    "transferred:\n  - {kind: pgd, steps: 3}\n  - {kind: pgd, steps: 3, loss: margin}\n"
)


def grid_text(attacks: str, defenses: str) -> str:
    return (
        "epsilon: 40\nimages: 60\nredraws: 2\ntables:\n"
        f"  - name: main\n    models: [mixed]\n    attacks: {attacks}\n"
        f"    defenses: {defenses}\n"
    )


def configs(folder: Path, attacks: str, defenses: str, **more: str) -> Path:
    changes = {
        "attacks/adaptive-mini.yaml": ADAPTIVE,
        "defenses/flip-crop.yaml": "kind: flip-crop\n",
        "grids/tiny.yaml": grid_text(attacks, defenses),
        **more,
    }
    return write_configs(folder, changes)


def loaded(folder: Path, adaptive: str | None = None) -> Grid:
    return load_grid(Catalogue([folder]), "tiny", Overrides(adaptive=adaptive))


def digests(grid: Grid) -> dict[str, str]:
    _, scores = graph_of(grid.cells)
    return {name: node.digest for name, node in scores.items()}


def ancestors(node: Node) -> list[Node]:
    return list(Graph([node]))


def test_adding_a_defense_or_an_attack_makes_no_other_cell_stale(tmp_path: Path):
    """Adding a defense or an attack to a grid makes no other cell stale."""
    small = digests(loaded(configs(tmp_path / "a", "[clean, adaptive-mini]", "[none, guo]")))
    large = digests(
        loaded(
            configs(
                tmp_path / "b", "[clean, pgd, adaptive-mini]", "[none, counter, guo, counter+guo]"
            )
        )
    )
    assert len(large) > len(small)
    assert {name: large[name] for name in small} == small


def test_the_transferred_examples_are_made_once_for_all_defenses(tmp_path: Path):
    grid = loaded(configs(tmp_path, "[adaptive-mini]", "[none, guo, counter]"))
    graph, _ = graph_of(grid.cells)
    bare = [n for n in graph if isinstance(n.spec, CraftSpec) and n.spec.against is None]
    assert len(bare) == 2


def test_queries_share_draws_only_where_the_defense_draws(tmp_path: Path):
    folder = configs(tmp_path, "[adaptive-mini]", "[none, guo]")
    path = folder / "attacks" / "adaptive-mini.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "square_window: 8\n", encoding="utf-8")
    graph, _ = graph_of(loaded(folder).cells)
    windows = {
        node.spec.against.kind: node.spec.window
        for node in graph
        if isinstance(node.spec, CraftSpec)
        and node.spec.against is not None
        and node.spec.attack.kind == "square"
    }
    assert windows == {"none": None, "guo": 8}


def test_a_candidate_of_fewer_images_is_a_node_of_those(tmp_path: Path):
    grid = loaded(configs(tmp_path, "[adaptive-mini]", "[guo]"))
    graph, _ = graph_of(grid.cells)
    stops = {
        node.spec.attack.kind: node.spec.shard.stop
        for node in graph
        if isinstance(node.spec, CraftSpec) and node.spec.against is not None
    }
    assert stops == {"apgd": 40, "square": 20}


def test_the_option_adds_an_adaptive_twin_to_every_defended_cell(tmp_path: Path):
    folder = configs(tmp_path, "[clean, pgd]", "[none, counter, guo]")
    plain = loaded(folder)
    twins = loaded(folder, adaptive="mini")
    added = {cell.name for cell in twins.cells} - {cell.name for cell in plain.cells}
    assert added == {f"mixed/adaptive-mini/{defense}" for defense in ("none", "counter", "guo")}
    assert {name: digests(twins)[name] for name in digests(plain)} == digests(plain)
    with pytest.raises(BadInput, match="--adaptive maxi: no such budget; known: mini"):
        loaded(folder, adaptive="maxi")


def test_an_adaptive_cell_has_the_images_and_the_redraws_of_its_budget(tmp_path: Path):
    grid = loaded(configs(tmp_path, "[clean, adaptive-mini]", "[guo, counter]"))
    assert grid.cell("mixed/clean/guo").images == 60
    assert grid.cell("mixed/adaptive-mini/guo").images == 40
    assert grid.cell("mixed/adaptive-mini/guo").redraws == 3
    assert grid.cell("mixed/adaptive-mini/counter").redraws == 1


def test_a_baseline_of_equal_cost_has_as_many_draws_as_each_defense_costs_passes(tmp_path: Path):
    text = grid_text("[clean]", "[none, counter, guo, counter+guo]") + "    equal_cost: flip-crop\n"
    grid = loaded(configs(tmp_path, "", "", **{"grids/tiny.yaml": text}))
    draws = [defense for defense in grid.tables[0].defenses if defense.startswith("flip-crop")]
    # guo: its 2 draws; counter: forward, 9 back, answer; and both
    assert draws == ["flip-crop[draws=2]", "flip-crop[draws=11]", "flip-crop[draws=12]"]
    assert grid.cell("mixed/clean/flip-crop[draws=11]").defense_spec.draws == 11


def test_flips_and_crops_mirror_only_images_that_keep_their_class(tmp_path: Path):
    digits = "kind: digits\nclasses: 10\nchannels: 1\nside_px: 8\n"
    found = {}
    for mirrors in (True, False):
        change = {"datasets/digits.yaml": f"{digits}mirrors: {str(mirrors).lower()}\n"}
        grid = loaded(configs(tmp_path / str(mirrors), "[clean]", "[none, flip-crop]", **change))
        assert grid.cell("mixed/clean/flip-crop").defense_spec.flip is mirrors
        found[mirrors] = digests(grid)
    assert found[True]["mixed/clean/none"] == found[False]["mixed/clean/none"]
    assert found[True]["mixed/clean/flip-crop"] != found[False]["mixed/clean/flip-crop"]


def test_the_plan_knows_what_an_adaptive_cell_costs_before_it_starts(tmp_path: Path):
    grid = loaded(configs(tmp_path, "[clean, adaptive-mini]", "[none, counter, guo]"))
    graph, _ = graph_of(grid.cells)
    works = [workload(n, {}) for n in graph if isinstance(n.spec, CraftSpec | SelectSpec)]
    assert all(work.amount > 0 for work in works)
    assert {work.speed_class.method for work in works} >= {
        "pgd",
        "apgd on guo",
        "square on counter",
    }


def test_nodes_of_an_adaptive_cell_have_names_in_the_grids_words(tmp_path: Path):
    grid = loaded(configs(tmp_path, "[adaptive-mini]", "[guo]"))
    graph, scores = graph_of(grid.cells)
    names = {node_name(node, grid) for node in graph if node.kind in {"craft", "select"}}
    assert names == {
        "craft mixed/adaptive-mini, images 0 to 40",
        "craft mixed/adaptive-mini/guo, images 0 to 40",
        "craft mixed/adaptive-mini/guo, images 0 to 20",
        "select mixed/adaptive-mini/guo, images 0 to 40",
    }
    assert len(ancestors(scores["mixed/adaptive-mini/guo"])) == 13


def test_a_node_is_named_after_a_cell_that_uses_it(tmp_path: Path):
    longer = ADAPTIVE.replace("images: 40", "images: 60").replace(
        "steps: 3\ndraws", "steps: 4\ndraws"
    )
    same = ADAPTIVE.replace("images: 40", "images: 60")
    more = {"attacks/adaptive-longer.yaml": longer, "attacks/adaptive-same.yaml": same}
    attacks = "[adaptive-mini, adaptive-longer, adaptive-same]"
    text = grid_text(attacks, "[guo]").replace("images: 60", "images: 60\nadaptive_shard: 20")
    grid = loaded(configs(tmp_path, attacks, "[guo]", **more, **{"grids/tiny.yaml": text}))
    _, scores = graph_of(grid.cells)
    users = {cell: set(ancestors(score)) for cell, score in scores.items()}
    for node in set.union(*users.values()):
        if node.kind in {"craft", "select", "defend"}:
            named = node_name(node, grid).removeprefix(f"{node.kind} ").partition(",")[0]
            if named.count("/") == 1:
                named += "/guo"
            assert node in users[named], named


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("adaptive")
    attacks, defenses = "[clean, pgd, adaptive-mini]", "[none, counter, guo, counter+guo, mi-ol]"
    tiny = Tiny(configs(folder / "configs", attacks, defenses), folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


def test_the_attack_that_knows_the_defense_leaves_no_more_than_the_one_that_does_not(done: Tiny):
    facts = done.session().facts()
    for defense in ("none", "counter", "guo", "counter+guo", "mi-ol"):
        known = float(str(facts[f"mixed/adaptive-mini/{defense}"]["accuracy"]))
        replayed = float(str(facts[f"mixed/pgd/{defense}"]["accuracy"]))
        assert known <= replayed


def test_a_second_run_of_an_adaptive_grid_computes_nothing(done: Tiny):
    before = data_files(done.store)
    _, finished = done.run()
    assert finished.computed == {}
    assert data_files(done.store) == before


def test_selected_examples_are_checked_when_they_are_read(done: Tiny, tmp_path: Path):
    shutil.copytree(done.store, tmp_path / "store")
    copy = Tiny(done.folder, tmp_path / "store")
    victim = next((tmp_path / "store" / "select").glob("??/*/examples*"))
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    victim.write_bytes(bytes(damaged))
    recorder, finished = copy.run(force=True)
    assert not finished.missing
    assert len(recorder.set_aside()) == 1
    assert {event.node.kind for event in recorder.done("select")} == {"select"}


def test_a_select_node_tells_which_candidate_was_chosen_how_often(done: Tiny):
    session = done.session()
    node = session.scores["mixed/adaptive-mini/guo"].parent("shard0").parent("examples")
    record = session.record(node)
    assert record is not None
    found = {each.candidate: each for each in candidates_in(record.facts)}
    assert list(found) == [
        "transferred-pgd",
        "transferred-pgd-margin",
        "margin-image-3x2",
        "margin-transferred-3x2",
        "square-5x20",
    ]
    assert sum(each.chosen for each in found.values()) == 40
    assert found["transferred-pgd"].images == 40
    assert found["square-5x20"].images <= 20


def test_a_note_on_an_attack_is_of_its_own_parameters_and_changes_no_digest(tmp_path: Path):
    attacks = "[adaptive-mini, {label: longer, use: adaptive-mini, set: {steps: 4}}]"
    plain = loaded(configs(tmp_path / "a", attacks, "[none]"))
    note = "note: measured once\n"
    noted = loaded(
        configs(
            tmp_path / "b", attacks, "[none]", **{"attacks/adaptive-mini.yaml": ADAPTIVE + note}
        )
    )
    assert [cell.attack_note for cell in noted.cells] == ["measured once", None]
    assert digests(noted) == digests(plain)
    longer = {
        "attacks/adaptive-mini.yaml": ADAPTIVE + note,
        "attacks/adaptive-longer.yaml": "extends: adaptive-mini\nsteps: 4\n",
    }
    (extended,) = loaded(configs(tmp_path / "d", "[adaptive-longer]", "[none]", **longer)).cells
    assert extended.attack_note is None
    wrong = {"attacks/adaptive-mini.yaml": ADAPTIVE + "note: [1]\n"}
    with pytest.raises(BadInput, match=r"adaptive-mini.yaml:\d+: note"):
        loaded(configs(tmp_path / "c", attacks, "[none]", **wrong))
