"""How models were trained, as a report tells it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tiny import Tiny, write_configs

from pipeline.report.scores import Scores
from pipeline.report.views.pictures import Artifacts
from pipeline.report.views.training import trainings
from pipeline.report.writer import write_report

ONLY = ("cell=mixed/clean/none",)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("training")
    tiny = Tiny(write_configs(folder / "configs"), folder / "store")
    _, finished = tiny.run(only=ONLY)
    assert not finished.missing
    return tiny


def history_of(tiny: Tiny) -> Path:
    """The file of the one training's epochs, whose name ends with its checksum."""
    (path,) = tiny.store.glob("train/??/*/*history*.json")
    return path


def report(tiny: Tiny, reports: Path) -> Path:
    session = tiny.session(only=ONLY)
    artifacts = Artifacts(session.store, session.scores)
    return write_report(session.grid, Scores(session.facts()), reports, artifacts=artifacts).parent


def test_a_training_is_told_with_its_epochs_and_what_it_ran_on(done: Tiny, tmp_path: Path) -> None:
    folder = report(done, tmp_path)
    path = history_of(done)
    history = json.loads(path.read_text(encoding="utf-8"))
    record = json.loads(path.with_name("meta.json").read_text(encoding="utf-8"))
    frame = pl.read_parquet(folder / "training.parquet")
    assert frame["epoch"].to_list() == list(range(1, len(history) + 1))
    assert frame["loss"].to_list() == [epoch["loss"] for epoch in history]
    assert frame["accuracy"].to_list() == [100 * epoch["accuracy"] for epoch in history]
    assert frame["seconds"].to_list() == record["facts"]["timings"]["seconds"]
    (training,) = trainings(
        done.session().grid, Artifacts(done.session().store, done.session().scores)
    )
    assert training.words.startswith("`mixed`: mixup, batches of ")
    assert record["how"]["device"] in training.words
    for file in ("README.md", "index.html"):
        text = (folder / file).read_text(encoding="utf-8")
        assert f"{len(history)} epochs in " in text
    assert (folder / "training.svg").stat().st_size > 1000


def test_a_grid_without_a_training_tells_of_none(done: Tiny) -> None:
    assert trainings(done.session().grid, None) == []


def test_a_history_that_is_damaged_is_left_out(done: Tiny, tmp_path: Path) -> None:
    path = history_of(done)
    text = path.read_text(encoding="utf-8")
    path.write_text('{"loss": 1}', encoding="utf-8")
    try:
        folder = report(done, tmp_path)
    finally:
        path.write_text(text, encoding="utf-8")
    assert not (folder / "training.csv").exists()
