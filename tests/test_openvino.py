"""OpenVINO as another way to run a network on the CPU."""

from __future__ import annotations

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.geometry import Size
from wsi_seg.maps.maps import Maps
from wsi_seg.testing.models import some_tiles


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for conversions, so that tests that want the same one share it."""
    return tmp_path_factory.mktemp("cache")


def test_it_gives_the_probabilities_of_torch(
    tiny_model: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from wsi_seg.inference.models.predictor import load_predictor

    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    tiles = some_tiles(2, 64)
    expected = load_predictor(str(tiny_model), "cpu", "float32")(tiles, margin=8)
    predictor = load_predictor(str(tiny_model), "openvino", "float32")
    out = predictor(tiles, margin=8)
    assert out.shape == expected.shape and np.allclose(out, expected, atol=1e-5)
    assert np.array_equal(out, predictor(tiles, margin=8))


def test_conversions_are_kept_for_the_next_time(
    tiny_model: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from wsi_seg.inference.models.predictor import load_predictor

    def no_conversion(*_: Any) -> None:
        raise AssertionError("converted again")

    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    tiles = some_tiles(2, 64)
    expected = load_predictor(str(tiny_model), "openvino", "float32")(tiles)
    with monkeypatch.context() as patched:
        patched.setattr(torch.export, "export", no_conversion)
        assert torch.equal(load_predictor(str(tiny_model), "openvino", "float32")(tiles), expected)
        with pytest.raises(AssertionError, match="converted again"):  # for another shape
            load_predictor(str(tiny_model), "openvino", "float32")(tiles[:1])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")  # so nothing can be kept
    assert torch.equal(load_predictor(str(tiny_model), "openvino", "float32")(tiles), expected)


def test_passes_at_a_time_share_the_cores_and_give_the_same(tiny_model: Path) -> None:
    pytest.importorskip("openvino")
    from wsi_seg.inference.models.predictor import load_predictor

    predictor = load_predictor(str(tiny_model), "openvino", "float32")
    batches = np.split(some_tiles(12, 64), 12)
    expected = [predictor(batch) for batch in batches]
    with ThreadPoolExecutor(3, initializer=predictor.share, initargs=(2,)) as pool:  # one more than passes
        found = list(pool.map(predictor, batches))
    predictor.unshare()
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))


def test_a_run_is_one_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    slide = make_slide(tmp_path / "made.svs", SlideSpec(size=Size(700, 600), mpp=0.5, tissue=1.0))

    def call(device: str, *more: str) -> Any:
        command = ["run", str(slide), "-m", str(tiny_model), "--device", device]
        return CliRunner().invoke(app, [*command, "--precision", "float32", *more])

    labels = []
    for device in ("cpu", "openvino"):
        assert call(device, "-o", str(tmp_path / device)).exit_code == 0
        folder = tmp_path / device / slide.stem
        labels.append(np.asarray(Maps.open(folder / "maps.zarr").labels[:]))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["plan"]["device"] == "openvino"
    assert (labels[0] == labels[1]).mean() > 0.999
    other = call("openvino", "-o", str(tmp_path / "cpu"))
    assert other.exit_code == 1 and "another slide, model or settings" in other.stderr


def test_grad_cam_needs_gradients(tiny_model: Path, sample_svs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    where = ["--class", "tumor", "--box", "640,960,128,128", "-o", str(tmp_path / "seen.png")]
    done = CliRunner().invoke(
        app, ["explain", str(tiny_model), str(sample_svs), *where, "--device", "openvino"]
    )
    assert done.exit_code == 2 and "computes no gradients" in done.stderr, done.output
    assert not any(tmp_path.iterdir())


def test_without_it_the_way_out_is_named(
    tiny_model: Path, sample_svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else real(name, *rest)
    )
    command = [
        "run",
        str(sample_svs),
        "-m",
        str(tiny_model),
        "--device",
        "openvino",
        "-o",
        str(tmp_path / "o"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code != 0 and "pip install 'wsi-seg[openvino]'" in done.stderr
    assert not (tmp_path / "o").exists()
