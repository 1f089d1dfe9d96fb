"""The command line: what it prints, which exit code it returns, and what bad input leaves behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import shapely
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.made.slides import half_tissue
from wsi_seg.cli import app
from wsi_seg.core import versions as core_versions
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.maps.maps import Maps
from wsi_seg.testing.geojson import assert_geojson

MAIN = "from wsi_seg.cli import main; main()"


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(result: Any, code: int, *words: str) -> None:
    """One clear line on stderr with these words, this exit code, and no traceback."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def small_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 300 × 200 pixels, its left half tissue-colored."""
    return half_tissue(tmp_path_factory.mktemp("png") / "small.png")


@pytest.fixture(scope="module")
def done(small_png: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run on the small picture."""
    out = tmp_path_factory.mktemp("done")
    result = call("run", small_png, "-o", out, "--model", tiny_model, "--mpp", 0.5, "--precision", "float32",
                  "--set", "min_area_um2=0")  # fmt: skip
    assert result.exit_code == 0, result.output
    return out / "small"


def test_run_prints_the_result_and_the_notice(small_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = call("run", small_png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.5)
    assert result.exit_code == 0, result.output
    assert "tumor regions" in result.stdout
    assert result.stderr.count("untrained") == 1
    again = call("run", small_png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.5)
    assert again.exit_code == 0
    assert "skipped" in again.stdout


def test_packages_without_metadata_do_not_end_a_run(
    small_png: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def as_conda_has_it(name: str) -> str:
        if name in ("pillow", "tiffslide"):  # one whose module says its version, one that is not there
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", as_conda_has_it)
    monkeypatch.setattr(core_versions, "package_version", core_versions.package_version.__wrapped__)
    monkeypatch.setitem(sys.modules, "tiffslide", None)
    result = call("run", small_png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.5)
    assert result.exit_code == 0, result.output
    versions = json.loads((tmp_path / "small" / "manifest.json").read_text())["versions"]
    assert (versions["pillow"], versions["tiffslide"]) == (PIL.__version__, "unknown")
    assert versions["torch"] == real("torch")


def test_a_network_that_gives_no_numbers_is_refused_and_not_taken_for_a_slide_without_tumor(
    small_png: Path, tiny_model: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["segmentation_head.0.bias"][1] = float("nan")
    save_file(weights, broken / "model.safetensors")
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # as NumPy has it of what is no number
        result = call("run", small_png, "-o", out, "--model", broken, "--mpp", "0.5")
    assert result.exit_code == 1, result.stderr
    assert result.stderr.count("probabilities are not numbers") == 1
    assert "error: " in result.stderr and "--precision float32" in result.stderr
    assert not list(out.iterdir())


def test_run_json_is_json_alone(small_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = call("run", small_png, tmp_path / "absent.svs", "-o", tmp_path / "out", "--model", tiny_model,
                  "--mpp", 0.5, "--json")  # fmt: skip
    assert result.exit_code == 3
    first, second = json.loads(result.stdout)
    assert first["status"] == "done"
    assert first["summary"]["tiles"] >= 1
    assert second["status"] == "failed"
    assert "absent.svs" in second["reason"]
    alone = call("run", tmp_path / "absent.svs", "-o", tmp_path / "out", "--model", tiny_model, "--json")
    refused(alone, 1, "absent.svs")
    assert [slide["status"] for slide in json.loads(alone.stdout)] == ["failed"]


def test_dry_run_prints_the_plan_and_writes_nothing(
    small_png: Path, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ("run", small_png, "-o", tmp_path / "out", "--model", tiny_model, "--mpp", 0.5, "--dry-run")
    text = call(*arguments)
    assert text.exit_code == 0
    for word in ("tiles", "memory", "MiB", "output", "blocks", "overlap"):
        assert word in text.stdout
    plan = json.loads(call(*arguments, "--json").stdout)[0]
    assert plan["tiles"] == sum(tiles for _, _, tiles in plan["blocks"]) > 0
    assert plan["projected_memory_bytes"] > 0
    assert plan["projected_output_bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_flags_win_over_the_file(small_png: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {tiny_model}\nmpp: 0.5\ntile: 256\noverlap: 64\n")
    arguments = ("run", small_png, "-o", tmp_path / "out", "-c", config, "--dry-run", "--json")
    assert json.loads(call(*arguments).stdout)[0]["stitch"]["grid"] == {
        "tile": 256, "overlap": 64, "whole": [None, 224], "margin": 0, "multiple": 32,
    }  # fmt: skip
    grid = json.loads(call(*arguments, "--set", "tile=128").stdout)[0]["stitch"]["grid"]
    assert (grid["tile"], grid["overlap"], grid["whole"]) == (128, 64, [None, None])


def test_an_image_smaller_than_a_tile_is_predicted_at_its_own_size(
    smooth_model: Path, tmp_path: Path
) -> None:
    """As one forward pass over the image, reflected up to a multiple of what the network halves."""
    pixels = np.random.default_rng(7).integers(40, 220, (75, 300, 3), np.uint8)
    small, strip = tmp_path / "small.png", tmp_path / "strip.png"
    Image.fromarray(pixels[:, :100]).save(small)
    Image.fromarray(pixels).save(strip)
    how = ("--model", smooth_model, "--mpp", 0.5, "--precision", "float32", "--tissue", "none")
    assert call("run", small, "-o", tmp_path / "out", *how).exit_code == 0
    padded = np.pad(pixels[:, :100], ((0, 21), (0, 28), (0, 0)), "reflect")
    plain = np.asarray(load_predictor(str(smooth_model), "cpu", "float32")(padded[None])[0])
    maps = Maps.open(tmp_path / "out" / "small" / "maps.zarr")
    assert np.array_equal(maps.labels[:], plain[:, :75, :100].argmax(0) + 1)
    seams = call(
        "check-seams", small, "--model", smooth_model, "--mpp", 0.5, "--set", "tissue=none", "--json"
    )
    assert json.loads(seams.stdout)["equal_labels"] == 1
    assert "1 of 128 × 96 px, the width and height of the map padded by reflection, blend crop" in (
        call("run", small, "-o", tmp_path / "none", *how, "--dry-run").stdout
    )
    assert "3 of 128 × 96 px, overlap 0, the height of the map padded by reflection, blend crop" in (
        call("run", strip, "-o", tmp_path / "none", *how, "--dry-run").stdout
    )


def test_measurements_are_those_of_the_polygons_in_the_file(
    small_png: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A slide that ends within a map pixel, with regions along its edge."""
    result = call("run", small_png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.27, "--tissue", "none",
                  "--groups", "tumor,other", "--set", "min_area_um2=20")  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "small" / "summary.json").read_text())
    sums: Counter[str] = Counter()
    for feature in json.loads((tmp_path / "small" / "polygons.geojson").read_text())["features"]:
        written = feature["properties"]["measurements"]
        in_um = shapely.transform(shapely.geometry.shape(feature["geometry"]), lambda xy: xy * 0.27)
        assert written["Area µm^2"] == pytest.approx(in_um.area, abs=0.0051)
        assert written["Perimeter µm"] == pytest.approx(in_um.length, abs=0.0051)
        sums[feature["properties"]["metadata"]["group"]] += in_um.area / 1e6
    assert sums == pytest.approx({n: r["area_mm2"] for n, r in summary["regions"].items()}, abs=1e-6)


