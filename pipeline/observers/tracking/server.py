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
from urllib.parse import unquote

from pipeline.problems import BadInput, reason_of
from pipeline.sanitize import page, without_secrets

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

_SQLITE = "sqlite:///"


def default_uri(folder: Path) -> str:
    """The SQLite database of a folder, which holds the artifacts too."""
    path = (folder.resolve() / "mlflow.db").as_posix()
    # MLflow takes a URI's escapes back, and what follows a question mark for options
    return _SQLITE + path.replace("%", "%25").replace("?", "%3F")


def artifact_folder(uri: str) -> Path | None:
    """The folder of artifacts beside an SQLite database; None for a server of another sort."""
    if not uri.startswith(_SQLITE):
        return None
    database = Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))
    return database.resolve().with_name("mlartifacts")


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
    if is_web(uri) and not answers(uri):
        return f"{without_secrets(uri)} does not answer"
    return None


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
