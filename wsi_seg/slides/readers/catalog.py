"""The formats of slides, which readers take them, and which readers are installed here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from wsi_seg.core.formats import UNREAD_ENDINGS


@dataclass(frozen=True, slots=True)
class ReaderFacts:
    """One reader of `READERS`."""

    name: str
    packages: tuple[str, ...]
    """Distributions that it needs."""
    extra: str | None = None
    """Extra of wsi-seg that brings them; None where they always come."""
    urls: str = "none"
    """Addresses that it reads without a copy of the whole slide."""

    def versions(self) -> dict[str, str | None]:
        """Return the installed version of each package, None where it is missing."""
        return {name: _version(name) for name in self.packages}

    @property
    def installed(self) -> bool:
        return None not in self.versions().values()

    @property
    def install(self) -> str | None:
        """How to install what is missing; None where nothing is."""
        if self.installed:
            return None
        return f"pip install 'wsi-seg[{self.extra}]'" if self.extra else "pip install wsi-seg"


@dataclass(frozen=True, slots=True)
class SlideFormat:
    """A format of slides."""

    name: str
    endings: tuple[str, ...]
    """Usual endings of its files; content decides, not the name."""
    readers: tuple[str, ...]
    """That take it, the one that is chosen first."""


READER_FACTS = (
    ReaderFacts("tiff", ("tifffile", "imagecodecs", "openslide-python"), urls="s3, gs, az, http(s)"),
    ReaderFacts("openslide", ("openslide-python", "openslide-bin")),
    ReaderFacts("tiffslide", ("tiffslide", "tifffile", "imagecodecs"), urls="s3, gs, az, http(s)"),
    ReaderFacts("image", ("pillow",)),
    ReaderFacts("wsidicom", ("wsidicom", "pydicom"), "dicom", "DICOMweb"),
)

SLIDE_FORMATS = (
    SlideFormat("Aperio SVS", (".svs",), ("tiff", "openslide", "tiffslide")),
    SlideFormat("Philips TIFF", (".tiff",), ("tiff", "openslide", "tiffslide")),
    SlideFormat("tiled TIFF", (".tif", ".tiff", ".btf"), ("tiff", "openslide", "tiffslide")),
    SlideFormat("OME-TIFF, QPTIFF, other tiled TIFF", (".ome.tif", ".ome.tiff", ".qptiff"), ("tiffslide",)),
    SlideFormat("Leica SCN", (".scn",), ("openslide", "tiffslide")),
    SlideFormat("Hamamatsu NDPI", (".ndpi",), ("openslide",)),
    SlideFormat("Hamamatsu VMS", (".vms", ".vmu"), ("openslide",)),
    SlideFormat("3DHISTECH MIRAX", (".mrxs",), ("openslide",)),
    SlideFormat("Ventana BIF", (".bif",), ("openslide",)),
    SlideFormat("Zeiss CZI (part)", (".czi",), ("openslide",)),
    SlideFormat("Sakura, Trestle, Huron, ARGOS", (".svslide", ".tif", ".avs"), ("openslide",)),
    SlideFormat("DICOM: JPEG, JPEG 2000, uncompressed", (".dcm",), ("openslide", "wsidicom")),
    SlideFormat("DICOM: JPEG-LS and other codecs", (".dcm",), ("wsidicom",)),
    SlideFormat("DICOMweb series", (), ("wsidicom",)),
    SlideFormat("PNG, JPEG, plain TIFF", (".png", ".jpg", ".tif"), ("image",)),
    SlideFormat("not read", UNREAD_ENDINGS, ()),
)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
