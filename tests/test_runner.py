"""Stopping in order when the time of a run is up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import Recorder, Tiny, write_configs

from pipeline.events import Done, Observers, RunFinished, Stopped
from pipeline.own_code import pack
from pipeline.remote import perform_remotely
from pipeline.store import Store


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")


def run_until(tiny: Tiny, until: float | None) -> tuple[Recorder, RunFinished]:
    session = tiny.session(only=["cell=mixed/clean/none"])
    session.store.prepare()
    recorder = Recorder()
    finished = session.run(
        Observers([recorder]), inline=True, address=None, workers=None, forced=set(), until=until
    )
    return recorder, finished


def test_a_training_whose_time_is_up_keeps_its_epoch_and_is_no_failure(tiny: Tiny) -> None:
    recorder, finished = run_until(tiny, 0.0)
    assert finished.interrupted
    assert finished.computed == {"dataset": 1}
    assert not recorder.failed()
    state = next(tiny.store.glob("partial/*/facts.json"))
    assert json.loads(state.read_text())["epoch"] == 1
    # its last epoch ends it, whatever the time is; then the next run goes on
    _, finished = run_until(tiny, 0.0)
    assert finished.computed == {"train": 1}
    _, finished = run_until(tiny, None)
    assert not finished.interrupted
    assert finished.computed == {"defend": 2, "score": 1}


def test_a_run_that_ends_with_its_last_node_was_not_interrupted(tiny: Tiny) -> None:
    run_until(tiny, None)
    recorder, finished = run_until(tiny, 0.0)
    assert not finished.interrupted
    assert not recorder.done()


def test_what_waited_for_a_worker_until_the_time_was_up_does_not_begin(tiny: Tiny) -> None:
    session = tiny.session()
    node = session.graph[next(iter(session.plan().todo))]
    store = Store(tiny.store)
    store.prepare()

    def result(until: float | None) -> object:
        return perform_remotely(
            node.digest,
            pack(node),
            str(tiny.store),
            session.settings,
            None,
            replace=False,
            until=until,
        )

    assert result(0.0) == Stopped(node.digest)
    assert store.record(node.kind, node.digest) is None
    assert isinstance(result(None), Done)
