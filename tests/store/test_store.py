"""The store: whole artifacts only, whoever writes and whenever a writer dies."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import NODE, OTHER, put, unsealed, writing

from pipeline.grid.graph import Node
from pipeline.problems import BadInput, Unwritable
from pipeline.store import store as store_module
from pipeline.store.candidates import Candidate, candidates_in
from pipeline.store.store import META, Damaged, Gone, Record, Store, folder_of
from tasks.specs import Shard


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def files_of(store: Store, node: Node = NODE) -> list[Path]:
    return sorted((store.root / folder_of(node.kind, node.digest)).glob("*"))


def meta_of(store: Store, node: Node = NODE) -> Path:
    return store.root / folder_of(node.kind, node.digest) / META


def test_what_was_put_is_there_with_its_record(store: Store) -> None:
    parent = put(store, OTHER)
    child = Node("score", Shard(start=1, stop=2), (("shard0", OTHER),))
    assert store.record(child.kind, child.digest) is None
    made = store.put(
        child.identity,
        {"out.tar.gz": writing("data")},
        lineage={OTHER.digest: parent.content},
        facts={"accuracy": 0.5},
        how={"seconds": 3.0},
    )
    found = Store(store.root).record(child.kind, child.digest)
    assert found == made
    assert found is not None
    assert (found.kind, found.digest) == ("score", child.digest)
    assert found.spec == {"start": 1, "stop": 2}
    assert found.versions == {"Shard": 1}
    assert list(found.parents["shard0"]) == ["defend", OTHER.digest]
    assert found.lineage == {OTHER.digest: parent.content}
    assert found.facts == {"accuracy": 0.5}
    assert found.how["seconds"] == 3.0
    path = store.path(found, "out.tar.gz")
    assert path.read_text() == "data"
    assert path.name == f"out-{found.files['out.tar.gz']['sha256'][:16]}.tar.gz"  # type: ignore[index]


def test_the_content_is_that_of_the_files_and_of_nothing_else(store: Store, tmp_path: Path) -> None:
    one, same, other = Store(tmp_path / "1"), Store(tmp_path / "2"), Store(tmp_path / "3")
    content = put(one, a="A", b="B").content
    assert put(same, b="B", a="A").content == content
    assert put(other, a="B", b="A").content != content
    assert put(store, OTHER, a="A", b="B").content == content


def test_a_second_put_of_the_same_changes_nothing(store: Store) -> None:
    first = put(store)
    assert put(store) == first
    assert [path.suffix for path in files_of(store)] == [".txt", ".json"]


def test_what_is_replaced_by_the_same_content_is_there_at_every_moment(store: Store) -> None:
    record = put(store, a="A", b="B")
    over = threading.Event()
    seen: list[str] = []

    def snapshot() -> None:
        reader = Store(store.root)
        while not over.is_set():
            found = reader.record(NODE.kind, NODE.digest)
            fresh = found and reader.path(found, "b.txt", fresh=True).read_text()
            seen.append(fresh or "nothing")

    thread = threading.Thread(target=snapshot)
    thread.start()
    for _ in range(100):
        latest = put(store, a="A", b="B", replace=True)
    over.set()
    thread.join()
    assert set(seen) == {"B"}
    assert latest.content == record.content
    assert store.record(NODE.kind, NODE.digest) == latest
    assert latest.how["written"] > record.how["written"]
    assert not list(store.root.glob("aside/*"))


def test_what_is_replaced_by_other_content_goes_aside_whole(store: Store) -> None:
    put(store, a="A", b="same")
    latest = put(store, a="other", b="same", replace=True)
    assert store.path(latest, "a.txt").read_text() == "other"
    assert len(files_of(store)) == 3
    (aside,) = store.root.glob("aside/*")
    assert len(list(aside.iterdir())) == 3


def test_what_cannot_be_read_gives_way_too(store: Store) -> None:
    put(store)
    meta_of(store).write_bytes(b"")
    latest = put(store, replace=True)
    assert store.record(NODE.kind, NODE.digest) == latest
    assert len(list(store.root.glob("aside/*"))) == 1


def test_of_two_writers_one_wins_whole_and_the_other_leaves_nothing(store: Store) -> None:
    first = put(store, a="A", b="same")
    second = store.put(
        NODE.identity,
        {"a.txt": writing("other"), "b.txt": writing("same"), "c.txt": writing("more")},
        lineage={},
        facts={"score": 2},
        how={},
    )
    assert second == first
    names = {str(entry["file"]) for entry in first.files.values()} | {META}
    assert {path.name for path in files_of(store)} == names
    assert store.path(second, "b.txt").read_text() == "same"


def test_of_many_writers_at_once_one_wins_whole(store: Store) -> None:
    barrier = threading.Barrier(8)
    found: list[Record] = []

    def write(number: int) -> None:
        barrier.wait()
        found.append(put(store, a=f"{number}", b="same"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.content for record in found}) == 1
    assert len(found) == 8
    fresh = Store(store.root)
    texts = [fresh.path(found[0], name).read_text() for name in ("a.txt", "b.txt")]
    assert texts[1] == "same"
    assert len(files_of(store)) == 3


def test_a_writer_that_raises_leaves_no_artifact_and_no_file(store: Store) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        store.put(
            NODE.identity, {"a.txt": writing("A"), "b.txt": fail}, lineage={}, facts={}, how={}
        )
    assert store.record(NODE.kind, NODE.digest) is None
    assert files_of(store) == []
    assert list((store.root / "scratch").iterdir()) == []


def test_facts_that_are_no_json_leave_no_artifact(store: Store) -> None:
    with pytest.raises(TypeError):
        store.put(NODE.identity, {"a.txt": writing("A")}, lineage={}, facts={"x": object()}, how={})
    assert store.record(NODE.kind, NODE.digest) is None


DIES = """
import os, sys
from pathlib import Path
from pipeline.store import store as module
from pipeline.store.folder import Folder
from pipeline.grid.graph import Node
from tasks.specs import Shard
count = int(sys.argv[2])
def counted(function):
    def call(*args, **kwargs):
        global count
        if not count:
            os._exit(9)
        count -= 1
        return function(*args, **kwargs)
    return call
