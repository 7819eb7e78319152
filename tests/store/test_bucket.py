"""A store in a bucket: the same promises as in a folder, against servers on loopback."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
import torch
from artifacts import NODE, OTHER, put
from bucket_servers import (
    ENVIRONMENT,
    SERVERS,
    ObjectServer,
    fake_gcs,
    make_bucket,
    moto,
    s3_server,
    upload_to_gcs,
)
from obstore.store import S3Store

from pipeline.execution.work import unfinished as partial_state
from pipeline.grid.graph import Node
from pipeline.problems import BadInput, Unwritable
from pipeline.store import bucket_cache
from pipeline.store.bucket import Bucket
from pipeline.store.garbage import DAY_S, collectable, remove
from pipeline.store.layout import MARKER
from pipeline.store.ledger import Invocation, Ledger
from pipeline.store.store import META, Damaged, Record, Store, folder_of
from pipeline.store.verify import verify
from tasks.specs import Shard
from tasks.training.train import State

PIPELINE = Path(sys.executable).with_name("pipeline")


@pytest.fixture(scope="module", params=list(SERVERS))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectServer]:
    with (
        pytest.MonkeyPatch.context() as patch,
        SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as begun,
    ):
        for name, value in begun.environment.items():
            patch.setenv(name, value)
        yield begun


@pytest.fixture
def address(server: ObjectServer, tmp_path: Path) -> str:
    """A place of its own in the bucket, and a cache of its own."""
    return server.address(tmp_path.name, cache=tmp_path / "cache")


@pytest.fixture
def store(address: str) -> Store:
    made = Store(address)
    made.prepare()
    return made


def keys(store: Store) -> set[str]:
    """Of all but the marker."""
    return {entry.key for entry in store.backend.find("**/*")} - {MARKER}


def elsewhere(address: str, tmp_path: Path) -> Store:
    """The same store as another machine sees it."""
    return Store(f"{address.partition('&cache=')[0]}&cache={tmp_path / 'other'}")


def copies(folder: Path) -> list[Path]:
    return [path for path in folder.glob("**/files/**/*") if path.is_file()]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3:///prefix", "expected s3://BUCKET/PREFIX"),
        ("s3://bucket?endpont=x", "unknown option 'endpont'; did you mean 'endpoint'?"),
        ("s3://bucket?cache_gb=much", "cache_gb=much: expected a number above 0"),
        ("s3://bucket?cache_gb=0", "cache_gb=0: expected a number above 0"),
        ("s3://key:secret@bucket/x", "credentials belong into AWS_ACCESS_KEY_ID"),
        ("gs:///prefix", "expected gs://BUCKET/PREFIX"),
        ("gs://key:secret@bucket/x", "credentials belong into GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://bucket?region=x", "unknown option 'region'"),
        ("az://key:secret@bucket/x", "credentials belong into AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://container?acount=x", "unknown option 'acount'; did you mean 'account'?"),
    ],
)
def test_an_address_that_is_none_is_refused_in_one_line(address: str, said: str) -> None:
    with pytest.raises(BadInput) as raised:
        Store(address)
    assert said in str(raised.value)
    assert "secret@" not in str(raised.value)


@pytest.mark.slow
def test_what_was_put_is_there_for_other_machines(
    store: Store, address: str, tmp_path: Path
) -> None:
    made = put(store, a="A", b="B")
    other = elsewhere(address, tmp_path)
    assert other.record(NODE.kind, NODE.digest) == made
    assert other.path(made, "b.txt").read_text() == "B"
    assert list(other.each()) == [(NODE.kind, NODE.digest)]
    assert list(other.some("defend", 5)) == [NODE.digest]
    # drafts and the probe are gone, and the two files and the record are all there is
    assert len(keys(store)) == 3
    assert other.address == store.address.replace("/cache", "/other")


@pytest.mark.slow
def test_what_is_read_is_copied_once_for_a_machine(
    store: Store, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put(store)
    other = elsewhere(address, tmp_path)
    path = other.path(made, "a.txt")
    store.backend.remove(f"{folder_of(NODE.kind, NODE.digest)}/{path.name}")
    again = elsewhere(address, tmp_path)
    assert again.path(made, "a.txt") == path
    with pytest.raises(Damaged, match="is missing"):
        again.path(made, "a.txt", fresh=True)


@pytest.mark.parametrize("readable", [True, False])
def test_another_users_copy_is_used_if_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "access", lambda *_: readable)
    assert bucket_cache._used(tmp_path) is readable


@pytest.mark.slow
def test_a_spoilt_copy_is_fetched_again_and_a_spoilt_object_is_damage(
    store: Store, address: str, tmp_path: Path
) -> None:
    made = put(store, a="some data")
    elsewhere(address, tmp_path).path(made, "a.txt").write_text("other data")
    path = elsewhere(address, tmp_path).path(made, "a.txt")
    assert path.read_text() == "some data"
    key = f"{folder_of(NODE.kind, NODE.digest)}/{path.name}"
    store.backend.write(key, b"some dada")
    # this machine's copy is sound, so only looking at the bucket shows it
    assert [damage.reason for damage in verify(store).damages] == [
        f"{path.name} does not match its checksum"
    ]
    assert verify(store, set_aside=True).damages[0].aside in "".join(
        key for key in keys(store) if key.startswith("aside/")
    )
    assert store.record(NODE.kind, NODE.digest) is None
    assert put(store, a="some data").content == made.content
    assert verify(store).damages == []


@pytest.mark.slow
def test_what_is_replaced_by_the_same_content_is_there_at_every_moment(
    store: Store, address: str, tmp_path: Path
) -> None:
    made = put(store)
    over = threading.Event()
    seen: list[Record | None] = []

    def snapshot() -> None:
        reader = elsewhere(address, tmp_path)
        while not over.is_set():
            seen.append(reader.record(NODE.kind, NODE.digest))

    thread = threading.Thread(target=snapshot)
    thread.start()
    for _ in range(50):
        latest = put(store, replace=True)
    over.set()
    thread.join()
    assert {record and record.content for record in seen} == {made.content}
    assert store.record(NODE.kind, NODE.digest) == latest != made
    assert not any(key.startswith("aside/") for key in keys(store))


@pytest.mark.slow
def test_of_many_writers_one_wins_whole(store: Store, address: str) -> None:
    barrier = threading.Barrier(6)
    found: list[Record] = []

    def write(number: int) -> None:
        own = Store(address)
        barrier.wait()
        found.append(put(own, a=f"{number}", b="same"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    standing = store.record(NODE.kind, NODE.digest)
    assert standing is not None
    assert standing.content in {record.content for record in found}
    assert verify(store).damages == []
    # a later writer finds it standing and leaves nothing
    before = keys(store)
    assert put(store, a="late") == standing
    assert keys(store) == before


@pytest.mark.slow
def test_without_its_record_there_is_no_artifact(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(backend: Bucket, draft: Path, key: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "create", dies)
        with pytest.raises(KeyboardInterrupt):
            put(store)
    assert len(keys(store)) == 1
    assert store.record(NODE.kind, NODE.digest) is None
    assert list(store.each()) == []
    put(store)
    assert list(store.each()) == [(NODE.kind, NODE.digest)]


@pytest.mark.slow
def test_the_copies_of_a_machine_are_bounded_and_those_in_use_stay(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"{address}&cache_gb=0.000005")
    nodes = [Node("defend", Shard(start=start, stop=start + 1)) for start in range(4)]
    for node in nodes:
        put(store, node, a=str(node.digest[0]) * 2000)
    # all were just in use, and so may be about to be opened
    assert len(copies(tmp_path / "cache")) == 4
    monkeypatch.setattr(bucket_cache, "IN_USE_S", 0.0)
    for age, path in enumerate(sorted(copies(tmp_path / "cache"))):
        os.utime(path, (time.time() - 100 - age,) * 2)
    drafts = next((tmp_path / "cache").rglob("files")).parent / "scratch"
    waiting, left_by_a_kill = (drafts / name / "a.txt" for name in ("waiting", "killed"))
    for draft, hours in ((waiting, 2), (left_by_a_kill, 30)):
        draft.parent.mkdir(parents=True)
        draft.write_text("x")
        os.utime(draft, (time.time() - 3600 * hours,) * 2)
    put(store, OTHER, a="x" * 2000)
    assert waiting.exists()
    assert not left_by_a_kill.exists()
    left = copies(tmp_path / "cache")
    assert len(left) == 2
    assert any(OTHER.digest in str(path) for path in left)
    for node in nodes:
        record = store.record(node.kind, node.digest)
        assert record is not None
        assert store.path(record, "a.txt").read_text() == str(node.digest[0]) * 2000


def test_writing_goes_on_while_another_process_deletes_its_draft(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(server.address(tmp_path.name, cache=tmp_path / "cache"))
    store.prepare()
    drafts = next((tmp_path / "cache").glob("*/*")) / "scratch"
    of_another = drafts / "of-another-process"
    list_folder = os.scandir

    def vanishing(path: str | Path | int = ".") -> Iterator[os.DirEntry[str]]:
        if str(path) == str(of_another):
            of_another.rmdir()
        return list_folder(path)

    of_another.mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", vanishing)
    put(store, a="some data")
    assert not of_another.exists()
    assert store.record(NODE.kind, NODE.digest) is not None


@pytest.mark.slow
def test_an_unfinished_training_goes_on_at_another_machine(
    store: Store, address: str, tmp_path: Path
) -> None:
    for epoch in (1, 2):
        state = State(
            weights={"w": torch.full((3,), float(epoch))},
            optimizer={"m": torch.zeros(3)},
            facts={"epoch": epoch, "history": []},
        )
        partial_state.save(store.backend, NODE.digest, state, ["x86_64 CPU"])
    found = partial_state.load(elsewhere(address, tmp_path).backend, NODE.digest)
    assert found is not None
    assert found.facts["epoch"] == 2
    assert found.weights["w"].tolist() == [2.0, 2.0, 2.0]
    assert len(keys(store)) == 3
    partial_state.forget(store.backend, NODE.digest)
    assert keys(store) == set()
    assert partial_state.load(store.backend, NODE.digest) is None


@pytest.mark.slow
def test_a_bucket_is_marked_adopted_or_left_alone_as_a_folder_is(
    store: Store, address: str
) -> None:
    assert store.backend.read(MARKER) == b'{"program": "test-time-defense-bench", "format": 1}'
    put(store)
    store.backend.remove(MARKER)
    store.backend.write("thesis/chapter.txt", b"theirs")
    before = keys(store)
    for use in (store.prepare, store.check, lambda: verify(store, set_aside=True)):
        with pytest.raises(BadInput, match=r"is no store, since it has no store\.json and holds"):
            use()
    assert keys(store) == before
    store.backend.remove("thesis/chapter.txt")
    said = store.check()
    assert said is not None
    assert said.endswith("adopted, and marked by store.json")
    assert store.prepare() is None


@pytest.mark.slow
def test_the_ledger_and_the_clearing_work_as_in_a_folder(store: Store) -> None:
    put(store)
    put(store, OTHER)
    ledger = Ledger(store.backend)
    ledger.want([NODE.digest])
    ledger.want([NODE.digest])
    ledger.write(Invocation("demo", ["pipeline", "run"], "0.1", {}))
    ledger.mark_logged("http://server", "key", "run")
    assert Ledger(store.backend).logged("http://server") == {"key"}
    assert ledger.logged_as("http://server", "key") == "run"
    assert [entry.grid for entry in Ledger(store.backend).invocations] == ["demo"]
    assert collectable(store, keep_s=30 * DAY_S) == []
    items = collectable(store, keep_s=30 * DAY_S, now=time.time() + 2 * DAY_S)
    assert [OTHER.digest in item.key for item in items] == [True]
    assert remove(store, items) == items
    assert list(store.each()) == [(NODE.kind, NODE.digest)]


@pytest.mark.slow
def test_a_server_that_does_not_answer_for_a_while_costs_nothing(
    server: ObjectServer, store: Store
) -> None:
    with ThreadPoolExecutor() as pool:
        with server.halted():
            late = pool.submit(put, store)
            time.sleep(12)
            assert not late.done()
        made = late.result()
    assert store.record(NODE.kind, NODE.digest) == made


@pytest.mark.slow
def test_a_bucket_that_goes_away_in_mid_run_is_one_line_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path / "log") as begun:
        endpoint = begun.endpoint
        make_bucket(endpoint, "gone-bucket")
        store = Store(f"s3://gone-bucket?endpoint={endpoint}&cache={tmp_path / 'cache'}")
        made = put(store)
        other = Store(f"s3://gone-bucket?endpoint={endpoint}&cache={tmp_path / 'other'}")
    for use in (
        lambda: other.path(made, "a.txt"),
        lambda: other.record(NODE.kind, NODE.digest),
        lambda: put(other, OTHER),
        lambda: other.set_aside(NODE.kind, NODE.digest),
    ):
        with pytest.raises(Unwritable) as raised:
            use()
        assert str(raised.value) == f"store {other.address}: the server does not answer"
    with pytest.raises(BadInput, match="the server does not answer"):
        Store(f"s3://gone-bucket?endpoint={endpoint}")


@pytest.mark.slow
def test_wrong_credentials_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path / "log", checks_keys_after=2) as begun:
        endpoint = begun.endpoint
        make_bucket(endpoint, "closed-bucket")
        with pytest.raises(BadInput) as raised:
            Store(f"s3://closed-bucket/x?endpoint={endpoint}")
        said = str(raised.value)
        assert said.endswith("the server does not know this access key")
        done = subprocess.run(
            [str(PIPELINE), "plan", "--store", f"s3://closed-bucket/x?endpoint={endpoint}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line(server: ObjectServer) -> None:
    address = server.address("x").replace("tests-bucket", "no-such-bucket")
    with pytest.raises(BadInput) as raised:
        Store(address)
    assert re.search("there is no such (bucket|container)$", str(raised.value))
    assert META not in str(raised.value)


@pytest.mark.slow
def test_of_two_that_write_only_if_absent_in_one_instant_exactly_one_does(
    store: Store, address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["server"] == "moto":
        pytest.skip("moto looks and then writes, so two requests in one instant may both succeed")

    def write(writer: int, key: str, barrier: threading.Barrier) -> bool:
        draft = tmp_path / f"draft-{writer}"
        draft.write_text(str(writer))
        backend = Bucket(address)
        barrier.wait()
        try:
            backend.create(draft, key)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        for number in range(10):
            key = f"ledger/contested-{number}"
            barrier = threading.Barrier(6)
            began = [pool.submit(write, writer, key, barrier) for writer in range(6)]
            won = [writer for writer, future in enumerate(began) if future.result()]
            assert store.backend.read(key) == "".join(str(writer) for writer in won).encode()


@pytest.mark.slow
def test_what_is_replaced_by_shorter_or_longer_data_is_read_whole_at_every_moment(
    store: Store, address: str, tmp_path: Path
) -> None:
    """Asked for by its length first, a shrinking object gave a piece of memory besides."""
    versions = {bytes([65 + number]) * (1 + 400_000 * number) for number in range(3)}
    over = threading.Event()
    seen: set[bytes] = set()
    store.backend.write("ledger/changing", b"A")

    def snapshot() -> None:
        reader = elsewhere(address, tmp_path).backend
        while not over.is_set():
            seen.add(reader.read("ledger/changing"))
            seen.add(reader.path("ledger/changing", fresh=True).read_bytes())

    thread = threading.Thread(target=snapshot)
    thread.start()
    for _ in range(10):
        for data in versions:
            store.backend.write("ledger/changing", data)
    over.set()
    thread.join()
    assert seen <= versions


@pytest.mark.slow
def test_a_large_file_is_sent_in_parts_and_comes_back_whole(
    store: Store, address: str, tmp_path: Path
) -> None:
    data = os.urandom(20_000_000)

    def write(path: Path) -> None:
        path.write_bytes(data)

    made = store.put(NODE.identity, {"a.bin": write}, lineage={}, facts={}, how={})
    assert elsewhere(address, tmp_path).path(made, "a.bin").read_bytes() == data


@pytest.mark.slow
def test_a_server_that_ignores_the_condition_of_a_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = Store(server.address("x", cache=tmp_path / "cache"))
        plain = obstore.put

        def unconditional(objects: S3Store, place: str, data: bytes, **how: object) -> object:
            return plain(objects, place, data)

        with monkeypatch.context() as patch:
            patch.setattr(obstore, "put", unconditional)
            with pytest.raises(BadInput, match="does not honour conditional writes"):
                store.prepare()
        assert keys(store) == set()
        store.prepare()


@pytest.mark.slow
def test_a_store_on_googles_storage_is_found_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No emulator that could be had knows the writes of the interface that the client uses."""
    folder = Store(tmp_path / "folder")
    made = put(folder, a="A" * 100)
    with fake_gcs(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for path in (tmp_path / "folder").rglob("*-*"):
            upload_to_gcs(server.endpoint, f"x/{_key(path, tmp_path)}", path.read_bytes())
        for path in (tmp_path / "folder").rglob(META):
            upload_to_gcs(server.endpoint, f"x/{_key(path, tmp_path)}", path.read_bytes())
        store = Store(server.address("x", cache=tmp_path / "cache"))
        assert list(store.each()) == [(NODE.kind, NODE.digest)]
        assert store.record(NODE.kind, NODE.digest) == made
        assert store.path(made, "a.txt").read_text() == "A" * 100
        assert store.record(OTHER.kind, OTHER.digest) is None


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder / "folder").as_posix()


@pytest.mark.slow
def test_credentials_of_an_aws_profile_are_used_where_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    lines = ["[lab]", "aws_access_key_id = tests", "aws_secret_access_key = tests"]
    file.write_text("\n".join(lines))
    with moto(tmp_path) as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_PROFILE", "lab")
        store = Store(server.address("x", cache=tmp_path / "cache"))
        store.prepare()
        assert put(store) == store.record(NODE.kind, NODE.digest)
