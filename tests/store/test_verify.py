"""Verifying a store: each damage is found, told in a line, and moved away if that is asked."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from artifacts import unsealed
from click.testing import CliRunner, Result

from pipeline.commands.cli import main
from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from pipeline.store import arrow
from pipeline.store.records import META, Record, content_of, data_file
from pipeline.store.store import Store
from pipeline.store.store import folder_of as key_of
from pipeline.store.verify import verify
from tasks.specs import Shard

NODES = [Node("craft", Shard(start=start, stop=start + 5)) for start in (0, 5, 10)]


def write_notes(path: Path) -> None:
    path.write_text("notes")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three artifacts, each an Arrow file and a text."""
    made = Store(tmp_path / "store")
    for node in NODES:
        made.put(
            node.identity,
            {
                "examples.arrow": lambda path: arrow.write_tensors(
                    path, {"pixels": torch.zeros(5, 1, 4, 4)}, {}
                ),
                "notes.txt": write_notes,
            },
            lineage={},
            facts={},
            how={},
        )
    return made


def folder_of(store: Store, node: Node = NODES[0]) -> Path:
    return store.root / key_of(node.kind, node.digest)


def record_of(store: Store) -> Record:
    record = store.record(NODES[0].kind, NODES[0].digest)
    assert record is not None
    return record


def test_a_sound_store_is_counted_and_left_as_it_is(store: Store) -> None:
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    told: list[tuple[int, int]] = []
    found = verify(store, set_aside=True, tell=lambda done, total: told.append((done, total)))
    assert found.sound == 3
    assert found.sound_bytes == sum(map(len, before.values()))
    assert found.damages == []
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert {path: path.read_bytes() for path in before} == before


def flip(store: Store) -> None:
    path = folder_of(store) / str(record_of(store).files["examples.arrow"]["file"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(store: Store) -> None:
    path = folder_of(store) / str(record_of(store).files["notes.txt"]["file"])
    path.write_bytes(path.read_bytes()[:-1])


def lose(store: Store) -> None:
    (folder_of(store) / str(record_of(store).files["notes.txt"]["file"])).unlink()


def empty(store: Store) -> None:
    (folder_of(store) / META).write_text("")


def swap(store: Store) -> None:
    (folder_of(store) / META).write_bytes((folder_of(store, NODES[1]) / META).read_bytes())


def misplace(store: Store) -> None:
    folder = folder_of(store)
    other = folder.parent.with_name("zz")
    other.mkdir()
    folder.rename(other / folder.name)


def rewrite(store: Store, **changes: object) -> None:
    place = folder_of(store) / META
    place.write_text(unsealed(json.loads(place.read_text()), **changes))


def point_outside(store: Store) -> None:
    files = json.loads((folder_of(store) / META).read_text())["files"]
    files["notes.txt"]["file"] = "../notes.txt"
    rewrite(store, files=files)


def contradict(store: Store) -> None:
    rewrite(store, content="0" * 64)


def no_arrow(store: Store) -> None:
    """A file that is what its record says, and yet no Arrow file."""
    data = b"no Arrow at all"
    sha256 = hashlib.sha256(data).hexdigest()
    name = data_file("examples.arrow", sha256)
    (folder_of(store) / name).write_bytes(data)
    files = {"examples.arrow": {"file": name, "sha256": sha256, "bytes": len(data)}}
    rewrite(store, files=files, content=content_of(files))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (flip, "does not match its checksum"),
        (cut, "has 4 bytes, its record says 5"),
        (lose, "is missing"),
        (empty, "meta.json cannot be read"),
        (swap, "is not the record of this artifact"),
        (misplace, "lies in the folder zz"),
        (point_outside, "names a file outside its folder"),
        (contradict, "names other files"),
        (no_arrow, "not a readable Arrow file"),
    ],
)
def test_each_damage_is_found_and_moved_away_if_that_is_asked(
    store: Store, spoil: object, said: str
) -> None:
    assert callable(spoil)
    spoil(store)
    found = verify(store)
    assert found.sound == 2
    assert [(damage.kind, damage.digest) for damage in found.damages] == [
        (NODES[0].kind, NODES[0].digest)
    ]
    assert said in found.damages[0].reason
    assert found.damages[0].aside is None
    # nothing was moved, so it is found again
    aside = verify(store, set_aside=True).damages[0].aside
    assert aside is not None
    assert (store.root / aside).is_dir()
    after = verify(store)
    assert (after.sound, after.damages) == (2, [])


