"""Storage backend for cloud buckets, with a cache of read files on each machine.

    s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=...&cache=FOLDER&cache_gb=20
    gs://BUCKET/PREFIX?endpoint=...
    az://CONTAINER/PREFIX?account=NAME&endpoint=...

All options after the question mark may be omitted. Credentials come from the environment or the
machine, as with each cloud's own tools; those in `~/.aws` need boto3.

Objects are written atomically. If two processes write the same record, exactly one succeeds,
because records are written conditionally (`If-None-Match: *` on S3 and Azure, generation 0 on
Google Cloud). `prepare` rejects servers that ignore the condition.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pipeline.problems import BadInput, Unwritable, reason_of, suggestion
from pipeline.store.backend import FileInfo, draft_folder
from pipeline.store.bucket_cache import BucketCache
from pipeline.store.files import CACHE, cache_folder
from pipeline.store.records import META

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

OPTIONS = {
    "s3": ("endpoint", "region", "cache", "cache_gb"),
    "gs": ("endpoint", "cache", "cache_gb"),
    "az": ("account", "endpoint", "cache", "cache_gb"),
}
"""Valid options of an address, by scheme."""
SCHEMES = tuple(f"{scheme}://" for scheme in OPTIONS)
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
CACHE_GB = 20.0
CONNECT = timedelta(seconds=10)
SILENCE = timedelta(seconds=60)
"""Read timeout: how long a server may pause within a response."""
LONGEST = timedelta(hours=6)
"""Timeout of a whole request; the client's default of 30 s is too short for large files."""
RETRIES = 5
FIRST_PAUSE = timedelta(seconds=0.5)
"""Pause before the first retry; doubled each time, so all retries take up to 15 s."""
CHUNK = 2**23
NO_ANSWER = "the server does not answer"
DENIED = "access denied: are the credentials those of this bucket?"
PLAIN = {
    "NoSuchBucket": "there is no such bucket",
    "ContainerNotFound": "there is no such container",
    "AccessDenied": DENIED,
    "AuthorizationFailure": DENIED,
    "AuthenticationFailed": DENIED,
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
"""Messages for the error codes of servers."""
ABSENT = ("NoSuchBucket", "ContainerNotFound")


class Bucket:
    """See `Backend`. BadInput if the address is invalid or the bucket cannot be reached."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._scheme = parts.scheme
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        options = OPTIONS[self._scheme]
        for name in given:
            if name not in options:
                raise BadInput(f"--store: unknown option '{name}'{suggestion(name, options)}")
        if "@" in parts.netloc:
            raise BadInput(
                f"--store: credentials belong into {CREDENTIALS[self._scheme]}, "
                "not into the address"
            )
        if not parts.netloc:
            raise BadInput(f"--store {address}: expected {self._scheme}://BUCKET/PREFIX")
        self._name = parts.netloc
        self._prefix = "/".join(filter(None, parts.path.split("/")))
        self._given = given
        bound = 1e9 * _number("cache_gb", given.get("cache_gb", str(CACHE_GB)))
        place = given.get("cache")
        folder = Path(place).expanduser() / CACHE if place else cache_folder()
        whose = given.get("account", "") if self._scheme == "az" else given.get("endpoint")
        root = self._root if self._scheme == "s3" else f"{self._scheme}://{self._root}"
        name = hashlib.sha256(f"{whose} {root}".encode()).hexdigest()[:16]
        self._cache = BucketCache(folder.resolve() / name, bound)
        self._objects = _client(
            self._scheme,
            self._name,
            endpoint=given.get("endpoint"),
            region=given.get("region"),
            account=given.get("account"),
        )
        self.check()

    @property
    def address(self) -> str:
        """The address as given, with only its valid options and without empty parts."""
        query = urlencode(self._given, safe="/:")
        return f"{self._scheme}://{self._root}" + (f"?{query}" if query else "")

    @property
    def _root(self) -> str:
        return f"{self._name}/{self._prefix}" if self._prefix else self._name

    def prepare(self) -> None:
        """See `Backend.prepare`. Checks conditional writes by creating a probe object twice."""
        probe = FileInfo(f"probe-{uuid.uuid4().hex}", 0, 0.0)
        try:
            self._create(probe.key, b"probe")
            with contextlib.suppress(FileExistsError):
                self._create(probe.key, b"another")
                raise BadInput(
                    f"store {self.address}: the server does not honour conditional writes "
                    "(If-None-Match), so that of two writers both would win"
                )
            self._cache.folder.mkdir(parents=True, exist_ok=True)
        except Unwritable as problem:
            raise BadInput(str(problem)) from None
        except OSError as error:
            what = f"cache {self._cache.folder}: cannot be written to"
            raise BadInput(f"{what}: {reason_of(error)}") from None
        finally:
            with contextlib.suppress(Unwritable):
                self._delete([probe])

    def check(self) -> None:
        """Raise BadInput if the bucket does not exist or does not answer."""
        import obstore

        try:
            with self.writing():
                next(iter(obstore.list(self._objects, self._prefix, chunk_size=1)), None)
        except Unwritable as problem:
            raise BadInput(str(problem)) from None

    def read(self, key: str) -> bytes:
        """See `Backend.read`."""
        import obstore

        with self.writing():
            return bytes(obstore.get(self._objects, self._place(key)).bytes())

    def write(self, key: str, data: bytes) -> None:
        """See `Backend.write`."""
        import obstore

        with self.writing():
            obstore.put(self._objects, self._place(key), data)

    def touch(self, key: str) -> None:
        """See `Backend.touch`."""
        self.write(key, self.read(key))

    def settle(self, draft: Path, key: str) -> None:
        """See `Backend.settle`. The draft becomes the cached copy of this machine."""
        import obstore

        with self.writing():
            obstore.put(self._objects, self._place(key), draft, chunk_size=CHUNK)
        self._cache.keep(draft, key)

    def create(self, draft: Path, key: str) -> None:
        """See `Backend.create`."""
        self._create(key, draft.read_bytes())

    def _create(self, key: str, data: bytes) -> None:
        """Create an object; FileExistsError if it exists.

        Also raised if an earlier attempt had created it and only its response was lost.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self.writing():
            try:
                obstore.put(self._objects, self._place(key), data, mode="create")
            except AlreadyExistsError:
                raise FileExistsError(key) from None

    def path(self, key: str, *, fresh: bool = False) -> Path:
        """See `Backend.path`: a cached copy, downloaded once for this machine."""
        import obstore

        copy = self._cache.place(key)
        if not fresh and self._cache.has(key):
            return copy
        with self.scratch() as scratch, self._cache.lock(key):
            if fresh or not self._cache.has(key):
                draft = scratch / "copy"
                found = obstore.get(self._objects, self._place(key))
                with draft.open("wb") as sink:
                    for chunk in found.stream(min_chunk_size=CHUNK):
                        sink.write(chunk)
                self._cache.keep(draft, key)
        return copy

    def find(self, pattern: str) -> Iterator[FileInfo]:
        """See `Backend.find`. Pages of results are requested lazily."""
        import obstore

        start = list(_before_wildcard(pattern))
        wanted = re.compile(_expression(pattern))
        place = self._place("/".join(start))
        if not re.search(r"[*?[]", pattern):
            yield from self._there(pattern)
            return
        pages: Iterator[Sequence[ObjectMeta]]
        with self.writing():
            if pattern.count("/") > len(start):
                pages = iter(obstore.list(self._objects, place or None))
            else:
                pages = iter([obstore.list_with_delimiter(self._objects, place or None)["objects"]])
        while True:
            with self.writing():
                page = next(pages, None)
            if page is None:
                return
            for found in page:
                key = found["path"].removeprefix(f"{self._prefix}/" if self._prefix else "")
                name = key.rpartition("/")[2]
                if found["size"] == 0 and "." not in name:
                    continue  # a folder placeholder of some clients
                if wanted.fullmatch(key):
                    yield FileInfo(key, found["size"], found["last_modified"].timestamp())

    def _there(self, key: str) -> Iterator[FileInfo]:
        """The object of a key, if it exists."""
        import obstore

        try:
            with self.writing():
                found = obstore.head(self._objects, self._place(key))
        except FileNotFoundError:
            return
        yield FileInfo(key, found["size"], found["last_modified"].timestamp())

    def move(self, key: str, target: str) -> None:
        """See `Backend.move`. Copies all objects, then deletes the old ones, the record first."""
        import obstore

        found = list(self.find(f"{key}/**/*"))
        if not found:
            raise FileNotFoundError(key)
        with self.writing():
            for entry in found:
                place = f"{target}{entry.key.removeprefix(key)}"
                with contextlib.suppress(FileNotFoundError):
                    obstore.copy(self._objects, self._place(entry.key), self._place(place))
        self._delete(found)

    def remove(self, key: str) -> None:
        """See `Backend.remove`. An artifact's record, which defines its existence, goes first."""
        found = [*self._there(key), *self.find(f"{key}/**/*")]
        if not found:
            raise FileNotFoundError(key)
        self._delete(found)

    def _delete(self, found: list[FileInfo]) -> None:
        import obstore

        with self.writing():
            for entry in sorted(found, key=lambda entry: PurePosixPath(entry.key).name != META):
                # another process may delete it at the same time
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._objects, self._place(entry.key))
                self._cache.drop(entry.key)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Backend.scratch`: a folder in the cache."""
        with self.writing(), draft_folder(self._cache.scratch) as place:
            yield place

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """See `Backend.writing`. Errors about existing or missing files are not converted."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            if _code(error) not in ABSENT:
                raise
            raise Unwritable(f"store {self.address}: {_reason(error)}") from error
        except (OSError, BaseError) as error:
            raise Unwritable(f"store {self.address}: {_reason(error)}") from error

    def _place(self, key: str) -> str:
        return "/".join(filter(None, [self._prefix, key]))


@cache
def _client(
    scheme: str, bucket: str, *, endpoint: str | None, region: str | None, account: str | None
) -> ObjectStore:
    """The client of a bucket; one for each process, since it pools connections."""
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    if scheme == "s3":
        # the same environment variables as AWS tools, in their order
        variables = (os.environ.get(variable) for variable in ENDPOINT_VARIABLES)
        endpoint = endpoint or next(filter(None, variables), None)
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    how: dict[str, Any] = {
        "client_options": {
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": CONNECT,
            "read_timeout": SILENCE,
            "timeout": LONGEST,
        },
        "retry_config": {
            "max_retries": RETRIES,
            "backoff": {"init_backoff": FIRST_PAUSE, "max_backoff": CONNECT, "base": 2},
        },
    }
    if endpoint:
        how["base_url" if scheme == "gs" else "endpoint"] = endpoint.rstrip("/")
    try:
        match scheme:
            case "s3":
                how |= {"region": region} if region else {}
                return S3Store(bucket, credential_provider=_profile(), **how)
            case "gs":
                return GCSStore(bucket, **how)
            case _:
                how |= {"account_name": account} if account else {}
                return AzureStore(bucket, **how)
    except (BaseError, ValueError, OSError) as error:
        raise BadInput(f"--store {scheme}://{bucket}: {_reason(error)}") from None


def _profile() -> Any:
    """Credentials from `~/.aws` or AWS_PROFILE; None if there are none or they are not needed."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    named = os.environ.get("AWS_PROFILE")
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if not named and not file.is_file():
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        where = f"AWS_PROFILE={named}" if named else str(file)
        raise BadInput(
            f"--store: credentials as {where} has them need boto3; install it, or set "
            f"{CREDENTIALS['s3']}"
        ) from None
    return Boto3CredentialProvider()


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise BadInput(f"--store: {name}={text}: expected a number above 0")
    return number


def _code(error: Exception) -> str | None:
    """The error code in a server's response."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found.group(1) if found else None


def _reason(error: Exception) -> str:
    """Reason of an error, in plain words if they are known; never contains a signed URL."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    plain = PLAIN.get(_code(error) or "")
    if plain is not None:
        return plain
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return DENIED
    said = str(error).partition("Debug source:")[0]
    if "token request" in said or "169.254.169.254" in said:
        return "no credentials were found"
    if "HTTP error:" in said:
        return NO_ANSWER
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r"\?\S*", "", " ".join(said.split()))[:300]


def _before_wildcard(pattern: str) -> Iterator[str]:
    for part in pattern.split("/")[:-1]:
        if re.search(r"[*?[]", part):
            return
        yield part


def _expression(pattern: str) -> str:
    """A regular expression for a glob pattern in which `*` does not match slashes."""
    marks = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "[!": "[^", "[": "[", "]": "]"}
    found = re.split(r"(\*\*/|\*|\?|\[!|\[|\])", pattern)
    return "".join(marks.get(part, re.escape(part)) for part in found)