Path.replace, os.link = counted(Path.replace), counted(os.link)
os.fsync, Path.write_bytes = counted(os.fsync), counted(Path.write_bytes)
Folder.settle, Folder.create = counted(Folder.settle), counted(Folder.create)
files = {name: lambda path: path.write_text("new") for name in ("a.txt", "b.txt")}
node = Node("defend", Shard(start=0, stop=5))
module.Store(Path(sys.argv[1])).put(node.identity, files, lineage={}, facts={}, how={})
"""


def test_a_process_killed_at_any_step_of_a_put_leaves_a_whole_artifact_or_none(
    tmp_path: Path,
) -> None:
    codes = []
    for step in range(20):
        root = tmp_path / str(step)
        done = subprocess.run([sys.executable, "-c", DIES, str(root), str(step)], check=False)
        codes.append(done.returncode)
        store = Store(root)
        record = store.record(NODE.kind, NODE.digest)
        assert (record is not None) == (done.returncode == 0)
        assert list(store.each()) == ([] if record is None else [(NODE.kind, NODE.digest)])
        # the next run goes on from there
        again = put(store, a="new", b="new")
        assert store.path(again, "a.txt").read_text() == "new"
        if done.returncode == 0:
            break
    assert codes[:-1] == [9] * (len(codes) - 1)
    assert codes[-1] == 0
    assert len(codes) > 6


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_a_put_is_as_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_link(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    first = put(store, a="A")
    assert store.record(NODE.kind, NODE.digest) == first
    assert put(store, a="B") == first
    assert len(files_of(store)) == 2


def test_an_error_of_the_disk_while_linking_is_told_in_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(Unwritable, match="no space left on device"):
        put(store)
    assert store.record(NODE.kind, NODE.digest) is None


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if how == "flipped":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "cut off":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flipped", "does not match its checksum"),
        ("cut off", "does not match its checksum"),
        ("empty", "does not match its checksum"),
        ("missing", "is missing"),
        ("folder", "cannot be read: is a directory"),
    ],
)
def test_a_data_file_that_is_not_what_the_record_says_is_damage(
    store: Store, how: str, reason: str
) -> None:
    record = put(store, a="some data")
    spoil(store.path(record, "a.txt"), how)
    with pytest.raises(Damaged, match=reason) as raised:
        Store(store.root).path(record, "a.txt")
    assert (raised.value.kind, raised.value.digest) == (NODE.kind, NODE.digest)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ETIMEDOUT]
)
def test_a_data_file_that_cannot_be_read_at_this_moment_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    record = put(store, a="some data")
    monkeypatch.setattr("pipeline.store.store._sha256", failing(code))
    with pytest.raises(BadInput, match=r"store .*: a-\w+.txt of defend \w+ cannot be read: "):
        Store(store.root).path(record, "a.txt")


def failing(code: int) -> Callable[[Path], str]:
    def fail(path: Path) -> str:
        raise OSError(code, os.strerror(code), str(path))

    return fail


def test_a_record_of_another_store_that_cannot_be_read_does_not_count_as_unknown(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.remember(put(Store(tmp_path / "other")))
    read = store.backend.read

    def refusing(key: str) -> bytes:
        if key.startswith("elsewhere/"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(key)

    monkeypatch.setattr(store.backend, "read", refusing)
    with pytest.raises(BadInput, match="permission denied"):
        store.known(NODE.kind, NODE.digest)


@pytest.mark.parametrize("replaced", [False, True])
def test_what_another_process_took_away_is_gone_and_not_damaged(
    store: Store, replaced: bool
) -> None:
    record = put(store, a="some data")
    store.set_aside(NODE.kind, NODE.digest)
    if replaced:
        put(store, a="other data")
    with pytest.raises(Gone, match="is missing"):
        store.path(record, "a.txt")


def test_a_file_that_is_missing_beside_its_record_is_damage(store: Store) -> None:
    record = put(store, a="some data")
    store.path(record, "a.txt").unlink()
    with pytest.raises(Damaged, match="is missing") as raised:
        store.path(record, "a.txt")
    assert not isinstance(raised.value, Gone)


def test_a_file_that_the_record_does_not_name_is_damage(store: Store) -> None:
    with pytest.raises(Damaged, match=r"its record has no b\.txt"):
        store.path(put(store), "b.txt")


def without(key: str) -> Callable[[dict[str, object]], object]:
    return lambda meta: {name: value for name, value in meta.items() if name != key}


def with_value(key: str, value: object) -> Callable[[dict[str, object]], object]:
    return lambda meta: {**meta, key: value}


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: [meta],
        dict.clear,
        without("lineage"),
        with_value("more", 1),
        with_value("digest", OTHER.digest),
        with_value("kind", "craft"),
        with_value("lineage", None),
        with_value("content", 5),
        with_value("facts", []),
        with_value("files", {"a.txt": {}}),
        with_value("files", {"a.txt": "x"}),
        with_value("parents", {"model": "x"}),
    ],
)
def test_a_record_of_another_form_is_damage(
    store: Store, change: Callable[[object], object]
) -> None:
    put(store)
    fields = json.loads(unsealed(json.loads(meta_of(store).read_text())))
    meta_of(store).write_text(json.dumps(change(fields)))
    with pytest.raises(Damaged, match=re.escape(META)):
        store.record(NODE.kind, NODE.digest)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"\x00" * 100, b'{"kind": 1}'])
def test_a_record_that_cannot_be_read_is_damage(store: Store, data: bytes) -> None:
    put(store)
    meta_of(store).write_bytes(data)
    with pytest.raises(Damaged, match=r"defend .*: meta\.json"):
        store.record(NODE.kind, NODE.digest)


@pytest.mark.parametrize("torn", [lambda text: text[:-1], lambda text: text + b"\x84U\x00"])
def test_a_record_that_is_replaced_while_it_is_read_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, torn: Callable[[bytes], bytes]
) -> None:
    standing = put(store)
    whole = meta_of(store).read_bytes()
    # what Arrow's S3 gives where an object's length changes between its two requests
    reads = iter([torn(whole), torn(torn(whole)), whole])
    monkeypatch.setattr(store.backend, "read", lambda key: next(reads))
    assert store.record(NODE.kind, NODE.digest) == standing


def test_a_checksum_is_worked_out_once_in_a_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = store_module.hashlib.file_digest

    def counted(handle: object, name: str) -> object:
        calls.append(name)
        return original(handle, name)  # type: ignore[arg-type]

    record, other = put(store), put(store, OTHER)
    monkeypatch.setattr(store_module.hashlib, "file_digest", counted)
    for _ in range(3):
        store.path(record, "a.txt")
    assert len(calls) == 1
    # another artifact is another file, whatever it holds
    assert record.content == other.content
    store.path(other, "a.txt")
    assert len(calls) == 2


def test_what_is_put_again_after_damage_is_checked_again(store: Store) -> None:
    record = put(store)
    store.path(record, "a.txt")
    store.set_aside(NODE.kind, NODE.digest)
    again = put(store)
    spoil(files_of(store)[0], "flipped")
    with pytest.raises(Damaged):
        store.path(again, "a.txt")


def test_what_is_set_aside_is_gone_whole_and_kept_for_a_look(store: Store) -> None:
    put(store)
    aside = store.set_aside(NODE.kind, NODE.digest)
    assert aside is not None
    assert {path.name for path in (store.root / aside).iterdir()} >= {META}
    assert store.record(NODE.kind, NODE.digest) is None
    assert list(store.each()) == []
    assert store.set_aside(NODE.kind, NODE.digest) is None


def test_each_artifact_is_listed_once_and_nothing_else(store: Store) -> None:
    put(store)
    put(store, OTHER)
    put(store, Node("score", Shard(start=0, stop=1)))
    store.set_aside(OTHER.kind, OTHER.digest)
    (store.root / "partial" / OTHER.digest).mkdir(parents=True)
    (store.root / "partial" / OTHER.digest / META).touch()
    kinds = [kind for kind, _ in store.each()]
    assert kinds == ["defend", "score"]


def test_a_store_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for root, reason in [
        (tmp_path / "file", "file exists"),
        (tmp_path / "file" / "below", "not a directory"),
    ]:
        with pytest.raises(BadInput) as raised:
            Store(root).prepare()
        assert str(raised.value) == f"store {root}: cannot be written to: {reason}"

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(BadInput, match="cannot be written to: permission denied"):
        Store(tmp_path / "new").prepare()


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "none", tmp_path / "file"):
        assert Store(root).record("defend", NODE.digest) is None
        assert list(Store(root).each()) == []


def test_a_record_that_may_not_be_read_is_told_in_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pipeline.store.folder.open", refuse, raising=False)
    with pytest.raises(BadInput, match=r"meta.json of defend \w+ cannot be read: permission"):
        store.record(NODE.kind, NODE.digest)


def test_preparing_leaves_nothing_behind_but_the_marker(store: Store) -> None:
    store.prepare()
    assert [path.name for path in store.root.iterdir()] == ["store.json"]


def test_facts_of_earlier_versions_have_todays_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put(store)
    (meta,) = tmp_path.glob("*/??/*/meta.json")
    fields = json.loads(meta.read_text())
    del fields["seal"]
    told = [{"candidate": "pgd", "felled": 3}]
    meta.write_text(json.dumps({**fields, "facts": {"worst": 1, "candidates": told}}))
    found = Store(tmp_path).record(record.kind, record.digest)
    assert found is not None
    broken = [{"candidate": "pgd", "broken": 3}]
    assert found.facts == {"right_in_every_redraw": 1, "candidates": broken}
    assert candidates_in(found.facts) == [Candidate(candidate="pgd", broken=3)]


@pytest.mark.parametrize("pattern", ["**/*", "scratch/*/*", "*/*/*"])
def test_a_folder_that_is_deleted_while_files_are_listed_hides_no_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Another run's drafts come and go while `gc` and `verify` list a store."""
    store.backend.write("aside/a/kept", b"")
    store.backend.write("scratch/b/vanishes", b"")
    store.backend.write("scratch/c/kept", b"")
    scandir = os.scandir

    def after_another_process(path: Path | str | int):
        if not isinstance(path, int) and Path(path).name == "b":
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", after_another_process)
    found = {entry.key for entry in store.backend.find(pattern)}
    assert "scratch/c/kept" in found
    assert ("aside/a/kept" in found) == (not pattern.startswith("scratch"))
    assert "scratch/b/vanishes" not in found


