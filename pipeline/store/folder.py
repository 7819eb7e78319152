"""The storage backend of a folder, on this machine or shared over a network."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.problems import BadInput, reason_of, writing_to
from pipeline.store.backend import FileInfo, draft_folder
from pipeline.store.files import replace_bytes


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
        """Make the folder; BadInput where it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = reason_of(error)
            raise BadInput(f"store {self.root}: cannot be written to: {reason}") from None

    def check(self) -> None:
        """BadInput where there is no folder."""
        if not self.root.is_dir():
            raise BadInput(f"store {self.root}: no such folder")

    def read(self, key: str) -> bytes:
        """See `Backend.read`."""
        try:
            # a plan reads a hundred thousand of them, and a Path costs as much as the reading
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
        """See `Backend.settle`: on the disk before it has its name."""
        self._sync(draft)
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(target)

    def create(self, draft: Path, key: str) -> None:
        """See `Backend.create`."""
        self._sync(draft)
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        # a link, not a rename: it fails where another writer's file already stands
        _link(draft, self.root / key)

    def path(self, key: str, *, fresh: bool = False) -> Path:  # noqa: ARG002  there are no copies
        """See `Backend.path`: the file itself."""
        return self.root / key

    def find(self, pattern: str) -> Iterator[FileInfo]:
        """See `Backend.find`."""
        for path in self.root.glob(pattern):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            # the time of a change of name as well: what was set aside, was so then
            changed = max(status.st_mtime, status.st_ctime)
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            yield FileInfo(path.relative_to(self.root).as_posix(), size, changed)

    def move(self, key: str, target: str) -> None:
        """See `Backend.move`: in one step."""
        with self.writing():
            (self.root / target).parent.mkdir(parents=True, exist_ok=True)
            (self.root / key).rename(self.root / target)

    def remove(self, key: str) -> None:
        """See `Backend.remove`: a folder first moves away whole."""
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
        """See `Backend.scratch`: on the same disk, so that drafts are moved and not copied."""
        with self.writing(), draft_folder(self.root / "scratch") as draft:
            yield draft

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """See `Backend.writing`."""
        return writing_to(f"store {self.root}")

    @staticmethod
    def _sync(draft: Path) -> None:
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # A file system without hard links: a rename leaves no torn record, and of two writers
        # in the same instant the later one stands, as whole as the other.
        if target.exists():
            raise FileExistsError(target) from None
        source.replace(target)