def test_export_with_other_settings_leaves_the_run_alone(done: Path) -> None:
    before = (done / "polygons.geojson").read_bytes()
    result = call("export", done, "--classes", "stroma,necrosis_or_debris", "--threshold", 0.3,
                  "--set", "min_area_um2=0", "-o", done / "other.geojson.gz")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert_geojson(done / "other.geojson.gz")
    assert (done / "polygons.geojson").read_bytes() == before
    same = call("export", done, "--set", "min_area_um2=0", "-o", done / "again.geojson")
    assert same.exit_code == 0
    assert (done / "again.geojson").read_bytes() == before


def test_augmentation_and_uncertainty_from_plan_to_export(
    small_png: Path, tiny_model: Path, tmp_path: Path
) -> None:
    common = ("run", small_png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.5, "--precision", "float32",
              "--set", "min_area_um2=0", "--set", "probability_dtype=float32")  # fmt: skip
    planned = call(*common, "--tta", "--uncertainty", "--dry-run").stdout
    assert "augmentation" in planned and "uncertainty" in planned
    assert call(*common, "--tta", "--uncertainty").exit_code == 0
    results = tmp_path / "small"
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["plan"]["tta"] is True and manifest["plan"]["stitch"]["uncertainty"] is True
    maps = Maps.open(results / "maps.zarr")
    probabilities, uncertainty = np.asarray(maps.probabilities[:-1]), maps.uncertainty[:]
    assert 0 < uncertainty.max() <= 1 and not uncertainty[np.asarray(probabilities.sum(0)) == 0].any()
    refused(call(*common, "--uncertainty"), 1, "another slide, model or settings")  # without --tta
    config = tmp_path / "run.yaml"
    config.write_text("tta: true\nuncertainty: true\n")
    assert "skipped" in call(*common, "-c", config).stdout
    assert call(*common, "--uncertainty", "--overwrite").exit_code == 0
    assert not np.array_equal(np.asarray(Maps.open(results / "maps.zarr").probabilities[:-1]), probabilities)
    out = tmp_path / "other.geojson"
    assert call("export", results, "--groups", "other", "--set", "min_area_um2=0", "-o", out).exit_code == 0
    assert_geojson(out)
    for feature in json.loads(out.read_text())["features"]:
        assert 0 < feature["properties"]["measurements"]["Mean uncertainty"] <= 1


