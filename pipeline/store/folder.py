"""Storage backend for a folder, local or on a network file system."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from fnmatch import translate
from pathlib import Path

from pipeline.problems import BadInput, reason_of, writing_to
from pipeline.store.backend import FileInfo, draft_folder
from pipeline.store.files import replace_bytes

COMPLETE = ("leases/", "ledger/")
"""What a pattern below these matches is listed as a whole or not at all: `gc` relies on it."""
VANISHED = (FileNotFoundError, NotADirectoryError)
"""Errors of what another process deleted after it was listed."""


class Folder:
    """See `Backend`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._place = str(self.root)

    @property
    def address(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def prepare(self) -> None:
        """Create the folder; BadInput if it is not writable."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = reason_of(error)
            raise BadInput(f"store {self.root}: cannot be written to: {reason}") from None

    def check(self) -> None:
        """Raise BadInput if the folder does not exist."""
        if not self.root.is_dir():
            raise BadInput(f"store {self.root}: no such folder")

    def read(self, key: str) -> bytes:
        """See `Backend.read`."""
        try:
            # a plan reads 100,000 files, and creating a Path costs as much as reading one
            with open(f"{self._place}/{key}", "rb", buffering=0) as file:  # noqa: PTH123
                return file.readall()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None

    def write(self, key: str, data: bytes) -> None:
        """See `Backend.write`."""
        with self.writing():
            replace_bytes(self.root / key, data)

    def touch(self, key: str) -> None:
        """See `Backend.touch`."""
        with self.writing():
            os.utime(self.root / key)

    def settle(self, draft: Path, key: str) -> None:
        """See `Backend.settle`. The data are synced to disk before the rename."""
        self._sync(draft)
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(target)

    def create(self, draft: Path, key: str) -> None:
        """See `Backend.create`."""
        self._sync(draft)
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        # linked, not renamed, since a link fails if another writer's file exists
        _link(draft, self.root / key)

    def path(self, key: str, *, fresh: bool = False) -> Path:  # noqa: ARG002  there are no copies
        """See `Backend.path`: the file itself."""
        return self.root / key

    def find(self, pattern: str) -> Iterator[FileInfo]:
        """See `Backend.find`. Other processes may delete any of it meanwhile."""
        skipped = VANISHED if pattern.startswith(COMPLETE) else (*VANISHED, PermissionError)
        for key in _matching(self._place, "", pattern.split("/"), skipped):
            try:
                status = os.lstat(f"{self._place}/{key}")
            except VANISHED:
                continue
            # includes the time of a rename, so that a file counts as changed when it was set aside
            changed = max(status.st_mtime, status.st_ctime)
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            yield FileInfo(key, size, changed)

    def move(self, key: str, target: str) -> None:
        """See `Backend.move`: a single rename."""
        with self.writing():
            (self.root / target).parent.mkdir(parents=True, exist_ok=True)
            (self.root / key).rename(self.root / target)

    def remove(self, key: str) -> None:
        """See `Backend.remove`. A folder is first renamed as a whole."""
        path = self.root / key
        with self.writing():
            if path.is_symlink() or not path.is_dir():
                path.unlink()
                return
            gone = self.root / "scratch" / f"gone-{uuid.uuid4().hex}"
            gone.parent.mkdir(parents=True, exist_ok=True)
            path.rename(gone)
            shutil.rmtree(gone)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Backend.scratch`: on the same disk, so that drafts can be renamed into place."""
        with self.writing(), draft_folder(self.root / "scratch") as draft:
            yield draft

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """See `Backend.writing`."""
        return writing_to(f"store {self.root}")

    @staticmethod
    def _sync(draft: Path) -> None:
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())


def _matching(
    place: str, before: str, parts: Sequence[str], skipped: tuple[type[OSError], ...]
) -> Iterator[str]:
    """Keys below `place/before` that match the parts of a pattern, which has one `**` at most.

    Unlike `Path.glob` of Python before 3.13 it goes on where a folder was deleted after it was
    listed, as another run's drafts are at any time, or cannot be for another of `skipped`.
    """
    part, *rest = parts
    if part != "**" and not re.search(r"[*?[]", part):
        if rest:
            yield from _matching(place, f"{before}{part}/", rest, skipped)
        else:
            yield f"{before}{part}"
        return
    try:
        with os.scandir(f"{place}/{before}") as found:
            entries = list(found)
    except skipped:
        return
    if part == "**":
        yield from _matching(place, before, rest, skipped)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _matching(place, f"{before}{entry.name}/", parts, skipped)
        return
    fits = re.compile(translate(part)).match
    for entry in entries:
        if fits(entry.name) and not rest:
            yield f"{before}{entry.name}"
        elif fits(entry.name) and entry.is_dir():
            yield from _matching(place, f"{before}{entry.name}/", rest, skipped)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # on a file system without hard links a rename still leaves no partial record; if two
        # writers collide at the same instant, the later one wins
        if target.exists():
            raise FileExistsError(target) from None
        source.replace(target)
