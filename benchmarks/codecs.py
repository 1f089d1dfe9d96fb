"""Compression of the maps: bytes and seconds of cores by codec and chunk, on real maps.

    python benchmarks/codecs.py [--side 4096] [--rounds 3] [--output FILE]

The maps are those of a run of `bcss-demo` on the packaged slide (labels, tissue, probabilities), repeated to
`--side` pixels, and, where $WSI_SEG_DATA has them, masks that people drew (BCSS). Each is written as one
shard and read again, by `wsi_seg.maps.shards` (tensorstore), as a run does it, and through zarr with each
codec and side of the chunks, all of them in turn within a round. "zarrs" is zarr's codec pipeline in Rust.
Ratios are to what runs use; those of time are of the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from machine import begin, paired, versions, write_result
from numpy.typing import NDArray
from PIL import Image
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.codecs.numcodecs import LZ4

from wsi_seg import RunSettings, load_model, segment_slide
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.shards import ZSTD_LEVEL, ShardedArray, array_document, write_node
from wsi_seg.planning.map_layout import LABEL_CHUNK, PROBABILITY_CHUNK
from wsi_seg.slides.sample import sample_slide

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("WSI_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
RUST = "zarrs.ZarrsCodecPipeline"
PYTHON = "zarr.core.codec_pipeline.BatchedCodecPipeline"
OWN = "wsi_seg.maps.shards"
NAMES = {OWN: "", PYTHON: ", zarr", RUST: ", zarrs"}
SIDES = (256, 512, 1024)

Array = NDArray[np.uint8]
CODECS: dict[str, Callable[[], Any]] = {
    **{f"zstd {level}": lambda level=level: ZstdCodec(level=level) for level in (1, 3, 5)},
    "lz4": LZ4,
    "blosc zstd 1": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
    "blosc lz4": lambda: BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
    "blosc lz4, bits": lambda: BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),
    "blosc zstd 1, bits": lambda: BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
}
IN_USE = f"zstd {ZSTD_LEVEL}"


def real_maps(side: int) -> Iterator[tuple[str, Array]]:
    """Yield maps by name: (C, h, w) probabilities or (h, w) codes."""
    with tempfile.TemporaryDirectory() as folder:
        result = segment_slide(sample_slide(), Path(folder), load_model("bcss-demo"), RunSettings())
        maps = Maps.open(result.folder / "maps.zarr")
        yield "labels", repeated(maps.labels[:], side)
        yield "tissue", repeated(maps.tissue[:], side)
        yield "probabilities", repeated(maps.probabilities[:], side // maps.probability_downsample)
    masks = sorted((DATA / "bcss_masks").glob("*.png"))
    if masks:
        yield "drawn masks", repeated(np.asarray(Image.open(masks[0])), side)


def repeated(values: Any, side: int) -> Array:
    """Return a map of `side` pixels, mirrored at its borders as often as needed."""
    array = np.asarray(values)
    missing = [(0, 0)] * (array.ndim - 2) + [(0, max(0, side - length)) for length in array.shape[-2:]]
    return np.ascontiguousarray(np.pad(array, missing, mode="symmetric")[..., :side, :side])


def ways(chunk_in_use: int) -> Iterator[tuple[str, int, str]]:
    """Yield codec, side of the chunks and pipeline: first what runs use, then all others."""
    yield IN_USE, chunk_in_use, OWN
    yield IN_USE, chunk_in_use, PYTHON
    for side in SIDES:
        yield IN_USE, side, OWN
    for codec in CODECS:
        for side in SIDES:
            yield codec, side, PYTHON
    for side in SIDES:
        yield IN_USE, side, RUST


def once(values: Array, codec: str, chunk: int, pipeline: str, folder: Path) -> dict[str, float]:
    """Write one map as a single shard and read it again."""
    whole, inner = values.shape, (*(1 for _ in values.shape[:-2]), chunk, chunk)
    used = PYTHON if pipeline == OWN else pipeline
    with zarr.config.set({"codec_pipeline.path": used}), tempfile.TemporaryDirectory(dir=folder) as place:
        array = zarr.create_array(
            place, shape=whole, dtype=values.dtype, shards=whole, chunks=inner, compressors=CODECS[codec](),
            fill_value=0, overwrite=True, config={"write_empty_chunks": True},
        )  # fmt: skip
        if pipeline == OWN:
            names = "cyx"[-values.ndim :]
            document = array_document(whole, values.dtype.name, shard=whole, chunk=inner, names=names)
            write_node(Path(place), document)
            own = ShardedArray.open(Path(place), document)
        start = time.process_time()
        if pipeline == OWN:
            own.write_shard((0,) * values.ndim, values)
        else:
            array[...] = values
        written = time.process_time()
        found = (own if pipeline == OWN else array)[...]
        end = time.process_time()
        if not (np.array_equal(found, values) and np.array_equal(array[...], values)):
            raise SystemExit(f"{codec}, {chunk}, {pipeline}: other values come back")
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    return {"bytes": size, "encode_seconds": written - start, "decode_seconds": end - written}


def measure(
    name: str, values: Array, rounds: int, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each way to store a map, and pairs of ours and zarr's own; a first round warms up."""
    chunk_in_use = min(PROBABILITY_CHUNK if values.ndim == 3 else LABEL_CHUNK, values.shape[-1])
    found = [way for way in dict.fromkeys(ways(chunk_in_use)) if way[1] <= values.shape[-1]]
    seconds = [[once(values, *way, folder) for way in found] for _ in range(rounds + 1)][1:]
    rows = []
    for i, (codec, chunk, pipeline) in enumerate(found):
        mine = [one[i] for one in seconds]
        middle = {key: statistics.median(row[key] for row in mine) for key in mine[0]}
        ratios = {key: statistics.median(one[i][key] / one[0][key] for one in seconds) for key in middle}
        way, each = codec + NAMES[pipeline], middle["bytes"] / values.size
        row = {"map": name, "codec": way, "chunk": chunk, "in_use": i == 0, "bytes_per_value": each}
        rows.append({**row, **middle, "ratios": ratios})
    other = found.index((IN_USE, found[0][1], PYTHON))
    pairs = [
        paired(f"{verb} {name}", "zarr's own pipeline", ((one[0][key], one[other][key]) for one in seconds))
        for verb, key in (("write", "encode_seconds"), ("read", "decode_seconds"))
    ]
    return rows, pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    result = begin(versions=versions("tensorstore", "zarr", "zarrs", "numcodecs"), side=given.side)
    result |= {"rows": [], "pairs": []}
    with tempfile.TemporaryDirectory() as place:
        for name, values in real_maps(given.side):
            rows, pairs = measure(name, values, given.rounds, Path(place))
            result["pairs"] += pairs
            for row in rows:
                result["rows"].append(row)
                ratios = row["ratios"]
                print(
                    f"{name:<14} {row['codec']:<20} {row['chunk']:>5} "
                    f"{row['bytes_per_value']:8.4f} bytes a value  "
                    f"encode {row['encode_seconds']:7.3f}  decode {row['decode_seconds']:7.3f} s of cores  × "
                    + " ".join(f"{ratio:.2f}" for ratio in ratios.values()),
                    flush=True,
                )
    write_result(given.output, result)


if __name__ == "__main__":
    main()
