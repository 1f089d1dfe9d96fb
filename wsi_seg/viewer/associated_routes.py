"""Pictures that are stored with a slide: thumbnail, and where asked for and allowed, label and macro.

A label names the patient as a rule, and a macro shows the label. No browser keeps any of these pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import Response

from wsi_seg.slides.readers import reopen_slide
from wsi_seg.slides.readers.base import LevelReader
from wsi_seg.viewer.pictures import jpeg
from wsi_seg.viewer.responses import NEVER, Refused, json_reply
from wsi_seg.viewer.state import ViewerState

# Those that show tissue alone, by OpenSlide's name; scanners name others as they like.
WITHOUT_LABEL = ("thumbnail",)
MOST_SIDE = 1024


def _associated(state: ViewerState, request: Request) -> Response:
    with _opened(state, request) as slide:
        found = [
            {
                "name": one.name,
                "size": [one.size.width, one.size.height],
                "shows_label": one.name not in WITHOUT_LABEL,
            }
            for one in slide.about.associated
            if state.places.labels or one.name in WITHOUT_LABEL
        ]
    return json_reply({"images": found, "labels": state.places.labels})


def _picture(state: ViewerState, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in WITHOUT_LABEL and not state.places.labels:
        raise Refused(403, "this server shows no labels (--no-labels)")
    with state.decoding, _opened(state, request) as slide:
        if name not in (one.name for one in slide.about.associated):
            raise Refused(404, "no such picture is stored with this slide")
        content = jpeg(slide.read_associated(name, MOST_SIDE))
    return Response(content, headers={"Cache-Control": NEVER}, media_type="image/jpeg")


@contextmanager
def _opened(state: ViewerState, request: Request) -> Iterator[LevelReader]:
    """Give the slide of the result that is asked for; Refused, 404, where it is not there."""
    result = state.asked(request)
    place = result.slide()
    if place.path is None:
        raise Refused(404, place.problem or "the slide is not there")
    with reopen_slide(result.facts.slide, place.path) as slide:
        if not isinstance(slide, LevelReader):
            raise Refused(404, "this kind of slide stores no pictures")
        yield slide


WORK = {"associated": _associated, "associated/{name}.jpg": _picture}
