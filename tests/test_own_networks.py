"""Networks of Python code: as objects, as `module:factory`, and never by a card."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import wsi_seg
from tests.made.foreign_models import Foreign, foreign_card
from tests.made.shell import shell
from wsi_seg.cli import app
from wsi_seg.core.card import CARD_NAME, ModelCard, OutputGeometry, read_card
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.inference.models.network import load_network, normalized
from wsi_seg.inference.models.own import OwnNetwork, make_network, predictor_of
from wsi_seg.inference.models.predictor import NetworkPredictor, load_predictor
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import load_model, open_predictor
from wsi_seg.pipeline.settings import make_settings
from wsi_seg.results.files import MAPS
from wsi_seg.slides.slide import map_frame, read_region
from wsi_seg.testing.models import some_tiles

CARD = foreign_card("onnx", name="mine", output=OutputGeometry(margin=4, stride=2), overlap=16)


def make() -> wsi_seg.Network:
    return wsi_seg.Network(Foreign(2, 4), CARD)


def make_plain() -> wsi_seg.Network:
    """Of the input's size and the card's softmax, as explaining needs it."""
    return wsi_seg.Network(Foreign(), foreign_card("onnx", name="plain"))


def wrong() -> nn.Module:
    return Foreign()


def failing() -> wsi_seg.Network:
    return wsi_seg.Network(nn.Linear(5, 5), CARD)


REFERENCE = f"{__name__}:make"


@pytest.fixture(scope="module")
def results(small_picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of a run with a network as an object."""
    settings = make_settings({"device": "cpu", "mpp": 0.5, "tissue": "none"})
    done = wsi_seg.segment_slide(small_picture, tmp_path_factory.mktemp("object"), make(), settings)
    return Path(done.folder)


@pytest.fixture(scope="module")
def small_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "small.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (100, 140, 3), np.uint8)).save(path)
    return path


def test_an_object_predicts_as_its_module(results: Path) -> None:
    model = load_model(make(), "cpu")
    assert (model.facts.precision, model.facts.card.format, model.facts.measured) == (
        "float32",
        "python",
        False,
    )
    assert model.facts.activation_bytes >= 2 * 8 * 4
    tiles = some_tiles(2)
    with torch.inference_mode():
        raw = Foreign(2, 4)(normalized(torch.from_numpy(tiles), CARD.normalization))[1]
    small = nn.functional.interpolate(raw.softmax(1), scale_factor=2, mode="bilinear")
    assert float((open_predictor(model)(tiles, margin=4) - small).abs().max()) < 1e-5


def test_a_function_gives_the_same_results_in_the_command_line(
    results: Path, small_picture: Path, tmp_path: Path
) -> None:
    words = [
        "run",
        str(small_picture),
        "-o",
        str(tmp_path),
        "-m",
        REFERENCE,
        "--mpp",
        "0.5",
        "--tissue",
        "none",
    ]
    done = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "small" / "maps.zarr").is_dir()
    first, second = (json.loads((one / "manifest.json").read_text()) for one in (results, tmp_path / "small"))
    assert first["plan"]["model_digest"] == second["plan"]["model_digest"]


