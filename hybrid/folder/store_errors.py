"""Errors of an object store in our words. The library's own text repeats what the server said, which may name a key."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybrid.errors import CannotRun, HybridError, Temporary
from hybrid.machine.files import NotThere

CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class Known:
    """Codes of a server, or names of the library's errors, that have one meaning for the user."""

    codes: frozenset[str]
    kind: type[HybridError]
    what: str
    hint: str


KNOWN = (
    Known(
        frozenset({"NoSuchBucket"}),
        CannotRun,
        "there is no such bucket",
        "make the bucket first; for a store that is not Amazon's, AWS_ENDPOINT_URL says where it is",
    ),
    Known(
        frozenset({"FileNotFoundError", "NoSuchKey"}), NotThere, "no such file, or not yet", "wait, then run it again"
    ),
    Known(
        frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"}),
        CannotRun,
        "the bucket is in another region",
        "set AWS_REGION to the bucket's",
    ),
    Known(frozenset({"RequestTimeTooSkewed"}), CannotRun, "this machine's clock is wrong", "set the clock"),
    Known(
        frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}),
        Temporary,
        "no room left in the store",
        "free some space there and run the same command again: everything already written is kept",
    ),
    Known(
        frozenset(
            {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "401"}
            | {"403", "PermissionDeniedError", "UnauthenticatedError"}
        ),
        CannotRun,
        "no permission",
        "are the keys in the environment (AWS_, GOOGLE_) those of an account that may list, read and write there?",
    ),
)


def code_of(error: Exception) -> str:
    """What the server named the error, or its HTTP status; "" when it did not answer."""
    text = str(error)
    found = CODE.search(text) or STATUS.search(text)
    return found[1] if found else ""


def explained_store_error(error: Exception, what: str, *, doing: str) -> HybridError:
    """`error` as one that a user can act on; `what` is the URL. Of its text nothing is kept but the server's code."""
    if isinstance(error, HybridError):
        return error
    code = code_of(error)
    names = (code, type(error).__name__)
    for name in names:
        for known in KNOWN:
            if name in known.codes:
                said = f" ({code})" if code else ""
                return known.kind(f"{what}: {known.what}{said} while {doing}", hint=known.hint)
    why = f"the store answered with {code}" if code else "the store could not be reached"
    hint = "is the store there, and this machine on the network? then run the command again"
    return Temporary(f"{what}: {why} while {doing}", hint=hint)


def already_there(error: Exception) -> bool:
    """Whether the store refused to create a file since there is one."""
    return type(error).__name__ in ("AlreadyExistsError", "PreconditionError")


def refuses_conditions(error: Exception) -> bool:
    """Whether the store cannot create a file on the condition that there is none."""
    return type(error).__name__ == "NotSupportedError" or code_of(error) in ("NotImplemented", "501")
