"""`wsi-seg models import` of MONAI bundles and of BioImage.IO archives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.made.foreign_models import Foreign, save_onnx, save_torchscript
from tests.test_models_import import accepted, refused
from wsi_seg.core.card import read_card
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.testing.models import some_tiles

Plain = dict[str, Any]
UNET: Plain = {
    "_target_": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": [4, 8],
    "strides": [2], "num_res_units": 1,
}  # fmt: skip
METADATA: Plain = {
    "version": "0.3.1",
    "description": "made for a test",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 3, "spatial_shape": [64, 64], "value_range": [0, 1]}},
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "tumor"}}},
    },
}
TRANSFORMS: list[Plain] = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1},
    {"_target_": "ScaleIntensityd", "keys": "image", "_disabled_": True},
    {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": [0.1, 0.2, 0.3], "divisor": 0.5},
]
INFERENCE: Plain = {
    "network_def": UNET,
    "preprocessing": {"_target_": "Compose", "transforms": TRANSFORMS},
    "postprocessing": {
        "_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    },
}  # fmt: skip
MPP = ("--mpp", "0.5", "--no-groups")


def bundle(folder: Path, network: torch.nn.Module | None = None, **changes: Any) -> Path:
    """Write a bundle; with a network its weights, without one TorchScript of another network."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({**METADATA, **changes.pop("metadata", {})}))
    (folder / "configs" / "inference.json").write_text(json.dumps({**INFERENCE, **changes}))
    if network is not None:
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def normalized(tiles: np.ndarray) -> torch.Tensor:
    """Return what `TRANSFORMS` make of tiles."""
    values = (tiles / 127.5 - 1 - np.array([0.1, 0.2, 0.3])) / 0.5
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def monai_unet() -> torch.nn.Module:
    nets = pytest.importorskip("monai.networks.nets", reason="needs the extra monai")
    torch.manual_seed(0)
    network: torch.nn.Module = nets.UNet(**{key: value for key, value in UNET.items() if key != "_target_"})
    return network.eval()


@pytest.mark.parametrize("archive", [False, True])
def test_monai_bundle_of_weights(archive: bool, monai_unet: torch.nn.Module, tmp_path: Path) -> None:
    source = bundle(tmp_path / "tumor_bundle", monai_unet)
    if archive:
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "tumor_bundle"))
    text = accepted(source, tmp_path / "mine", *MPP)
    assert "MONAI bundle as format torch-export" in text
    card = read_card(tmp_path / "mine")
    assert (card.version, card.description, card.tile, card.head) == (
        "0.3.1",
        "made for a test",
        64,
        "softmax",
    )
    assert [c.name for c in card.classes] == ["background", "tumor"]
    tiles = some_tiles(2, 64)
    with torch.inference_mode():
        expected = monai_unet(normalized(tiles)).softmax(1)
    found = load_predictor(str(tmp_path / "mine"), "cpu")(tiles)
    assert float((found - expected).abs().max()) < 1e-4


def test_monai_bundle_of_torchscript_needs_no_monai(tmp_path: Path) -> None:
    source = bundle(tmp_path / "scripted", preprocessing={"transforms": [{"_target_": "ScaleIntensityd"}]})
    save_torchscript(Foreign(), source / "models" / "model.ts")
    out = tmp_path / "mine"
    for step in ("@scale", {"_target_": "ScaleIntensityd", "_disabled_": False}):  # known to the bundle alone
        bundle(source, preprocessing={"transforms": [*TRANSFORMS, step]})
        assert "give --normalization" in refused(
            source, out, *MPP, "--class", "a", "--class", "b", "--class", "c"
        )
    bundle(source, preprocessing={"transforms": [{"_target_": "ScaleIntensityd"}]})
    # Each image by its own least and largest value: no tile can be prepared like that.
    assert "does not tell everything (its network has 3 channels); give --normalization" in refused(
        source, out, *MPP, "--class", "a", "--class", "b", "--class", "c"
    )
    classes = ("--class", "a", "--class", "b", "--class", "c")
    text = accepted(source, out, *MPP, *classes, "--normalization", "unit")
    assert "MONAI bundle as format torchscript" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network_def": {"_target_": "$__import__('os').abort()"}}, r"runs code to build the network"),
        ({"network_def": {**UNET, "act": "$import os"}}, "runs code to build the network ('$import os')"),
        ({"network_def": {**UNET, "act": {"_target_": "os.abort"}}}, "runs code to build the network ("),
        ({"network_def": {**UNET, "_target_": "os.abort"}}, "('os.abort'); --trust allows that"),
        ({"network_def": {**UNET, "channels": [4, 8, 16]}}, "MONAI cannot build it"),
        ({"network_def": None}, "network_def is missing in configs/inference.json"),
        ({"metadata": {"network_data_format": {}}}, "describes no network of one image (KeyError: 'inputs')"),
        (
            {"metadata": {"network_data_format": {**METADATA["network_data_format"], "inputs": {
                "image": {"num_channels": 1, "spatial_shape": [96, 96, 96]}}}}},
            "the network takes 1 channels and 3 dimensions",
        ),
    ],
)  # fmt: skip
def test_monai_bundles_that_are_refused(
    change: Plain, words: str, monai_unet: torch.nn.Module, tmp_path: Path
) -> None:
    source = bundle(tmp_path / "bundle", monai_unet, **change)
    assert words in refused(source, tmp_path / "mine", *MPP)


