"""Where models are found: bundled, folders, checkpoints, the hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from wsi_seg.core.card import CARD_NAME, WEIGHTS_NAME, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.core.folders import models_folder
from wsi_seg.inference.models import registry
from wsi_seg.inference.models.network import load_network
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.inference.models.registry import find_model, list_installed, list_models, model_hash
from wsi_seg.testing.models import random_model, some_tiles


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return random_model(
        folder,
        encoder="tu-test_resnet",
        architecture_options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
    )


def test_registry_is_free_of_torch():
    code = (
        "import sys, wsi_seg.inference.models.registry as r; r.list_models(); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_finds_bundled_names_and_folders(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "BUNDLED", model_folder.parent)
    assert find_model("tiny") == model_folder
    assert [card.name for card in list_models()] == ["tiny"]
    monkeypatch.setattr(registry, "BUNDLED", tmp_path)
    assert list_models() == []
    assert find_model(str(model_folder)) == model_folder


def test_finds_installed_names(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WSI_SEG_MODELS", str(tmp_path))
    assert list_installed() == []
    for name in ("mine", "bcss-demo", ".unfinished"):
        shutil.copytree(model_folder, tmp_path / name)
    assert find_model("mine") == tmp_path / "mine"
    assert find_model("bcss-demo") == registry.BUNDLED / "bcss-demo"  # a bundled model keeps its name
    assert [card.name for card in list_installed()] == ["mine"]
    with pytest.raises(ModelError, match=r"did you mean 'mine'.* installed: mine; else give"):
        find_model("mines")


def test_folder_of_installed_models(monkeypatch):
    monkeypatch.delenv("WSI_SEG_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert models_folder() == Path("/data/wsi_seg/models")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert models_folder() == Path.home() / ".local/share/wsi_seg/models"


def test_unknown_model_lists_the_bundled_ones(model_folder, monkeypatch):
    monkeypatch.setattr(registry, "BUNDLED", model_folder.parent)
    with pytest.raises(ModelError, match=r"^tinny: no such model; did you mean 'tiny'\? bundled: tiny;"):
        find_model("tinny")
    with pytest.raises(ModelError, match=r"^/no/such/folder: no such model; bundled: tiny;"):
        find_model("/no/such/folder")


@pytest.mark.parametrize("missing", [CARD_NAME, WEIGHTS_NAME])
def test_incomplete_folder(missing, model_folder, tmp_path):
    other = ({CARD_NAME, WEIGHTS_NAME} - {missing}).pop()
    (tmp_path / other).write_bytes((model_folder / other).read_bytes())
    with pytest.raises(ModelError, match=missing):
        find_model(str(tmp_path))
    with pytest.raises(ModelError, match=missing):
        model_hash(tmp_path)


def test_hash_covers_weights_and_card(tmp_path):
    def digest(weights: bytes, card: bytes) -> str:
        (tmp_path / WEIGHTS_NAME).write_bytes(weights)
        (tmp_path / CARD_NAME).write_bytes(card)
        return model_hash(tmp_path)

    rest = json.dumps({"classes": [{"code": 1, "name": "c", "color": [0, 0, 0]}], "groups": [], "mpp": 1})
    one, other = (f'{{"name": "{name}", {rest[1:]}'.encode() for name in "ab")
    contents = [(b"ab", one), (b"a", one), (b"ab", other), (b"ab", one + b" "), (b"", one)]
    digests = [digest(*c) for c in contents]
    assert len(set(digests)) == len(contents)
    assert digest(*contents[0]) == digests[0] and len(digests[0]) == 64


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wsi_seg" / "models"


@pytest.fixture
def checkpoint(model_folder, tmp_path) -> Path:
    """A state dict with its card next to it."""
    path = tmp_path / "mine.pth"
    torch.save(load_network(model_folder).state_dict(), path)
    read_card(model_folder).write(tmp_path)
    (tmp_path / CARD_NAME).rename(tmp_path / "mine.json")
    return path


def predictions(reference: Path | str) -> torch.Tensor:
    return load_predictor(str(reference), "cpu", "float32")(some_tiles(1))


def test_checkpoint_becomes_a_model_folder(checkpoint, cache, model_folder):
    folder = find_model(str(checkpoint))
    assert folder.parent == cache and read_card(folder) == read_card(model_folder)
    assert torch.equal(predictions(folder), predictions(model_folder))
    written = (folder / WEIGHTS_NAME).stat().st_mtime_ns
    assert find_model(str(checkpoint)) == folder
    assert (folder / WEIGHTS_NAME).stat().st_mtime_ns == written
    assert [p.name for p in cache.iterdir()] == [folder.name]


def test_changed_checkpoint_is_converted_anew(checkpoint, cache):
    first = find_model(str(checkpoint))
    weights = torch.load(checkpoint, weights_only=True)
    weights["segmentation_head.0.bias"] += 1
    torch.save(weights, checkpoint)
    assert find_model(str(checkpoint)) != first


def test_conversion_keeps_full_precision(checkpoint, cache):
    weights = torch.load(checkpoint, weights_only=True)
    weights["segmentation_head.0.bias"] += 1 / 3
    torch.save(weights, checkpoint)
    converted = load_network(find_model(str(checkpoint))).state_dict()
    assert all(torch.equal(converted[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: OrderedDict((f"module.{name}", t) for name, t in w.items()),
        lambda w: {"state_dict": {f"network.{n}": t for n, t in w.items()} | {"mean": torch.zeros(3)}},
    ],
    ids=["nested", "DataParallel", "Lightning"],
)
def test_wrapped_checkpoints(wrap, checkpoint, cache, model_folder):
    torch.save(wrap(torch.load(checkpoint, weights_only=True)), checkpoint)
    assert torch.equal(predictions(checkpoint), predictions(model_folder))


def test_card_json_in_the_folder(checkpoint, cache):
    checkpoint.with_suffix(".json").rename(checkpoint.parent / CARD_NAME)
    assert find_model(str(checkpoint)).is_dir()


def test_checkpoint_without_card(checkpoint, cache):
    checkpoint.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"lacks card.json.*mine\.json"):
        find_model(str(checkpoint))


def test_missing_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"no\.pth: no such file"):
        find_model(str(tmp_path / "no.pth"))


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_checkpoint_with_code_is_refused(checkpoint, cache, tmp_path):
    torch.save({"state_dict": {}, "payload": Payload(tmp_path / "ran")}, checkpoint)
    with pytest.raises(ModelError, match=r"mine\.pth: refused.*may hold code") as caught:
        find_model(str(checkpoint))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists() and not cache.exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a checkpoint, surely"),
        _truncate,
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"epoch": 1}, path),
    ],
    ids=["empty", "text", "truncated", "list", "no tensors"],
)
def test_damaged_checkpoint(spoil, checkpoint, cache):
    spoil(checkpoint)
    with pytest.raises(ModelError, match=r"mine\.pth: ") as caught:
        find_model(str(checkpoint))
    assert "\n" not in str(caught.value) and not cache.exists()


def test_checkpoint_that_does_not_fit_its_card(checkpoint, cache):
    card = json.loads(checkpoint.with_suffix(".json").read_text())
    checkpoint.with_suffix(".json").write_text(json.dumps(card | {"encoder": "resnet18"}))
    with pytest.raises(ModelError, match=r"do not fit Unet with encoder resnet18: .*encoder\.conv1\.weight"):
        find_model(str(checkpoint))
    assert not cache.exists()


def test_cache_that_cannot_be_written(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot write the converted model"):
        find_model(str(checkpoint))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(model_folder, tmp_path, monkeypatch) -> Path:
    """A hub cache that holds org/name, and no network."""
    from huggingface_hub import constants

    root = tmp_path / "hub" / "models--org--name"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in (CARD_NAME, WEIGHTS_NAME):
        (snapshot / name).symlink_to(model_folder / name)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_hub_model_from_the_cache(hub, model_folder):
    for reference in ("hf://org/name", "hf://org/name@main", f"hf://org/name@{COMMIT}"):
        folder = find_model(reference)
        assert folder.name == COMMIT
        assert model_hash(folder) == model_hash(model_folder)


@pytest.mark.parametrize("reference", ["hf://org/other", "hf://org/name@v2"])
def test_hub_model_that_cannot_be_had(reference, hub):
    with pytest.raises(ModelError, match=f"^{reference}: cannot be downloaded") as caught:
        find_model(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reference", ["hf://", "hf://name", "hf://a/b/c", "hf://org/name@"])
def test_malformed_hub_reference(reference, hub):
    with pytest.raises(ModelError, match="expected hf://owner/name"):
        find_model(reference)


def test_hub_repository_without_a_model(hub):
    (hub / WEIGHTS_NAME).unlink()
    with pytest.raises(ModelError, match="hf://org/name: "):
        find_model("hf://org/name")


def test_a_card_states_classes_groups_and_resolution(model_folder, tmp_path):
    values = json.loads((model_folder / CARD_NAME).read_text())
    for name in ("classes", "groups", "mpp"):
        rest = {key: value for key, value in values.items() if key != name}
        if name == "classes":
            rest["groups"] = []
        (tmp_path / CARD_NAME).write_text(json.dumps(rest))
        with pytest.raises(ModelError, match=rf"card.json: lacks {name}; there is no default"):
            read_card(tmp_path)
