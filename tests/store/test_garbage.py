"""Clearing a store: only what nobody asked for of late goes, and nothing that is young."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.commands.cli import main
from pipeline.grid.graph import Node
from pipeline.problems import BadInput, Unwritable
from pipeline.store import garbage as collect_module
from pipeline.store.backend import FileInfo
from pipeline.store.garbage import DAY_S, Garbage, collectable, remove
from pipeline.store.leases import Leases
from pipeline.store.ledger import CellEntry, Invocation, Ledger
from pipeline.store.store import Store, folder_of
from tasks.specs import Shard

MODEL = Node("train", Shard(start=0, stop=1))
CRAFT = Node("craft", Shard(start=0, stop=2), (("model", MODEL),))
SCORE = Node("score", Shard(start=0, stop=3), (("examples", CRAFT),))
OTHER = Node("score", Shard(start=0, stop=4))
PUT = "a0" * 16
"""What a put that was broken off leaves in scratch/."""
LATER = time.time() + 2 * DAY_S


def put(store: Store, *nodes: Node) -> None:
    for node in nodes:
        writers = {"a.txt": lambda path: path.write_text("text")}
        store.put(node.identity, writers, lineage={}, facts={}, how={})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A score with what it was made from, and another score."""
    made = Store(tmp_path / "store")
    put(made, MODEL, CRAFT, SCORE, OTHER)
    return made


def asked(store: Store, node: Node, *, days_ago: float, user: str = "somebody") -> None:
    invocation = Invocation(
        grid="tiny",
        command=["pipeline", "run"],
        version="1",
        cells={"cell": CellEntry(node.digest)},
        time=LATER - days_ago * DAY_S,
        user=user,
    )
    Ledger(store.backend).write(invocation)


def found(store: Store, *, keep_days: float = 30, now: float = LATER) -> set[str]:
    items = collectable(store, keep_s=keep_days * DAY_S, now=now)
    return {Path(item.key).name for item in items}


def test_what_a_late_run_of_anybody_refers_to_stays_with_all_it_was_made_from(
    store: Store,
) -> None:
    asked(store, SCORE, days_ago=29, user="a colleague")
    assert found(store) == {OTHER.digest}


def test_what_only_an_old_run_refers_to_goes(store: Store) -> None:
    asked(store, SCORE, days_ago=31)
    asked(store, OTHER, days_ago=1)
    assert found(store) == {MODEL.digest, CRAFT.digest, SCORE.digest}
    assert found(store, keep_days=32) == set()


def test_what_a_run_at_work_wanted_stays_however_long_ago_it_began(store: Store) -> None:
    """It would compute its finished nodes again; runs of the paper's size take days."""
    Ledger(store.backend).want([MODEL.digest, CRAFT.digest, "f" * 64])
    assert found(store, keep_days=1) >= {MODEL.digest, CRAFT.digest, OTHER.digest}
    leases = Leases(store.backend)
    assert leases.claim("f" * 64)
    assert found(store, keep_days=1).isdisjoint({MODEL.digest, CRAFT.digest})
    assert OTHER.digest in found(store, keep_days=1)
    leases.close()
    assert found(store, keep_days=1) >= {MODEL.digest, CRAFT.digest}


def test_nothing_is_garbage_while_a_wish_cannot_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user's file on a shared store may be."""
    Ledger(store.backend).want([MODEL.digest])
    read = store.backend.read

    def refusing(key: str) -> bytes:
        if key.startswith("ledger/wanted/"):
            raise PermissionError(13, "Permission denied")
        return read(key)

    monkeypatch.setattr(store.backend, "read", refusing)
    with pytest.raises(BadInput, match=r"ledger/wanted/\w+: permission denied"):
        found(store)


