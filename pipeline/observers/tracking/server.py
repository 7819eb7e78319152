"""Where tracking servers are, whether they answer, and their pages; MLflow itself not imported."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.observers.tracking.database import (
    PATIENCE_S,
    database_path,
    follow_artifacts,
    identity_of,
    last_run,
    uri_of,
    wrong_with_database,
)
from pipeline.observers.tracking.view import TAG, cells_page, run_page
from pipeline.problems import BadInput, reason_of
from pipeline.problems.sanitize import page, without_secrets

if TYPE_CHECKING:
    from pipeline.store.ledger import Ledger

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's settings for saying nothing, to the terminal or to its makers."""

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""Seconds and retries of one request, unless the user has set others."""

PAGES = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
"""Settings of its pages: no processes that run jobs, no warnings."""

SCHEMES = {"sqlite", "postgresql", "mysql", "mssql", "databricks", "file"}
"""Addresses that MLflow takes besides those of web servers."""

DATABASE = "database"
"""Where the ledger keeps which database a server had when it was last open."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Where servers of databases listen that say nothing else."""


def default_uri(folder: Path) -> str:
    """The SQLite database of a folder, which holds the artifacts too."""
    return uri_of(folder.resolve() / "mlflow.db")


def artifact_folder(uri: str) -> Path | None:
    """The folder of artifacts beside an SQLite database; None for a server of another sort."""
    database = database_path(uri)
    return None if database is None else database.resolve().with_name("mlartifacts")


def follow(uri: str) -> None:
    """Where an SQLite database was moved with its artifacts, make it find them."""
    database, folder = database_path(uri), artifact_folder(uri)
    if database is not None and folder is not None:
        follow_artifacts(database, folder)


def pages(uri: str, port: int) -> dict[str, str]:
    """What to open first of the pages of a database, by what it is; nothing if it has no run."""
    database = database_path(uri)
    found = None if database is None else last_run(database, TAG)
    if found is None:
        return {}
    server = f"http://127.0.0.1:{port}"
    return {
        "cells": cells_page(server, found.experiment, saved=found.has_tag),
        "last run": run_page(server, found.experiment, found.run),
    }


def is_web(uri: str) -> bool:
    """Whether a server is asked over HTTP."""
    return uri.lower().startswith(("http://", "https://"))


def checked_address(uri: str) -> str:
    """An address that can be one of a server; BadInput for any other, which nobody is asked for."""
    if _can_be_asked(uri):
        return uri
    raise BadInput(
        f"--mlflow {without_secrets(uri)!r}: no address of a server; one looks like "
        "http://localhost:5000 or sqlite:////folder/mlflow.db"
    )


def _can_be_asked(uri: str) -> bool:
    scheme, sign, rest = uri.partition("://")
    if not uri.isprintable() or not sign:
        # MLflow's own name for the service that the user's Databricks profile is of
        return uri == "databricks"
    if is_web(uri):
        return bool(page(uri).partition("://")[2])
    if scheme.partition("+")[0] == "sqlite":
        # in memory it would be gone at the end of the run
        name = PurePosixPath(unquote(rest.partition("?")[0].removeprefix("/"))).name
        return rest.startswith("/") and name not in {"", ":memory:"}
    plugged = {entry.name for entry in entry_points(group="mlflow.tracking_store")}
    return bool(rest) and scheme.partition("+")[0] in SCHEMES | plugged


def wrong_with(uri: str) -> str | None:
    """Why a server cannot be used, as far as can be seen without MLflow; None if nothing is.

    A web server that does not answer within five seconds counts as unreachable.
    """
    if is_web(uri):
        return None if answers(uri) else f"{without_secrets(uri)} does not answer"
    if (path := database_path(uri)) is not None:
        return wrong_with_database(path)
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme in PORTS and not _listens(uri, PORTS[scheme]):
        return f"{without_secrets(uri)} does not answer"
    return None


def _listens(uri: str, port: int) -> bool:
    """Whether something takes connections at the host and port of an address."""
    try:
        parts = urlsplit(uri)
        place = parts.hostname or "localhost", parts.port or port
        with socket.create_connection(place, timeout=PATIENCE_S):
            return True
    except (OSError, ValueError):
        return False


def name_in_ledger(uri: str, ledger: Ledger) -> str:
    """By what the ledger knows a server: its address, and which database is there.

    A database that was deleted, or replaced by another, was told nothing yet.
    """
    address = without_secrets(uri)
    path = database_path(uri)
    if path is None:
        # as it was when it was last open
        return named(uri, ledger.logged_as(address, DATABASE))
    return named(uri, identity_of(path) if path.exists() else "absent")


def named(uri: str, identity: str | None) -> str:
    """See `name_in_ledger`; identity: of the database, None where it has none."""
    address = without_secrets(uri)
    return f"{address} {identity}" if identity else address


def answers(uri: str) -> bool:
    """Whether anything speaks HTTP there: an error status is an answer, so is a certificate."""
    health = f"{page(uri)}/health"
    try:
        with urllib.request.urlopen(health, timeout=5):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError, HTTPException):
        return False


def ui(uri: str, port: int) -> int:
    """Serve a database's pages on 127.0.0.1 until Ctrl-C; returns MLflow's exit code.

    BadInput where the port is taken, or the address is of a server with pages of its own.
    """
    if is_web(uri):
        known = without_secrets(uri)
        raise BadInput(f"MLflow at {known} has pages of its own: open it in a browser")
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = reason_of(error)
            raise BadInput(f"--port {port}: {reason}; choose another") from None
    follow(uri)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    # at Ctrl-C its web server would print a traceback of its own
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level critical"]
    if (files := artifact_folder(uri)) is not None:
        files.parent.mkdir(parents=True, exist_ok=True)
        # so that what is logged over HTTP lies where it does without a server
        command += ["--no-serve-artifacts", "--default-artifact-root", files.as_uri()]
    # the address may hold a password, and anyone on the machine can list arguments
    address = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    server = subprocess.Popen(
        command, env={**QUIET, **PAGES, **os.environ, **address}, start_new_session=True
    )
    # a session of its own gets no Ctrl-C from the terminal: its workers are ended here, with it
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        signal.signal(signal.SIGTERM, before)
