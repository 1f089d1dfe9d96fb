"""Memory of a whole run in a process of its own: flat in the slide's size, and near what was projected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Size

# A projection is an upper estimate, but one that is far too high keeps a run from a machine that would do.
SLACK = 1.6
COMMAND = [sys.executable, "-c", "from wsi_seg.cli import main; main()", "run"]


def run_alone(slide: Path, out: Path, model: Path, *more: str) -> Any:
    arguments = [*COMMAND, str(slide), "-o", str(out), "--model", str(model), "--precision", "float32"]
    done = subprocess.run([*arguments, "--json", *more], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)[0]


@pytest.mark.long
def test_memory_does_not_grow_with_the_slide(tiny_model: Path, tmp_path: Path) -> None:
    peaks = []
    for size, tissue in ((4096, 0.06), (16_384, 0.02)):  # the larger one has more tissue, too
        slide = make_slide(tmp_path / f"{size}.svs", SlideSpec(size=Size(size, size), tissue=tissue, seed=2))
        settings = ("--set", "overlap=32", "--set", "block=512")
        done = run_alone(slide, tmp_path, tiny_model, *settings)
        summary = done["summary"]
        plan = json.loads((Path(done["folder"]) / "manifest.json").read_text(encoding="utf-8"))["plan"]
        assert summary["tiles"] == plan["tiles"] > 50
        peak = summary["peak_memory_mib"] * 2**20
        assert peak <= plan["projected_memory_bytes"] <= SLACK * peak
        peaks.append(summary["peak_memory_mib"])
    assert peaks[1] <= 1.1 * peaks[0]


def test_a_run_stays_below_its_ceiling(quick_model: Path, tmp_path: Path) -> None:
    slide = make_slide(tmp_path / "made.svs", SlideSpec(size=Size(4096, 4096), tissue=0.2, seed=2))
    ceiling = 1_300_000_000
    done = run_alone(slide, tmp_path, quick_model, "--max-memory", str(ceiling))
    plan = json.loads((Path(done["folder"]) / "manifest.json").read_text(encoding="utf-8"))["plan"]
    assert plan["threads"] == 1  # of two: something had to give
    summary = done["summary"]
    assert summary["tiles"] > 20
    peak = summary["peak_memory_mib"] * 2**20
    assert peak <= plan["projected_memory_bytes"] <= ceiling
    assert plan["projected_memory_bytes"] <= SLACK * peak
