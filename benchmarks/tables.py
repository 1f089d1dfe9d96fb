"""Make one page of the results: what is to be shown, whether it is, and a table for each part.

    python benchmarks/tables.py [FOLDER]

Reads FOLDER/PART.json and writes FOLDER/README.md; by default FOLDER is benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import string
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import table as peer_table
from machine import RESULTS
from parts import PARTS, usual_parts
from targets import OF_PART, Target

Result = Mapping[str, Any]
HEAD = """# Results

Made by `benchmarks/tables.py` from the files next to it; do not edit. `benchmarks/README.md` says how to
read them. Ratios are measured within one run; seconds are those of one machine.
"""


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]], text_columns: int = 1) -> str:
    """Return a Markdown table; the first columns are aligned left, the others right."""
    marks = ["---"] * text_columns + ["--:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, marks, *rows))


def end_to_end(result: Result) -> str:
    parts = list(
        dict.fromkeys(key for row in result["rows"] for key in (*row["seconds"], *row["worker_seconds"]))
    )
    rows = [
        (number, row["tiles"], row["wall_seconds"], row["forward_only_seconds"], f"{row['ratio']:.2f}",
         row["peak_memory_mib"], *({**row["seconds"], **row["worker_seconds"]}.get(key, "") for key in parts))
        for number, row in enumerate(result["rows"], 1)
    ]  # fmt: skip
    head = ("round", "tiles", "run s", "network alone s", "ratio", "peak MiB", *parts)
    note = (
        f"In {result['precision']}. The stages of blocks run side by side, so their seconds add up to more "
        "than the whole; `predict` adds up passes at a time, `wait` is for the next of them. Median ratio "
        f"{result['median_ratio']:.2f}; loading the model takes {result['load_seconds']:.1f} s more."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def peers(result: Result) -> str:
    rounds = "\n\n".join(peer_table(rows, "wsi_seg, default") for rows in result["rounds"])
    return f"{rounds}\n\n{result['verdict']}." if "verdict" in result else rounds


def readers(result: Result) -> str:
    head = ("slide", "region", "ours ms", "openslide-python ms", "tiffslide ms", "× openslide", "× tiffslide",
            "× openslide, 2 threads", "× tiffslide, 2 threads", "largest difference")  # fmt: skip
    others = ("openslide-python", "tiffslide")
    rows = [
        (row["slide"], row["task"], *row["cpu_ms_1_thread"].values(),
         *(row[f"times_as_fast_{how}"][name] for how in ("per_core", "2_threads") for name in others),
         row["largest_difference_to_openslide"])
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(head, rows, 2)


def memory(result: Result) -> str:
    head = (
        "slide",
        "--max-memory",
        "tile",
        "block × in flight",
        "tiles",
        "peak MiB",
        "projected MiB",
        "blocks s",
    )
    rows = [
        (f"{row['size']}²", row["max_memory"], row["tile"], f"{row['block']} × {row['threads']}",
         row["tiles"], row["peak_mib"], round(row["projected_mib"]), round(row["seconds"]["blocks"], 1))
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(head, rows, 2)


def allocator(result: Result) -> str:
    head = ("memory", "tiles", "peak MiB", "s", "s of cores", "of them the system's")
    rows = [
        (row["way"], row["tiles"], round(row["peak_mib"]),
         *(round(row[key], 1) for key in ("seconds", "core_seconds", "system_seconds")))
        for row in result["rows"]
    ]  # fmt: skip
    note = f"A slide of {result['size']}² with {result['tissue']:.0%} tissue; medians of {result['rounds']}."
    return f"{markdown(head, rows)}\n\n{note}"


def flight(result: Result) -> str:
    head = ("s more to write a block", "blocks", "s", "most in flight", "limit",
            *(f"worker MiB after {blocks} blocks" for blocks in result["rows"][0]["worker_mib_after"]),
            "after all")  # fmt: skip
    rows = [
        (row["write_seconds"], row["blocks"], round(row["blocks_seconds"], 1), row["peak_in_flight"],
         row["limit"], *map(round, row["worker_mib_after"].values()), round(row["peak_worker_mib"]))
        for row in result["rows"]
    ]  # fmt: skip
    note = (
        f"{result['processes']} worker processes of {result['threads']} threads, blocks of "
        f"{result['block']}²; a stand-in in NumPy takes the place of the network. Memory is that of the "
        "largest worker so far."
    )
    return f"{markdown(head, rows, 0)}\n\n{note}"


def resume(result: Result) -> str:
    head = ("slides", "first run s", "again s", "of it starting s", "ms a slide")
    row = (result["slides"], round(result["first_seconds"]), round(result["again_seconds"], 1),
           round(result["one_again_seconds"], 1), round(result["ms_a_slide"], 1))  # fmt: skip
    return markdown(head, [row], 0)


def startup(result: Result) -> str:
    rows = [
        (f"`{row['what']}`", row["min_seconds"], row["median_seconds"], f"{row['times_import_torch']:.2f}")
        for row in result["rows"]
    ]
    steps = [(row["what"], row["min_seconds"], row["median_seconds"]) for row in result["first_tile_of_512"]]
    return (
        markdown(("command", "least s", "median s", "× import torch"), rows)
        + "\n\nTo the first tile of 512² px, step by step:\n\n"
        + markdown(("step", "least s", "median s"), steps)
    )


def polygons(result: Result) -> str:
    traced = [
        (which, field, round(row["mpx_per_s"]), row["polygons"])
        for which, fields in result.get("tracing", {}).items()
        for field, row in fields.items()
    ]
    exported = [
        (which, f"{key[7:]}²", row["regions"], row["seconds"], row["cpu_seconds"], round(row["peak_mib"]),
         f"{row['file_mib']:.1f}")
        for key, rows in result.items()
        if key.startswith("export_")
        for which, row in rows.items()
    ]  # fmt: skip
    head = ("version", "map", "regions", "s", "s of one core", "peak MiB", "file MiB")
    return markdown(("version", "map", "Mpx/s", "polygons"), traced, 2) + "\n\n" + markdown(head, exported, 2)


def roofline(result: Result) -> str:
    shapes = [
        (row["precision"], row["tile"], row["batch"], row["ms_per_tile"], f"{row['mpx_per_second']:.2f}")
        for row in result["shapes"]
    ]
    ways = [
        (
            row["precision"],
            row["way"],
            row["ms_per_tile"],
            f"{row['ratio_of_time']:.2f}",
            row["first_seconds"],
            "—" if row["pays_after_tiles"] is None else row["pays_after_tiles"],
        )
        for row in result["ways"]
    ]
    head = ("numbers", "way", "ms a tile", "× time of wsi_seg", "first call s", "pays after tiles")
    return (
        markdown(("numbers", "tile", "batch", "ms a tile", "Mpx/s"), shapes)
        + "\n\nOne tile of 512² in other ways, in turn:\n\n"
        + markdown(head, ways, 2)
    )


def throughput(result: Result) -> str:
    head = ("workers", "tiles", "s", "slides an hour", "tiles/s", "the network alone, tiles/s", "efficiency",
            "s of cores a slide", "cores busy", "GPU MiB", *result["rows"][0]["worker_seconds"])  # fmt: skip
    rows = [
        (row["workers"], row["tiles"], round(row["wall_seconds"], 1), round(row["slides_per_hour"]),
         f"{row['tiles_per_second']:.1f}", f"{row['forward_only_tiles_per_second']:.1f}",
         f"{row['efficiency']:.0%}", round(row["core_seconds"] / result["slides"], 1),
         f"{row['cores_busy']:.0%}", row["gpu_memory_mib"] or "—",
         *(round(seconds) for seconds in row["worker_seconds"].values()))
        for row in result["rows"]
    ]  # fmt: skip
    first, slide = result["rows"][0], result["slide"]
    note = (
        f"{result['slides']} slides of {slide['size']}² with {slide['tissue']:.0%} tissue, {first['batch']} "
        f"tiles of {first['tile']}² at a time in {first['precision']}, on {result['processor']}. The last "
        "columns are seconds of the stages of blocks, summed over all that run side by side."
    )
    return f"{markdown(head, rows, 0)}\n\n{note}"


def beside(result: Result) -> str:
    first = result["rows"][0]
    head = ("model", "stored", "tiles", "s", "s of cores", "ms of cores a tile",
            "slides an hour of 16 such cores", "regions", "files", "MiB",
            *first["slide_seconds"], *first["worker_seconds"])  # fmt: skip
    rows = [
        (row.get("model", "fitted"), row.get("stored", "all"), row["tiles"],
         *(round(row[key], 1) for key in ("seconds", "core_seconds", "core_ms_a_tile")),
         *(round(row[key]) for key in ("slides_per_hour_of_16_cores", "regions", "files", "mib")),
         *(round(seconds, 1) for seconds in row["slide_seconds"].values()),
         *(round(seconds, 1) for seconds in row["worker_seconds"].values()))
        for row in result["rows"]
    ]  # fmt: skip
    slide = result["slide"]
    note = (
        f"A slide of {slide['size']}² with {slide['tissue']:.0%} tissue, on {result['cores_used']} cores; a "
        "stand-in takes the place of the network and of what a GPU does after it. Labels and probabilities "
        "are those of a model that was fitted in some steps, or trained for a few minutes."
    )
    return f"{markdown(head, rows, 0)}\n\n{note}"


def idle(result: Result) -> str:
    head = ("version", "s", "idle", "tail s", "idle in the tail")
    rows = [
        (version, f"{row['wall_seconds']:.1f}", f"{row['idle_share']:.0%}", f"{row['tail_seconds']:.1f}",
         f"{row['tail_idle_share']:.0%}")
        for version, row in result["median"].items()
    ]  # fmt: skip
    source = result.get("source", "probabilities")
    note = (
        f"{result['slides']} slides of {result['size']}², 0.5 µm/px, on {result['workers']} worker processes "
        "of one thread; a stand-in in NumPy takes the place of the network. Regions are those of "
        f"{source}. The tail begins with the end of the last block of all slides."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def stored(result: Result) -> str:
    head = ("model", "classes", "µm/px", "stored", "channels", "empty chunks", "ms of cores a tile",
            "KiB a tile")  # fmt: skip
    rows = [
        (row["model"], row["classes"], f"{row['mpp']:g}", row["stored"], row["channels"],
         f"{row['empty_chunks']:.0%}", f"{row['core_ms_a_tile']:.2f}", round(row["kib_a_tile"]))
        for row in result["rows"]
    ]  # fmt: skip
    note = (
        "Writing maps of the packaged slide with their pyramids, a tile being 512² map pixels with tissue. "
        "`all, zeros too`: channels of nothing but 0 in a block are compressed as the others are; `traced`: "
        "the groups or classes that the model's card traces."
    )
    return f"{markdown(head, rows, 0)}\n\n{note}"


def codecs(result: Result) -> str:
    head = (
        "map",
        "codec",
        "chunk",
        "bytes a pixel",
        "encode, s of cores",
        "decode, s of cores",
        "× bytes",
        "× encode",
        "× decode",
    )
    rows = [
        (row["map"], row["codec"] + " (in use)" * row["in_use"], row["chunk"], row["bytes_per_value"],
         row["encode_seconds"], row["decode_seconds"],
         *(f"{row['ratios'][key]:.2f}" for key in ("bytes", "encode_seconds", "decode_seconds")))
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(head, rows, 2)


# Every part with its heading, in the order of the page.
TABLES: dict[str, tuple[str, Callable[[Result], str]]] = {
    "end_to_end": ("A whole run and the network alone", end_to_end),
    "peers": ("Other programs on the same slide", peers),
    "roofline": ("The network alone", roofline),
    "roofline_gpu": ("The network alone, on a GPU", roofline),
    "beside": ("Core-seconds of a slide without the network", beside),
    "stored": ("Probabilities that are stored", stored),
    "throughput": ("A folder of slides", throughput),
    "throughput_gpu": ("A folder of slides, on a GPU", throughput),
    "readers": ("Reading", readers),
    "memory": ("Memory against slide size", memory),
    "allocator": ("Memory that the C library keeps", allocator),
    "flight": ("Blocks in flight behind a slow writer", flight),
    "idle": ("Idle worker processes", idle),
    "resume": ("A finished batch, run again", resume),
    "startup": ("Start-up", startup),
    "polygons": ("Polygons", polygons),
    "codecs": ("Compression of the maps", codecs),
}


def targets(results: Mapping[str, Result]) -> list[Target]:
    """Return what is to be shown, with what the results say."""
    found = []
    for part, judge in OF_PART.items():
        if part in results:
            found += judge(results[part])
        else:
            found.append(Target(part, TABLES[part][0].lower(), "", "not measured", None))
    return found


def page(results: Mapping[str, Result]) -> str:
    """Return the page of results by part."""
    words = {True: "yes", False: "**no**", None: "—"}
    judged = [(t.part, t.what, t.asked, t.found, words[t.met]) for t in targets(results)]
    places = machines(results)
    sections = [
        HEAD,
        "## Machines\n",
        "\n".join(f"- **{letter}**: {where}" for where, letter in places.items()),
        "\n## Targets\n",
        markdown(("part", "what", "target", "found", "met"), judged, 2),
        *ratios(results),
    ]
    for part, (title, make) in TABLES.items():
        if part in results:
            origin = _origin(results[part], places)
            sections += [f"\n## {title}\n", origin, "", make(results[part])]
    sections += ["\n## Seconds of each part\n", seconds_of_parts(results)]
    return "\n".join(sections) + "\n"


def ratios(results: Mapping[str, Result]) -> list[str]:
    """Return the section of what is paired with something else; nothing where no result has pairs."""
    rows = []
    for part in TABLES:
        for one in results.get(part, {}).get("pairs", ()):
            found = sorted(ours / other for ours, other in one["seconds"])
            rows.append((part, one["what"], one["to"], f"{statistics.median(found):.3g}",
                         f"{found[0]:.3g} to {found[-1]:.3g}", len(found)))  # fmt: skip
    head = ("part", "what", "in time of", "median", "least to most", "rounds")
    return ["\n## Ratios\n", markdown(head, rows, 3)] if rows else []


def seconds_of_parts(results: Mapping[str, Result]) -> str:
    """Return the table of how long parts took, next to what they may take on two idle cores."""
    taken = {part: results[part].get("part_seconds") for part in PARTS if part in results}
    rows = [
        (name, part.budget, "—" if taken.get(name) is None else round(taken[name]))
        for name, part in PARTS.items()
    ]
    usual = usual_parts()
    whole = sum(PARTS[name].budget for name in usual)
    known = [taken[name] for name in usual if taken.get(name) is not None]
    total = f"{sum(known):.0f}" if len(known) == len(usual) else "—"
    rows.append(("all but those for a GPU", whole, total))
    return markdown(("part", "budget, s", "took, s"), rows)


def machines(results: Mapping[str, Result]) -> dict[str, str]:
    """Return a letter for each machine that results are from, by its description."""
    places = dict.fromkeys(_place(results[part]) for part in TABLES if part in results)
    return dict(zip(places, string.ascii_uppercase, strict=False))


def _origin(result: Result, places: Mapping[str, str]) -> str:
    load = result["machine"]["load_average"]
    where = f"{result['date']} on {places[_place(result)]}, load {load} before: `{result['command']}`"
    libraries = ", ".join(f"{name} {number}" for name, number in result.get("versions", {}).items())
    return f"{where}, with {libraries}" if libraries else where


def _place(result: Result) -> str:
    machine = result["machine"]
    where = [
        machine["cpu"],
        f"{machine['cores']} cores",
        f"{machine['ram_gib']} GiB",
        *([machine["gpu"]] if machine["gpu"] else []),
        machine["os"],
        f"Python {machine['python']}",
        f"PyTorch {machine['torch']}",
    ]
    return ", ".join(where)


def write_tables(folder: Path) -> Path:
    """Write the page of the results that are in a folder, and return its path.

    A result without the head that `machine.begin` writes is of an older benchmark: it counts as not measured.
    """
    results = {}
    for part in TABLES:
        path = folder / f"{part}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        if "date" in result:
            results[part] = result
        else:
            print(f"{path}: left out, as an older version of the benchmark wrote it", file=sys.stderr)
    path = folder / "README.md"
    path.write_text(page(results), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    print(write_tables(parser.parse_args().folder))


if __name__ == "__main__":
    main()
