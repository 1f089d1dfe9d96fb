"""DICOM files as wsidicom reads them; those of levels without ImageType as if they had it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pydicom import DataElement
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.uid import VLWholeSlideMicroscopyImageStorage
from wsidicom.file import WsiDicomStreamOpener
from wsidicom.file.io import WsiDicomReadIO
from wsidicom.paths import as_upath

from wsi_seg.slides.readers.dicom_instances import LEVEL_TYPE

IMAGE_TYPE = Tag("ImageType")


class _LevelStream(WsiDicomReadIO):  # type: ignore[misc]
    """The file of a level whose ImageType is missing or incomplete; wsidicom gets one, the file stays."""

    def read_elements_until(
        self, stop_tag: BaseTag, into: dict[BaseTag, DataElement | RawDataElement]
    ) -> BaseTag | None:
        """Read the elements before `stop_tag`, with the type of a level in place of what the file says."""
        stopped: BaseTag | None = super().read_elements_until(stop_tag, into)
        into[IMAGE_TYPE] = DataElement(IMAGE_TYPE, "CS", LEVEL_TYPE.split("\\"))
        return stopped


def open_streams(files: Iterable[Path]) -> Iterator[WsiDicomReadIO]:
    """Open files of whole-slide images; others, and damaged ones, are passed over, as wsidicom does."""
    yield from WsiDicomStreamOpener().open(list(files), VLWholeSlideMicroscopyImageStorage)


def open_levels(files: Iterable[Path]) -> Iterator[WsiDicomReadIO]:
    """Open files of levels whose ImageType is missing; raises what pydicom and wsidicom raise."""
    for file in files:
        with ExitStack() as stack:
            stream = _LevelStream(stack.enter_context(file.open("rb")), as_upath(file))
            stack.pop_all()  # closed by the reader
        yield stream
