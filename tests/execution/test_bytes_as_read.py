"""A checksum is that of the bytes that are used; others are refused as they are read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_locate import write_parquet
from tiny import Recorder, write_configs

from pipeline.catalogue.code.syntax import read_sources
from pipeline.catalogue.entries import DatasetEntry
from pipeline.catalogue.sources.locate import described, locate, read
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observers, RunFinished
from pipeline.execution.work.inputs import forget
from pipeline.grid.builder import Overrides
from pipeline.problems import BadInput
from pipeline.store import files as file_hashes
from pipeline.store.files import read_whole, sha256_of, sha256_of_all
from tasks.networks.small import Small


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # files of tests are young, and are remembered all the same
    monkeypatch.setattr(file_hashes, "FRESH_NS", 0)


def replaced_by_another(path: Path, data: bytes) -> None:
    """As `cp -p` or rsync do it: another file with the size and the times of the old one."""
    times = path.stat()
    draft = path.with_name("draft")
    draft.write_bytes(data)
    os.utime(draft, ns=(times.st_atime_ns, times.st_mtime_ns))
    draft.replace(path)


def written_in_place(path: Path, data: bytes) -> None:
    """The same file with other bytes and the times of before."""
    times = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced_by_another, written_in_place])
def test_a_file_of_the_same_size_and_times_is_hashed_anew(
    tmp_path: Path, change: Callable[[Path, bytes], None]
) -> None:
    path = tmp_path / "folder" / "x.py"
    path.parent.mkdir()
    path.write_bytes(b"a = 1")
    asked = [
        lambda: sha256_of(path),
        lambda: sha256_of_all(path.parent, [path]),
        lambda: read_sources([path])[path].digest,
    ]
    before = [ask() for ask in asked]
    assert [ask() for ask in asked] == before
    change(path, b"a = 2")
    after = [ask() for ask in asked]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_file_that_changed_this_very_moment_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "FRESH_NS", 3600 * 10**9)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    sha256_of(path)
    sha256_of_all(tmp_path, [path])
    assert not file_hashes._remembered()


def test_bytes_that_are_others_now_are_one_line_and_are_hashed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    known = sha256_of(path)
    assert read_whole(path, known) == b"one"
    # a file system that tells of no change
    monkeypatch.setattr(file_hashes, "stamp_of", lambda _: [0])
    sha256_of(path)
    path.write_bytes(b"two")
    assert sha256_of(path) == known
    with pytest.raises(BadInput) as caught:
        read_whole(path, known)
    assert str(caught.value) == (
        f"{path}: changed since the grid was loaded: its SHA-256 is 3fc4ccfe7458..., "
        "not 7692c3ad3540...; load the grid again"
    )
    assert sha256_of(path).startswith("3fc4ccfe7458")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def arrays(path: Path, value: int) -> None:
    images = np.full((2, 4, 4, 3), value, dtype=np.uint8)
    images[:, 0, 0, 0] = (0, 255)
    np.savez(path, images=images, labels=np.arange(2))


def write_npz(folder: Path) -> Callable[[], None]:
    arrays(folder / "train.npz", 1)
    arrays(folder / "test.npz", 2)
    return lambda: arrays(folder / "test.npz", 3)


def write_tables(folder: Path) -> Callable[[], None]:
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", [0, 1])
    return lambda: write_parquet(folder / "train-00000-of-00001.parquet", [1, 0])


def write_folders(folder: Path) -> Callable[[], None]:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "0.png").write_bytes(png(200))
    # not another image, but one in another class
    return lambda: (folder / "test" / "a" / "0.png").rename(folder / "test" / "b" / "1.png")


@pytest.mark.parametrize(
    ("kind", "write"),
    [("npz", write_npz), ("parquet", write_tables), ("folder", write_folders)],
)
def test_images_that_changed_since_the_grid_was_loaded_are_not_read_under_the_old_digest(
    tmp_path: Path, kind: str, write: Callable[[Path], Callable[[], None]]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    change = write(folder)
    entry = DatasetEntry.model_validate({"kind": kind, "classes": 2, "side_px": 4})
    planned = locate("mine", entry, folder)
    read(described(entry, planned), dict(planned.files))
    change()
    with pytest.raises(BadInput, match="changed since the grid was loaded: its SHA-256 is"):
        read(described(entry, planned), dict(planned.files))
    again = locate("mine", entry, folder)
    assert again.hashes != planned.hashes
    read(described(entry, again), dict(again.files))


def test_the_digits_are_those_whose_checksum_is_in_the_spec() -> None:
    entry = DatasetEntry(kind="digits", classes=10, channels=1, side_px=8)
    source = locate("digits", entry)
    other = described(entry, source).model_copy(update={"sources": (("digits", "0" * 64),)})
    with pytest.raises(BadInput, match=r"digits.csv.gz: changed since the grid was loaded"):
        read(other, dict(source.files))


class Home:
    """A grid of one checkpoint on the digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = "dataset: digits\nnetwork: {kind: small, width: 2}\n"
        self.configs = write_configs(
            folder / "cfg",
            {"models/mixed.yaml": model + "checkpoint: {file: ../../weights.pt}\n"},
        )

    def save(self, seed: int) -> None:
        torch.save(Small(width=2).build(1, 8, 10, seed=seed).state_dict(), self.weights)

    @property
    def weights(self) -> Path:
        return self.folder / "weights.pt"

    def session(self) -> Session:
        return open_session(
            "tiny",
            store=self.folder / "store",
            configs=[self.configs],
            only=["attack=clean", "defense=none"],
            overrides=Overrides(images=40),
        )

    def run(self, session: Session) -> RunFinished:
        forget()
        session.store.prepare()
        return session.run(
            Observers([Recorder()]), inline=True, address=None, workers=None, forced=set()
        )


def test_weights_saved_after_the_grid_was_loaded_are_not_judged_under_the_old_digest(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    home.save(1)
    session = home.session()
    old = session.scores["mixed/clean/none"].parent("shard0").parent("model")
    home.save(2)
    with pytest.raises(BadInput, match=r"^checkpoint mixed: .*weights.pt: changed "):
        home.run(session)
    assert session.store.record("checkpoint", old.digest) is None
    again = home.session()
    assert not home.run(again).missing
    new = again.scores["mixed/clean/none"].parent("shard0").parent("model")
    assert new.digest != old.digest
