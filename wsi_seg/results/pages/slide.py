"""report.html of one slide: what was found, where from, and how far to trust it, on two printed pages."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reading, writing
from wsi_seg.exporters.figure import draw_scale_bar
from wsi_seg.exporters.overview import Overview
from wsi_seg.results.files import REPORT, THUMBNAIL, unlike_notice
from wsi_seg.results.pages.names import shown_file, without_path
from wsi_seg.results.pages.numbers import LARGE_UM2, UM2_PER_MM2
from wsi_seg.results.pages.template import jpeg_of, write_page
from wsi_seg.tissue.mask import MODEL_SOURCE

TEMPLATE = "slide.html.j2"
# Longest side of the picture in pixels: 250 to the inch on paper.
PICTURE_SIDE, PICTURE_QUALITY = 1200, 80
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 160, 72
# What two pages have room for; manifest.json has all.
MOST_GROUPS, MOST_HISTOGRAMS, MOST_FAULTS = 8, 2, 5
# Edges of bins: with more of them only 1, 10, 100, … are written; in mm² where the largest is above.
MOST_EDGES = 7
# Fewer regions have no distribution.
LEAST_DRAWN = 10
# Letters of counts that a histogram is wide enough for.
MOST_DIGITS = 58
MOST_LETTERS = {"notice": 140, "description": 260, "held_out": 200, "training_data": 600, "not_assessed": 330}

MPP_SOURCES = {
    "user": "given by the user",
    "openslide": "as the slide file says",
    "tiffslide": "as the slide file says",
    "dicom": "pixel spacing of the DICOM slide",
    "ome-xml": "as the OME-XML in the slide file says",
    "imagej": "as ImageJ wrote it into the image file",
    "tiff-resolution": "resolution tags of the TIFF file",
    "objective-power (estimated)": "estimated from the objective's power: areas may be off",
}
TISSUE_SOURCES = {"otsu": "found by thresholding color (Otsu)", "none": "not looked for: the whole slide"}
LIMITS = {
    "predict": "the network",
    "read": "reading and decoding the slide",
    "resample": "resampling to the model's resolution",
    "stitch": "stitching of tiles",
    "write": "writing of the maps",
    "contours": "tracing of contours in blocks",
    "plan": "finding tissue and planning",
    "pyramids": "building the maps' pyramids",
    "polygons": "tracing of regions",
    "exports": "writing of other formats",
    "overview": "drawing of the overview",
}


# The picture in a page, see slide.html.j2.
_PICTURE = re.compile(
    rb'<img src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)" width="(\d{1,5})" height="(\d{1,5})"'
)


@dataclass(frozen=True, slots=True)
class Picture:
    """The slide at low power, as it is shown on its page: with outlines and a scale bar."""

    jpeg: bytes
    width: int
    height: int


def write_slide_page(
    folder: Path, summary: Mapping[str, Any], manifest: Mapping[str, Any], overview: Overview
) -> Path:
    """Write report.html and thumbnail.jpg of a slide into the folder of its results.

    Raises:
        OutputError: a file cannot be written.
    """
    small = overview.image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    with writing(folder / THUMBNAIL):
        (folder / THUMBNAIL).write_bytes(jpeg_of(small, THUMBNAIL_QUALITY))
    return draw_slide_page(folder / REPORT, summary, manifest, _picture(overview))


def draw_slide_page(
    path: Path,
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    picture: Picture,
    reviewed: str = "",
) -> Path:
    """Write the page of a slide, whole or not at all.

    Args:
        path: HTML file to write.
        summary: of the run, as in summary.json.
        manifest: of the run, as in manifest.json.
        picture: see `picture_of_page`.
        reviewed: how far the review of its regions is; "": nothing is said.

    Raises:
        OutputError: the file cannot be written.
    """
    slide, card = manifest["slide"], manifest["model"]["card"]
    name, pixel = str(summary.get("name", summary["slide"])), _pixel_mm2(manifest)
    warnings = [*filter(None, [unlike_notice(summary)]), *manifest["warnings"]]
    return write_page(
        path,
        TEMPLATE,
        name=name,
        reviewed=reviewed,
        summary=summary,
        slide=slide,
        card=card,
        model=manifest["model"],
        plan=manifest["plan"],
        trace=manifest["settings"]["regions"]["trace"],
        stored=manifest["settings"]["plan"]["probabilities"],
        warnings=[without_path(warning, slide["path"], name) for warning in warnings],
        stain=_stain(summary, card),
        versions=manifest["versions"],
        started=_date(manifest["started"]),
        file_name=shown_file(slide["path"], name),
        picture=picture,
        size_mm=_size_mm(slide),
        mpp_source=MPP_SOURCES.get(slide["mpp_source"], slide["mpp_source"]),
        tissue_source=_tissue_source(manifest["plan"]["tissue_source"], slide["path"], name),
        pixel_mm2=pixel,
        classes=_classes(summary, card, pixel["map"]),
        artifacts=_artifacts(summary, manifest, pixel["artifacts"]),
        groups=_groups(summary, card),
        not_assessed=summary.get("not_assessed"),
        coverage=_coverage(summary, manifest, name),
        stages=_stages(summary),
        limit=LIMITS.get(summary["bottleneck"]["limit"], summary["bottleneck"]["limit"]),
        most={
            "groups": MOST_GROUPS,
            "histograms": MOST_HISTOGRAMS,
            "letters": MOST_LETTERS,
            "drawn": LEAST_DRAWN,
        },
    )


def picture_of_page(page: Path) -> Picture | None:
    """Return the picture of a page that `write_slide_page` wrote; None where it holds none.

    Raises:
        OutputError: the page cannot be read.
    """
    with reading(page, OutputError):
        match = _PICTURE.search(page.read_bytes())
    return None if match is None else Picture(base64.b64decode(match[1]), int(match[2]), int(match[3]))


def _picture(overview: Overview) -> Picture:
    """Return the picture as JPEG with a scale bar that is drawn at its final size."""
    factor = min(1.0, PICTURE_SIDE / max(overview.image.size))
    width, height = (max(1, round(side * factor)) for side in overview.image.size)
    image = overview.image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    draw_scale_bar(image, overview.um_per_pic * overview.image.width / width)
    return Picture(jpeg_of(image, PICTURE_QUALITY), width, height)


def _date(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M %Z")


def _tissue_source(source: str, path: str, name: str) -> str:
    if source.startswith(MODEL_SOURCE):
        return f"found by the {source}"
    return TISSUE_SOURCES.get(
        source, f"regions of {Path(source).name}" if shown_file(path, name) else "drawn regions"
    )


def _stain(summary: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Return how dense the stain is, next to that of the training data; "" where the card does not say."""
    domain = card.get("domain")
    if domain is None:
        return ""
    known = f"{domain['density']['low']:.2f} to {domain['density']['high']:.2f} in training"
    measured = summary["domain"]["measures"]
    return f"optical density {measured['density']:.2f}, {known}" if measured else "too little to compare"


