"""A store's ground that is an S3-compatible bucket, with copies of what is read on each machine.

`s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=...&cache=FOLDER&cache_gb=20`; all of the
question mark's may be left out. Credentials come from where the AWS tools look for them.

An object appears whole or not at all. S3 through Arrow has no way to write only where nothing
is, so of two records that are put in the same instant the later one stands, as whole as the
other: each writer looks before it writes, and reads what stands afterwards. Arrow asks for an
object's length first and then for so many bytes, so what is replaced in between is read with a
piece missing or with bytes that mean nothing; `Store.record` reads such a record again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pipeline.problems import BadInput, Unwritable, suggestion
from pipeline.store.backend import Entry, draft_folder
from pipeline.store.records import META

SCHEME = "s3://"
OPTIONS = ("endpoint", "region", "cache", "cache_gb")
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CACHE_GB = 20.0
IN_USE_S = 600.0
"""A copy that was asked for so lately may be about to be opened: it stays."""
PATIENCE_S = 10.0
"""How long a server may take to accept a connection."""
ATTEMPTS = 5
"""Arrow's own 3 are over in a second or two where a server refuses connections."""
CHUNK = 2**23
PLAIN = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "ACCESS_DENIED": "access denied: are the credentials those of this bucket?",
    "INVALID_ACCESS_KEY_ID": "the server does not know this access key",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not belong to the access key",
    "NETWORK_CONNECTION": "the server does not answer",
}
"""Arrow's names of errors, in words."""