def test_a_function_is_evaluated_as_it_runs(results: Path, small_picture: Path, tmp_path: Path) -> None:
    from PIL import Image

    labels = np.asarray(Maps.open(results / MAPS).labels[:])
    for name, pixels in (("a", np.asarray(Image.open(small_picture))), ("a_mask", labels)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    data = tmp_path / "data.yaml"
    data.write_text("datasets: [{kind: masks, name: own, folder: ., mpp: 0.5}]\n")
    words = ["evaluate", REFERENCE, "--device", "cpu", "--part", "all", "--json"]
    done = CliRunner().invoke(app, [*words, "--data", str(data)])
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    (result,) = metrics["results"]
    assert result["overall"]["pixel_accuracy"] == 1 and result["pixels"] == labels.size
    assert {row["dice"] for row in result["classes"] if row["pixels"]} == {1}
    nothing = CliRunner().invoke(app, words)
    assert nothing.exit_code == 2 and f"{REFERENCE}: has no folder with data" in nothing.stderr


def test_a_function_is_explained(small_picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    reference = f"{__name__}:make_plain"
    settings = make_settings({"device": "cpu", "mpp": 0.5, "tissue": "none"})
    done = wsi_seg.segment_slide(small_picture, tmp_path, reference, settings)
    counts = np.bincount(np.asarray(Maps.open(Path(done.folder) / MAPS).labels[:]).ravel())
    code = int(counts.argmax())
    words = ["explain", reference, str(small_picture), "--class", f"class {code}", "--mpp", "0.5"]
    words += ["--layer", "first", "--device", "cpu", "-o", str(tmp_path / "cam.png")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    found = re.search(r"over the ([\d,]+) of 14,000 pixels predicted as class \d; layer first", told.stdout)
    assert found is not None, told.stdout
    assert int(found[1].replace(",", "")) == pytest.approx(counts[code], abs=50)  # edges are padded otherwise
    assert (tmp_path / "cam.png").is_file()


def test_digest_follows_weights_and_card() -> None:
    changed = Foreign(2, 4)
    with torch.no_grad():
        changed.last.bias[0] += 1
    other = CARD.model_copy(update={"mpp": 0.25})
    digests = {make().digest, make().digest, wsi_seg.Network(changed, CARD).digest,
               wsi_seg.Network(Foreign(2, 4), other).digest}  # fmt: skip
    assert len(digests) == 3


def test_an_object_cannot_be_sent_to_other_processes() -> None:
    for workers in (WorkerSettings(processes=2), WorkerSettings(scheduler="tcp://host:8786")):
        with pytest.raises(
            UsageError, match=r"'mine': a network that is given as an object .* module:factory"
        ):
            load_model(make(), "cpu", workers=workers)
    assert load_model(REFERENCE, "cpu", workers=WorkerSettings(processes=2)).predictor.factory.endswith(
        "from"
    )
    with pytest.raises(UsageError, match="in its own process only"):
        predictor_of("0" * 64, "cpu", "float32", False)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (
            "no_such_module_here:make",
            "there is no module 'no_such_module_here'; put its folder on PYTHONPATH",
        ),
        (f"{__name__}:none", "no function 'none'; expected a function that returns"),
        (f"{__name__}:wrong", r"wrong\(\) returned Foreign; expected"),
        (f"{__name__}:failing", r"'mine': the network fails for an input \(1, 3, 64, 64\)"),
        ("C:none", "no such model"),
    ],
)
def test_wrong_references(reference: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(reference, "cpu")


def test_errors_of_the_function_itself_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_by_a_user.py").write_text("import no_such_package_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here"):
        make_network("made_by_a_user:make")


def test_a_card_cannot_name_code(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('code was run')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        for fields in ({"format": "python"}, {"format": "trap:make"}, {"architecture": "trap:make"}):
            folder = tmp_path / "model"
            folder.mkdir(exist_ok=True)
            values = {**CARD.model_dump(mode="json"), "format": "smp", **fields}
            (folder / CARD_NAME).write_text(json.dumps(values))
            (folder / "model.safetensors").write_bytes(b"")
            with pytest.raises(ModelError):
                load_model(str(folder), "cpu")
            with pytest.raises(ModelError):
                load_network(folder)
        assert "trap" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


def test_import_stores_it_without_its_code(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["models", "import", REFERENCE, "-o", str(tmp_path / "stored")])
    assert done.exit_code == 0, done.output
    card = read_card(tmp_path / "stored")
    assert card == ModelCard(**{**CARD.model_dump(), "format": "torch-export", "name": "mine"})
    stored = load_predictor(str(tmp_path / "stored"), "cpu")(some_tiles(3, 96), margin=4)
    assert torch.allclose(
        stored, open_predictor(load_model(make(), "cpu"))(some_tiles(3, 96), margin=4), atol=1e-5
    )


def test_preprocessing_in_a_module(data_dir: Path, sample_svs: Path) -> None:
    """SHELL finds the epidermis of the sample slide, and the dermis beside it."""
    source = data_dir / "weights" / "shell_onnx" / "model_v1.onnx"
    if not source.is_file():
        pytest.skip(f"no {source}")
    network = shell(source)
    with wsi_seg.open_slide(sample_svs) as slide:
        tile = read_region(slide, map_frame(slide.info, 1), Box(330, 750, 842, 1262))
    predictor = NetworkPredictor(OwnNetwork(network.module.eval()), network.card, "cpu", "float32")
    found = predictor(tile[None]).argmax(1)[0]
    epidermis, dermis = found[200:380, 230:330], found[300:480, 400:500]
    assert float((epidermis == 1).float().mean()) > 0.9 and float((dermis == 2).float().mean()) > 0.7
