"""Per-image answers: what is read from a store, and how cells are paired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from tiny import Tiny, write_configs

from pipeline.commands.session import Session
from pipeline.report.answers import Answers, NotTested, PerImage, stored_answers
from pipeline.report.formats.markdown import table_markdown
from pipeline.report.scores import Scores
from pipeline.report.views.table_rows import views
from pipeline.store.arrow import read_arrays, write_tensors
from pipeline.store.store import Store

PAIR = ("mixed/clean/guo", "mixed/clean/none")


def answers(right: list[list[int]], labels: list[int] | None = None) -> Answers:
    ids = np.arange(len(right))
    named = ids if labels is None else np.array(labels)
    return Answers(ids, named, np.array(right, dtype=bool))


@pytest.fixture
def done(tmp_path: Path) -> Session:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    _, finished = tiny.run(only=[f"cell={name}" for name in PAIR])
    assert not finished.missing
    return tiny.session()


def per_image_file(session: Session, name: str) -> Path:
    node = session.scores[name]
    record = session.store.record(node.kind, node.digest)
    assert record is not None
    return session.store.path(record, "per_image.arrow")


def test_a_stored_gain_is_tested_by_the_answers_of_the_same_images(done: Session):
    guo, none = (read_arrays(per_image_file(done, name)) for name in PAIR)
    assert guo["correct"].shape == (520, 2)
    assert none["correct"].shape == (520, 1)
    # in units of half an image, as two redraws are compared with one answer
    order = [int(np.flatnonzero(none["ids"] == place)[0]) for place in guo["ids"]]
    differences = guo["correct"].sum(axis=1, dtype=int) - 2 * none["correct"][order, 0].astype(int)
    generator = np.random.default_rng(0)
    signs = generator.choice([-1, 1], size=(20_000, len(differences)))
    sampled = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    p_value = stored_answers(done.store, done.scores).p_value([PAIR])
    assert p_value == pytest.approx(sampled, abs=4 * np.sqrt(0.25 / 20_000))


def test_a_damaged_file_is_told_of_and_nothing_is_bold(done: Session):
    path = per_image_file(done, PAIR[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = Store(done.store.root)
    with pytest.raises(NotTested, match=r"score [0-9a-f]{12}: .* does not match its checksum"):
        stored_answers(store, done.scores).p_value([PAIR])
    (table,) = done.grid.tables
    over_none = replace(table, attacks=("clean",), gains_of=None, gains_over="none")
    grid = replace(done.grid, tables=(over_none,))
    scores = Scores(done.facts(), per_image=stored_answers(store, done.scores))
    text = table_markdown(views(grid, scores)[0])
    assert "1 gain not tested, so not bold: score " in text
    assert "does not match its checksum" in text
    assert "**" not in text


def test_what_the_store_lacks_is_named(done: Session):
    held = stored_answers(done.store, done.scores)
    with pytest.raises(NotTested, match=r"score [0-9a-f]{12}: is not in this store"):
        held.p_value([("mixed/pgd/none", "mixed/clean/none")])


def test_a_file_without_the_answers_is_named(done: Session, monkeypatch: pytest.MonkeyPatch):
    bare = done.store.root / "bare.arrow"
    write_tensors(bare, {"ids": torch.arange(3), "labels": torch.arange(3)}, {})
    monkeypatch.setattr(done.store, "path", lambda *_: bare)
    with pytest.raises(NotTested, match="no column correct"):
        stored_answers(done.store, done.scores).p_value([PAIR])


@pytest.mark.parametrize("labels", [[0, 1, 1], [0, 1]])
def test_other_images_are_not_paired(labels: list[int]):
    made = {"a": answers([[1], [0], [1]]), "b": answers([[1]] * len(labels), labels)}
    with pytest.raises(NotTested, match="a and its baseline were not asked about the same images"):
        PerImage(made.__getitem__).p_value([("a", "b")])


def test_seeds_are_summed_over_an_image_and_are_no_further_evidence():
    wins = answers([[1]] * 8 + [[0]] * 2)
    made = {"a": wins, "b": answers([[0]] * 8 + [[1]] * 2)}
    held = PerImage(made.__getitem__)
    once = held.p_value([("a", "b")])
    assert once == pytest.approx(binomtest(8, 10).pvalue)
    assert held.p_value([("a", "b"), ("a", "b")]) == pytest.approx(once)
    # a seed that says the opposite leaves nothing
    assert held.p_value([("a", "b"), ("b", "a")]) == 1


def test_answers_are_read_once_however_many_tables_ask():
    read: list[str] = []

    def load(name: str) -> Answers:
        read.append(name)
        return answers([[1], [name == "a"]])

    held = PerImage(load)
    for _ in range(3):
        held.p_value([("a", "base")])
        held.p_value([("b", "base")])
    assert sorted(read) == ["a", "b", "base"]