def test_nothing_is_garbage_while_a_run_of_the_ledger_cannot_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(store, SCORE, days_ago=1)
    read = store.backend.read

    def refusing(key: str) -> bytes:
        if key.startswith("ledger/") and key.endswith(".json"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(key)

    monkeypatch.setattr(store.backend, "read", refusing)
    with pytest.raises(BadInput, match=r"ledger/\S+\.json: stale file handle"):
        found(store)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), Unwritable("the server does not answer")]
)
@pytest.mark.parametrize("place", ["leases", "ledger/wanted", "ledger/*"])
def test_nothing_is_garbage_while_leases_or_ledger_cannot_be_listed(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    find = store.backend.find

    def failing(pattern: str) -> Iterator[FileInfo]:
        if pattern.startswith(place):
            raise error
        return find(pattern)

    monkeypatch.setattr(store.backend, "find", failing)
    with pytest.raises(BadInput, match=r"nothing is deleted: (input|the server)"):
        found(store)


@pytest.mark.parametrize("place", ["leases", f"leases/{'f' * 64}", "ledger", "ledger/wanted"])
def test_nothing_is_garbage_while_another_users_leases_or_ledger_may_not_be_listed(
    store: Store, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    Ledger(store.backend).want([MODEL.digest])
    leases = Leases(store.backend)
    assert leases.claim("f" * 64)
    scandir = os.scandir

    def refusing(path: str):
        if Path(path) == store.root / place:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(BadInput, match="nothing is deleted: permission denied"):
        found(store)
    monkeypatch.undo()
    leases.close()


def test_what_an_unfinished_run_wanted_stays_though_no_score_refers_to_it(store: Store) -> None:
    Ledger(store.backend).want([MODEL.digest, CRAFT.digest, "f" * 64])
    assert found(store) == {SCORE.digest, OTHER.digest}
    # wanting them again makes the wish young again
    wish = next((store.root / "ledger" / "wanted").iterdir())
    Ledger(store.backend).want([CRAFT.digest, MODEL.digest, "f" * 64])
    assert list((store.root / "ledger" / "wanted").iterdir()) == [wish]
    assert MODEL.digest in found(store, keep_days=1)


def test_nothing_younger_than_a_day_goes(store: Store) -> None:
    old = {"scratch": "0" * 32, "aside": f"craft-{'0' * 12}-1"}
    for folder, name in old.items():
        (store.root / folder / name).mkdir(parents=True)
    assert found(store, keep_days=0, now=time.time() + DAY_S - 60) == set()
    assert found(store, keep_days=0, now=time.time() + DAY_S + 60) == {
        *old.values(),
        *(node.digest for node in (MODEL, CRAFT, SCORE, OTHER)),
    }


def test_leftovers_go_but_a_training_that_may_go_on_stays(store: Store) -> None:
    asked(store, SCORE, days_ago=1)
    asked(store, OTHER, days_ago=1)
    store.set_aside(OTHER.kind, OTHER.digest)
    for path in (f"scratch/{PUT}", f"partial/{'a' * 64}", f"partial/{MODEL.digest}"):
        (store.root / path).mkdir(parents=True)
    (store.root / folder_of("craft", "b" * 64)).mkdir(parents=True)
    aside = next((store.root / "aside").iterdir()).name
    # that of a model which is there is of no use; the other one is, for as long as results are
    expected = {PUT, aside, MODEL.digest, "b" * 64}
    assert found(store) == expected
    assert found(store, keep_days=1) == expected | {"a" * 64}
    Ledger(store.backend).want(["a" * 64])
    assert found(store, keep_days=3) == expected


def test_removing_leaves_no_half_and_what_others_took_away_is_no_error(store: Store) -> None:
    asked(store, SCORE, days_ago=1)
    items = collectable(store, keep_s=DAY_S * 30, now=LATER)
    gone = Garbage("craft/aa/gone", "gone", 7, DAY_S)
    assert remove(store, [gone, *items]) == items
    assert items[0].size_bytes > 0
    assert sorted(store.each()) == sorted((n.kind, n.digest) for n in (MODEL, CRAFT, SCORE))
    assert list((store.root / "scratch").iterdir()) == []


def test_what_a_run_begins_to_want_after_the_listing_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "LOOK_S", 0.0)
    items = collectable(store, keep_s=DAY_S, now=LATER)
    assert {Path(item.key).name for item in items} >= {MODEL.digest, CRAFT.digest}
    Ledger(store.backend).want([MODEL.digest])
    delete = store.backend.remove

    def wanting(key: str) -> None:
        """While the first is deleted, another run begins."""
        monkeypatch.undo()
        monkeypatch.setattr(collect_module, "LOOK_S", 0.0)
        Ledger(store.backend).want([OTHER.digest])
        delete(key)

    monkeypatch.setattr(store.backend, "remove", wanting)
    items.sort(key=lambda item: item.key.endswith(OTHER.digest))
    assert {Path(item.key).name for item in remove(store, items)} == {CRAFT.digest, SCORE.digest}
    assert {digest for _, digest in store.each()} == {MODEL.digest, OTHER.digest}


def test_nothing_is_deleted_once_it_is_not_known_what_runs_want(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = collectable(store, keep_s=DAY_S, now=LATER)

    def failing(pattern: str) -> Iterator[FileInfo]:
        raise Unwritable("the server does not answer")

    monkeypatch.setattr(store.backend, "find", failing)
    with pytest.raises(BadInput, match="nothing is deleted: the server does not answer"):
        remove(store, items)
    monkeypatch.undo()
    assert len(list(store.each())) == 4


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        collectable(Store(tmp_path / "none"), keep_s=0)


def test_the_command_deletes_nothing_unless_told_to(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "YOUNGEST_S", -1.0)
    Ledger(store.backend).want([MODEL.digest, CRAFT.digest, SCORE.digest])
    words = ["gc", "--store", str(store.root)]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0
    assert f"score {OTHER.digest[:12]}: no run asked for it" in told.stdout
    assert told.stdout.splitlines()[-1] == "1 would go, 0.0 MB: --yes deletes them"
    assert len(list(store.each())) == 4
    answer = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert [Path(item["path"]).name for item in answer["items"]] == [OTHER.digest]
    done = CliRunner().invoke(main, [*words, "--yes"])
    assert done.stdout.splitlines()[-1].startswith("deleted 1")
    assert len(list(store.each())) == 3
    assert CliRunner().invoke(main, words).stdout == "nothing to delete\n"
