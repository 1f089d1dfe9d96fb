"""Requests of the scripts in QuPath: one JSON object in, one answer out.

action    needs                             answer
start     slides (one), size; tissue,       {"runs": [state]}, of the run that goes on
          options and overwrite if wanted
status    slides                            {"runs": [state of each]}, without opening a slide
stop      slides (one); hard                {"runs": [state]}
regions   slides (one), size                GeoJSON in pixels of QuPath's image

A state is `slide` (as asked), `state`, `tiles_done`, `tiles_total` and `message`, see `runs.RunState`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_seg import __version__
from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.errors import MaskError, OutputError, UsageError, WsiSegError
from wsi_seg.core.files import atomic_path, reading, writing
from wsi_seg.core.geometry import Size
from wsi_seg.core.storage import is_remote
from wsi_seg.pipeline.inputs import SlideInput, find_slides
from wsi_seg.pipeline.qupath.regions import (
    find_results,
    finished_results,
    qupath_origin,
    warnings_of,
    write_regions,
)
from wsi_seg.pipeline.qupath.runs import BackgroundRun, RunState
from wsi_seg.results.files import LOGS, short_name
from wsi_seg.slides.readers import open_slide

MOST_SLIDES = 100_000


class QuPathRequest(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str
    """Of the package that wrote the scripts."""
    action: Literal["start", "status", "stop", "regions"]
    output: str = Field(min_length=1)
    """The folder of all results."""
    slides: list[str] = Field(min_length=1, max_length=MOST_SLIDES)
    """Paths, as the computer that runs has them."""
    size: tuple[int, int] | None = Field(default=None, strict=False)
    """Width and height of the image in QuPath, in pixels."""
    tissue: str | None = None
    """GeoJSON of the annotations to analyze, in pixels of QuPath's image; None: all tissue."""
    options: list[str] = []
    """Of `wsi-seg run`."""
    overwrite: bool = False
    hard: bool = False

    @property
    def out(self) -> Path:
        try:
            return Path(self.output).expanduser().absolute()
        except RuntimeError as error:
            raise UsageError(f"{self.output}: there is no such home folder; correct output") from error

    @property
    def slide(self) -> SlideInput:
        """The only slide."""
        if len(self.slides) != 1:
            raise UsageError(f"{self.action}: takes one slide, got {len(self.slides)}")
        return _slide_at(self.slides[0])

    @property
    def shown(self) -> Size:
        if self.size is None:
            raise UsageError(f"{self.action}: needs the size of the image in QuPath")
        return Size(*self.size)


def parse_request(text: bytes) -> QuPathRequest:
    """Return a request.

    Raises:
        UsageError: it is none, or of scripts of another version.
    """
    try:
        version = json.loads(text)["version"]
        if version != __version__:
            raise UsageError(
                f"the scripts in QuPath are of wsi-seg {version}, and this is {__version__}; "
                "write them again: wsi-seg qupath SCRIPT_DIR"
            )
        return QuPathRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise UsageError(f"request of QuPath: {where}: {first['msg']}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"no request of a script in QuPath ({error}); start this from QuPath") from error


def answer_request(request: QuPathRequest, to: IO[bytes], warn: Callable[[str], object]) -> None:
    """Do what is asked and write the answer.

    Args:
        request: what is asked.
        to: gets the answer.
        warn: called with each line that people must know about results.

    Raises:
        WsiSegError: with the line to show in QuPath.
    """
    if request.action == "regions":
        slide = request.slide
        folder = find_results(request.out, slide.name, slide.path)
        write_regions(folder, request.shown, to)
        for line in warnings_of(folder):
            warn(line)
        return
    actions: Mapping[str, Callable[[QuPathRequest], None]] = {"start": _start, "stop": _stop}
    if request.action in actions:
        actions[request.action](request)
    finished = {folder.name for folder in finished_results(request.out)} if len(request.slides) > 1 else set()
    runs = [{"slide": path, **_state(request.out, path, finished).to_json()} for path in request.slides]
    to.write(json.dumps({"runs": runs}).encode("ascii"))


def _slide_at(path: str) -> SlideInput:
    """Return the slide at a path, under the name that `wsi-seg run` gives its results."""
    found = find_slides([path])
    if len(found) != 1 or found[0].refusal:
        many = f"{path}: holds {len(found)} slides; ask for one of them" if found else f"{path}: is no slide"
        raise UsageError(found[0].refusal if len(found) == 1 else many)
    return found[0]


def _state(out: Path, path: str, finished: Collection[str]) -> RunState:
    """Return how the run of a slide is; what is wrong with one of many is said of that one.

    `finished` are names of results that may lie deeper than a run of one slide puts them.
    """
    try:
        name = _slide_at(path).name
        with reading(out, OutputError):
            state = BackgroundRun(out, name).state()
    except WsiSegError as error:
        return RunState("failed", message=str(error))
    return RunState("done") if state.state == "none" and name in finished else state


def _start(request: QuPathRequest) -> None:
    slide, out = request.slide, request.out
    if is_remote(request.output):
        raise UsageError(f"{request.output}: results for QuPath go to a folder, not to a URL")
    with open_slide(slide.path) as opened:
        origin = qupath_origin(opened.info, request.shown)
    words = ["run", slide.path, f"--output={out}", *request.options]
    if request.tissue is not None:
        words.append(f"--tissue={_keep_tissue(request.tissue, origin, out, slide.name)}")
    if request.overwrite:
        words.append("--overwrite")
    BackgroundRun(out, slide.name).start(words)


def _stop(request: QuPathRequest) -> None:
    BackgroundRun(request.out, request.slide.name).stop(hard=request.hard)


def _keep_tissue(text: str, origin: tuple[float, float], out: Path, name: str) -> Path:
    """Write the annotations that QuPath sent, with what it subtracted, and return the file.

    It is named after its content and stays, as the manifest of the results refers to it.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"annotations of QuPath: not JSON ({error}); select them again") from error
    features = document["features"] if isinstance(document, dict) and "features" in document else document
    own = {"subtracted_l0": list(origin)}
    content = json.dumps({"type": "FeatureCollection", OWN_MEMBER: own, "features": features}).encode("ascii")
    place = out / LOGS / name
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = place.with_name(f"{short_name(place.name)}.qupath-{digest}.geojson")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() != content:
            raise OutputError(f"{path}: is there with another content; move it elsewhere")
        with atomic_path(path, shared=True) as temporary:
            temporary.write_bytes(content)
    return path
