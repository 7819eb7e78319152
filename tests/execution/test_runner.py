"""Stopping in order, and what other processes do to a store while a run is on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import Recorder, Tiny, write_configs

from pipeline.catalogue.code.own import pack
from pipeline.execution.events import (
    Done,
    Event,
    NodeRetried,
    Observers,
    RunFinished,
    RunStarted,
    Stopped,
)
from pipeline.execution.executors.inline import InlineExecutor
from pipeline.execution.executors.worker import perform_remotely
from pipeline.store.store import Store


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


@dataclass
class Meddler(Recorder):
    """An observer that does something to the store at some events."""

    meddle: Callable[[Event], object] = id

    def notify(self, event: Event) -> None:
        super().notify(event)
        self.meddle(event)


def run_beside(
    tiny: Tiny, meddle: Callable[[Event], object], *, force: bool = False
) -> tuple[Meddler, RunFinished]:
    session = tiny.session()
    session.store.prepare()
    meddler = Meddler(meddle=meddle)
    forced = session.forced("defend") if force else set()
    finished = session.run(
        Observers([meddler]), inline=True, address=None, workers=None, forced=forced
    )
    return meddler, finished


def metas(tiny: Tiny) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in tiny.store.glob("*/??/*/meta.json")}


def test_what_another_driver_has_made_since_the_plan_is_taken_as_it_is(tiny: Tiny) -> None:
    made: dict[str, bytes] = {}

    def meddle(event: Event) -> None:
        if isinstance(event, RunStarted):
            tiny.run()
            made.update(metas(tiny))

    _, finished = run_beside(tiny, meddle)
    assert not finished.missing
    assert metas(tiny) == made != {}
    assert not (tiny.store / "aside").exists()


def test_of_many_nodes_that_find_one_artifact_damaged_at_once_none_fails(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run()
    (victim,) = (
        path for path in tiny.store.glob("craft/??/*/examples*") if path.stat().st_size > 50_000
    )
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-7])
    # as many run at once as on a cluster, so that all of them find the damage
    monkeypatch.setattr(InlineExecutor, "capacity", 100)
    recorder, finished = tiny.run(force=True)
    assert not finished.missing
    assert len(recorder.set_aside()) == 1
    assert victim.read_bytes() == whole


def test_what_another_process_took_away_and_brought_back_is_not_set_aside(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run()
    monkeypatch.setattr(InlineExecutor, "capacity", 100)
    craft = tiny.store / "craft"
    taken = craft.with_name("taken")

    def meddle(event: Event) -> None:
        if isinstance(event, RunStarted):
            craft.rename(taken)
        if isinstance(event, NodeRetried):
            taken.rename(craft)

    recorder, finished = run_beside(tiny, meddle, force=True)
    assert not finished.missing
    assert "is not in this store" in next(
        event.reason for event in recorder.events if isinstance(event, NodeRetried)
    )
    assert recorder.set_aside() == []
    assert "craft" not in finished.computed
