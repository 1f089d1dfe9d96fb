"""A DICOMweb server on loopback: what a viewer asks for of QIDO-RS and WADO-RS (PS3.18, 10.4 and 10.6).

It serves the files of one folder as they are stored and transcodes nothing: frames asked for in another
transfer syntax are refused with status 406.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pydicom import FileDataset, dcmread
from pydicom.encaps import generate_frames

POLL_SECONDS = 0.01
BOUNDARY = "frame-of-a-slide"
MEDIA = {
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.1": "application/octet-stream",
}


@dataclass
class Service:
    """Instances that a server offers, requests that it saw, and the faults it is set to make."""

    instances: dict[str, FileDataset]
    """By SOP Instance UID."""
    requests: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    status: int | None = None
    """Answer everything with it."""
    body: bytes | None = None
    """Answer everything with it."""
    announce: bool = True
    """Say in which transfer syntax each instance is stored."""
    silent_seconds: float = 0
    """Wait so long before each answer."""
    cut_frames: bool = False
    """Send the first half of each frame."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, service: Service, *arguments: object) -> None:
        self.service = service
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        service, url = self.service, urlsplit(self.path)
        service.requests.append(self.path)
        service.authorizations.add(self.headers.get("Authorization"))
        time.sleep(service.silent_seconds)
        if service.status or service.body is not None:
            self._send(service.status or 200, "application/dicom+json", service.body or b"")
            return
        words = unquote(url.path).strip("/").split("/")[1:]  # without the base, "dicom-web"
        match words:
            case ["studies", _, "instances"]:
                asked = parse_qs(url.query)
                self._send_json([self._facts(i) for i in service.instances.values() if _fits(i, asked)])
            case ["studies", _, "series", series, "metadata"]:
                found = [i for i in service.instances.values() if i.SeriesInstanceUID == series]
                self._send_json([_head(instance) for instance in found])
            case ["studies", _, "series", _, "instances", uid, "metadata"]:
                self._send_json([_head(service.instances[uid])])
            case ["studies", _, "series", _, "instances", uid, "frames", numbers]:
                self._send_frames(service.instances[uid], [int(number) for number in numbers.split(",")])
            case _:
                self._send(404, "text/plain", b"")

    def _facts(self, instance: FileDataset) -> dict[str, object]:
        uids = {
            "00080016": instance.SOPClassUID,
            "00080018": instance.SOPInstanceUID,
            "0020000E": instance.SeriesInstanceUID,
        }
        if self.service.announce:
            uids["00083002"] = instance.file_meta.TransferSyntaxUID
        return {tag: {"vr": "UI", "Value": [str(uid)]} for tag, uid in uids.items()}

    def _send_frames(self, instance: FileDataset, numbers: list[int]) -> None:
        syntax = instance.file_meta.TransferSyntaxUID
        if syntax not in unquote(self.headers.get("Accept", "")):
            self._send(406, "text/plain", b"")
            return
        count = int(instance.NumberOfFrames)
        if syntax.is_encapsulated:
            frames = list(generate_frames(instance.PixelData, number_of_frames=count))
        else:
            size = len(instance.PixelData) // count
            frames = [instance.PixelData[at : at + size] for at in range(0, size * count, size)]
        head = f"--{BOUNDARY}\r\nContent-Type: {MEDIA[syntax]}; transfer-syntax={syntax}\r\n\r\n".encode()
        body = b""
        for number in numbers:
            frame = frames[number - 1]
            body += head + (frame[: len(frame) // 2] if self.service.cut_frames else frame) + b"\r\n"
        kind = f'multipart/related; type="{MEDIA[syntax]}"; boundary={BOUNDARY}'
        self._send(200, kind, body + f"--{BOUNDARY}--".encode())

    def _send_json(self, content: list[dict[str, object]]) -> None:
        self._send(200, "application/dicom+json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # the client has waited long enough
            return

    def log_message(self, *arguments: object) -> None:
        pass


def _fits(instance: FileDataset, asked: dict[str, list[str]]) -> bool:
    names = {"00080016": "SOPClassUID", "0020000E": "SeriesInstanceUID", "00080060": "Modality"}
    return all(
        str(instance.get(names[tag])) in ",".join(values).split(",")
        for tag, values in asked.items()
        if tag in names
    )


def _head(instance: FileDataset) -> dict[str, object]:
    content: dict[str, object] = instance.to_json_dict(bulk_data_threshold=10**9)
    content.pop("7FE00010", None)
    return content


@contextmanager
def dicomweb_server(folder: Path) -> Iterator[tuple[str, Service]]:
    """Serve the DICOM files of a folder; yields the address of a series, and what the server knows."""
    instances = [dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    service = Service({str(instance.SOPInstanceUID): instance for instance in instances})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, service)) as server:
        thread = threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
        yield (
            f"{base}/studies/{instances[0].StudyInstanceUID}/series/{instances[0].SeriesInstanceUID}",
            service,
        )
        server.shutdown()
        thread.join()
