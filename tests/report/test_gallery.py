"""The gallery: which images it shows, and that they are what the store's numbers come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import Tiny, write_configs

from pipeline.execution.settings import KindSettings
from pipeline.execution.work.inputs import NodeInputs
from pipeline.grid.nodes import CellNodes
from pipeline.report.formats.frames import exhibits_frame, exhibits_of
from pipeline.report.scores import Scores
from pipeline.report.views.exhibits import change_between
from pipeline.report.views.gallery import Gallery, galleries
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
    return Artifacts(session.store, session.scores)


def inputs_of(tiny: Tiny, cell: str) -> NodeInputs:
    session = tiny.session()
    node = session.scores[cell].parent("shard0")
    return NodeInputs(node, session.store, KindSettings(), torch.device("cpu"), lambda _: None)


def shown(tiny: Tiny) -> Gallery:
    (gallery,) = galleries(tiny.session().grid, artifacts_of(tiny), {})
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


def test_a_second_report_takes_the_images_from_the_first_and_has_the_same_bytes(
    done: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = done.session()

    def write() -> bytes:
        scores = Scores(session.facts())
        page = write_report(session.grid, scores, tmp_path, {}, artifacts_of(done))
        return page.read_bytes()

    first = write()
    assert first.count(b"<img ") == 5 * len(shown(done).exhibits) > 0

    def computed(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("pipeline.report.views.recomputed.exhibits", computed)
    assert write() == first


def test_a_gallerys_file_holds_its_images_and_a_torn_one_holds_nothing(
    done: Tiny, tmp_path: Path
) -> None:
    gallery = shown(done)
    path = tmp_path / "gallery.parquet"
    assert exhibits_of(path) == {}
    exhibits_frame([gallery]).write_parquet(path)
    ((key, exhibits),) = exhibits_of(path).items()
    assert key == gallery.key
    for one, other in zip(exhibits, gallery.exhibits, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert pl.read_parquet(path)["cell"].unique().to_list() == ["mixed/pgd/counter"]
    path.write_bytes(path.read_bytes()[:100])
    assert exhibits_of(path) == {}


def test_cells_that_are_not_computed_have_a_gallery_that_says_so(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs", {"grids/tiny.yaml": GRID})
    tiny = Tiny(configs, tmp_path / "store")
    (gallery,) = galleries(tiny.session().grid, artifacts_of(tiny), {})
    assert (gallery.problem, gallery.exhibits, gallery.absent) == ("not computed", (), [])


def test_examples_that_were_damaged_are_named_and_the_report_is_written(
    done: Tiny, tmp_path: Path
) -> None:
    session = done.session()
    node = session.scores["mixed/pgd/counter"].parent("shard0").parent("examples")
    record = session.store.record(node.kind, node.digest)
    assert record is not None
    path = session.store.path(record, "examples.arrow")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-50])
        page = write_report(session.grid, Scores(session.facts()), tmp_path, {}, artifacts_of(done))
    finally:
        path.write_bytes(whole)
    assert "Not shown: craft" in page.read_text("utf-8")


def test_a_cell_whose_examples_are_its_own_is_not_shown_beside_the_bare_one(
    done: Tiny,
) -> None:
    grid = done.session().grid
    artifacts = artifacts_of(done)
    cell = grid.cell("mixed/pgd/counter")
    # as of an adaptive attack: the same name, other examples
    attack = cell.attack_spec.model_copy(update={"steps": 1})
    other = CellNodes().score(dataclasses.replace(cell, attack_spec=attack))
    moved = {**artifacts.scores, cell.name: other}
    (gallery,) = galleries(grid, Artifacts(artifacts.store, moved), {})
    assert gallery.cell.name == "mixed/pgd/guo"


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