def test_what_a_run_replaces_while_it_is_verified_is_not_set_aside(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run with --force does, between the reading of the record and of the files."""
    read = Store.record

    def replaced(self: Store, kind: str, digest: str) -> Record | None:
        record = read(self, kind, digest)
        if digest == NODES[0].digest:
            monkeypatch.undo()
            writers = {"notes.txt": lambda path: path.write_text("other notes")}
            store.put(NODES[0].identity, writers, lineage={}, facts={}, how={}, replace=True)
        return record

    monkeypatch.setattr(Store, "record", replaced)
    found = verify(store, set_aside=True)
    assert (found.sound, found.damages) == (3, [])
    assert list(record_of(store).files) == ["notes.txt"]


def test_what_was_never_finished_is_no_damage(store: Store) -> None:
    (folder_of(store) / META).unlink()
    found = verify(store)
    assert (found.sound, found.damages) == (2, [])


def test_a_score_of_two_trainings_is_found_and_an_outdated_one_is_no_damage(
    tmp_path: Path,
) -> None:
    """As runs beside others could make them: a shard of the old model, the score of the new."""
    made = Store(tmp_path / "mixed")
    model = Node("train", Shard(start=0, stop=1))
    shards = [Node("defend", Shard(start=at, stop=at + 5), (("model", model),)) for at in (0, 5)]
    score = Node("score", Shard(start=0, stop=9), (("0", shards[0]), ("1", shards[1])))

    def put(node: Node, text: str, lineage: Mapping[str, str]) -> Record:
        return made.put(
            node.identity,
            {"a.txt": lambda path: path.write_text(text)},
            lineage=lineage,
            facts={},
            how={},
            replace=True,
        )

    old = put(model, "old", {}).content
    contents = {each.digest: put(each, each.digest, {model.digest: old}).content for each in shards}
    put(score, "score", contents | {model.digest: old})
    new = put(model, "new", {}).content
    put(shards[1], shards[1].digest, {model.digest: new})
    # a run that was killed at this moment: the score and the first shard are outdated
    assert verify(made).damages == []
    put(score, "score", contents | {model.digest: new})
    (damage,) = verify(made, set_aside=True).damages
    assert (damage.kind, damage.digest) == ("score", score.digest)
    assert f"its defend {shards[0].digest[:12]} was made from" in damage.reason
    assert damage.aside is not None


@pytest.mark.parametrize("spoilt", ["examples", "meta.json"])
def test_what_cannot_be_read_at_this_moment_is_told_and_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    def stale(path: object) -> NoReturn:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    if spoilt == "examples":
        monkeypatch.setattr("pipeline.store.store._sha256", stale)
    else:
        read = store.backend.read
        monkeypatch.setattr(
            store.backend, "read", lambda key: (stale if key.endswith(META) else read)(key)
        )
    found = verify(store, set_aside=True)
    reasons = [damage.reason for damage in found.damages if damage.kind == "craft"]
    assert len(reasons) == len(NODES)
    assert all(spoilt in reason and "stale file handle" in reason for reason in reasons)
    assert [damage.aside for damage in found.damages if damage.aside] == []
    monkeypatch.undo()
    assert verify(store).sound == len(NODES)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        verify(Store(tmp_path / "none"))


def typed(store: Store, *words: str) -> Result:
    return CliRunner().invoke(main, ["verify", "--store", str(store.root), *words])


def test_the_command_tells_a_line_for_each_damage_and_exits_with_1(store: Store) -> None:
    assert typed(store).exit_code == 0
    flip(store)
    told = typed(store)
    assert told.exit_code == 1
    lines = told.stdout.splitlines()
    assert lines[0].startswith(f"damaged: craft {NODES[0].digest[:12]}: examples-")
    assert lines[1].startswith("2 artifacts are sound")
    answer = json.loads(typed(store, "--set-aside", "--json").stdout)
    assert answer["sound"] == 2
    assert [Path(damage["aside"]).is_dir() for damage in answer["damaged"]] == [True]
    assert typed(store).exit_code == 0