def test_validate_tells_good_from_bad(done: Path, tmp_path: Path) -> None:
    good = call("validate", done)
    assert good.exit_code == 0
    assert "ok" in good.stdout
    (tmp_path / "bad.geojson").write_text('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}')
    bad = call("validate", tmp_path)
    assert bad.exit_code == 1
    assert "problems" in bad.stdout
    refused(call("validate", tmp_path / "nothing"), 1, "nothing")


def test_info_and_models(small_png: Path, sample_svs: Path) -> None:
    assert "unknown, pass --mpp" in call("info", small_png).stdout
    facts = json.loads(call("info", sample_svs, "--json").stdout)
    assert facts["size"] == {"width": 2220, "height": 2967}
    assert facts["mpp"]["x"] == pytest.approx(0.499)
    cards = json.loads(call("models", "--json").stdout)
    assert [card["name"] for card in cards if card["state"] == "bundled"] == ["bcss-demo"]
    assert "not for clinical use" in cards[0]["notice"]


def test_installed_models_are_listed_and_run(
    small_png: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSI_SEG_MODELS", str(tmp_path / "models"))
    shutil.copytree(tiny_model, tmp_path / "models" / "mine")
    listed = call("models").stdout
    assert listed.index("bundled:") < listed.index("bcss-demo") < listed.index("installed:\n  mine (version")
    states = [card["state"] for card in json.loads(call("models", "--json").stdout)]
    assert states[:2] == ["bundled", "installed"] and set(states[2:]) == {"available"}
    result = call("run", small_png, "-o", tmp_path / "out", "--model", "mine", "--mpp", 0.5, "--dry-run")
    assert result.exit_code == 0, result.output
    refused(call("run", small_png, "-o", tmp_path / "out", "--model", "minee"), 1, "did you mean 'mine'?")


def test_info_and_models_need_neither_torch_nor_dask(sample_svs: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\nfrom wsi_seg.cli import app\n"
        f"for words in (['info', {str(sample_svs)!r}], ['models']):\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    assert result.exit_code == 0, result.output\n"
        "assert not {'torch', 'dask'} & set(sys.modules), 'torch or dask was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_seams_reports_equality(small_png: Path, smooth_model: Path) -> None:
    result = call("check-seams", small_png, "--model", smooth_model, "--mpp", 0.5, "--side", 128, "--json",
                  "--set", "tile=256", "--set", "overlap=128")  # fmt: skip
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert 0.9 < plain["equal_labels"] <= 1
    augmented = call("check-seams", small_png, "--model", smooth_model, "--mpp", 0.5, "--side", 128, "--json",
                     "--set", "tile=256", "--set", "overlap=128", "--set", "tta=true",
                     "--set", "uncertainty=true")  # fmt: skip
    assert augmented.exit_code == 0, augmented.output
    assert 0.9 < json.loads(augmented.stdout)["equal_labels"] <= 1
    assert json.loads(augmented.stdout) != plain


def run_bad(slide: Path, out: Path, *more: object) -> Any:
    result = call("run", slide, "-o", out, *more)
    assert not out.exists() or not list(out.iterdir()), "something was left behind"
    return result


class TestBadInput:
    """One clear line each, the right exit code, nothing half-written."""

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path, tiny_model: Path, small_png: Path) -> None:
        self.tmp, self.out, self.model, self.png = tmp_path, tmp_path / "out", tiny_model, small_png

    def run(self, slide: Path, *more: object) -> Any:
        return run_bad(slide, self.out, "--model", self.model, *more)

    def test_missing_slide(self) -> None:
        refused(self.run(self.tmp / "absent.svs"), 1, "absent.svs")

    def test_empty_slide(self) -> None:
        (self.tmp / "empty.svs").touch()
        refused(self.run(self.tmp / "empty.svs"), 1, "empty.svs", "empty")

    def test_text_is_no_slide(self) -> None:
        (self.tmp / "notes.svs").write_text("not a slide\n" * 100)
        refused(self.run(self.tmp / "notes.svs"), 1, "notes.svs")

    def test_truncated_slide(self, sample_svs: Path) -> None:
        (self.tmp / "half.svs").write_bytes(sample_svs.read_bytes()[:900_000])
        refused(self.run(self.tmp / "half.svs"), 1, "half.svs")

    def test_slide_without_mpp(self) -> None:
        refused(self.run(self.png), 1, "small.png", "--mpp")

    def test_negative_mpp(self) -> None:
        refused(self.run(self.png, "--mpp", -1), 2, "mpp")

    def test_mask_file_of_the_wrong_kind(self) -> None:
        mask = self.tmp / "mask.geojson"
        mask.write_text('{"type": "Point", "coordinates": [1, 2]}')
        refused(self.run(self.png, "--mpp", 0.5, "--tissue", mask), 1, "mask.geojson")
        refused(self.run(self.png, "--mpp", 0.5, "--tissue", self.png), 1, "small.png")

    def test_unknown_tissue_method(self) -> None:
        refused(self.run(self.png, "--mpp", 0.5, "--tissue", "otzu"), 2, "otzu", "otsu")

    def test_unknown_class_names(self) -> None:
        refused(self.run(self.png, "--mpp", 0.5, "--classes", "strema"), 2, "strema", "stroma")
        refused(self.run(self.png, "--mpp", 0.5, "--groups", "tumours"), 2, "tumours", "tumor")

    def test_unknown_model(self) -> None:
        refused(run_bad(self.png, self.out, "--model", "bcss-dem"), 1, "bcss-dem", "bcss-demo")

    def test_model_with_other_channels_than_its_card(self) -> None:
        other = self.tmp / "other"
        shutil.copytree(self.model, other)
        card = json.loads((other / "card.json").read_text())
        card["classes"] = card["classes"][:3]
        card["groups"] = card["groups"][:1]
        (other / "card.json").write_text(json.dumps(card))
        refused(run_bad(self.png, self.out, "--mpp", 0.5, "--model", other), 1, "4 classes", "3")

    def test_damaged_weights(self) -> None:
        other = self.tmp / "other"
        shutil.copytree(self.model, other)
        (other / "model.safetensors").write_bytes(b"\0" * 100)
        refused(run_bad(self.png, self.out, "--mpp", 0.5, "--model", other), 1, "model.safetensors")

    def test_output_that_cannot_be_written(self) -> None:
        (self.tmp / "file").write_text("in the way")
        result = call("run", self.png, "-o", self.tmp / "file", "--mpp", 0.5, "--model", self.model)
        refused(result, 1, "file")

    def test_unknown_setting(self) -> None:
        refused(self.run(self.png, "--mpp", 0.5, "--set", "overlop=3"), 2, "overlop", "overlap")
        refused(self.run(self.png, "--mpp", 0.5, "--set", "overlap"), 2, "KEY=VALUE")

    def test_missing_or_broken_config(self) -> None:
        refused(self.run(self.png, "-c", self.tmp / "none.yaml"), 2, "none.yaml")
        (self.tmp / "bad.yaml").write_text("a: [1")
        refused(self.run(self.png, "-c", self.tmp / "bad.yaml"), 2, "bad.yaml")

    def test_grid_that_makes_no_sense(self) -> None:
        refused(self.run(self.png, "--mpp", 0.5, "--set", "tile=100"), 2, "100", "32")
        refused(self.run(self.png, "--mpp", 0.5, "--set", "probability_downsample=5"), 2, "5")

    def test_unknown_scheduler_and_device(self) -> None:
        refused(self.run(self.png, "--mpp", 0.5, "--device", "tpu"), 2, "tpu")
        result = call(
            "run", self.png, "-o", self.out, "--mpp", 0.5, "--model", self.model, "--scheduler", "x"
        )
        refused(result, 2, "unknown scheduler 'x'")

    def test_export_of_no_results(self) -> None:
        refused(call("export", self.tmp), 1, "manifest.json")

    def test_no_arguments_is_usage(self) -> None:
        assert call("run").exit_code == 2
        assert call("no-such-command").exit_code == 2


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_full_disk_ends_with_one_line_and_can_be_taken_up(
    made_svs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        arguments = ("run", made_svs, "-o", disk / "out", "--model", tiny_model, "--precision", "float32")
        refused(call(*arguments), 1, "No space left")
        assert not (disk / "out" / "made").exists()
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = call(*arguments)
        assert again.exit_code == 0, again.output
        assert_geojson(disk / "out" / "made" / "polygons.geojson")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_stops_a_run_and_the_next_goes_on(made_svs: Path, quick_model: Path, tmp_path: Path) -> None:
    # A background job of a shell ignores Ctrl-C, and so would the tests' children: take it back.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + MAIN
    arguments = [sys.executable, "-c", code, "run", str(made_svs), "-o",
                 str(tmp_path), "--model", str(quick_model), "--precision", "float32", "--threads", "1",
                 "--set", "block=512", "--set", "overlap=32"]  # fmt: skip
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / ".made.partial" / "blocks.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again" in errors
    assert not (tmp_path / "made").exists()
    again = call(*arguments[3:])
    assert again.exit_code == 0, again.output
    assert not (tmp_path / ".made.partial").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("export", "results", "--to", "csv", "-o"),
        ("report", "results", "-o"),
        ("trace", "map.tiff", "-o"),
        ("join", "results", "cells.csv", "-o"),
        ("train", "config.yaml", "-o"),
        ("evaluate", "model", "-o"),
        ("models", "import", "model", "-o"),
        ("review", "export", "results", "-o"),
        ("qupath",),
    ],
    ids=lambda words: words[0],
)
def test_no_local_folder_is_made_of_a_url(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "s3://bucket/out.csv"])
    assert done.exit_code == 2 and "s3://bucket/out.csv is a URL" in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())
