"""Conclusions of the benchmarks from their figures, and the measurement of a process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import processes

sys.path.append(str(Path(processes.__file__).parent))  # as for a script that is run
import bench_model
import parts
import peers
import roofline
import run
import tables
from machine import command

from benchmarks.comparison import agreement, figures, medians, table, verdict, with_ratios
from benchmarks.processes import watch
from wsi_seg import load_model

MIB = 2**20


def test_labels_are_compared_in_tissue_alone() -> None:
    labels = np.array([[1, 2], [3, 0]], np.uint8)
    others = np.array([[1, 2], [4, 9]], np.uint8)
    tissue = np.array([[True, True], [True, False]])
    assert agreement(labels, others, tissue) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no tissue"):
        agreement(labels, others, ~np.ones_like(tissue))


def test_ratios_say_how_much_more_the_others_take() -> None:
    ours = figures(12.0, 10.0, [(0.0, 100 * MIB), (1.0, 200 * MIB), (2.0, 50 * MIB)], tiles=20)
    assert ours["startup_seconds"] == 2.0 and ours["tiles_per_second"] == 2.0 and ours["peak_mib"] == 200.0
    slow = figures(150.0, 130.0, [(0.0, 1000 * MIB)], tiles=20)
    rows = {"ours": {**ours, "agreement": 1.0}, "slow": {**slow, "agreement": 0.995}}
    ratios = with_ratios(rows, "ours")
    assert ratios == {"slow": {"seconds": 13.0, "peak_mib": 5.0}}
    lines = table(rows, "ours").splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {10}
    assert "| 99.500% | 13.00 | 5.00 |" in lines[-1] and "| 1.00 | 1.00 |" in lines[-2]
    said = verdict("slow", "ours", ratios["slow"], ceiling=20.0)
    assert "13.0 times the time (to show: 12, met)" in said
    assert "5.0 times the memory (to show: 8, not met)" in said


def test_what_ran_out_of_memory_has_no_ratio() -> None:
    ours = {**figures(2.0, 1.0, [(0.0, MIB)], tiles=1), "agreement": 1.0}
    rows = {"ours": ours, "large": {"out_of_memory_seconds": 90.0, "peak_mib": 9000.0}}
    assert with_ratios(rows, "ours") == {}
    assert table(rows, "ours").splitlines()[-1] == "| large | out of memory after 90 | | | | 9000 | | | |"


def test_a_program_may_label_a_part_of_the_tissue_or_nothing() -> None:
    ours = {**figures(2.0, 1.0, [(0.0, MIB)], tiles=1), "agreement": 1.0, "labeled": 1.0}
    rows = {"ours": ours, "part": {**ours, "agreement": 0.995, "labeled": 0.25}, "tiles": dict(ours)}
    del rows["tiles"]["agreement"], rows["tiles"]["labeled"]
    said = [line.split(" | ")[6] for line in table(rows, "ours").splitlines()[2:]]
    assert said == ["100.000%", "99.500% of 25.0%", "none"]


def test_every_peer_has_a_title_an_environment_and_a_script() -> None:
    assert set(peers.TITLES) == set(peers.REQUIREMENTS)
    assert all((peers.SCRIPTS / f"run_{peer}.py").is_file() for peer in peers.TITLES)
    rounds = [
        {"plain loop": {"seconds": 20.0}, peers.DEFAULT: {"seconds": 5.0}, peers.EXACT: {"peak_mib": 9.0}}
    ]
    (ours,) = peers.our_pairs(rounds)
    assert ours == {"what": peers.DEFAULT, "to": "plain loop", "seconds": [[5.0, 20.0]]}
    assert peers.our_pairs([{peers.DEFAULT: {"seconds": 5.0}}]) == []


def test_rounds_are_summed_up_by_their_medians() -> None:
    rounds = [{"a": {"seconds": value}} for value in (3.0, 1.0, 2.0)]
    rounds[1]["b"] = {"seconds": 1.0}  # not in every round
    assert medians(rounds) == {"a": {"seconds": 2.0}}


def test_memory_is_that_of_the_children_too(tmp_path: Path) -> None:
    child = f"import time; held = bytearray({120 * MIB}); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    start, end, memory = watch([sys.executable, "-c", parent], tmp_path / "log")
    assert end - start >= 0.5
    assert max(size for _, size in memory) > 120 * MIB


def test_a_process_is_ended_before_it_takes_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "RESERVE", psutil.virtual_memory().total)
    before = psutil.Process().children()
    with pytest.raises(processes.OutOfMemory, match="ran out of memory"):
        watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    assert set(psutil.Process().children()) <= set(before)


def test_a_process_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"exit code 3:\nsaid before"):
        watch([sys.executable, "-c", "print('said before'); raise SystemExit(3)"], tmp_path / "log")


MACHINE = {"cpu": "a chip", "cores": 2, "ram_gib": 8.0, "os": "Linux", "python": "3.11", "torch": "2.10",
           "gpu": None, "load_average": 0.1}  # fmt: skip
ORIGIN = {"date": "2026-01-02", "command": "python benchmarks/part.py", "machine": MACHINE}


def reader_row(slide: str, task: str, openslide: float, tiffslide: float) -> dict[str, Any]:
    times = {"openslide-python": openslide, "tiffslide": tiffslide}
    return {"slide": slide, "task": task, "cpu_ms_1_thread": {"wsi_seg tiff": 1.0, **times},
            "times_as_fast_per_core": times, "times_as_fast_2_threads": times,
            "largest_difference_to_openslide": 0}  # fmt: skip


def made_results() -> dict[str, Any]:
    """Results of every part, of which some targets are met and some are not."""
    peer = {"seconds": 10.0, "startup_seconds": 1.0, "tiles": 8, "tiles_per_second": 1.0, "peak_mib": 500.0,
            "agreement": 1.0}  # fmt: skip
    rows = {
        "wsi_seg, default": peer,
        "TIAToolbox": {"out_of_memory_seconds": 9.0, "peak_mib": 8000.0},
        "TIAToolbox, all in memory": {**peer, "seconds": 130.0, "peak_mib": 3500.0, "agreement": 0.995},
    }
    run = {"tiles": 8, "wall_seconds": 11.0, "forward_only_seconds": 10.0, "ratio": 1.1,
           "peak_memory_mib": 900, "seconds": {"plan": 0.1, "blocks": 10.0},
            "worker_seconds": {"predict": 9.9}}  # fmt: skip
    memory = [
        {"size": size, "max_memory": "2GB", "tile": 512, "block": 2048, "threads": 1, "tiles": 9,
         "peak_mib": peak, "projected_mib": 1900.0, "seconds": {"blocks": 3.0}}
        for size, peak in ((8192, 1500), (65536, 1700))
    ]  # fmt: skip
    tasks = ("level 0, 512², on the grid of stored tiles", "level 0, 512², anywhere", "0.5 from 0.25 µm/px")
    starts = ("wsi-seg --help", "wsi-seg run, until the network gets the first tile of the model's own size")
    export = {"regions": 100_001, "seconds": 61.0, "cpu_seconds": 50.0, "peak_mib": 400.0, "file_mib": 8.0}
    shares = ((1, 0.7), (2, 0.81))
    folder = {"slides": 2, "slide": {"size": 8192, "tissue": 0.4}, "processor": "a chip", "rows": [
        {"workers": workers, "tiles": 8, "tile": 512, "batch": 16, "precision": "bf16",
         "worker_seconds": {"read": 1.0}, "wall_seconds": 9.0, "efficiency": share, "slides_per_hour": 800.0,
         "tiles_per_second": 0.9, "forward_only_tiles_per_second": 1.1, "core_seconds": 17.0,
         "cores_busy": 0.9, "gpu_memory_mib": None}
        for workers, share in shares]}  # fmt: skip
    found: dict[str, Any] = {
        "end_to_end": {"precision": "bf16", "load_seconds": 0.5, "median_ratio": 1.1, "rows": [run]},
        "peers": {"rounds": [rows], "verdict": "so it is",
                  "median_ratios_to": {"wsi_seg, default": with_ratios(rows, "wsi_seg, default")}},
        "roofline": {"shapes": [{"precision": "bf16", "tile": 512, "batch": 1, "ms_per_tile": 60.0,
                                 "mpx_per_second": 4.3}],
                     "ways": [{"precision": "bf16", "way": "OpenVINO", "ms_per_tile": 50.0,
                               "ratio_of_time": 0.83, "first_seconds": 4.0, "pays_after_tiles": 396}]},
        "readers": {"rows": [reader_row(slide, task, 5.5 - i, 2.5 - i)
                             for slide in ("jpeg", "jpeg2000") for i, task in enumerate(tasks)]},
        "memory": {"model_mib": 10.0, "rows": memory},
        "allocator": {"size": 8192, "tissue": 0.15, "rounds": 3, "rows": [
            {"way": "kept", "tiles": 8, "peak_mib": 900, "seconds": 9.0, "core_seconds": 15.0,
             "system_seconds": 1.0}]},
        "flight": {"processes": 2, "threads": 2, "block": 512, "rows": [
            {"write_seconds": seconds, "blocks": 506, "peak_in_flight": 8, "limit": 8,
             "worker_mib_after": {"50": 190.0}, "peak_worker_mib": peak, "blocks_seconds": 9.0}
            for seconds, peak in ((0.0, 200.0), (0.2, 221.0))]},
        "idle": {"slides": 4, "size": 8192, "workers": 2, "source": "labels", "median": {"now": {
            "wall_seconds": 9.0, "idle_share": 0.1, "tail_seconds": 1.5, "tail_idle_share": 0.3}}},
        "resume": {"slides": 1000, "first_seconds": 90.0, "again_seconds": 9.9, "one_again_seconds": 3.0,
                   "ms_a_slide": 6.9, "part_seconds": 12.3,
                   "pairs": [{"what": "a batch", "to": "import torch",
                              "seconds": [[3.0, 2.0], [4.0, 1.0], [4.0, 2.0]]}]},
        "startup": {"rows": [{"what": what, "min_seconds": 0.1, "median_seconds": 0.2,
                              "times_import_torch": 0.3}
                             for what in starts],
                    "first_tile_of_512": [{"what": "start", "min_seconds": 0.1, "median_seconds": 0.1}]},
        "polygons": {"side": 30000, "export_30000": {"now": export}, "export_3000": {"now": export}},
        "stored": {"rows": [
            {"model": "trained", "classes": 21, "mpp": 0.25, "stored": "groups", "channels": 5, "tiles": 9.5,
             "empty_chunks": 0.5, "core_ms_a_tile": 2.5, "kib_a_tile": 99.5}]},
        "beside": {"slide": {"size": 60000, "tissue": 0.4}, "cores_used": 2, "rows": [
            {"model": "fitted", "stored": "all", "tiles": 8,
             "seconds": 0.9, "core_seconds": 1.2, "core_ms_a_tile": 150.0, "regions": 3,
             "slides_per_hour_of_16_cores": 48000.0, "files": 9, "mib": 1.5,
             "slide_seconds": {"plan": 0.1}, "worker_seconds": {"read": 0.2}}]},
        "throughput": folder,
        "throughput_gpu": folder,
        "roofline_gpu": {"shapes": [], "ways": []},
        "codecs": {"rows": [{"map": "labels", "codec": "zstd 1", "chunk": 1024, "in_use": True,
                             "bytes_per_value": 0.1, "encode_seconds": 0.1, "decode_seconds": 0.1,
                             "ratios": {"bytes": 1.0, "encode_seconds": 1.0, "decode_seconds": 1.0}}]},
    }  # fmt: skip
    return {part: {**ORIGIN, **result} for part, result in found.items()}


def test_targets_are_judged_by_the_figures() -> None:
    results = made_results()
    met: dict[str, list[bool | None]] = {}
    for target in tables.targets(results):
        met.setdefault(target.part, []).append(target.met)
    assert met == {
        "end_to_end": [True],
        "throughput_gpu": [True],  # by the better of two
        "peers": [True, True, False],  # labels, 13 times the time, 7 times the memory
        "readers": [True, True, False, False, True, False, True],
        "memory": [False, True, True],  # 1700 is 1.13 times 1500
        "flight": [True, False],  # 221 is 1.105 times 200
        "resume": [True],
        "startup": [True, True],
        "polygons": [None, False],
    }
    results["end_to_end"]["median_ratio"] = 1.21
    del results["throughput_gpu"]["rows"][1]
    results["memory"]["rows"][1].update(peak_mib=1640)
    results["flight"]["rows"][1].update(peak_in_flight=9, peak_worker_mib=219.0)
    results["resume"].update(again_seconds=10.1)
    results["polygons"]["tracing"] = {"now": {"a": {"mpx_per_s": 51.0, "polygons": 1}}}
    again = tables.targets(results)
    assert [t.met for t in again if t.part in ("end_to_end", "memory", "polygons")] == [
        False, True, True, True, True, False,
    ]  # fmt: skip
    assert [t.met for t in again if t.part in ("flight", "resume", "throughput_gpu")] == [
        False, False, True, False,
    ]  # fmt: skip
    results["flight"]["rows"][1].update(peak_in_flight=8, blocks=120)
    assert [t.met for t in tables.targets(results) if t.part == "flight"] == [False, False]  # too few
    del results["readers"]
    assert [t.met for t in tables.targets(results) if t.part == "readers"] == [None]


def test_the_page_has_a_table_for_each_part(tmp_path: Path) -> None:
    results = made_results()
    for part, result in results.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(result), encoding="utf-8")
    text = tables.write_tables(tmp_path).read_text(encoding="utf-8")
    for title, _ in tables.TABLES.values():
        assert f"## {title}\n" in text
    assert text.count("2026-01-02 on A, load 0.1 before: `python benchmarks/part.py`") == len(results)
    assert text.count("- **A**: a chip, 2 cores, 8.0 GiB, Linux, Python 3.11, PyTorch 2.10") == 1
    assert "| resume | a batch | import torch | 2 | 1.5 to 4 | 3 |" in text
    assert f"| resume | {parts.PARTS['resume'].budget} | 12 |" in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block
    assert "| peers | memory of TIAToolbox, all in memory in ours | ≥ 8 | 7.0 | **no** |" in text


def test_the_model_learns_no_class_that_it_lacks() -> None:
    classes = load_model(bench_model.TEACHER, "cpu").facts.card.codes
    codes = np.array([[0, *classes]], np.uint8)
    learned = bench_model.taught(codes)
    assert set(classes) - set(bench_model.CARD.codes)  # the teacher knows glass
    assert learned[learned > 0].max() <= len(bench_model.CARD.classes)
    assert np.array_equal(learned[learned > 0], codes[learned > 0])


def test_a_way_that_compiles_says_after_how_many_tiles_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds of usual, compiled and slow: their first calls, then two rounds.
    taken = iter([1.0, 9.0, 1.0, *2 * [0.5, 0.25, 0.75]])
    monkeypatch.setattr(roofline, "_seconds", lambda call: next(taken))
    found = roofline.in_turn(dict.fromkeys(("usual", "compiled", "slow"), lambda: None), rounds=2)
    assert found["compiled"] == {"first_seconds": 9.0, "ms_per_tile": 250.0, "ratio_of_time": 0.5,
                                 "seconds": [0.25, 0.25], "pays_after_tiles": 32}  # fmt: skip
    assert found["usual"]["pays_after_tiles"] is found["slow"]["pays_after_tiles"] is None


def test_a_result_of_an_older_benchmark_counts_as_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, result in made_results().items():
        (tmp_path / f"{part}.json").write_text(json.dumps(result), encoding="utf-8")
    (tmp_path / "readers.json").write_text(json.dumps({"machine": "x86_64", "rows": []}), encoding="utf-8")
    text = tables.write_tables(tmp_path).read_text(encoding="utf-8")
    assert "readers.json: left out" in capsys.readouterr().err
    assert "## Reading\n" not in text and "| readers | reading |  | not measured | — |" in text


def test_a_part_that_fails_keeps_its_older_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run, "PARTS", {"good": parts.Part(1, ("--fast",), ("--small",)), "bad": parts.Part(1)}
    )
    (tmp_path / "good.py").write_text(
        "import json, sys, pathlib\npathlib.Path(sys.argv[-1]).write_text(json.dumps({'said': sys.argv[1]}))"
    )
    (tmp_path / "bad.py").write_text(
        "import sys, pathlib\npathlib.Path(sys.argv[-1]).write_text('half')\nsys.exit(3)"
    )
    (tmp_path / "bad.json").write_text("older")
    assert run.run_part("good", tmp_path, tmp_path) == 0 and run.run_part("bad", tmp_path, tmp_path) == 3
    good = json.loads((tmp_path / "good.json").read_text())
    assert good["said"] == "--fast" and 0 < good["part_seconds"] < 60
    assert (tmp_path / "bad.json").read_text() == "older"
    assert run.run_part("good", tmp_path, tmp_path, small=True) == 0
    assert json.loads((tmp_path / "good.json").read_text())["said"] == "--small"
    assert not list(tmp_path.glob("*.partial"))


def test_parts_that_keep_something_are_told_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peers.py").write_text(
        "import json, sys, pathlib\n"
        "pathlib.Path(sys.argv[-1]).write_text(json.dumps({'said': sys.argv[1:3]}))"
    )
    monkeypatch.setattr(run, "PARTS", {"peers": parts.Part(1, keeps=True)})
    assert run.run_part("peers", tmp_path, tmp_path, work=Path("kept")) == 0
    assert json.loads((tmp_path / "peers.json").read_text())["said"] == ["--work", "kept"]


def test_every_part_is_a_script_with_a_table() -> None:
    assert set(parts.PARTS) == set(tables.TABLES)
    assert all((run.SCRIPTS / f"{part.removesuffix(parts.GPU)}.py").is_file() for part in parts.PARTS)


def test_all_parts_fit_into_their_time_and_take_their_options() -> None:
    assert sum(parts.PARTS[name].budget for name in parts.usual_parts()) <= parts.WHOLE_BUDGET
    for name, part in parts.PARTS.items():
        script = (run.SCRIPTS / f"{name.removesuffix(parts.GPU)}.py").read_text(encoding="utf-8")
        options = [word for word in (*part.options, *part.small) if word.startswith("--")]
        assert all(f'add_argument("{option}"' in script.replace("(\n        ", "(") for option in options)
        assert part.small, f"{name} has no options that show quickly that it works"


def test_a_result_says_its_command_without_folders_of_the_machine() -> None:
    words = ["/a/benchmarks/part.py", "--work", "/b", "--size", "8", "--output", "x y.json", "--rounds", "2"]
    assert command(words) == "python benchmarks/part.py --size 8 --rounds 2"
