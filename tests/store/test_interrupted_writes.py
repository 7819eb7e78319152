"""A writer that stops after its n-th operation on files, for each n: nothing is lost or torn.

The operations are those of the functions of `os` that change what a disk holds, and opening a
file to write. A stop is what a kill is: nothing that would follow runs, not even `finally`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from artifacts import NODE, OTHER, put
from stopped import stopped

from pipeline.execution.work import unfinished
from pipeline.store.garbage import DAY_S, collectable, remove
from pipeline.store.leases import Leases
from pipeline.store.ledger import Invocation, Ledger
from pipeline.store.store import Store
from pipeline.store.verify import verify
from tasks.training.train import State


def make(place: Path) -> None:
    """A store, two artifacts, what a ledger keeps, a lease, and a training's last state."""
    store = Store(place)
    store.prepare()
    ledger = Ledger(store.backend)
    ledger.want([NODE.digest, OTHER.digest])
    leases = Leases(store.backend)
    leases.claim(NODE.digest)
    put(store, a="A" * 3000, b="B")
    leases.close()
    put(store, OTHER, a="C")
    ledger.mark_logged("sqlite:///x", "key", "run")
    if not ledger.invocations:
        ledger.write(Invocation("tiny", ["pipeline", "run"], "1", {}, time=1.0))


def train(place: Path) -> None:
    """A training keeps its state epoch by epoch, then its artifact, and forgets the state."""
    backend = Store(place).backend
    for epoch in (1, 2, 3):
        unfinished.save(backend, OTHER.digest, state(epoch), ["x86_64 CPU"])
    put(Store(place), OTHER, a="C")
    unfinished.forget(backend, OTHER.digest)


def state(epoch: int) -> State:
    weights = {"w": torch.full((3,), float(epoch))}
    return State(weights=weights, optimizer={"m": torch.zeros(3)}, facts={"epoch": epoch})


def again(place: Path) -> None:
    """An artifact is replaced by one of the same content, and set aside and put again."""
    store = Store(place)
    store.prepare()
    put(store, a="A" * 3000, b="B", replace=True)
    store.set_aside(OTHER.kind, OTHER.digest)
    put(store, OTHER, a="C")


def clear(place: Path) -> None:
    """What nobody asks for goes."""
    store = Store(place)
    remove(store, collectable(store, keep_s=0, now=time.time() + 3 * DAY_S))


def data(place: Path) -> dict[str, bytes]:
    """The data of every artifact, and what the ledger has that must not be lost."""
    store = Store(place)
    found = {}
    for kind, digest in store.each():
        record = store.record(kind, digest)
        assert record is not None
        for name in record.files:
            found[f"{kind}/{digest}/{name}"] = store.path(record, name, fresh=True).read_bytes()
    return found


def every_stop(action: Callable[[Path], object], place: Path) -> Iterator[int]:
    """Stop an action before its first operation, its second, ... on a fresh copy of a place."""
    number = 0
    while True:
        copy = place.with_name(f"{place.name}-{number}")
        if place.exists():
            shutil.copytree(place, copy)
        was_stopped = stopped(action, copy, number)
        yield number
        shutil.rmtree(copy, ignore_errors=True)
        if not was_stopped:
            return
        number += 1
        assert number < 2000


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    make(tmp_path / "whole")
    return data(tmp_path / "whole")


@pytest.mark.slow
def test_a_store_whose_making_is_stopped_anywhere_is_made_by_the_next_run_with_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    stops = 0
    for number in every_stop(make, tmp_path / "store"):
        place = tmp_path / f"store-{number}"
        seen = data(place) if place.exists() else {}
        # what is there is whole: nothing torn is ever seen
        assert seen.items() <= whole.items()
        make(place)
        assert data(place) == whole
        assert verify(Store(place)).damages == []
        assert len(Ledger(Store(place).backend).invocations) == 1
        stops += 1
    assert stops > 50


@pytest.mark.slow
def test_what_stands_stays_wherever_its_replacing_is_stopped(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    make(tmp_path / "store")
    for number in every_stop(again, tmp_path / "store"):
        place = tmp_path / f"store-{number}"
        seen = data(place)
        assert seen.items() <= whole.items()
        # of the same content there is one at every moment; what went aside is put again
        assert any(NODE.digest in key for key in seen)
        make(place)
        assert data(place) == whole
        assert verify(Store(place)).damages == []


@pytest.mark.slow
def test_a_training_that_is_stopped_anywhere_has_its_state_whole_or_its_artifact(
    tmp_path: Path,
) -> None:
    Store(tmp_path / "store").prepare()
    last = 0.0
    for number in every_stop(train, tmp_path / "store"):
        store = Store(tmp_path / f"store-{number}")
        found = unfinished.load(store.backend, OTHER.digest)
        if store.record(OTHER.kind, OTHER.digest) is not None:
            last = 4
            continue
        epoch = 0.0 if found is None else float(str(found.facts["epoch"]))
        assert epoch >= last
        last = epoch
        if found is not None:
            assert found.weights["w"].tolist() == [epoch] * 3
    assert last == 4


def test_clearing_that_is_stopped_anywhere_takes_nothing_by_halves(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    make(tmp_path / "store")
    for number in every_stop(clear, tmp_path / "store"):
        place = tmp_path / f"store-{number}"
        assert data(place).items() <= whole.items()
        assert verify(Store(place)).damages == []
        make(place)
        assert data(place) == whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_stopped_and_stopped_again_1000_times_ends_with_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    stops = 0
    for first in every_stop(make, tmp_path / "store"):
        place = tmp_path / f"store-{first}"
        # the next run is stopped as well, further and further on, each time from where it stood
        number = 0
        while place.exists() and stopped(make, place, number):
            assert data(place).items() <= whole.items()
            stops += 1
            number += 2 + first % 3
        make(place)
        assert data(place) == whole
    assert stops >= 1000
