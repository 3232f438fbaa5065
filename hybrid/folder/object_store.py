"""A folder in an object store (S3 and compatible ones, Google Cloud Storage), for machines on which nothing mounts it.

Keys come from the environment and are given to nobody but the library; its error messages repeat what the server said,
which may name a key, so ours take only codes from them.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError
from hybrid.folder.medium import Disk, Entry, Medium, NotThere
from hybrid.folder.store_errors import already_there, explained_store_error, refuses_conditions
from hybrid.machine import home
from hybrid.machine.late_imports import import_object

REQUEST_SECONDS = 60
"""Seconds of one request, its body included."""
MOST_RETRIES = 4
RETRY_SECONDS = 30
"""Seconds after the first request at which no other one is begun."""
LIST_SECONDS = 60.0
"""Seconds of a listing, all of its pages together."""
MOST_ENTRIES = 200_000
"""Most entries of one place."""
ROUNDS = 3
"""Most times that a file is looked for before it is written."""

KEYS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
    ),
    "gs": (
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SKIP_SIGNATURE",
    ),
}
"""Scheme -> the variables of which one must be set: without any, the library would ask the network for keys."""

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
YES = {"1", "true", "yes", "on", "t", "y"}


def medium_at(folder: Path) -> Medium:
    """The medium of a shared folder: a directory, or the store that the path stands for (`home.folder_at`)."""
    url = home.store_url(folder)
    return ObjectStore(url) if url else Disk(folder)


def directory(folder: Medium, what: str) -> Disk:
    """The folder, if it is a directory. Raises UsageError for a store, in which `what` is not offered."""
    if isinstance(folder, Disk):
        return folder
    raise UsageError(f"{folder} is in a store, where no {what}", hint="use a directory of this machine: --folder")


class ObjectStore:
    """The objects below a prefix of a bucket, as a folder.

    An upload is seen whole or not at all. A store has no folders, so one name may be a file and the beginning of
    others; both are listed.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self.url = url
        self._conditional = True  # until the store says that it cannot create on a condition
        if client is not None:
            self._client = client

    def __str__(self) -> str:
        return self.url

    def entries(self, place: str) -> list[Entry]:
        prefix = self._inside(place)
        try:
            found = asyncio.run(self._listed(prefix))
        except TimeoutError:
            what = f"{self.url}/{place}".rstrip("/")
            raise Temporary(f"{what}: not listed within {LIST_SECONDS:.0f} s", hint="run the command again") from None
        except Exception as error:  # noqa: BLE001 - the library has no common class, and its words may hold a key
            raise self._explained(error, place, "listing it") from None
        folders, files = found["common_prefixes"], [one["path"] for one in found["objects"]]
        if len(folders) + len(files) > MOST_ENTRIES:
            raise BadData(f"{self.url}/{place}: more than {MOST_ENTRIES:,} entries, which no folder of hybrid has")
        begin = f"{prefix}/" if prefix else ""
        names: list[tuple[str, Literal["file", "folder"]]] = [(path.rstrip("/"), "folder") for path in folders]
        names += [(path, "file") for path in files if path != prefix]  # a web page marks an empty folder so
        named = [Entry(path.removeprefix(begin), kind) for path, kind in names]
        return [entry for entry in named if entry.name and "/" not in entry.name]

    async def _listed(self, prefix: str) -> Any:
        asked = self._library.list_with_delimiter_async(self._client, prefix or None)
        return await asyncio.wait_for(asked, LIST_SECONDS)

    def read(self, path: str, limit: int) -> bytes:
        size, data = self._present(path, limit) or (0, None)
        if data is None:
            raise NotThere(f"{self.url}/{path}: no such file, or not yet", hint="wait, then run the command again")
        if size > limit:
            raise BadData(f"{self.url}/{path}: larger than the {limit:,} bytes allowed")
        return data

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        """As `Medium.write`. The file is looked for first: some servers ignore that it shall be created only."""
        for _ in range(ROUNDS):
            found = self._present(path, len(data))
            if found is None:
                if self._put(path, data, "create" if self._conditional else "overwrite"):
                    return
                continue  # it was written meanwhile
            size, present = found
            if size == len(data) and present == data:
                return
            if not heal and (size > len(data) or not data.startswith(present)):
                what = f"{self.url}/{path}: holds other content than what belongs there"
                raise BadData(what, hint="move that file away and try again")
            if self._put(path, data, "overwrite"):
                return
        raise Temporary(f"{self.url}/{path}: is said to be there and to be missing", hint="run the command again")

    def remove(self, path: str) -> None:
        try:
            self._library.delete(self._client, self._inside(path))
        except Exception as error:  # noqa: BLE001 - see `entries`
            explained = self._explained(error, path, "removing it")
            if not isinstance(explained, NotThere):
                raise explained from None

    def _put(self, path: str, data: bytes, mode: Literal["create", "overwrite"]) -> bool:
        """Whether the file was written; with `create` it is not where there is one."""
        try:
            self._library.put(self._client, self._inside(path), data, mode=mode, use_multipart=False)
        except Exception as error:  # noqa: BLE001 - see `entries`
            if mode == "create" and already_there(error):
                return False
            if mode == "create" and refuses_conditions(error):  # then one writer per path has to do
                self._conditional = False
                return self._put(path, data, "overwrite")
            raise self._explained(error, path, "writing it") from None
        return True

    def _present(self, path: str, limit: int) -> tuple[int, bytes] | None:
        """The size of a file, in bytes, and its content if that is not above `limit`; None when there is no file."""
        inside = self._inside(path)
        if not inside:
            raise BadData(f"{self.url}: a folder, not a file")
        try:
            found = self._library.get(self._client, inside)
            size = int(found.meta["size"])
            return size, bytes(found.bytes()) if size <= limit else b""
        except Exception as error:  # noqa: BLE001 - see `entries`
            explained = self._explained(error, path, "reading it")
            if isinstance(explained, NotThere):
                return None
            raise explained from None

    def _explained(self, error: Exception, path: str, doing: str) -> HybridError:
        return explained_store_error(error, f"{self.url}/{path}".rstrip("/"), doing=doing)

    def _inside(self, path: str) -> str:
        """`path` without empty parts. Raises BadData when it leads out of the folder."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or any(letter < " " or letter in "\\\x7f" for letter in path):
            raise BadData(f"{path!r:.200}: not a path inside a folder")
        return "/".join(parts)

    @cached_property
    def _library(self) -> Any:
        return import_object("obstore", needed_for=f"the folder {self.url}")

    @cached_property
    def _client(self) -> Any:
        scheme = self.url.partition(":")[0]
        _refuse_without_keys(self.url, scheme)
        options = {"timeout": timedelta(seconds=REQUEST_SECONDS), "connect_timeout": timedelta(seconds=10)}
        retries = {"max_retries": MOST_RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
        plain = {"allow_http": True} if scheme == "s3" and _plain_http(self.url) else {}
        from_url = import_object("obstore.store:from_url", needed_for=f"the folder {self.url}")
        try:
            return from_url(self.url, client_options={**options, **plain}, retry_config=retries)
        except Exception as error:  # noqa: BLE001 - see `entries`
            which = "AWS_" if scheme == "s3" else "GOOGLE_"
            raise CannotRun(
                f"{self.url}: what the environment says of the store is not valid ({type(error).__name__})",
                hint=f"look at the variables that begin with {which}: keys, endpoint, files that they name",
            ) from None


def _refuse_without_keys(url: str, scheme: str) -> None:
    """Raise CannotRun when the environment has no keys: the library would ask the network for some, for minutes."""
    if not any(os.environ.get(name) for name in KEYS[scheme]):
        wanted = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if scheme == "s3" else KEYS[scheme][1]
        raise CannotRun(
            f"{url}: the environment has no keys for the store",
            hint=f"set {wanted}; they are never written into the folder or a log",
        )


def _plain_http(url: str) -> bool:
    """Whether the endpoint is not encrypted and may be so. Raises CannotRun when it may not."""
    endpoint = next((found for name in ENDPOINTS if (found := os.environ.get(name))), "")
    place = urlsplit(endpoint)
    if place.scheme != "http":
        return False
    if place.hostname in LOOPBACK or os.environ.get("AWS_ALLOW_HTTP", "").lower() in YES:
        return True
    raise CannotRun(
        f"{url}: the endpoint in the environment is http, so that everybody on the way reads and changes the files",
        hint="use https, or set AWS_ALLOW_HTTP=true in a network that you trust",
    )
