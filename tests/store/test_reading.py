"""Every file of a store gives its reader a value, or is damaged for a reason; never a traceback."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artifacts import NODE, OTHER, put, unsealed
from click.testing import CliRunner

from pipeline.commands.cli import main
from pipeline.execution.work import unfinished
from pipeline.store import arrow
from pipeline.store.facts import check_facts
from pipeline.store.leases import Leases
from pipeline.store.ledger import CellEntry, Invocation, Ledger
from pipeline.store.reading import Malformed
from pipeline.store.records import META, Damaged
from pipeline.store.store import Store, folder_of
from pipeline.store.verify import verify
from tasks.training.train import State

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
CELLS = {"cell": CellEntry("d" * 64, "c" * 64, {"accuracy": 50.0, "interval": [40.0, 60.0]})}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two artifacts and a ledger of one run."""
    made = Store(tmp_path / "store")
    made.prepare()
    put(made)
    put(made, OTHER)
    Ledger(made.backend).write(Invocation(grid="g", command=["run"], version="1", cells=CELLS))
    Ledger(made.backend).want([NODE.digest])
    return made


def meta(store: Store) -> Path:
    assert store.root is not None
    return store.root / folder_of(NODE.kind, NODE.digest) / META


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file holds; the result has no seal."""
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(unsealed(fields))


def replaced(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.unlink() or path.write_bytes(content)  # type: ignore[func-returns-value]


def with_(**values: object) -> Callable[[Path], None]:
    return lambda path: changed(path, lambda fields: fields.update(values))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (replaced(DEEP), "recursion limit exceeded"),
        (replaced(b"[" * 100_000), "recursion limit exceeded"),
        (replaced(b'{"kind": "\xff"}'), "invalid JSON"),
        (replaced(b"null"), "input should be"),
        (replaced(b""), "invalid JSON"),
        (with_(parents={"model": {"kind": "train"}}), "parents.model"),
        (with_(parents={"model": ["train"]}), "parents.model"),
        (with_(parents={"model": ["train", 7]}), "parents.model"),
        (with_(lineage={"a": ["b"]}), "lineage.a"),
        (with_(versions={"Defense": "1"}), "versions.Defense"),
        (with_(files={"a.txt": {"file": "a", "sha256": 7}}), "files.a.txt.sha256"),
        (with_(files={"a.txt": {"file": ["a"], "sha256": "b"}}), "files.a.txt.file"),
        (with_(files={"a.txt": {"file": "a", "sha256": "b", "bytes": "9"}}), "files.a.txt.bytes"),
        (with_(facts=["a"]), "facts"),
        (with_(facts={"images": "many"}), "facts.images"),
        (with_(how={"seconds": "long"}), "seconds"),
        (with_(how={"versions": ["torch"]}), "versions"),
        (with_(more=1), "more: unexpected"),
        (with_(sealed=True), "is not the record of this artifact"),
        (with_(digest="e" * 64), "is not the record of this artifact"),
    ],
)
def test_a_spoilt_record_is_damaged_for_a_reason(
    store: Store, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(meta(store))
    with pytest.raises(Damaged) as caught:
        store.record(NODE.kind, NODE.digest)
    assert said in caught.value.reason
    assert len(caught.value.reason) < 300
    assert store.known(NODE.kind, NODE.digest) is None
    assert [said in damage.reason for damage in verify(store).damages] == [True]


@pytest.mark.parametrize(
    "facts",
    [
        {"interval": ["a", "b"]},
        {"interval": [1.0]},
        {"interval": "ab"},
        {"accuracy": "99"},
        {"accuracy": [1.0]},
        {"spread": {}},
        {"images": 1.5},
        {"images": True},
    ],
)
def test_facts_of_a_score_have_their_types_in_records_and_in_the_ledger(
    store: Store, facts: dict[str, Any]
) -> None:
    with pytest.raises(Malformed):
        check_facts("score", facts)
    ledger = Ledger(store.backend)
    cells = {"cell": CellEntry("d" * 64, "c" * 64, facts)}
    key = ledger.write(Invocation(grid="g", command=[], version="1", cells=cells))
    assert ledger.last("g", "cell") == CELLS["cell"]
    [damage] = verify(store).damages
    assert (damage.kind, damage.digest) == ("file", key)


@pytest.mark.parametrize(
    "spoil",
    [
        with_(time="x"),
        with_(time=None),
        with_(cells=[]),
        with_(cells={"cell": None}),
        with_(cells={"cell": {"score": 7}}),
        with_(command="run"),
        with_(grid=["g"]),
        replaced(DEEP),
        replaced(b"\xff"),
        replaced(b"7"),
    ],
)
def test_a_spoilt_file_of_the_ledger_says_nothing_and_verify_names_it(
    store: Store, spoil: Callable[[Path], None]
) -> None:
    assert store.root is not None
    [path] = (store.root / "ledger").glob("*.json")
    spoil(path)
    ledger = Ledger(store.backend)
    assert ledger.invocations == []
    assert ledger.last("g", "cell") is None
    [damage] = verify(store).damages
    assert damage.digest == f"ledger/{path.name}"
    result = CliRunner().invoke(main, ["verify", "--store", str(store.root)])
    assert result.exit_code == 1
    assert result.stdout.startswith(f"damaged: file ledger/{path.name}: ")
    assert CliRunner().invoke(main, ["gc", "--store", str(store.root)]).exit_code == 0


@pytest.mark.parametrize("content", ["é".encode(), b"\xff", b"abc\0\x80"])
def test_where_it_is_not_known_what_is_wanted_nothing_is_cleaned(
    store: Store, content: bytes
) -> None:
    assert store.root is not None
    [path] = (store.root / "ledger" / "wanted").iterdir()
    path.write_bytes(content)
    result = CliRunner().invoke(main, ["gc", "--yes", "--store", str(store.root)])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert f"ledger/wanted/{path.name}: byte" in line
    assert "is not ASCII; delete it to go on" in line
    assert len(list(store.each())) == 2
    [damage] = verify(store).damages
    assert damage.digest == f"ledger/wanted/{path.name}"
    path.unlink()
    assert CliRunner().invoke(main, ["gc", "--store", str(store.root)]).exit_code == 0


def test_a_spoilt_record_of_another_store_and_a_spoilt_mark_count_as_absent(store: Store) -> None:
    record = store.record(NODE.kind, NODE.digest)
    assert record is not None
    assert store.root is not None
    store.remember(record)
    store.set_aside(NODE.kind, NODE.digest)
    [path] = (store.root / "elsewhere").rglob("*.json")
    for content in (DEEP, b"\xff", path.read_bytes()[:-20]):
        path.write_bytes(content)
        assert store.known(NODE.kind, NODE.digest) is None
        [damage] = verify(store).damages
        assert damage.digest == str(path.relative_to(store.root))
    ledger = Ledger(store.backend)
    ledger.mark_logged("server", "key", "run")
    [mark] = (store.root / "ledger" / "logged").rglob("key")
    mark.write_bytes(b"\xff\xfe")
    assert ledger.logged_as("server", "key") is None


@pytest.mark.parametrize(
    "facts",
    [b"", b"\xff", DEEP, b"[]", b'{"epoch": "1", "history": []}', b'{"epoch": 1, "history": [1]}'],
)
def test_a_training_whose_state_is_spoilt_begins_anew(store: Store, facts: bytes) -> None:
    weights = {"w": torch.zeros(2)}
    state = State(weights=weights, optimizer=weights, facts={"epoch": 1, "history": [{}]})
    unfinished.save(store.backend, NODE.digest, state, ["x86_64 CPU"])
    assert unfinished.load(store.backend, NODE.digest) is not None
    store.backend.write(f"partial/{NODE.digest}/facts.json", facts)
    assert unfinished.load(store.backend, NODE.digest) is None


def test_a_training_whose_state_cannot_be_read_at_this_moment_does_not_begin_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(key: str) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", key)

    monkeypatch.setattr(store.backend, "read", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        unfinished.load(store.backend, NODE.digest)


def test_an_arrow_file_of_words_or_of_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "a.arrow"
    for column in (
        pa.array(["a", "b"]),
        pa.array([[1], [2, 3]]),
        pa.array([None, None]),
        pa.array([{"a": 1}]),
    ):
        batch = pa.record_batch([column], names=["labels"])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        with pytest.raises(arrow.BadArrow):
            arrow.read_tensors(path)
    path.write_bytes(os.urandom(100))
    with pytest.raises(arrow.BadArrow, match="not a readable Arrow file"):
        arrow.read_tensors(path)


def test_an_arrow_file_must_have_the_columns_that_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    arrow.write_tensors(path, {"ids": torch.arange(3), "correct": torch.zeros(3)}, {})
    assert arrow.read_arrays(path, {"ids": 1}).keys() == {"ids", "correct"}
    with pytest.raises(arrow.BadArrow, match="no column labels"):
        arrow.read_arrays(path, {"labels": 1})
    with pytest.raises(arrow.BadArrow, match="column correct is 3, not of 2 dimensions"):
        arrow.read_tensors(path, {"correct": 2})


@pytest.mark.parametrize(
    "content", [DEEP, b"\xff", b"[]", b'{"host": 1}', b'{"host": "a", "pid": 1, "until": "x"}']
)
def test_a_spoilt_lease_is_nobodys(store: Store, content: bytes) -> None:
    store.backend.write(f"leases/{NODE.digest}/0", b"abc")
    store.backend.write("leases/runs/abc", content)
    assert Leases(store.backend).others() == {}
    store.backend.write(f"leases/{NODE.digest}/0", b"\xff\xfe")
    assert Leases(store.backend).others() == {}


def test_a_record_that_is_a_folder_is_one_line(store: Store) -> None:
    a_folder(meta(store))
    result = CliRunner().invoke(main, ["verify", "--store", str(store.root)])
    assert result.exit_code == 1
    assert "cannot be read: is a directory" in result.stdout
