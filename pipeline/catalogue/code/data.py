"""Files of data that user code reads, whose content is in no digest.

An audit hook of Python sees each file that is opened, and whether user code is on the stack. Files
that a library opens in C++, as `torchvision.io` does, or that another process reads are not seen.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pipeline.catalogue.code.imported import FOLDERS, is_installed
from pipeline.catalogue.code.known import KNOWN
from pipeline.problems import shown
from pipeline.problems.sanitize import clean
from pipeline.store.files import cache_folder

IN_NO_DIGEST = "whose content is in no digest"
SHOWN = 3
"""Maximum number of files that a note names."""
CODE = frozenset({".py", ".pyc", ".so", ".dylib", ".pyd"})
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr/share", sys.prefix, sys.base_prefix)
COMPILED = "torchinductor_"
"""Beginning of the name of the folder in which torch.compile keeps its results."""
POOLS = frozenset({"concurrent.futures.thread", "multiprocessing.pool"})
"""Modules whose frames are below those of a function that a thread pool calls."""
_read: dict[str, set[str]] = {}
"""Absolute paths of files that user code has opened to read, by the name of its module."""
_written: set[str] = set()
"""Absolute paths of files that user code has opened to write, such as temporary files."""


def data_read(module: str) -> tuple[str, ...]:
    """Absolute paths of the files of data that a module of user code has read, sorted.

    Left out are code, files of Python, of installed libraries, of the system and of this program,
    files that user code has written, and what no longer exists.
    """
    return tuple(sorted(filter(is_data, _read.get(module, set()) - _written)))


def data_note(module: str, files: tuple[str, ...]) -> str:
    """A line for the user about the files of data that a module of user code has read."""
    names = ", ".join(clean(shown(Path(file))) for file in files[:SHOWN])
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return (
        f"{KNOWN[module].place} reads {names}{more}, {IN_NO_DIGEST}: results are not computed "
        "again when it changes; put the values, or the file's SHA-256, in the module or a YAML "
        "parameter"
    )


def record_open(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook that records which files user code opens."""
    if event != "open":
        return
    # an exception here would fail the call of `open`
    with contextlib.suppress(Exception):
        path, _, flags = arguments
        reader = _reader()
        if reader is None or not isinstance(path, str | bytes) or not isinstance(flags, int):
            return
        opened = Path(os.fsdecode(path)).resolve()
        # "a+" reads what a file holds already
        created = flags & os.O_CREAT and not opened.exists()
        if flags & (os.O_WRONLY | os.O_TRUNC) or created:
            _written.add(str(opened))
        else:
            _read.setdefault(reader, set()).add(str(opened))


def _reader() -> str | None:
    """The module of the user code that is running, or that waits for this thread of a pool."""
    frames = list(_frames(inspect.currentframe()))
    if any(frame.f_globals.get("__name__") in POOLS for frame in frames):
        main = threading.main_thread().ident or 0
        frames += _frames(sys._current_frames().get(main))  # noqa: SLF001  public for this purpose
    return next(filter(None, map(_own_module, frames)), None)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _own_module(frame: FrameType) -> str | None:
    """The module of user code that a frame belongs to, by itself or by the class of its `self`."""
    names = [frame.f_globals.get("__name__")]
    if frame.f_code.co_varnames[:1] == ("self",):
        # a method that is inherited from a class in another module
        names.append(type(frame.f_locals.get("self")).__module__)
    return next((name for name in names if name in KNOWN), None)


def is_data(file: str) -> bool:
    """Whether a path is a file of data, see `data_read`."""
    path = Path(file)
    try:
        if not path.is_file():
            return False
    except OSError:  # a name that is too long, or a folder that may not be read
        return False
    if CODE & {*path.suffixes} or any(part.startswith(COMPILED) for part in path.parts):
        return False
    caches = (cache_folder(), Path.home() / ".cache")
    roots = (Path(each).resolve() for each in (*SYSTEM, *FOLDERS, *caches))
    return not (is_installed(path) or any(map(path.is_relative_to, roots)))