def _size_mm(slide: Mapping[str, Any]) -> tuple[float, float]:
    size, mpp = slide["size"], slide["mpp"]
    return size["width"] * mpp["x"] / 1000, size["height"] * mpp["y"] / 1000


def _pixel_mm2(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Return the area of a pixel of the map, and of the coarser one in which artifacts were found."""
    finders = manifest["finders"]
    mpp = manifest["frame"]["mpp"]
    coarse = max(mpp, finders["artifacts"]["card"]["mpp"]) if "artifacts" in finders else mpp
    return {"map": mpp**2 / UM2_PER_MM2, "artifacts": coarse**2 / UM2_PER_MM2}


def _classes(summary: Mapping[str, Any], card: Mapping[str, Any], pixel_mm2: float) -> list[dict[str, Any]]:
    """Return the classes that were found, largest first."""
    colors = {one["name"]: one["color"] for one in card["classes"]}
    areas = {name: mm2 for name, mm2 in summary["class_area_mm2"].items() if mm2}
    return _shares(areas, colors, sum(areas.values()), pixel_mm2)


def _shares(
    areas: Mapping[str, float], colors: Mapping[str, Any], total: float, pixel_mm2: float
) -> list[dict[str, Any]]:
    """Return areas in mm² and their shares of a total, largest first, with the pixels of the total."""
    pixels = total / pixel_mm2
    rows = [
        {
            "name": name,
            "color": colors[name],
            "mm2": mm2,
            "share": mm2 / total if total else 0.0,
            "pixels": pixels,
        }
        for name, mm2 in areas.items()
    ]
    return sorted(rows, key=lambda row: -row["mm2"])


def _artifacts(
    summary: Mapping[str, Any], manifest: Mapping[str, Any], pixel_mm2: float
) -> dict[str, Any] | None:
    """Return the classes of artifacts with their areas, largest first; None: they were not looked for."""
    found = summary["artifacts"]
    if found is None:
        return None
    areas: Mapping[str, float] = found["area_mm2"]
    colors = {one["name"]: one["color"] for one in manifest["finders"]["artifacts"]["card"]["classes"]}
    tissue = summary["tissue_area_mm2"] + (sum(areas.values()) if found["excluded"] else 0.0)
    rows = _shares(areas, colors, tissue, pixel_mm2)
    return {"rows": rows, "source": found["source"].capitalize(), "excluded": found["excluded"]}


def _groups(summary: Mapping[str, Any], card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the traced groups, in the order in which they were asked for."""
    colors = {item["name"]: item["color"] for item in (*card["classes"], *card["groups"])}
    rows = []
    for name, regions in summary["regions"].items():
        sizes = regions["sizes"]
        drawing = histogram_columns(**sizes) if regions["count"] >= LEAST_DRAWN else None
        shown = ClassGroup(name, (), (0, 0, 0)).qupath_name
        rows.append({**regions, "name": shown, "color": colors[name], "drawing": drawing})
    return rows


def histogram_columns(edges_um2: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Return how the template shows a `SizeHistogram` that is not empty.

    Returns:
        `unit` of the edges; for each bin in `columns` its `share` of the largest, `text` (its count, "" where
        there is no room) and lower `edge` ("" where it is not written); `last_edge`.
    """
    unit, factor = ("mm²", UM2_PER_MM2) if edges_um2[-1] > LARGE_UM2 else ("µm²", 1.0)
    written = [len(edges_um2) <= MOST_EDGES or f"{edge:e}".startswith("1.0") for edge in edges_um2]
    *edges, last = (
        f"{edge / factor:,.6g}" if shown else "" for edge, shown in zip(edges_um2, written, strict=True)
    )
    most, room = max(counts), MOST_DIGITS / len(counts)
    texts = [f"{n:,}" if n and (n == most or len(f"{n:,}") <= room) else "" for n in counts]
    columns = [
        {"share": n / most, "text": text, "edge": edge}
        for n, text, edge in zip(counts, texts, edges, strict=True)
    ]
    return {"unit": unit, "columns": columns, "last_edge": last}


def _coverage(summary: Mapping[str, Any], manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the tissue that was analyzed and that which was not, in mm², and the first blocks not read."""
    path = manifest["slide"]["path"]
    failed = [fault for fault in manifest["faults"] if fault["unread_pixels"] or not fault["written"]]
    first = [{**one, "reason": without_path(one["reason"], path, name)} for one in failed[:MOST_FAULTS]]
    return {
        "blocks": summary["blocks"],
        "failed": len(failed),
        "share": summary["coverage"]["analyzed_share"],
        "unread_mm2": summary["coverage"]["unread_mm2"],
        "other_level_mm2": summary["coverage"]["other_level_mm2"],
        "first": first,
        "more": max(0, len(failed) - MOST_FAULTS),
    }


def _stages(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the driver's stages with shares of the whole, then those in blocks with those of their lanes."""
    wall, total = summary["seconds"], sum(summary["seconds"].values())
    rows = [{"name": name, "seconds": s, "share": s / total if total else 0.0} for name, s in wall.items()]
    busy = summary["bottleneck"]["busy_share"]
    rows += [
        {"name": f"in blocks: {name}", "seconds": s, "share": busy[name] or 0.0}
        for name, s in summary["worker_seconds"].items()
        if name != "wait"
    ]
    return rows
