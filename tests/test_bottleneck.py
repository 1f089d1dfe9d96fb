"""The time of a run, as it reports it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.made.memory_slides import ArraySlide
from tests.made.predictors import Darkness
from wsi_seg.cli import app
from wsi_seg.core.card import read_card
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.inference.blocks import STAGES, BlockSettings, ForwardPool, segment_block
from wsi_seg.inference.models.calibrate import Calibration, Timing
from wsi_seg.inference.models.openvino_trial import Trial
from wsi_seg.inference.models.transfer import CudaClock
from wsi_seg.pipeline.models import load_model
from wsi_seg.planning.grid import Block, Grid
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.results.bottleneck import SERIAL, Lanes, bottleneck, describe, lanes_of
from wsi_seg.slides.slide import map_frame
from wsi_seg.tissue.mask import TissueMask

WALL = {"plan": 1.0, "blocks": 90.0, "pyramids": 2.0, "polygons": 4.0, "overview": 3.0}


def test_shares_are_of_what_could_be_done_at_a_time() -> None:
    lanes = Lanes(threads=3, processes=2, passes=4)
    report = bottleneck(WALL, {"predict": 640.0, "read": 54.0}, lanes)
    assert report["wall_seconds"] == 100
    assert report["busy_share"]["predict"] == pytest.approx(8 / 9, abs=1e-4)
    assert report["busy_share"]["read"] == 0.2
    assert set(report["busy_share"]) == set(STAGES) and set(report["serial_share"]) == set(SERIAL)
    assert report["serial_share"]["polygons"] == 0.04
    assert report["network_seconds"] == 80 and report["network_share"] == 0.8
    assert describe(report) == (
        "of the time of the run: forward passes (8 at a time) 80%, polygons 4%, overview 3%, pyramids 2%, "
        "plan 1%; of that of the 3 threads in blocks: read 20%; limited by read"
    )


def test_threads_and_processes_are_counted_from_what_was_done() -> None:
    assert lanes_of(["a:1:7", "a:1:8", "a:2:7", "b:1:7", "a:1:7", ""], 2) == Lanes(4, 3, 2)
    assert lanes_of([], 2) == Lanes(1, 1, 2)


SECONDS = st.floats(0, 1e4, allow_nan=False)


@given(data=st.data())
def test_no_share_passes_its_scale(data: st.DataObject) -> None:
    """Whatever threads and forward passes do one after another, within the time in which they do it."""
    lanes = Lanes(*(data.draw(st.integers(1, 3)) for _ in range(3)))
    inside = [stage for stage in STAGES if stage != "predict"]
    done = st.lists(st.tuples(st.sampled_from(inside), SECONDS), max_size=6)
    threads = [data.draw(done) for _ in range(lanes.threads)]
    passes = [data.draw(st.lists(SECONDS, max_size=6)) for _ in range(lanes.of("predict"))]
    longest = max(*(sum(s for _, s in one) for one in threads), *(sum(one) for one in passes), 0.0)
    wall = {"blocks": longest + data.draw(SECONDS), **{stage: data.draw(SECONDS) for stage in SERIAL}}
    busy = {stage: sum(s for one in threads for name, s in one if name == stage) for stage in inside}
    report = bottleneck(wall, {**busy, "predict": sum(map(sum, passes))}, lanes)
    shares = [*report["busy_share"].values(), *report["serial_share"].values(), report["network_share"]]
    assert all(share is None or 0 <= share <= 1 for share in shares)
    assert sum(share or 0 for share in report["serial_share"].values()) <= 1 + 1e-3
    assert all(int(percent) <= 100 for percent in re.findall(r"(\d+)%", describe(report)))


class FakeEvent:
    """A CUDA event of a GPU that is at each piece of work for a second and a half."""

    made: ClassVar[list[FakeEvent]] = []

    def __init__(self, enable_timing: bool) -> None:
        self.number, self.waited = len(self.made), False
        self.made.append(self)

    def record(self, stream: object) -> None:
        return None

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, end: FakeEvent) -> float:
        assert end.waited and end.number == self.number + 1
        return 1500.0


class OnGpu(Darkness):
    """A predictor whose passes are timed by a GPU's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = CudaClock("cuda:0")

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        self.clock.begin()
        with self.clock.running():
            return super().__call__(tiles, margin=margin)

    def device_seconds(self) -> Callable[[], float]:
        return self.clock.seconds()


def test_passes_on_a_gpu_count_for_the_block_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of other blocks, which end meanwhile or before, would make a run's share pass its scale."""
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: None)
    slide = ArraySlide(np.zeros((128, 256, 3), np.uint8), mpp=0.5)
    frame = map_frame(slide.info, 0.5)
    plan = BlockSettings(frame, StitchSettings(Grid(64, 0), "crop", 4), (1, 2), 0, batch=1)
    tissue = TissueMask(np.ones((16, 32), bool), Scale(8, 8), "test")
    predictor = OnGpu()
    pool = ForwardPool(predictor, 1)
    with closing(pool.predict((np.zeros((1, 64, 64, 3), np.uint8) for _ in range(5)), 0)) as unasked:
        next(unasked)
        maps = segment_block(slide, Block(0, 0, Box(0, 0, 256, 128)), tissue, predictor, plan, pool)
    assert maps.tiles == 8 and maps.seconds["predict"] == 8 * 1.5


