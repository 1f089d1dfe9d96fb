"""`wsi-seg models check`: a line for each promise of a model folder, and those that are broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.made.foreign_models import foreign_model
from wsi_seg.cli import app
from wsi_seg.core.card import OutputGeometry, read_card
from wsi_seg.inference.models.checks import CHECKS, side_of


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model(
        tmp_path_factory.mktemp("check") / "onnx", "onnx", OutputGeometry(margin=4, stride=2)
    )


def lines(model: Path, code: int) -> list[str]:
    done = CliRunner().invoke(app, ["models", "check", str(model)])
    assert done.exit_code == code, done.output
    return done.output.splitlines()


def with_card(model: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(model, folder)
    read_card(model).model_copy(update=changes).write(folder)
    return folder


def test_a_model_that_keeps_its_promises(onnx_model: Path, tiny_model: Path) -> None:
    for model in (onnx_model, tiny_model):
        found = lines(model, 0)
        assert len(found) == len(CHECKS) and all(line.startswith("ok ") for line in found)
    assert "2×4×64×64 for tiles of 64 px, in float32 and bf16" in found[1]


def test_a_card_that_says_something_else(onnx_model: Path, tmp_path: Path) -> None:
    found = lines(with_card(onnx_model, tmp_path / "head", head="none"), 1)
    assert found[1].startswith("failed  probabilities: ") and "correct `head` in the card" in found[1]
    assert found[2].startswith("ok ")
    found = lines(with_card(onnx_model, tmp_path / "output", output=OutputGeometry()), 1)
    assert "correct `classes`, `head` or `output` in the card" in found[1]


def test_a_damaged_network(onnx_model: Path, tmp_path: Path) -> None:
    folder = with_card(onnx_model, tmp_path / "damaged")
    (folder / "model.onnx").write_bytes(b"none")
    found = lines(folder, 1)
    assert found[0].startswith("ok ") and all(
        "model.onnx: no readable ONNX file" in line for line in found[1:]
    )


def test_a_network_that_looks_at_the_whole_batch(onnx_model: Path, tmp_path: Path) -> None:
    import onnx

    folder = with_card(onnx_model, tmp_path / "batch", output=OutputGeometry(), head="softmax")
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        agraph (float[n, 3, h, w] x) => (float[n, 3, h, w] y) {
            mean = ReduceMean <keepdims = 1> (x)
            y = Mul (x, mean)
        }
    """)
    onnx.save(model, folder / "model.onnx")
    found = lines(folder, 1)
    assert "depends on the others of its batch" in found[3] and found[1].startswith("ok ")


def test_sides_that_are_tried() -> None:
    from tests.made.foreign_models import foreign_card

    assert side_of(foreign_card("onnx", tile=512)) == 64
    assert side_of(foreign_card("onnx", tile=512, input_multiple=512)) == 512
    assert side_of(foreign_card("onnx", tile=1024, output=OutputGeometry(margin=256))) == 544
