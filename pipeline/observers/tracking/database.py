"""MLflow's SQLite databases: checks, identification and creation, without importing MLflow.

A new database is created under a temporary name and then linked into place. So a process that dies
leaves no partial database, and if two processes create one, the first wins.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

SQLITE = "sqlite:///"
IDENTITY = "test-time-defense-bench.database"
"""Tag of MLflow's first experiment that holds the unique id of the database."""
PATIENCE_S = 5.0
LEFT_S = 3600.0
"""Age at which a temporary database was left by a process that died."""


def database_path(uri: str) -> Path | None:
    """The file of an SQLite database; None for other addresses."""
    if not uri.startswith(SQLITE):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])).absolute()


def uri_of(path: Path) -> str:
    """The address of a database file."""
    # MLflow unescapes a URI, and treats the part after a question mark as options
    return SQLITE + path.as_posix().replace("%", "%25").replace("?", "%3F")


def wrong_with_database(path: Path) -> str | None:
    """Why a database cannot be used, with a remedy; None if it can be used or created."""
    if not path.exists():
        return _wrong_with_folder(path)
    return _wrong_with_file(path) or _wrong_inside(path)


def _wrong_with_folder(path: Path) -> str | None:
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        return f"{folder} is no folder, so no database can be made in it"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{path} cannot be created: permission denied in {folder}"
    return None


def _wrong_with_file(path: Path) -> str | None:
    if path.is_dir():
        return f"{path} is a folder; name a file, such as {path / 'mlflow.db'}"
    if not path.is_file():
        return f"{path} is a pipe or a device, not a file"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} cannot be written to: permission denied"
    return None


def _wrong_inside(path: Path) -> str | None:
    try:
        return _not_whole(path)
    except sqlite3.OperationalError as error:
        # a busy database is usable
        if "locked" in str(error) or "busy" in str(error):
            return None
        return f"{path} cannot be opened: {error}"
    except sqlite3.DatabaseError as error:
        return f"{path} is broken: {error}; {WAY_OUT}"


WAY_OUT = "move it away, and the next run makes a new one"


def is_empty(path: Path) -> bool:
    """Whether a file exists that contains no table, as after merely opening it."""
    with contextlib.suppress(sqlite3.DatabaseError, OSError):
        return path.is_file() and not _tables(path)
    return False


def identity_of(path: Path) -> str | None:
    """The unique id of a database; None if it has none or is not a database."""
    with contextlib.suppress(sqlite3.DatabaseError, OSError):
        if path.is_file():
            query = "SELECT value FROM experiment_tags WHERE experiment_id = 0 AND key = ?"
            with _opened(path) as database:
                found = database.execute(query, (IDENTITY,)).fetchone()
            return str(found[0]) if found else None
    return None


ARTIFACTS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Tables and columns in which MLflow stores absolute paths of artifacts."""


def follow_artifacts(path: Path, folder: Path) -> bool:
    """Update the artifact paths in a database that was moved or copied together with its artifacts.

    Replaced are paths of experiments in another folder of the same name, which no longer exists or
    of which `folder` has the same entries. Otherwise runs would write into the original of a copy.

    Args:
        folder: The current folder of artifacts.

    Returns:
        Whether anything was updated.
    """
    if not path.is_file() or not folder.is_dir():
        return False
    now = folder.as_uri()
    with contextlib.suppress(sqlite3.DatabaseError), _opened(path) as database:
        rows = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        moved = [str(old) for (old,) in rows if old and _is_replaced(str(old), folder)]
        tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master")}
        for old in moved:
            for table, columns in ARTIFACTS.items():
                for column in columns if table in tables else ():
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE substr({column}, 1, ?) = ?",
                        (now, len(old) + 1, len(old), old),
                    )
        database.commit()
        return bool(moved)
    return False


def _is_replaced(place: str, folder: Path) -> bool:
    """Whether `folder` has taken the place of the folder at an address, or is a copy of it."""
    if not place.startswith("file://") or place == folder.as_uri():
        return False
    path = Path(unquote(place.removeprefix("file://")))
    if path.name != folder.name:
        return False
    try:
        names = {entry.name for entry in path.iterdir()} - {"models"}
    except FileNotFoundError:
        return True
    except OSError:
        return False
    # a run's folder is named by its random id, so no two folders share one by chance
    return any((folder / name).exists() for name in names)


@dataclass(frozen=True)
class LastRun:
    """The latest parent run in a database; has_tag: whether its experiment has a given tag."""

    experiment: str
    run: str
    has_tag: bool


def last_run(path: Path, tag: str) -> LastRun | None:
    """The latest parent run in a database; None if there is none."""
    query = (
        "SELECT r.experiment_id, r.run_uuid, EXISTS (SELECT 1 FROM experiment_tags e "
        "WHERE e.experiment_id = r.experiment_id AND e.key = ?) "
        "FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
        "WHERE t.key = 'command' AND r.lifecycle_stage = 'active' "
        "ORDER BY r.start_time DESC LIMIT 1"
    )
    with contextlib.suppress(sqlite3.DatabaseError, OSError):
        if path.is_file():
            with _opened(path) as database:
                found = database.execute(query, (tag,)).fetchone()
            return LastRun(str(found[0]), str(found[1]), bool(found[2])) if found else None
    return None


def make(path: Path, fill: Callable[[str], object]) -> bool:
    """Create a database at `path`; False if another process was faster.

    fill: creates a database at the given address and closes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.making")
    try:
        fill(uri_of(draft))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        if is_empty(path):
            draft.replace(path)
            return True
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:
            # on a file system without links the last one accepts what exists
            if path.exists():
                return False
            draft.replace(path)
        return True
    finally:
        for left in path.parent.glob(f"{draft.name}*"):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Context manager: a lock on the database against other processes of this program."""
    if path is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=60)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        # without a lock, the search for existing runs has to prevent duplicates
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _clear(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}-*.making*"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_S:
                left.unlink()


def _not_whole(path: Path) -> str | None:
    tables = _tables(path)
    if not tables:
        return None
    if "alembic_version" not in tables:
        if "experiments" in tables:
            return f"{path} is not whole: its making was interrupted; {WAY_OUT}"
        return f"{path} is a database of another program; name another file"
    with _opened(path) as database:
        version = database.execute("SELECT version_num FROM alembic_version").fetchone()
        if version is None or "runs" not in tables or "experiments" not in tables:
            return f"{path} is not whole: its making was interrupted; {WAY_OUT}"
        database.execute("SELECT count(*) FROM experiments").fetchone()
    return None


def _tables(path: Path) -> set[str]:
    with _opened(path) as database:
        rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {str(name) for (name,) in rows}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    # opened for writing, so that half-written changes of a process that died are rolled back
    place = f"file:{quote(str(path))}?mode=rw"
    with contextlib.closing(sqlite3.connect(place, uri=True, timeout=PATIENCE_S)) as database:
        yield database
