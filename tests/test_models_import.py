"""`wsi-seg models import`: what other libraries stored becomes a model folder that predicts the same."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests.made.foreign_models import Foreign, save_exported, save_onnx, save_torchscript
from tests.test_memory import run_alone
from wsi_seg.cli import app, models_import
from wsi_seg.core.card import read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.imports import write
from wsi_seg.inference.models.network import build_network, normalized
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.inference.models.registry import find_model
from wsi_seg.testing.models import random_model, some_tiles

CLASSES = ("--class", "tumor", "--class", "stroma=#00ff00", "--class", "other")
SMALL = {
    "encoder": "tu-test_resnet", "architecture_options": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
}  # fmt: skip
ALL = (*CLASSES, "--mpp", "0.25", "--normalization", "imagenet", "--group", "tumor=tumor", "--tile", "64")


def run(*arguments: object) -> tuple[int, str]:
    """Return the exit code and all that is printed."""
    done = CliRunner().invoke(app, ["models", "import", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def accepted(source: Path, out: Path, *flags: str) -> str:
    code, text = run(source, "-o", out, *flags)
    assert code == 0, text
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    return text


def refused(source: object, out: Path, *flags: str) -> str:
    """Return the one line of an import that leaves nothing behind."""
    code, text = run(source, "-o", out, *flags)
    assert code in (1, 2) and text.startswith("error: ") and text.count("\n") == 1, text
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))
    return text


SAVED = {
    "net.onnx": (save_onnx, "onnx"),
    "net.pt": (save_torchscript, "torchscript"),
    "net.pt2": (save_exported, "torch-export"),
}


@pytest.mark.parametrize("name", SAVED)
def test_files_with_their_network(name: str, tmp_path: Path) -> None:
    save, kind = SAVED[name]
    save(Foreign(stride=2, margin=4), tmp_path / name)
    text = accepted(tmp_path / name, tmp_path / "mine", *ALL)
    assert "head softmax, margin 4 px, stride 2" in text and "copy differ by" in text
    card = read_card(tmp_path / "mine")
    assert (card.name, card.format, card.mpp, card.tile, card.batch) == ("net", kind, 0.25, 64, None)
    assert (card.output.margin, card.output.stride, card.input_multiple) == (4, 2, 32)
    assert [(c.name, c.color) for c in card.classes][:2] == [("tumor", (200, 0, 0)), ("stroma", (0, 255, 0))]
    assert [(g.name, g.codes) for g in card.groups] == [("tumor", (1,))]
    tiles = some_tiles(2, 96)
    with torch.inference_mode():
        raw = Foreign(2, 4)(normalized(torch.from_numpy(tiles), card.normalization))[1]
    small = torch.nn.functional.interpolate(raw.softmax(1), scale_factor=2, mode="bilinear")
    found = load_predictor(str(tmp_path / "mine"), "cpu")(tiles, margin=4)
    assert float((found - small).abs().max()) < 1e-5
    for path in (tmp_path / "mine").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_folder_of_segmentation_models_pytorch(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    small = {"encoder_depth": 3, "decoder_channels": (16, 8, 8), "activation": "softmax2d"}
    network = smp.Unet("resnet18", encoder_weights=None, classes=3, **small).eval()
    network.save_pretrained(str(tmp_path / "hub"))
    accepted(tmp_path / "hub", tmp_path / "mine", *ALL)
    card = read_card(tmp_path / "mine")
    assert (card.format, card.architecture, card.encoder) == ("smp", "Unet", "resnet18")
    assert card.head == "softmax"
    tiles = some_tiles(1)
    with torch.inference_mode():
        expected = network(normalized(torch.from_numpy(tiles), card.normalization))
    found = load_predictor(str(tmp_path / "mine"), "cpu", "float32")(tiles)
    assert float((found - expected).abs().max()) < 1e-4
    with pytest.raises(ModelError, match=r"lacks card.json .* wsi-seg models import .*hub -o FOLDER"):
        find_model(str(tmp_path / "hub"))
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    for change, words in (
        ({"in_channels": 4}, "in_channels 4; only networks of 3"),
        ({"activation": "tanh"}, "activation 'tanh'"),
        ({"aux_params": {"classes": 2}}, "a second output cannot be imported"),
        ({"encoder_name": "resnet34"}, "segmentation-models-pytorch cannot load it"),
    ):
        (tmp_path / "hub" / "config.json").write_text(json.dumps({**config, **change}))
        assert words in refused(tmp_path / "hub", tmp_path / "other", *ALL)


def test_folder_of_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra transformers, which is large")
    torch.manual_seed(0)
    config = library.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, num_attention_heads=[1] * 4,
        id2label={0: "tumor", 1: "stroma", 2: "other"},
    )  # fmt: skip
    network = library.SegformerForSemanticSegmentation(config).eval()
    network.save_pretrained(str(tmp_path / "hub"))
    numbers = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(numbers))
    text = accepted(tmp_path / "hub", tmp_path / "mine", "--mpp", "0.5", "--no-groups", "--tile", "128")
    assert "format transformers" in text and "stride 4" in text
    card = read_card(tmp_path / "mine")
    assert [c.name for c in card.classes] == ["tumor", "stroma", "other"] and card.output.of == "logits"
    assert card.normalization.std == (0.25, 0.25, 0.25) and abs(card.normalization.scale - 255) < 1e-9
    tiles = some_tiles(2, 128)
    with torch.inference_mode():
        logits = network(normalized(torch.from_numpy(tiles), card.normalization)).logits
    large = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    found = load_predictor(str(tmp_path / "mine"), "cpu", "float32")(tiles)
    assert float((found - large.softmax(1)).abs().max()) < 1e-4
    options = {**card.architecture_options, "auto_map": {"AutoModel": "x--y.Z"}}
    with pytest.raises(ModelError, match="auto_map, which is not supported"):
        build_network(card.model_copy(update={"architecture_options": options}))
    config_path = tmp_path / "hub" / "config.json"
    plain = json.loads(config_path.read_text())
    for change, words in (
        ({"auto_map": {"AutoModel": "x--y.Z"}}, "the configuration has auto_map, which is not supported"),
        ({"num_channels": 4}, "num_channels 4; only networks of 3"),
        ({"model_type": "bert"}, "transformers cannot load it for segmentation"),
    ):
        config_path.write_text(json.dumps({**plain, **change}))
        assert words in refused(tmp_path / "hub", tmp_path / "other", "--mpp", "1", "--no-groups")


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_state_dicts(name: str, tmp_path: Path) -> None:
    made = random_model(tmp_path / "made", **SMALL)
    card = read_card(made)
    weights = build_network(card).state_dict()
    if name.endswith("safetensors"):
        save_file(weights, tmp_path / name)
    else:
        torch.save(
            {"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}, tmp_path / name
        )
    text = accepted(tmp_path / name, tmp_path / "mine", "--card", str(made / "card.json"), "--name", "mine")
    assert "original and copy differ by" in text
    assert read_card(tmp_path / "mine") == card.model_copy(update={"name": "mine"})
    out = tmp_path / "other"
    assert "everything; give --architecture; --encoder" in refused(tmp_path / name, out, *ALL)
    wrong = refused(tmp_path / name, out, "--card", str(made / "card.json"), "--encoder", "resnet18")
    assert "the weights do not fit Unet with encoder resnet18" in wrong


class Pickled:
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.state_dict = tensors


def test_pickles_only_with_trust(tmp_path: Path) -> None:
    made = random_model(tmp_path / "made", **SMALL)
    network = build_network(read_card(made))
    torch.save(network, tmp_path / "whole.pth")
    card = ("--card", str(made / "card.json"))
    assert "may hold code" in (text := refused(tmp_path / "whole.pth", tmp_path / "mine", *card))
    assert "--trust" in text
    accepted(tmp_path / "whole.pth", tmp_path / "mine", *card, "--trust")
    torch.save(Pickled({}), tmp_path / "other.pth")
    text = refused(tmp_path / "other.pth", tmp_path / "other", *card, "--trust")
    assert "other.pth: holds no state dict, but Pickled" in text


def test_what_a_card_needs_is_asked_for_or_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_onnx(Foreign(), tmp_path / "net.onnx")
    text = refused(tmp_path / "net.onnx", tmp_path / "mine", "--tile", "64")
    assert "the file does not tell everything (its network has 3 channels); give --mpp; --class NAME" in text
    assert "--no-groups; --normalization" in text
    assert "give --group" in refused(tmp_path / "net.onnx", tmp_path / "mine", *ALL[:-4], "--tile", "64")
    monkeypatch.setattr(models_import, "_someone_is_there", lambda: True)
    answers = "half\n0.5\ntumor, stroma ,other\nstroma=stroma,fat\nrest=stroma,other\nimagnet\nunit\n"
    done = CliRunner().invoke(
        app, ["models", "import", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "mine"), "--tile", "64"],
        input=answers,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    card = read_card(tmp_path / "mine")
    assert (card.mpp, [c.name for c in card.classes]) == (0.5, ["tumor", "stroma", "other"])
    assert [(g.name, g.codes) for g in card.groups] == [("rest", (2, 3))]
    assert card.normalization.std == (1, 1, 1) and done.output.count("error: ") == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--class", "fourth"), "sigmoid"),
        (("--class", "fourth", "--class", "fifth"), "3 channels, and 5 classes are named"),
        (("--group", "x=fat"), "--group 'x=fat': expected NAME=CLASS,CLASS with classes of tumor, stroma"),
        (("--no-groups",), "exclude each other"),
        (("--normalization", "resnet"), "--normalization 'resnet': use one of imagenet"),
        (("--class", "a=red"), "color 'red' is none"),
        (("--set", "mpp"), "--set 'mpp': KEY=VALUE is expected"),
        (("--set", "output.margin=[3]"), "output"),
        (("--mpp", "-1"), "mpp"),
        (("--head", "hard"), "head"),
        (("--set", "hue=1"), "hue"),
        (("--card", "none.json"), "none.json: cannot be read"),
    ],
)
def test_wrong_values(flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    save_onnx(Foreign(), tmp_path / "net.onnx")
    if words == "sigmoid":
        accepted(tmp_path / "net.onnx", tmp_path / "mine", *ALL, *flags)
        assert read_card(tmp_path / "mine").head == "sigmoid"  # the fourth class is the rest
    else:
        assert words in refused(tmp_path / "net.onnx", tmp_path / "mine", *ALL, *flags)


def test_onnx_with_weights_of_its_own_and_one_size(tmp_path: Path) -> None:
    save_onnx(
        Foreign(), tmp_path / "net.onnx", (1, 3, 96, 96), save_as_external_data=True, size_threshold=0,
        location="net.bin",
    )  # fmt: skip
    accepted(tmp_path / "net.onnx", tmp_path / "mine", *ALL[:-2])
    (tmp_path / "net.bin").unlink()
    card = read_card(tmp_path / "mine")
    assert (card.tile, card.input_multiple, card.batch) == (96, 96, 1)
    assert load_predictor(str(tmp_path / "mine"), "cpu")(some_tiles(1, 96)).shape == (1, 3, 96, 96)
    assert "net.onnx: no readable ONNX file" in refused(tmp_path / "net.onnx", tmp_path / "other", *ALL)


def test_one_size_leaves_open_where_a_smaller_output_lies(tmp_path: Path) -> None:
    save_onnx(Foreign(stride=2), tmp_path / "net.onnx", (1, 3, 64, 64))
    text = refused(tmp_path / "net.onnx", tmp_path / "mine", *ALL)
    assert "returns 32 pixels for a tile of 64" in text and "--set output.stride=" in text
    accepted(tmp_path / "net.onnx", tmp_path / "mine", *ALL, "--set", "output.stride=2")
    wrong = refused(tmp_path / "net.onnx", tmp_path / "other", *ALL, "--set", "output.margin=8")
    assert "its card says (batch, 3, 48, 48)" in wrong


def test_another_prediction_than_the_original_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_onnx(Foreign(), tmp_path / "net.onnx")
    monkeypatch.setattr(write, "self_test", lambda *_: float("nan"))
    text = refused(tmp_path / "net.onnx", tmp_path / "mine", *ALL)
    assert "differs from the original by nan" in text and "nothing is written" in text


def test_other_references(tmp_path: Path) -> None:
    assert "no such file or folder; expected" in refused(tmp_path / "none.onnx", tmp_path / "mine")
    (tmp_path / "net.h5").touch()
    assert "unknown kind of model; expected a folder of save" in refused(
        tmp_path / "net.h5", tmp_path / "mine"
    )
    (tmp_path / "empty").mkdir()
    assert "it lacks config.json; expected" in refused(tmp_path / "empty", tmp_path / "mine")
    (tmp_path / "empty" / "config.json").write_text('{"a": 1}')
    assert "names no model of a known library" in refused(tmp_path / "empty", tmp_path / "mine")
    (tmp_path / "empty" / "config.json").write_text("{")
    assert "no valid JSON" in refused(tmp_path / "empty", tmp_path / "mine")
    folder = random_model(tmp_path / "made", encoder="resnet18")
    assert "a model folder already; give it to --model" in refused(folder, tmp_path / "mine")
    (tmp_path / "there").mkdir()
    save_onnx(Foreign(), tmp_path / "net.onnx")
    assert run(tmp_path / "net.onnx", "-o", tmp_path / "there", *ALL)[1].startswith(
        f"error: {tmp_path / 'there'}: is there already"
    )
    with pytest.raises(ModelError, match=r"net.onnx: no model folder.* wsi-seg models import .*net.onnx -o"):
        find_model(str(tmp_path / "net.onnx"))


@pytest.mark.long
def test_a_published_network_from_file_to_overview(data_dir: Path, sample_svs: Path, tmp_path: Path) -> None:
    """SHELL of the LaViolette lab: weights in a file of their own, instance normalization, any size.

    It was trained on stains that its own package separates first, so on RGB its classes mean nothing.
    """
    source = data_dir / "weights" / "shell_onnx" / "model_v1.onnx"
    if not source.is_file():
        pytest.skip(f"no {source}")
    classes = ("--class", "other", "--class", "epithelium", "--class", "lumen")
    how = ("--mpp", "4", "--normalization", "unit", "--no-groups", "--tile", "256", "--set", "license=MIT")
    accepted(source, tmp_path / "shell", *classes, *how)
    card = read_card(tmp_path / "shell")
    assert (card.input_multiple, card.batch, card.output.plain, card.head) == (32, None, True, "softmax")
    done = run_alone(sample_svs, tmp_path, tmp_path / "shell")
    results, summary = Path(done["folder"]), done["summary"]
    assert set(summary["class_area_mm2"]) == {"other", "epithelium", "lumen"} and summary["tiles"] >= 4
    plan = json.loads((results / "manifest.json").read_text(encoding="utf-8"))["plan"]
    assert summary["peak_memory_mib"] * 2**20 <= plan["projected_memory_bytes"]
    assert (results / "overview.png").stat().st_size > 10_000