class Bucket:
    """See `Ground`. BadInput where the address is none, or the bucket cannot be reached."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in given:
            if name not in OPTIONS:
                raise BadInput(f"--store: unknown option '{name}'{suggestion(name, OPTIONS)}")
        if "@" in parts.netloc:
            raise BadInput(
                "--store: credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "not into the address"
            )
        if not parts.netloc:
            raise BadInput(f"--store {address}: expected s3://BUCKET/PREFIX")
        self._root = "/".join(filter(None, [parts.netloc, *parts.path.split("/")]))
        self._given = given
        self._bound = 1e9 * _number("cache_gb", given.get("cache_gb", str(CACHE_GB)))
        place = given.get("cache") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = hashlib.sha256(f"{given.get('endpoint')} {self._root}".encode()).hexdigest()[:16]
        self._cache = Path(place).expanduser().resolve() / "test-time-defense-bench" / name
        self._unseen = self._bound  # bytes of copies since all were last looked at
        # Arrow does not look at what other tools take a server's address from
        variables = (os.environ.get(variable) for variable in ENDPOINT_VARIABLES)
        endpoint = given.get("endpoint") or next(filter(None, variables), None)
        self._files = _connection(endpoint, given.get("region"))
        self.check()

    @property
    def address(self) -> str:
        """As it was given, without what is of no consequence."""
        query = urlencode(self._given, safe="/:")
        return f"{SCHEME}{self._root}" + (f"?{query}" if query else "")

    def prepare(self) -> None:
        """See `Ground.prepare`: something is written, and deleted."""
        try:
            probe = Entry(f"probe-{uuid.uuid4().hex}", 0, 0.0)
            self.write(probe.key, b"probe")
            self._delete([probe])
            self._cache.mkdir(parents=True, exist_ok=True)
        except Unwritable as problem:
            raise BadInput(str(problem)) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(f"cache {self._cache}: cannot be written to: {reason}") from None

    def check(self) -> None:
        """BadInput where the bucket is not there or does not answer."""
        bucket = self._root.split("/")[0]
        try:
            found = self._files.get_file_info(bucket)
        except OSError as error:
            raise BadInput(f"store {self.address}: {_reason(error)}") from None
        if found.type.name == "NotFound":
            raise BadInput(f"store {self.address}: there is no bucket '{bucket}'")

    def read(self, key: str) -> bytes:
        """See `Ground.read`."""
        with self.writing(), self._files.open_input_stream(self._place(key)) as source:
            return bytes(source.read())

    def write(self, key: str, data: bytes) -> None:
        """See `Ground.write`."""
        with self.writing(), self._files.open_output_stream(self._place(key)) as sink:
            sink.write(data)

    def touch(self, key: str) -> None:
        """See `Ground.touch`."""
        self.write(key, self.read(key))

    def settle(self, draft: Path, key: str) -> None:
        """See `Ground.settle`; the draft becomes this machine's copy."""
        self._upload(draft, key)
        self._keep(draft, key)

    def create(self, draft: Path, key: str) -> None:
        """See `Ground.create`, and this module about two writers in the same instant."""
        with self.writing():
            if self._files.get_file_info(self._place(key)).type.name != "NotFound":
                raise FileExistsError(key)
            self.write(key, draft.read_bytes())

    def path(self, key: str, *, fresh: bool = False) -> Path:
        """See `Ground.path`: a copy, made once on this machine."""
        # imported here: a machine without buckets need not have it
        from filelock import FileLock

        copy = self._cache / "files" / key
        if not fresh and _used(copy):
            return copy
        lock = hashlib.sha256(key.encode()).hexdigest()[:2]
        with self.scratch() as scratch, FileLock(self._cache / f"lock-{lock}"):
            if fresh or not _used(copy):
                draft = scratch / "copy"
                with (
                    self._files.open_input_stream(self._place(key)) as source,
                    draft.open("wb") as sink,
                ):
                    shutil.copyfileobj(source, sink, CHUNK)
                self._keep(draft, key)
        return copy

    def find(self, pattern: str) -> Iterator[Entry]:
        """See `Ground.find`."""
        from pyarrow import fs

        start = list(_before_wildcard(pattern))
        wanted = re.compile(_expression(pattern))
        selector = fs.FileSelector(
            self._place("/".join(start)),
            recursive=pattern.count("/") > len(start),
            allow_not_found=True,
        )
        with self.writing():
            found = self._files.get_file_info(selector)
        for info in found:
            key = info.path.removeprefix(f"{self._root}/")
            if info.type.name == "File" and wanted.fullmatch(key):
                yield Entry(key, info.size, info.mtime_ns / 1e9)

    def move(self, key: str, target: str) -> None:
        """See `Ground.move`: copied whole, then the old ones go, an artifact's record first."""
        found = list(self.find(f"{key}/**/*"))
        if not found:
            raise FileNotFoundError(key)
        with self.writing():
            for entry in found:
                place = f"{target}{entry.key.removeprefix(key)}"
                with contextlib.suppress(FileNotFoundError):
                    self._files.copy_file(self._place(entry.key), self._place(place))
        self._delete(found)

    def remove(self, key: str) -> None:
        """See `Ground.remove`: an artifact's record goes first, and with it the artifact."""
        found = [*self.find(key), *self.find(f"{key}/**/*")]
        if not found:
            raise FileNotFoundError(key)
        self._delete(found)

    def _delete(self, found: list[Entry]) -> None:
        with self.writing():
            for entry in sorted(found, key=lambda entry: PurePosixPath(entry.key).name != META):
                # somebody else may take it away at the same time
                with contextlib.suppress(FileNotFoundError):
                    self._files.delete_file(self._place(entry.key))
                (self._cache / "files" / entry.key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Ground.scratch`: beside this machine's copies."""
        with self.writing(), draft_folder(self._cache / "scratch") as place:
            yield place

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """See `Ground.writing`: any error but that something is or is not there."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise Unwritable(f"store {self.address}: {_reason(error)}") from error

    def _place(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _upload(self, draft: Path, key: str) -> None:
        with (
            self.writing(),
            draft.open("rb") as source,
            self._files.open_output_stream(self._place(key)) as sink,
        ):
            shutil.copyfileobj(source, sink, CHUNK)

    def _keep(self, draft: Path, key: str) -> None:
        """Make a file this machine's copy; now and then, look whether there are too many."""
        copy = self._cache / "files" / key
        copy.parent.mkdir(parents=True, exist_ok=True)
        self._unseen += draft.stat().st_size
        draft.replace(copy)
        _used(copy)
        if self._unseen > self._bound / 20:
            self._unseen = 0.0
            self._make_room()

    def _make_room(self) -> None:
        """Drop the copies that were used longest ago, as many as are beyond the bound."""
        copies = []
        for path in self._cache.glob("*/**/*"):
            with contextlib.suppress(FileNotFoundError):
                if not path.is_dir():
                    copies.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in copies)
        for used, size, path in sorted(copies):
            if total <= self._bound or used > time.time() - IN_USE_S:
                return
            path.unlink(missing_ok=True)
            total -= size


@cache
def _connection(endpoint: str | None, region: str | None) -> Any:
    """Arrow's file system of an S3 server; one for each process."""
    from pyarrow import fs

    options: dict[str, Any] = {
        "allow_delayed_open": True,
        "connect_timeout": PATIENCE_S,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    }
    if endpoint:
        scheme, sign, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme if sign else "https"}
    if region:
        options["region"] = region
    try:
        return fs.S3FileSystem(**options)
    except (OSError, ValueError) as error:
        raise BadInput(f"--store: {' '.join(str(error).split())}") from None


def _used(copy: Path) -> bool:
    """Note that a copy is used now; False where there is none."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise BadInput(f"--store: {name}={text}: expected a number above 0")
    return number


def _reason(error: OSError) -> str:
    """What went wrong, in words where there are some for it."""
    said = " ".join(str(error).split())
    code = re.search(r"AWS Error ([A-Z_]+)", said)
    plain = PLAIN.get(code.group(1)) if code else None
    return plain or (error.strerror or said)[:300]


def _before_wildcard(pattern: str) -> Iterator[str]:
    for part in pattern.split("/")[:-1]:
        if re.search(r"[*?[]", part):
            return
        yield part


def _expression(pattern: str) -> str:
    """A regular expression of a glob pattern whose stars do not cross slashes."""
    marks = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "[!": "[^", "[": "[", "]": "]"}
    found = re.split(r"(\*\*/|\*|\?|\[!|\[|\])", pattern)
    return "".join(marks.get(part, re.escape(part)) for part in found)
