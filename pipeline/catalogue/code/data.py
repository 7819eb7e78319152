"""Files of data that user code reads, whose content is in no digest.

An audit hook of Python sees each file that is opened, and whether user code is on the stack. Files
that a library opens in C++, as `torchvision.io` does, are not seen.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from pathlib import Path

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
        frame = inspect.currentframe()
        while frame is not None and frame.f_globals.get("__name__") not in KNOWN:
            frame = frame.f_back
        if frame is None or not isinstance(path, str | bytes) or not isinstance(flags, int):
            return
        opened = str(Path(os.fsdecode(path)).resolve())
        if flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            _written.add(opened)
        else:
            _read.setdefault(frame.f_globals["__name__"], set()).add(opened)


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
