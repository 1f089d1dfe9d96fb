"""Whole inputs of every kind, small, and the commands that take them: what the mutation tests damage."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.mutations import Place

RGB = NDArray[np.uint8]
Command = tuple[str, ...]
SIDE = 320


@dataclass(frozen=True)
class Case:
    """Where a damaged input is tried."""

    folder: Path
    """Its own."""
    shared: Path
    """Holds what `make_shared` has made."""


@dataclass(frozen=True)
class Kind:
    """One kind of input."""

    name: str
    make: Callable[[Path, Path], Path]
    """Makes the input, a file or a folder, in an empty folder, given what all share."""
    commands: Callable[[Path, Case, random.Random], Sequence[Command]]
    """Returns what is run on a damaged input."""
    text: bool = False
    hot: Callable[[Path], list[Place]] = field(default=lambda _: [])
    """Places of a file that say how to read the rest."""
    named: bool = True
    """True where errors are about the input itself, and not about what it names."""
    only: tuple[str, ...] = ()
    """Of a folder: patterns of the files that are damaged; all by default."""


def picture(side: int = SIDE) -> RGB:
    """Return tissue on the left and glass on the right, uint8 (side, side, 3)."""
    pixels = np.full((side, side, 3), 245, np.uint8)
    pixels[:, : side // 2] = np.random.default_rng(1).integers(80, 200, (side, side // 2, 3))
    pixels[:, : side // 2, 1] //= 2
    return pixels


# --- slides ---------------------------------------------------------------------------------------------


def _pyramid(
    name: str, compression: str, *, tile: int | None = 64, description: str = ""
) -> Callable[..., Path]:
    def make(folder: Path, _: Path) -> Path:
        with tifffile.TiffWriter(folder / name) as writer:
            for factor in (1, 4) if tile else (1,):
                writer.write(
                    picture()[::factor, ::factor],
                    tile=(tile, tile) if tile else None,
                    photometric="ycbcr" if compression == "jpeg" else "rgb",
                    subsampling=(2, 2) if compression == "jpeg" else None,
                    compression=compression,
                    resolution=(20_000 / factor, 20_000 / factor),
                    resolutionunit="CENTIMETER",
                    subfiletype=1 if factor > 1 and not description else 0,
                    description=description or None,
                    metadata=None,
                    software=False,
                )
        return folder / name

    return make


def _scn(folder: Path, _: Path) -> Path:
    from tests.made.slides import SlideSpec, make_slide
    from wsi_seg.core.geometry import Box, Size

    Image.fromarray(picture(512)).save(folder.parent / "texture.png")
    spec = SlideSpec(
        Size(640, 640), 0.5, 1.0, texture=folder.parent / "texture.png", bounds=Box(64, 64, 576, 576)
    )
    return make_slide(folder / "slide.scn", spec)


def _image(name: str) -> Callable[..., Path]:
    def make(folder: Path, _: Path) -> Path:
        image = Image.fromarray(picture())
        exif = Image.Exif()
        exif[274] = 6
        image.save(folder / name, exif=exif.tobytes())
        return folder / name

    return make


def _ndpi(folder: Path, _: Path) -> Path:
    """Write what Hamamatsu does: a TIFF with 64-bit places and one JPEG a level, with restart markers."""
    pages: list[tuple[int, bytes, float]] = []
    for factor, lens in ((1, 20.0), (4, 5.0), (8, -1.0)):
        stream = io.BytesIO()
        small = picture()[::factor, ::factor]
        Image.fromarray(small).save(stream, "JPEG", quality=80, subsampling=0, restart_marker_blocks=1)
        pages.append((small.shape[0], stream.getvalue(), lens))
    path, make = folder / "slide.ndpi", b"Hamamatsu\0"
    told = b"Created=2024/01/31\r\nProduct=C13220\r\nNoOfMovingScanImages=1\r\n" * 4 + b"\0"
    out = bytearray(b"II*\0" + bytes(8))
    link = 4
    for side, jpeg, lens in pages:
        at_jpeg = len(out)
        out += jpeg + bytes(len(jpeg) % 2)
        at_make = len(out)
        out += make
        at_told = len(out)
        out += told + bytes(len(told) % 2)
        at_resolution = len(out)
        out += struct.pack("<II", 20_000 * side // SIDE, 1)
        entries = (
            (256, 4, side), (257, 4, side), (259, 3, 7), (262, 3, 6), (271, 2, at_make), (273, 4, at_jpeg),
            (277, 3, 3), (278, 4, side), (279, 4, len(jpeg)), (282, 5, at_resolution),
            (283, 5, at_resolution), (296, 3, 3), (65420, 4, 1),
            (65421, 11, struct.unpack("<I", struct.pack("<f", lens))[0]),
            (65422, 9, 0), (65423, 9, 0), (65424, 9, 0), (65449, 2, at_told),
        )  # fmt: skip
        out[link : link + 8] = struct.pack("<Q", len(out))
        out += struct.pack("<H", len(entries))
        for tag, kind, value in entries:
            count = {271: len(make), 65449: len(told)}.get(tag, 1)
            out += struct.pack("<HHII", tag, kind, count, value)
        link = len(out)
        out += bytes(8 + 4 * len(entries))  # the next table, and the upper halves of values
    path.write_bytes(out)
    return path


def _tables_of_tiff(path: Path) -> list[Place]:
    with tifffile.TiffFile(path) as tiff:
        places = [(0, 16)]
        for page in tiff.pages:
            tags = page.aspage().tags.values()
            places += [(tag.offset, tag.offset + 20 if tiff.is_bigtiff else tag.offset + 12) for tag in tags]
            values = [tag for tag in tags if tag.valueoffset > tag.offset + 20]
            places += [(tag.valueoffset, tag.valueoffset + min(2000, tag.valuebytecount)) for tag in values]
    size = path.stat().st_size
    return [(start, min(stop, size)) for start, stop in places if start < min(stop, size)]


def _head(path: Path) -> list[Place]:
    return [(0, min(700, path.stat().st_size))]


def _slide_commands(*readers: str) -> Callable[..., list[Command]]:
    def commands(slide: Path, case: Case, number: random.Random) -> list[Command]:
        reader = number.choice(readers)
        run = ("run", str(slide), "-o", str(case.folder / "out"), "-m", str(case.shared / "model"))
        if reader == "auto":
            return [("info", str(slide)), run]
        return [("info", str(slide), "--reader", reader), (*run, "--set", f"reader={reader}")]

    return commands


# --- texts ----------------------------------------------------------------------------------------------


def _geojson(name: str) -> Callable[..., Path]:
    def make(folder: Path, _: Path) -> Path:
        def square(x: int, y: int, side: int) -> list[list[int]]:
            return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]

        shapes = [
            {"type": "Polygon", "coordinates": [square(10, 10, 120), square(30, 30, 20)]},
            {"type": "MultiPolygon", "coordinates": [[square(150, 10, 40)], [square(150, 100, 60)]]},
            {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [square(20, 200, 90)]}],
            },
        ]
        properties = {
            "objectType": "annotation", "name": "a", "isMissing": False, "measurements": {"n": 1.5},
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
        }  # fmt: skip
        features = [
            {"type": "Feature", "id": f"00000000-0000-4000-8000-00000000000{i}", "geometry": shape,
             "properties": properties}
            for i, shape in enumerate(shapes)
        ]  # fmt: skip
        document = {"type": "FeatureCollection", "wsi_seg": {"subtracted_l0": [0, 0]}, "features": features}
        data = json.dumps(document, separators=(",", ":")).encode()
        (folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        return folder / name

    return make


def _layers(folder: Path, _: Path) -> Path:
    def region(kind: int, *corners: tuple[int, int]) -> str:
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
        return f'<Region Id="1" Type="{kind}" NegativeROA="0"><Vertices>{vertices}</Vertices></Region>'

    drawn = region(0, (10, 10), (130, 10), (130, 130)) + region(2, (150, 10), (190, 90))
    layer = f'<Annotation Id="1" Name="Tumor" Type="4"><Regions>{drawn}</Regions></Annotation>'
    (folder / "regions.xml").write_text(f'<Annotations MicronsPerPixel="0.5">{layer}</Annotations>')
    return folder / "regions.xml"


def _layers_commands(path: Path, case: Case, _: random.Random) -> list[Command]:
    return [_plan(case, "--tissue", str(path))]


def _plan(case: Case, *more: str) -> Command:
    png, model = case.shared / "slide.png", case.shared / "model"
    return (
        "run",
        str(png),
        "-o",
        str(case.folder / "out"),
        "-m",
        str(model),
        "--mpp",
        "0.5",
        "--dry-run",
        *more,
    )


def _regions_commands(path: Path, case: Case, _: random.Random) -> list[Command]:
    return [("validate", str(path)), _plan(case, "--tissue", str(path))]


def _table(folder: Path, shared: Path) -> Path:
    lines = [
        "slide,name,mpp,tissue,model,threshold,note:who,batch,tta",
        f"{shared / 'slide.png'},a/one,0.5,otsu,{shared / 'model'},0.5,me,2,false",
        f'"{shared / "slide.png"}",two,0.5,none,{shared / "model"},0.25,,,true',
    ]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def _table_commands(path: Path, case: Case, _: random.Random) -> list[Command]:
    return [("run", str(path), "-o", str(case.folder / "out"), "-m", str(case.shared / "model"), "--dry-run")]


def _config(name: str) -> Callable[..., Path]:
    repository = Path(__file__).resolve().parent.parent

    def make(folder: Path, _: Path) -> Path:
        return Path(shutil.copy(repository / "configs" / name, folder / name))

    return make


def _run_config(folder: Path, _: Path) -> Path:
    from wsi_seg.pipeline.settings import KEYS

    (folder / "run.yaml").write_text("".join(f"{s.name}: {s.default_text}\n" for s in KEYS.values()))
    return folder / "run.yaml"


def _config_commands(path: Path, case: Case, _: random.Random) -> list[Command]:
    return [_plan(case, "--config", str(path))]


# --- models ---------------------------------------------------------------------------------------------


def _model(folder: Path, shared: Path) -> Path:
    return Path(shutil.copytree(shared / "model", folder / "model"))


def _model_commands(folder: Path, case: Case, _: random.Random) -> list[Command]:
    png = case.shared / "slide.png"
    return [
        (
            "run",
            str(png),
            "-o",
            str(case.folder / "out"),
            "-m",
            str(folder),
            "--mpp",
            "0.5",
            "--precision",
            "float32",
        )
    ]


def _checkpoint(folder: Path, shared: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(shared / "model" / "model.safetensors"), folder / "net.pth")
    shutil.copy(shared / "model" / "card.json", folder / "net.json")
    return folder


def _checkpoint_commands(folder: Path, case: Case, _: random.Random) -> list[Command]:
    return [_plan(case, "-m", str(folder / "net.pth"))]


def _head_and_tail(path: Path) -> list[Place]:
    size = path.stat().st_size
    return [(0, min(3000, size)), (max(0, size - 3000), size)]


# --- results --------------------------------------------------------------------------------------------


def _results(folder: Path, shared: Path) -> Path:
    return Path(shutil.copytree(shared / "done", folder / "out"))


def _unfinished(folder: Path, shared: Path) -> Path:
    return Path(shutil.copytree(shared / "stopped", folder / "out"))


def run_again(out: Path, shared: Path) -> Command:
    """Return the command that made the results in `shared`, for those in `out`."""
    return (
        "run", str(shared / "slide.png"), "-o", str(out), "-m", str(shared / "model"), "--mpp", "0.5",
        "--precision", "float32", "--uncertainty", "--set", "min_area_um2=0", "--set", "tile=128", "--set",
        "block=128", "--set", "overlap=32", "--threads", "1",
    )  # fmt: skip


def _results_commands(out: Path, case: Case, _: random.Random) -> list[Command]:
    folder = str(out / "slide")
    return [
        ("validate", str(out)),
        ("export", folder, "--threshold", "0.4", "-o", str(case.folder / "other.geojson")),
        ("view", str(out)),
        run_again(out, case.shared),
    ]


def _unfinished_commands(out: Path, case: Case, _: random.Random) -> list[Command]:
    return [("view", str(out)), run_again(out, case.shared)]


APERIO = (
    "Aperio Image Library v10.0.51\r\n320x320 [0,0 320x320] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5000"
)
GENERIC_READERS = ("auto", "openslide", "tiffslide", "tiff")
KINDS = (
    Kind("svs", _pyramid("slide.svs", "jpeg", description=APERIO), _slide_commands(*GENERIC_READERS),
         hot=_tables_of_tiff),
    Kind("tiff", _pyramid("slide.tif", "deflate"), _slide_commands(*GENERIC_READERS), hot=_tables_of_tiff),
    Kind("strips", _pyramid("slide.tif", "lzw", tile=None), _slide_commands("auto", "image", "tiffslide"),
         hot=_tables_of_tiff),
    Kind("scn", _scn, _slide_commands("auto", "openslide", "tiffslide"), hot=_tables_of_tiff),
    Kind("ndpi", _ndpi, _slide_commands("auto", "openslide", "tiffslide"), hot=_tables_of_tiff),
    Kind("png", _image("slide.png"), _slide_commands("auto"), hot=_head),
    Kind("jpeg", _image("slide.jpg"), _slide_commands("auto"), hot=_head),
    Kind("geojson", _geojson("regions.geojson"), _regions_commands, text=True),
    Kind("geojson.gz", _geojson("regions.geojson.gz"), _regions_commands),
    Kind("xml", _layers, _layers_commands, text=True),
    Kind("table", _table, _table_commands, text=True, named=False),
    Kind("config", _run_config, _config_commands, text=True, named=False),
    Kind("card", _model, _model_commands, text=True, named=False, only=("card.json",)),
    Kind("weights", _model, _model_commands, hot=_head, named=False,
         only=("*.safetensors",)),
    Kind("checkpoint", _checkpoint, _checkpoint_commands, hot=_head_and_tail, only=("net.pth",)),
    Kind("records", _results, _results_commands, text=True,
         only=("manifest.json", "summary.json", "polygons.geojson")),
    Kind("nodes", _results, _results_commands, text=True, only=("zarr.json",)),
    Kind("shards", _results, _results_commands, only=("c/*/*", "c/*/*/*")),
    Kind("unfinished", _unfinished, _unfinished_commands, text=True,
         only=("plan.json", "blocks.jsonl", "content.json")),
)  # fmt: skip