@pytest.mark.parametrize(
    ("busy", "wall", "limit"),
    [
        ({"predict": 88.0, "read": 60.0}, {}, "predict"),  # all hides behind the network
        ({"predict": 30.0, "read": 85.0, "wait": 70.0}, {}, "read"),
        ({"predict": 30.0, "write": 85.0, "read": 2.0}, {}, "write"),
        ({"predict": 80.0, "read": 20.0}, {"polygons": 300.0}, "polygons"),
        ({"predict": 95.0, "read": 2.0}, {"blocks": 95.0}, "predict"),
    ],
)
def test_the_limit_is_what_keeps_the_device_waiting(
    busy: dict[str, float], wall: dict[str, float], limit: str
) -> None:
    assert bottleneck({**WALL, **wall}, busy, Lanes())["limit"] == limit


def test_nothing_predicted_is_no_speed() -> None:
    report = bottleneck({"plan": 1.0, "blocks": 0.0}, {}, Lanes())
    assert report["network_share"] is None and report["busy_share"]["predict"] is None
    assert describe(report).startswith("of the time of the run: forward passes (1 at a time) 0%, plan 100%;")


def test_a_run_says_where_its_time_went(
    tiny_model: Path, made_svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "wsi_seg.inference.models.predictor.cpu_threads", lambda: 4
    )  # so many passes at a time
    out = tmp_path / "out"
    command = ["run", str(made_svs), "-o", str(out), "-m", str(tiny_model)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.stdout.splitlines() if "forward passes (4 at a time)" in line)
    results = out / made_svs.stem
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    manifest = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    report = summary["bottleneck"]
    assert report["lanes"]["passes"] == manifest["plan"]["passes"] == 4
    assert (
        1 <= report["lanes"]["threads"] <= manifest["plan"]["threads"] and report["lanes"]["processes"] == 1
    )
    assert report["network_seconds"] == pytest.approx(summary["worker_seconds"]["predict"] / 4, abs=2e-3)
    assert report["network_share"] == pytest.approx(
        report["network_seconds"] / report["wall_seconds"], abs=1e-3
    )
    assert all(0 < report["busy_share"][stage] <= 1 for stage in STAGES if stage != "wait")
    assert set(report["definitions"]) == {"busy_share", "serial_share", "network_seconds", "network_share"}
    page = (results / "report.html").read_text(encoding="utf-8")
    page = page[page.index("<h2>Time</h2>") : page.index("<h2>Settings</h2>")]
    shown = [float(percent) for percent in re.findall(r"([\d.]+)\s?%", page + line)]
    assert len(shown) > 10 and max(shown) <= 100
    assert "Forward passes alone" in page and "4 at a time" in " ".join(page.split())

    # A faster batch that is found later changes neither these results nor what comes after them.
    facts = load_model(str(tiny_model)).facts
    calibration = Calibration(facts.digest, facts.device, facts.precision)
    tile = manifest["plan"]["stitch"]["grid"]["tile"]
    calibration.add([Timing(tile, 1, 4, 0.2), Timing(tile, 2, 4, 0.1)])
    assert calibration.best_batches() == {tile: 2}
    assert "skipped" in CliRunner().invoke(app, command).stdout
    (plan,) = json.loads(CliRunner().invoke(app, [*command, "--dry-run", "--json"]).stdout)
    assert plan["batch"] == 2

    # Kept results of an earlier version, whose figures were others, are not described with these.
    old = {
        **summary,
        "status": "incomplete",
        "bottleneck": {"efficiency": 1.06, "busy_share": {"predict": 1.809}},
    }
    (results / "summary.json").write_text(json.dumps(old), encoding="utf-8")
    kept = CliRunner().invoke(app, command)
    assert kept.exit_code == 3 and "INCOMPLETE" in kept.stdout and "forward passes" not in kept.stdout


def test_calibrate_measures_and_keeps(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["calibrate", str(tiny_model), "--tile", "64", "--tile", "128", "--batch", "1", "--batch", "2"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    timings = json.loads(done.stdout)["timings"]
    assert {t["tile"] for t in timings} == {64, 128} and all(t["seconds_per_tile"] > 0 for t in timings)
    assert "fastest batch" in CliRunner().invoke(app, command).stdout
    fixed = shutil.copytree(tiny_model, tmp_path / "fixed")
    read_card(fixed).model_copy(update={"batch": 2}).write(fixed)
    other = CliRunner().invoke(app, ["calibrate", str(fixed), *command[2:]])
    assert other.exit_code == 2 and "takes 2 tiles at a time" in other.stderr
    of_card = CliRunner().invoke(app, ["calibrate", str(fixed), "--tile", "64", "--json"])
    assert [t["batch"] for t in json.loads(of_card.stdout)["timings"]] == [2]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "set XDG_CACHE_HOME" in refused.stderr


def test_calibrate_compares_with_openvino(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["calibrate", str(tiny_model), "--openvino", "--precision", "float32", "--tile", "64"]
    before = load_model(str(tiny_model)).facts.device
    done = CliRunner().invoke(app, [*command, "--device", "cpu", "--batch", "1", "--json"])
    assert done.exit_code == 0, done.output
    (trial,) = json.loads(done.stdout)["openvino"]
    assert trial["tile"] == 64 and 1 < trial["tiles"] <= 6
    assert trial["same_labels"] > 0.999 and trial["time_ratio"] > 0
    assert Trial(64, 6, 0.8, 0.9991).recommended
    assert not Trial(64, 6, 0.8, 0.9989).recommended and not Trial(64, 6, 1.1, 1.0).recommended
    assert load_model(str(tiny_model)).facts.device == before  # or later runs would give other results
    other = CliRunner().invoke(app, [*command, "--device", "openvino"])
    assert other.exit_code == 2 and "compared with the CPU, not openvino; use --device cpu" in other.stderr
