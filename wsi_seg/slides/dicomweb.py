"""Whole-slide images of a DICOMweb server (PS3.18): addresses, credentials, and one line for what goes wrong.

    https://HOST/BASE/studies/UID/series/UID        as PS3.18, 10.4 has the resource of a series
    dicomweb://HOST/BASE/studies/UID/series/UID     the same over https

Credentials are those of `~/.netrc` (or of the file that `NETRC` names), as requests looks them up, or a
bearer token in `WSI_SEG_DICOMWEB_TOKEN`, which is sent to the host in `WSI_SEG_DICOMWEB_HOST` and no other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wsi_seg.core.errors import SlideError
from wsi_seg.core.storage_errors import reason_of

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient
    from pydicom import Dataset

SCHEME = "dicomweb://"
EXTRA_HINT = "pip install 'wsi-seg[dicom]'"
HOST_VARIABLE, TOKEN_VARIABLE = "WSI_SEG_DICOMWEB_HOST", "WSI_SEG_DICOMWEB_TOKEN"
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
ATTEMPTS = 3
# Before the second attempt twice as long, before the third four times.
PAUSE_MILLISECONDS = 250
NOT_ALLOWED, NOT_FOUND = (401, 403), (404, 410)

_SERIES = re.compile(r"(https?|dicomweb)://([^?#]+?)/studies/([0-9.]+)/series/([0-9.]+)/?")


@dataclass(frozen=True, slots=True)
class SeriesAddress:
    """One series of a DICOMweb server."""

    url: str
    """As it was given."""
    base: str
    """Address of the service, with the scheme http or https."""
    study: str
    series: str


def parse_series(path: str | Path) -> SeriesAddress | None:
    """Return the series that a URL names; None for anything else."""
    url = str(path)
    match = _SERIES.fullmatch(url)
    if match is None:
        return None
    scheme = "https" if match[1] == "dicomweb" else match[1]
    return SeriesAddress(url, f"{scheme}://{match[2]}", match[3], match[4])


def connect(address: SeriesAddress) -> DICOMwebClient:
    """Return a client for the use of one thread; nothing is sent yet.

    Raises:
        SlideError: the package is missing, or the address is none.
    """
    try:
        from dicomweb_client.api import DICOMwebClient
        from requests import Session
        from requests.auth import AuthBase
    except ImportError as error:
        raise SlideError(f"{address.url}: DICOMweb needs wsidicom; install it with: {EXTRA_HINT}") from error

    class BearerToken(AuthBase):
        def __init__(self, token: str) -> None:
            self._token = token

        def __call__(self, request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {self._token}"
            return request

    session = Session()
    token = os.environ.get(TOKEN_VARIABLE)
    if token and urlsplit(address.base).hostname == os.environ.get(HOST_VARIABLE):
        session.auth = BearerToken(token)
    try:
        client = DICOMwebClient(address.base, session=session, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except ValueError as error:
        raise SlideError(f"{address.url}: not an address of a server ({reason_of(error)})") from error
    client.set_http_retry_params(True, ATTEMPTS, PAUSE_MILLISECONDS)
    return client


def read_heads(address: SeriesAddress, client: DICOMwebClient) -> list[Dataset]:
    """Return the metadata of all instances of a series.

    Raises:
        SlideError: the server does not answer, refuses, has no such series, or sends something else.
    """
    from pydicom import Dataset

    with reported(address.url):
        answer = client.retrieve_series_metadata(address.study, address.series)
        try:
            heads = [Dataset.from_json(instance) for instance in answer]
        except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
            raise SlideError(
                f"{address.url}: the server sent no DICOM metadata ({reason_of(error)})"
            ) from error
    if not heads:
        raise SlideError(f"{address.url}: the server has no such series, or nothing in it")
    return heads


def hash_instances(uids: Iterable[str]) -> str:
    """Return a hash of the SOP Instance UIDs of a slide: one names the same pixels wherever it lies."""
    return hashlib.sha256("\n".join(sorted(uids)).encode()).hexdigest()


def stamp_series(address: SeriesAddress) -> tuple[int, str]:
    """Return the number of instances of a series, and their `hash_instances`; raises SlideError."""
    uids = [str(head.get("SOPInstanceUID", "")) for head in read_heads(address, connect(address))]
    return len(uids), hash_instances(uids)


@contextmanager
def reported(url: str) -> Iterator[None]:
    """Turn what the network and the server's answers raise into a SlideError in one line."""
    import requests
    import retrying

    try:
        yield
    except (requests.RequestException, retrying.RetryError) as error:
        raise SlideError(f"{url}: {why(error)}") from error


def why(error: BaseException) -> str:
    """Return in a few words what an error of requests means, and what can be done about it."""
    import requests
    import retrying

    if isinstance(error, retrying.RetryError):
        answer = error.last_attempt.value
        return f"the server is busy (status {answer.status_code}, {ATTEMPTS} times); try again later"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in NOT_ALLOWED:
        return (
            f"no permission (status {status}); are credentials for it in the environment? See docs/cloud.md"
        )
    if status in NOT_FOUND:
        return f"the server has no such series (status {status})"
    if status is not None:
        return f"the server refuses (status {status})"
    if isinstance(error, requests.Timeout):
        return f"the server does not answer within {READ_SECONDS:g} s"
    if isinstance(error, requests.JSONDecodeError):
        return "the server sent no DICOM metadata; is the address right?"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached; is the address right, and the server on?"
    return f"cannot be read ({reason_of(error)})"