def test_monai_bundle_with_code_of_its_own(monai_unet: torch.nn.Module, tmp_path: Path) -> None:
    changed = {"network_def": {**UNET, "out_channels": "@classes"}, "classes": "$1 + 1"}
    source = bundle(tmp_path / "bundle", monai_unet, **changed)
    assert "('@classes'); --trust allows" in refused(source, tmp_path / "mine", *MPP)
    accepted(source, tmp_path / "mine", *MPP, "--trust")


# --- BioImage.IO ---------------------------------------------------------------------------------------


def described(folder: Path, network: torch.nn.Module, kinds: tuple[str, ...], **changes: Any) -> Path:
    """Write `rdf.yaml` of format 0.5 with weights and test tensors into a folder."""
    import yaml

    folder.mkdir(parents=True)
    tiles = some_tiles(1, 64).transpose(0, 3, 1, 2)
    np.save(folder / "input.npy", tiles)
    np.save(folder / "output.npy", np.zeros((1, 3, 64, 64), np.float32))
    (folder / "README.md").write_text("# Made\n")
    weights: Plain = {}
    for kind in kinds:
        if kind == "onnx":
            save_onnx(network, folder / "net.onnx")  # type: ignore[arg-type]
            weights["onnx"] = {"source": "net.onnx", "opset_version": 18}
        elif kind == "torchscript":
            save_torchscript(network, folder / "net.ts")
            weights["torchscript"] = {"source": "net.ts", "pytorch_version": "2.9"}
        else:
            torch.save(network.state_dict(), folder / "net.pt")
            (folder / "net.py").write_text(CODE)
            weights["pytorch_state_dict"] = {
                "source": "net.pt", "pytorch_version": "2.9",
                "architecture": {"source": "net.py", "callable": "Made"},
            }  # fmt: skip
    sides = [{"type": "space", "id": i, "size": {"min": 64, "step": 32}, **MICRONS}
             for i in "yx"]  # fmt: skip
    of = [{"type": "space", "id": i, "size": {"tensor_id": "raw", "axis_id": i}, "halo": 8, **MICRONS}
          for i in "yx"]  # fmt: skip
    channels = [{"type": "channel", "channel_names": names} for names in (["r", "g", "b"], ["t", "s", "o"])]
    model: Plain = {
        "type": "model", "format_version": "0.5.4", "name": "Made (for a test)", "description": "made",
        "license": "MIT", "version": "2.1", "documentation": "README.md", "git_repo": "https://example.org/a",
        "authors": [{"name": "A", "github_user": "a"}], "cite": [{"text": "none", "url": "https://example.org"}],
        "inputs": [{
            "id": "raw", "test_tensor": {"source": "input.npy"}, "data": {"type": "uint8"},
            "axes": [{"type": "batch"}, channels[0], *sides],
            "preprocessing": [
                {"id": "scale_linear", "kwargs": {"gain": 0.01, "offset": 0.5}},
                {"id": "fixed_zero_mean_unit_variance",
                 "kwargs": {"mean": [0.1, 0.2, 0.3], "std": [2, 3, 4], "axis": "channel"}},
                {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
            ],
        }],
        "outputs": [{
            "id": "map", "test_tensor": {"source": "output.npy"}, "data": {"type": "float32"},
            "axes": [{"type": "batch"}, channels[1], *of],
            "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
        }],
        "weights": weights,
    }  # fmt: skip
    for key, value in changes.items():
        tensor, _, field = key.partition("_")
        model[tensor][0][field] = value
    (folder / "rdf.yaml").write_text(yaml.safe_dump(model))
    return folder


MICRONS = {"unit": "micrometer", "scale": 0.4}
FIXED: list[Plain] = [{"type": "space", "id": i, "size": 64, **MICRONS} for i in "yx"]
CODE = """
import torch
class Made(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.last = torch.nn.Conv2d(8, 3, 1)
    def forward(self, inputs):
        return self.last(self.first(inputs).relu())
"""


class Plainer(Foreign):
    """`Foreign` with its map as the only output."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.last(self.first(inputs).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["torchscript", "pytorch_state_dict"])
def test_bioimage_archives(kind: str, tmp_path: Path) -> None:
    """Predictions are those of bioimageio.core, with its preprocessing and postprocessing."""
    core = pytest.importorskip("bioimageio.core", reason="needs the extra bioimage")
    folder = described(tmp_path / "made", Plainer(), (kind,))
    source = Path(shutil.make_archive(str(tmp_path / "made"), "zip", folder))
    out = tmp_path / "mine"
    if kind == "pytorch_state_dict":
        assert "made.zip: holds tensors with the code of their network; --trust" in refused(source, out)
    text = accepted(source, out, "--no-groups", *(["--trust"] if kind == "pytorch_state_dict" else []))
    assert "Made-for-a-test, BioImage.IO model as format" in text
    card = read_card(out)
    assert (card.license, card.version, card.tile, card.overlap) == ("MIT", "2.1", 512, 16)
    assert (card.mpp, card.head, [c.name for c in card.classes]) == (0.4, "softmax", ["t", "s", "o"])
    tiles = some_tiles(1, 64)
    spec = pytest.importorskip("bioimageio.spec")
    model = spec.load_model_description(folder / "rdf.yaml", perform_io_checks=False)  # asks no servers
    sample = core.predict(model=model, inputs={"raw": tiles.transpose(0, 3, 1, 2)})
    expected = torch.from_numpy(np.asarray(sample.members["map"].data))
    found = load_predictor(str(out), "cpu")(tiles)
    inside = (..., slice(8, -8), slice(8, -8))  # it pads the image by the halo, reflected
    assert float((found - expected)[inside].abs().max()) < 1e-4
    assert float(expected.std()) > 0.01


def test_bioimage_folder_of_onnx_of_one_size(tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec", reason="needs the extra bioimage")
    fixed = [{"type": "batch"}, {"type": "channel", "channel_names": ["r", "g", "b"]},
             *FIXED]  # fmt: skip
    folder = described(tmp_path / "made", Foreign(), ("torchscript", "onnx"), inputs_axes=fixed)
    text = accepted(folder, tmp_path / "mine", "--no-groups", "--mpp", "1")  # wins
    assert read_card(tmp_path / "mine").mpp == 1
    assert "BioImage.IO model as format onnx" in text and "64×64 px only" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs_data": {"type": "float32"}}, "does not tell everything (its network has 3 channels); give "
         "--normalization"),
        ({"inputs_preprocessing": [{"id": "scale_linear", "kwargs": {"gain": 2.0}}]}, "give --normalization"),
        ({"inputs_preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x", "y"]}}]},
         "give --normalization"),
        ({"inputs_axes": [{"type": "batch"}, *FIXED, {"type": "channel", "channel_names": ["r", "g", "b"]}]},
         "the network takes byxc, and one input of axes bcyx is expected"),
        ({"inputs_id": "mask"}, "no valid model of BioImage.IO ("),
    ],
)  # fmt: skip
def test_bioimage_models_that_are_refused(change: Plain, words: str, tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec", reason="needs the extra bioimage")
    folder = described(tmp_path / "made", Plainer(), ("torchscript",), **change)
    assert words in refused(folder, tmp_path / "mine", "--no-groups", "--mpp", "1")


def test_bioimage_weights_that_are_not_there_or_changed(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("bioimageio.spec", reason="needs the extra bioimage")
    folder = described(tmp_path / "made", Plainer(), ("torchscript",))
    model = yaml.safe_load((folder / "rdf.yaml").read_text())
    model["weights"]["torchscript"]["sha256"] = "0" * 64
    (folder / "rdf.yaml").write_text(yaml.safe_dump(model))
    assert "net.ts cannot be read (" in refused(folder, tmp_path / "mine", "--no-groups")
    (folder / "net.ts").unlink()
    assert "net.ts cannot be read (" in refused(folder, tmp_path / "mine", "--no-groups")


def test_other_archives(tmp_path: Path) -> None:
    (tmp_path / "net.zip").write_bytes(b"PK\x03\x04")
    assert "net.zip: no readable ZIP archive" in refused(tmp_path / "net.zip", tmp_path / "mine")
    (tmp_path / "some").mkdir()
    source = shutil.make_archive(str(tmp_path / "some"), "zip", tmp_path / "some")
    assert "holds neither a MONAI bundle nor a BioImage.IO model" in refused(source, tmp_path / "mine")