def test_patterns_find_what_those_of_the_shell_do(store: Store) -> None:
    for key in (
        "a/bb/c/meta.json",
        "a/bbb/c/meta.json",
        "a/.d",
        "a/[x]",
        "e.json",
        "ledger/wanted/.f",
    ):
        store.backend.write(key, b"")
    (store.root / "link").symlink_to(store.root / "a")
    (store.root / "dead").symlink_to(store.root / "nothing")

    def found(pattern: str) -> set[str]:
        entries = [entry.key for entry in store.backend.find(pattern)]
        assert len(entries) == len(set(entries))
        return set(entries)

    for pattern in ("*", "**/*", "*/??/*/meta.json", "a/*", "a/bb/c/meta.json", "e.json", "none"):
        assert found(pattern) == {
            path.relative_to(store.root).as_posix() for path in store.root.glob(pattern)
        } | ({"dead"} & found(pattern))
    assert found("ledger/wanted/[!.]*") == set()
    assert found("e.json/*") == found("e.json/inner") == set()


@pytest.mark.parametrize("step", ["settle", "create"])
def test_an_artifact_that_another_run_sets_aside_while_it_is_put_is_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A forced run moves the folder between its making and the move of a file into it."""
    folder = store.root / folder_of(NODE.kind, NODE.digest)
    sync = store.backend._sync
    calls = []

    def after_another_process(draft: Path) -> None:
        sync(draft)
        calls.append(draft.name)

    mkdir = Path.mkdir

    def made(path: Path, *args: object, **more: object) -> None:
        mkdir(path, *args, **more)
        if path == folder and calls[-1] == ("a.txt" if step == "settle" else META):
            folder.rename(store.root / "moved")

    monkeypatch.setattr(store.backend, "_sync", after_another_process)
    monkeypatch.setattr(Path, "mkdir", made)
    with pytest.raises(Gone, match="taken away while it was put"):
        put(store)
