"""The gallery: which images it shows, and that they are what the store's numbers come from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Tiny, write_configs

from pipeline.commands.plan import plan_lines
from pipeline.execution.settings import KindSettings
from pipeline.execution.work.inputs import NodeInputs
from pipeline.grid.exhibits import exhibit_nodes
from pipeline.grid.graph import Graph
from pipeline.grid.nodes import CellNodes
from pipeline.report.scores import Scores
from pipeline.report.views.exhibits import change_between
from pipeline.report.views.gallery import NOT_COMPUTED, Gallery, galleries
from pipeline.report.views.pictures import Artifacts
from pipeline.report.writer import write_report
from tasks.data.arrays import as_float

GRID = """
epsilon: 40
images: 120
redraws: 2
tables:
  - name: main
    models: [mixed]
    attacks: [pgd]
    defenses: [none, guo, counter]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("gallery")
    configs = write_configs(folder / "configs", {"grids/tiny.yaml": GRID})
    tiny = Tiny(configs, folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


def artifacts_of(tiny: Tiny) -> Artifacts:
    session = tiny.session()
    return Artifacts(session.store, session.scores, session.exhibits)


def inputs_of(tiny: Tiny, cell: str) -> NodeInputs:
    session = tiny.session()
    node = session.scores[cell].parent("shard0")
    return NodeInputs(node, session.store, KindSettings(), torch.device("cpu"), lambda _: None)


def shown(tiny: Tiny) -> Gallery:
    (gallery,) = galleries(artifacts_of(tiny))
    assert not gallery.problem
    return gallery


def test_the_counter_perturbation_alone_is_shown_before_other_defenses(done: Tiny) -> None:
    assert shown(done).cell.name == "mixed/pgd/counter"


def test_of_each_class_the_first_image_is_shown_that_the_attack_turned(done: Tiny) -> None:
    inputs = inputs_of(done, "mixed/pgd/none")
    outcomes = inputs.outcomes(inputs.node)
    test = inputs.splits(inputs.node.parent("examples").parent("dataset")).test[:120]
    clean = inputs.frozen("float32").probabilities(as_float(test.pixels)).argmax(dim=1)
    turned = (clean == test.labels) & ~outcomes.correct[:, 0]
    expected = {
        int(label): int((turned & (test.labels == label)).nonzero()[0])
        for label in test.labels[turned].unique()
    }
    assert expected
    gallery = shown(done)
    assert {one.label: one.place for one in gallery.exhibits} == expected
    assert gallery.absent == sorted(set(range(10)) - expected.keys())


def test_the_bare_model_says_of_what_comes_after_what_the_store_holds(done: Tiny) -> None:
    frozen = inputs_of(done, "mixed/pgd/counter").frozen("float32")
    for exhibit in shown(done).exhibits:
        after = torch.from_numpy(exhibit.after).permute(2, 0, 1)[None].contiguous()
        answer = frozen.probabilities(after)[0].numpy()
        np.testing.assert_allclose(answer, exhibit.defended_answer, atol=1e-5)
        assert exhibit.attacked_answer.argmax() != exhibit.label == exhibit.clean_answer.argmax()


def test_a_change_is_magnified_to_half_the_range_around_grey(done: Tiny) -> None:
    exhibit = shown(done).exhibits[0]
    for before, after, change in (
        (exhibit.clean, exhibit.adversarial, exhibit.perturbation),
        (exhibit.adversarial, exhibit.after, exhibit.countered),
    ):
        assert change.times == 3  # of changes of up to 40/255
        np.testing.assert_allclose(change.pixels, 0.5 + 3 * (after - before), atol=1e-6)
    nothing = dataclasses.replace(exhibit, after=exhibit.adversarial)
    assert (nothing.countered.pixels == 0.5).all()


def test_exhibits_are_a_node_of_what_was_computed_anyway(done: Tiny) -> None:
    session = done.session()
    (exhibited,) = session.exhibits
    record = session.record(exhibited.node)
    assert record is not None
    assert record.facts["images"] == len(shown(done).exhibits)
    asked = {
        node.digest
        for cell in ("mixed/pgd/none", "mixed/pgd/counter")
        for _, node in session.scores[cell].parents
    }
    assert asked < {parent.digest for _, parent in exhibited.node.parents}
    assert {node.kind for node in Graph([exhibited.node])} == {
        "dataset",
        "train",
        "craft",
        "defend",
        "exhibit",
    }


def test_a_store_made_before_has_nothing_but_exhibits_to_compute(
    done: Tiny, tmp_path: Path
) -> None:
    old = Tiny(done.folder, tmp_path / "store")
    shutil.copytree(done.store, old.store)
    session = old.session()
    (exhibited,) = session.exhibits
    session.store.set_aside("exhibit", exhibited.node.digest)
    assert session.plan().by_kind(session.graph) == {"exhibit": 1}
    lines = list(plan_lines(session, forced=set(), every=False, device=None, workers=1))
    assert lines[0] == "0 of 3 cells to compute: 1 exhibit"
    page = write_report(session.grid, Scores(session.facts()), tmp_path, {}, artifacts_of(old))
    assert f"Not shown: {NOT_COMPUTED}." in page.read_text("utf-8")
    recorder, finished = old.run()
    assert [event.node.kind for event in recorder.done()] == ["exhibit"]
    assert not finished.missing
    assert (len(shown(old).exhibits), shown(old).problem) == (len(shown(done).exhibits), "")


def test_nothing_is_computed_for_exhibits_alone(done: Tiny, tmp_path: Path) -> None:
    scores = Tiny(done.folder, tmp_path / "store")
    shutil.copytree(done.store, scores.store)
    for kind in ("exhibit", "craft", "defend"):
        shutil.rmtree(scores.store / kind)
    assert not scores.session().plan().todo
    recorder, _ = scores.run()
    assert not recorder.done()


def test_force_makes_exhibits_again_with_the_answers_that_they_show(done: Tiny) -> None:
    session = done.session()
    todo = session.plan(session.forced("defend")).by_kind(session.graph)
    assert todo == {"defend": 3, "score": 3, "exhibit": 1}


def test_a_choice_of_cells_has_exhibits_where_both_cells_are_chosen(done: Tiny) -> None:
    assert done.session(only=["defense=counter"]).chosen_exhibits == []
    assert len(done.session().chosen_exhibits) == 1


def test_a_grid_without_a_gallery_has_no_exhibits(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs", {"grids/tiny.yaml": f"gallery: false\n{GRID}"})
    session = Tiny(configs, tmp_path / "store").session()
    assert session.exhibits == []
    assert all(node.kind != "exhibit" for node in session.graph)


def test_cells_that_are_not_computed_have_a_gallery_that_says_so(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs", {"grids/tiny.yaml": GRID})
    tiny = Tiny(configs, tmp_path / "store")
    (gallery,) = galleries(artifacts_of(tiny))
    assert (gallery.problem, gallery.exhibits, gallery.absent) == (NOT_COMPUTED, (), [])


def test_exhibits_that_were_damaged_are_named_and_the_report_is_written(
    done: Tiny, tmp_path: Path
) -> None:
    session = done.session()
    (exhibited,) = session.exhibits
    record = session.store.record("exhibit", exhibited.node.digest)
    assert record is not None
    path = session.store.path(record, "exhibits.arrow")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-50])
        page = write_report(session.grid, Scores(session.facts()), tmp_path, {}, artifacts_of(done))
    finally:
        path.write_bytes(whole)
    assert "Not shown: exhibit" in page.read_text("utf-8")


def test_two_reports_have_the_same_bytes(done: Tiny, tmp_path: Path) -> None:
    session = done.session()
    pages = [
        write_report(session.grid, Scores(session.facts()), folder, {}, artifacts_of(done))
        for folder in (tmp_path / "one", tmp_path / "other")
    ]
    first, second = (page.read_bytes() for page in pages)
    assert first == second
    assert first.count(b"<img ") == 5 * len(shown(done).exhibits) > 0


def test_a_cell_whose_examples_are_its_own_is_not_shown_beside_the_bare_one(
    done: Tiny,
) -> None:
    session = done.session()
    cell = session.grid.cell("mixed/pgd/counter")
    # as of an adaptive attack: the same name, other examples
    attack = cell.attack_spec.model_copy(update={"steps": 1})
    other = CellNodes().score(dataclasses.replace(cell, attack_spec=attack))
    moved = {**session.scores, cell.name: other}
    (exhibited,) = exhibit_nodes(CellNodes(), session.grid, moved)
    assert exhibited.defended.name == "mixed/pgd/guo"


@pytest.mark.parametrize(
    ("largest", "times"), [(8 / 255, 15.0), (0.25, 2.0), (0.45, 1.1), (0.0, 1.0)]
)
def test_one_rule_magnifies_what_an_attack_and_what_a_defense_added(
    largest: float, times: float
) -> None:
    before = np.full((2, 2, 3), 0.5, dtype=np.float32)
    change = change_between(before, before + np.float32(largest))
    assert change.times == times
    assert change.pixels.max() == pytest.approx(0.5 + times * largest, abs=1e-6)
