"""Published models: the catalog, and their installation from a hub on loopback."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from tests.hub import COMMIT, Hub, serving
from wsi_seg.cli import app
from wsi_seg.core.card import read_card
from wsi_seg.core.classes import canonical_name
from wsi_seg.core.errors import UsageError
from wsi_seg.core.folders import models_folder
from wsi_seg.inference.models import catalog as catalog_module
from wsi_seg.inference.models.catalog import catalog, find_entry
from wsi_seg.inference.models.formats import FORMATS
from wsi_seg.inference.models.network import load_network
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.inference.models.tiatoolbox import ARCHITECTURES
from wsi_seg.testing.models import some_tiles

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "models.md").read_text("utf-8")


def test_entries_of_the_catalog_are_whole() -> None:
    entries = catalog()
    assert {"fcn_resnet50_unet-bcss", "fcn-tissue_mask", "grandqc_tissue_detection"} <= set(entries)
    for name, entry in entries.items():
        card = entry.card
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)  # the name of a folder
        assert card.license and card.notice and card.description and card.traced
        assert entry.license_source.startswith("https://") and "doi:" in entry.citation
        assert bool(entry.scores) == bool(entry.scores_source)
        assert card.format in FORMATS and (card.format != "tiatoolbox" or card.architecture in ARCHITECTURES)
        assert all(canonical_name(c.name) == c.name for c in card.classes)
        assert f"| {card.mpp:g} | {card.license} |" in re.search(rf"\| `{name}` .*", PAGE)[0]
    with pytest.raises(UsageError, match="did you mean 'fcn-tissue_mask'"):
        find_entry("fcn_tissue_mask")


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> bytes:
    file = io.BytesIO()
    torch.save(load_network(tiny_model).state_dict(), file)
    return file.getvalue()


@pytest.fixture
def hub(
    tiny_model: Path, checkpoint: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """A hub with the one model of a catalog, and an empty folder for models."""
    monkeypatch.setenv("WSI_SEG_MODELS", str(tmp_path / "models"))
    with serving(Hub(checkpoint, "lab/weights/resolve/main/net.pth")) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        write_catalog(tmp_path / "catalog.yaml", tiny_model, None)
        monkeypatch.setattr(catalog_module, "CATALOG", tmp_path / "catalog.yaml")
        catalog.cache_clear()
        yield hub
    catalog.cache_clear()


def write_catalog(path: Path, model: Path, sha256: str | None) -> None:
    card = read_card(model).model_dump(mode="json") | {"name": "published", "license": "CC-BY-4.0"}
    entry = {
        "source": "hf://lab/weights", "file": "net.pth", "sha256": sha256, "megabytes": 1,
        "license_source": "https://lab.example/license", "citation": "Lab 2026, doi:10.1/2", "card": card,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"models": [entry]}))
    catalog.cache_clear()


def call(*words: str, **how: Any) -> Any:
    return CliRunner().invoke(app, words, **how)


def refused(result: Any, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert all(word in line for word in words), line
    assert not (models_folder() / "published").exists()


def test_a_model_is_installed_and_used_by_its_name(hub: Hub, tiny_model: Path, checkpoint: bytes) -> None:
    assert "published" in call("models").stdout.partition("available")[2]
    result = call("models", "add", "published", "--yes")
    assert result.exit_code == 0, result.output
    for shown in (
        "CC-BY-4.0",
        "https://lab.example/license",
        f"{len(checkpoint) / 1e6:.1f} MB",
        "doi:10.1/2",
    ):
        assert shown in result.stdout
    folder = models_folder() / "published"
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["sha256"] == hashlib.sha256(checkpoint).hexdigest() and origin["revision"] == COMMIT
    assert [path.name for path in models_folder().iterdir()] == ["published"]
    tiles = some_tiles(1)
    assert torch.equal(
        load_predictor("published", "cpu", "float32")(tiles),
        load_predictor(str(tiny_model), "cpu", "float32")(tiles),
    )
    cards = json.loads(call("models", "--json").stdout)
    assert [card["state"] for card in cards if card["name"] == "published"] == ["installed"]
    again = call("models", "add", "published", "--yes")
    assert again.exit_code == 1 and f"installed already; remove {folder}" in again.stderr


def test_the_license_is_read_before_anything_is_downloaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(call("models", "add", "published"), 2, "read the license above; --yes")
    # The package has a function of the module's name.
    monkeypatch.setattr(importlib.import_module("wsi_seg.cli.models"), "asks", lambda: True)
    declined = call("models", "add", "published", input="n\n")
    assert declined.exit_code == 1 and "CC-BY-4.0" in declined.stdout
    assert not hub.downloads
    assert call("models", "add", "published", input="y\n").exit_code == 0
    assert hub.downloads == [None]


def test_an_interrupted_download_resumes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # bytes that are written at a time
    hub.cut = 100_000
    refused(call("models", "add", "published", "--yes"), 1, "published: cannot be downloaded", "is kept")
    hub.cut = None
    hub.requests.clear()
    assert call("models", "add", "published", "--yes").exit_code == 0
    assert hub.downloads == ["bytes=100000-"]


def test_a_file_with_another_checksum_is_refused(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    whole = hub.content
    hub.etag, hub.content = hashlib.sha256(whole).hexdigest(), whole[:-1] + b"x"
    refused(call("models", "add", "published", "--yes"), 1, "has the SHA-256", hub.etag, "try again")
    hub.content = whole
    write_catalog(tmp_path / "catalog.yaml", tiny_model, 64 * "0")
    hub.requests.clear()
    refused(call("models", "add", "published", "--yes"), 1, hub.etag, 64 * "0", "has been replaced")
    hub.etag = COMMIT  # as of files that are stored in the repository itself
    write_catalog(tmp_path / "catalog.yaml", tiny_model, None)
    refused(call("models", "add", "published", "--yes"), 1, "gives no SHA-256")
    assert not hub.downloads
    hub.etag = ""
    assert call("models", "add", "published", "--yes").exit_code == 0
    assert hub.downloads == [None]


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_checkpoints_that_hold_code_or_do_not_fit_are_refused(hub: Hub, tmp_path: Path) -> None:
    for content, words in (
        ({"state_dict": {}, "payload": Payload(tmp_path / "ran")}, ["may hold code"]),
        ({"some.weight": torch.zeros(2)}, ["do not fit", "some.weight"]),
    ):
        file = io.BytesIO()
        torch.save(content, file)
        hub.content = file.getvalue()
        refused(call("models", "add", "published", "--yes"), 1, *words)
    assert not (tmp_path / "ran").exists()


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.path = "lab/other/resolve/main/net.pth"
    refused(
        call("models", "add", "published", "--yes"), 1, "cannot be downloaded from hf://lab/weights, net.pth"
    )
