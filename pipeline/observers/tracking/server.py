"""Tracking servers: addresses, availability and web pages, without importing MLflow."""

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
"""MLflow settings that disable its output and telemetry."""

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow's timeout and retries for requests, unless the user has set them."""

PAGES = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
"""Settings of MLflow's web server: no job processes, no warnings."""

SCHEMES = {"sqlite", "postgresql", "mysql", "mssql", "databricks", "file"}
"""Address schemes that MLflow supports besides HTTP."""

DATABASE = "database"
"""Key in the ledger for the id of the database that a server had when it was last used."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Default ports of database servers."""


def default_uri(folder: Path) -> str:
    """Address of the SQLite database in a folder."""
    return uri_of(folder.resolve() / "mlflow.db")


def artifact_folder(uri: str) -> Path | None:
    """Folder of artifacts beside an SQLite database; None for other servers."""
    database = database_path(uri)
    return None if database is None else database.resolve().with_name("mlartifacts")


def follow(uri: str) -> None:
    """Update the artifact paths of an SQLite database that was moved with its artifacts."""
    database, folder = database_path(uri), artifact_folder(uri)
    if database is not None and folder is not None:
        follow_artifacts(database, folder)


def pages(uri: str, port: int) -> dict[str, str]:
    """The most useful pages of a database, by name; empty if it contains no run."""
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
    """Whether the address is an HTTP server."""
    return uri.lower().startswith(("http://", "https://"))


def checked_address(uri: str) -> str:
    """Validate the address of a server, without connecting; BadInput if it cannot be one."""
    if _can_be_asked(uri):
        return uri
    raise BadInput(
        f"--mlflow {without_secrets(uri)!r}: no address of a server; one looks like "
        "http://localhost:5000 or sqlite:////folder/mlflow.db"
    )


def _can_be_asked(uri: str) -> bool:
    scheme, sign, rest = uri.partition("://")
    if not uri.isprintable() or not sign:
        # MLflow's name for the service in the user's Databricks profile
        return uri == "databricks"
    if is_web(uri):
        return bool(page(uri).partition("://")[2])
    if scheme.partition("+")[0] == "sqlite":
        # a database in memory would be lost at the end of the run
        name = PurePosixPath(unquote(rest.partition("?")[0].removeprefix("/"))).name
        return rest.startswith("/") and name not in {"", ":memory:"}
    plugged = {entry.name for entry in entry_points(group="mlflow.tracking_store")}
    return bool(rest) and scheme.partition("+")[0] in SCHEMES | plugged


def wrong_with(uri: str) -> str | None:
    """Why a server cannot be used, as far as can be checked without MLflow; None if it can.

    A web server that does not answer within five seconds is considered unreachable.
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
    """Whether the host and port of an address accept connections."""
    try:
        parts = urlsplit(uri)
        place = parts.hostname or "localhost", parts.port or port
        with socket.create_connection(place, timeout=PATIENCE_S):
            return True
    except (OSError, ValueError):
        return False


def name_in_ledger(uri: str, ledger: Ledger) -> str:
    """Name of a server in the ledger: its address and the id of its database.

    So a new database at the same address counts as a server that nothing was logged to.
    """
    address = without_secrets(uri)
    path = database_path(uri)
    if path is None:
        # the id from when it was last used
        return named(uri, ledger.logged_as(address, DATABASE))
    return named(uri, identity_of(path) if path.exists() else "absent")


def named(uri: str, identity: str | None) -> str:
    """See `name_in_ledger`; identity: id of the database, or None."""
    address = without_secrets(uri)
    return f"{address} {identity}" if identity else address


def answers(uri: str) -> bool:
    """Whether an HTTP server answers, even with an error status or a certificate problem."""
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
    """Serve the web pages of a database on 127.0.0.1 until Ctrl-C; returns MLflow's exit code.

    Raises:
        BadInput: If the port is taken, or the server has web pages of its own.
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
    # without this option its web server prints a traceback at Ctrl-C
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level critical"]
    if (files := artifact_folder(uri)) is not None:
        files.parent.mkdir(parents=True, exist_ok=True)
        # artifacts logged over HTTP are stored in the same place as without a server
        command += ["--no-serve-artifacts", "--default-artifact-root", files.as_uri()]
    # passed in the environment, since other users can see command-line arguments and the address
    # may contain a password
    address = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    server = subprocess.Popen(
        command, env={**QUIET, **PAGES, **os.environ, **address}, start_new_session=True
    )
    # the process group does not receive the terminal's Ctrl-C, so it is terminated here
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
