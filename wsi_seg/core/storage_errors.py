"""Errors of storage libraries in one line that names the URL and, where there is one, the way out."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from wsi_seg.core.errors import WsiSegError

# gcsfs logs what it also raises; unless the application listens, that goes to stderr besides our own line.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())

# What the storage libraries raise besides OSError; a library that is not loaded has raised nothing.
_LIBRARY_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "GoogleAuthError",
    "DefaultCredentialsError",
)
NOT_ALLOWED, NOT_FOUND = (401, 403), 404


def storage_errors() -> tuple[type[BaseException], ...]:
    """Return what the operating system, the network and the storage libraries raise."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in _LIBRARY_ERRORS)
    return (OSError, *(kind for kind in found if kind is not None))


@contextmanager
def reported(url: str, kind: type[WsiSegError]) -> Iterator[None]:
    """Turn what a storage library raises into an error of the given kind, in one line with the URL."""
    try:
        yield
    except storage_errors() as error:
        raise kind(describe(url, error)) from error


def describe(url: str, error: BaseException) -> str:
    """Return in one line what went wrong with a URL, and what can be done about it."""
    # fsspec says "not found" over http whatever happened; why is in the cause.
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, storage_errors()):
        error = cause
    reason, status = reason_of(error), _status(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, PermissionError) or status in NOT_ALLOWED or names & set(_NO_CREDENTIALS):
        return (
            f"{url}: no permission ({reason}); are credentials for it in the environment? See docs/cloud.md"
        )
    if isinstance(error, FileNotFoundError) or status == NOT_FOUND:
        detail = getattr(error, "strerror", None) or reason
        known = status == NOT_FOUND or detail in (*url.split("://"), os.strerror(errno.ENOENT))
        return f"{url}: no such file{'' if known else f' ({detail})'}"
    return f"{url}: cannot be reached or read ({reason})"


def reason_of(error: BaseException) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def is_final(error: BaseException) -> bool:
    """Tell whether asking again would be of no use."""
    return isinstance(error, PermissionError | FileNotFoundError) or _status(error) in (
        *NOT_ALLOWED,
        NOT_FOUND,
    )


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of one of the libraries carries."""
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return value if isinstance(value, int) else None
    return None
