"""The ledger: what each invocation did, and what was logged where."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest

from pipeline.store.folder import Folder
from pipeline.store.ledger import CellEntry, Invocation, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Folder(tmp_path))


def write(ledger: Ledger, time: float, grid: str = "demo", **cells: CellEntry) -> Path:
    return ledger._backend.root / ledger.write(
        Invocation(grid, ["pipeline", "run"], "0.1", cells, time=time)
    )


def test_what_was_written_is_read_again_oldest_first(ledger: Ledger, tmp_path: Path) -> None:
    entry = CellEntry("s", "c", {"accuracy": 0.5}, computed=True)
    write(ledger, 20.0, a=CellEntry("t"))
    write(ledger, 3.0, a=entry)
    found = Ledger(Folder(tmp_path)).invocations
    assert [invocation.time for invocation in found] == [3.0, 20.0]
    assert found[0].cells == {"a": entry}
    assert found[0].command == ["pipeline", "run"]
    assert found[0].user
    assert found[0].host == Invocation("g", [], "", {}).host


def test_an_empty_ledger_knows_nothing(ledger: Ledger) -> None:
    assert ledger.invocations == []
    assert ledger.last("demo", "a") is None
    assert ledger.logged("server") == set()
    assert ledger.logged_as("server", "key") is None


def test_the_last_entry_of_a_cell_is_the_latest_that_has_a_score(ledger: Ledger) -> None:
    write(ledger, 1.0, a=CellEntry("1", "c", {"accuracy": 0.1}))
    write(ledger, 2.0, a=CellEntry("2", "c", {"accuracy": 0.2}), b=CellEntry("b", "c", {}))
    write(ledger, 3.0, a=CellEntry("3"))
    write(ledger, 4.0, grid="other", a=CellEntry("4", "c", {}))
    last = ledger.last("demo", "a")
    assert last is not None
    assert last.score == "2"
    assert ledger.last("demo", "c") is None
    other = ledger.last("other", "a")
    assert other is not None
    assert other.score == "4"


def test_a_ledger_that_was_read_sees_what_it_writes_itself(ledger: Ledger) -> None:
    assert ledger.invocations == []
    write(ledger, 1.0)
    assert len(ledger.invocations) == 1


def test_nothing_that_stands_in_the_ledger_is_rewritten(ledger: Ledger) -> None:
    first = write(ledger, 1.0)
    before = first.read_bytes()
    assert write(ledger, 1.0) != first
    assert first.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\x00\x00",
        "null",
        "5",
        "[]",
        "{}",
        '{"cells": 5}',
        '{"cells": {"a": 5}}',
        '{"cells": {"a": {"scores": 1}}}',
        '{"cells": {}, "grid": "x"}',
        '{"cells": {}, "grid": "x", "command": [], "version": "", "new": 1}',
    ],
)
def test_a_file_that_cannot_be_understood_does_not_hide_the_others(
    ledger: Ledger, tmp_path: Path, text: str
) -> None:
    write(ledger, 1.0, a=CellEntry("1", "c", {}))
    (tmp_path / "ledger" / "000000000000500-torn.json").write_text(text)
    assert [invocation.time for invocation in ledger.invocations] == [1.0]


def test_marks_are_kept_for_each_server_on_its_own(ledger: Ledger, tmp_path: Path) -> None:
    ledger.mark_logged("http://one", "key-1", "run-a")
    ledger.mark_logged("http://one", "key-2", "run-b")
    ledger.mark_logged("http://two", "key-1", "run-c")
    again = Ledger(Folder(tmp_path))
    assert again.logged("http://one") == {"key-1", "key-2"}
    assert again.logged("http://two") == {"key-1"}
    assert again.logged_as("http://one", "key-2") == "run-b"
    assert again.logged_as("http://two", "key-1") == "run-c"
    assert again.invocations == []


def test_a_mark_that_was_not_finished_does_not_count(ledger: Ledger, tmp_path: Path) -> None:
    ledger.mark_logged("server", "key", "run")
    (folder,) = (tmp_path / "ledger" / "logged").iterdir()
    (folder / ".other-1234abcd").touch()
    assert ledger.logged("server") == {"key"}


@pytest.mark.parametrize("error", [KeyError("uid not found: 4711"), OSError("no user name")])
def test_a_user_without_a_name_is_known_by_number(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert Invocation("demo", [], "0.1", {}).user == "4711"


def test_an_invocation_is_plain_json(ledger: Ledger) -> None:
    path = write(ledger, 1.5, a=CellEntry("s", "c", {"interval": [0.1, 0.2]}))
    read = json.loads(path.read_text())
    assert read["cells"]["a"]["facts"] == {"interval": [0.1, 0.2]}
    assert read["time"] == 1.5
