"""report.html of one slide: what was found, where from, and how far to trust it, on two printed pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.files import writing
from wsi_seg.exporters.figure import draw_scale_bar
from wsi_seg.exporters.overview import Overview
from wsi_seg.results.files import REPORT, THUMBNAIL, unlike_notice
from wsi_seg.results.pages.template import jpeg_of, write_page
from wsi_seg.tissue.mask import MODEL_SOURCE

TEMPLATE = "slide.html.j2"
# Longest side of the picture in pixels: 250 to the inch on paper.
PICTURE_SIDE, PICTURE_QUALITY = 1200, 80
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 160, 72
# What two pages have room for; manifest.json has all.
MOST_GROUPS, MOST_HISTOGRAMS, MOST_FAULTS = 8, 2, 5
# Edges of bins: with more of them only 1, 10, 100, … are written; in mm² where the largest is above.
MOST_EDGES, LARGE_UM2, UM2_PER_MM2 = 7, 10_000, 1e6
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
    "plan": "finding tissue and planning",
    "pyramids": "building the maps' pyramids",
    "polygons": "tracing of regions",
    "exports": "writing of other formats",
    "overview": "drawing of the overview",
}


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
    return write_page(
        folder / REPORT,
        TEMPLATE,
        summary=summary,
        slide=manifest["slide"],
        card=manifest["model"]["card"],
        model=manifest["model"],
        plan=manifest["plan"],
        trace=manifest["settings"]["regions"]["trace"],
        stored=manifest["settings"]["plan"]["probabilities"],
        warnings=[*filter(None, [unlike_notice(summary)]), *manifest["warnings"]],
        stain=_stain(summary, manifest["model"]["card"]),
        versions=manifest["versions"],
        started=_date(manifest["started"]),
        file_name=_file_name(manifest["slide"]["path"]),
        picture=_picture(overview),
        size_mm=_size_mm(manifest["slide"]),
        mpp_source=MPP_SOURCES.get(manifest["slide"]["mpp_source"], manifest["slide"]["mpp_source"]),
        tissue_source=_tissue_source(manifest["plan"]["tissue_source"]),
        classes=_classes(summary, manifest["model"]["card"]),
        artifacts=_artifacts(summary, manifest),
        groups=_groups(summary, manifest["model"]["card"]),
        not_assessed=summary.get("not_assessed"),
        coverage=_coverage(summary, manifest),
        stages=_stages(summary),
        limit=LIMITS.get(summary["bottleneck"]["limit"], summary["bottleneck"]["limit"]),
        most={"groups": MOST_GROUPS, "histograms": MOST_HISTOGRAMS, "letters": MOST_LETTERS},
    )


def _picture(overview: Overview) -> dict[str, Any]:
    """Return the picture as JPEG with a scale bar that is drawn at its final size."""
    factor = min(1.0, PICTURE_SIDE / max(overview.image.size))
    width, height = (max(1, round(side * factor)) for side in overview.image.size)
    image = overview.image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    draw_scale_bar(image, overview.um_per_pic * overview.image.width / width)
    return {"jpeg": jpeg_of(image, PICTURE_QUALITY), "width": width, "height": height}


def _date(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M %Z")


def _file_name(path: str) -> str:
    """Return the last part of a path or URL, without a query, which may hold a key."""
    return path.split("?")[0].rstrip("/\\").rsplit("/", 1)[-1] if "://" in path else Path(path).name


def _tissue_source(source: str) -> str:
    if source.startswith(MODEL_SOURCE):
        return f"found by the {source}"
    return TISSUE_SOURCES.get(source, f"regions of {Path(source).name}")


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


def _classes(summary: Mapping[str, Any], card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the classes that were found, largest first."""
    areas = summary["class_area_mm2"]
    total = sum(areas.values())
    rows = [
        {"name": c["name"], "color": c["color"], "mm2": areas[c["name"]], "share": areas[c["name"]] / total}
        for c in card["classes"]
        if areas.get(c["name"])
    ]
    return sorted(rows, key=lambda row: -row["mm2"])


def _artifacts(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the classes of artifacts with their areas, largest first; None: they were not looked for."""
    found = summary["artifacts"]
    if found is None:
        return None
    areas: Mapping[str, float] = found["area_mm2"]
    colors = {one["name"]: one["color"] for one in manifest["finders"]["artifacts"]["card"]["classes"]}
    tissue = summary["tissue_area_mm2"] + (sum(areas.values()) if found["excluded"] else 0.0)
    rows = [
        {"name": name, "color": colors[name], "mm2": area, "share": area / tissue if tissue else 0.0}
        for name, area in areas.items()
    ]
    by_area = sorted(rows, key=lambda row: -row["mm2"])
    return {"rows": by_area, "source": found["source"].capitalize(), "excluded": found["excluded"]}


def _groups(summary: Mapping[str, Any], card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the traced groups, in the order in which they were asked for."""
    colors = {item["name"]: item["color"] for item in (*card["classes"], *card["groups"])}
    rows = []
    for name, regions in summary["regions"].items():
        sizes = regions["sizes"]
        drawing = histogram_columns(**sizes) if regions["count"] else None
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


def _coverage(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many blocks were analyzed in full, and the first that were not."""
    failed = [fault for fault in manifest["faults"] if fault["unread_pixels"] or not fault["written"]]
    return {
        "blocks": summary["blocks"],
        "failed": len(failed),
        "share": summary["coverage"]["analyzed_share"],
        "first": [{**block, "reason": _reason(block["reason"], manifest)} for block in failed[:MOST_FAULTS]],
        "more": max(0, len(failed) - MOST_FAULTS),
    }


def _reason(reason: str, manifest: Mapping[str, Any]) -> str:
    """Return a reason without the folder of the slide, which the page does not name."""
    path = manifest["slide"]["path"]
    return reason.replace(path, _file_name(path))


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
