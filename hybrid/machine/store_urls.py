"""Names of folders in an object store: `s3://BUCKET/PREFIX` and `gs://BUCKET/PREFIX`, as text and as a file name.

Commands know a folder by its path. A folder in a store is known by a path below HYBRID_HOME, made of its URL: there
this machine keeps what stands beside the protocol (results), and the path tells which store is meant.
"""

from __future__ import annotations

import re

from hybrid.errors import UsageError
from hybrid.machine.redaction import redacted

URL = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,62}[a-z0-9])((?:/[A-Za-z0-9._-]{1,120})*)/?")
LONGEST = 180
"""Most characters of a URL, so that it can be the name of a file."""
MARK = re.compile(r"=([a-z])")


def is_url(text: str) -> bool:
    """Whether a text means a URL rather than a path."""
    return "://" in text


def checked_url(text: str) -> str:
    """The URL without a `/` at its end. Raises UsageError, without keys that somebody wrote into it."""
    found = URL.fullmatch(text)
    if not found or len(text) > LONGEST or {".", ".."} & set(text.split("/")):
        raise UsageError(
            f"{redacted(text)[:LONGEST]!r} is not a folder in a store that hybrid knows",
            hint="s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, of letters, digits, '.', '_' and '-'; keys come from the "
            "environment, never from the name",
        )
    return text.rstrip("/")


def file_name(url: str) -> str:
    """The URL as the name of a file, different from every other's on a disk that ignores case as well."""
    scheme, _, place = url.partition("://")
    return re.sub("[A-Z]", lambda letter: f"={letter[0].lower()}", f"{scheme}+{place.replace('/', '+')}")


def url_of(name: str) -> str:
    """The URL whose `file_name` is `name`; "" when it is none."""
    scheme, _, place = MARK.sub(lambda mark: mark[1].upper(), name).partition("+")
    url = f"{scheme}://{place.replace('+', '/')}"
    return url if URL.fullmatch(url) and file_name(url) == name else ""
