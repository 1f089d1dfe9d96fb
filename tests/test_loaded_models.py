"""Networks of TorchScript, torch.export and ONNX: the same numbers as in torch, in model folders."""

from __future__ import annotations

import pickle
import subprocess
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made.foreign_models import Foreign, foreign_card, foreign_model, save_exported, save_onnx
from wsi_seg.core.card import OutputGeometry, read_card
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.inference.models import predictor as predictors
from wsi_seg.inference.models.explain import grad_cam
from wsi_seg.inference.models.formats import FORMATS
from wsi_seg.inference.models.heads import Head
from wsi_seg.inference.models.loaded import load_exported, load_torchscript, map_of
from wsi_seg.inference.models.measure import measured_activations
from wsi_seg.inference.models.network import load_network, normalized
from wsi_seg.inference.models.onnx import load_onnx
from wsi_seg.inference.models.predictor import NetworkPredictor, load_predictor
from wsi_seg.pipeline.models import load_model
from wsi_seg.planning.memory import MEASURED_SLACK
from wsi_seg.testing.models import some_tiles

KINDS = [name for name, known in FORMATS.items() if known.load and known.weights]
GEOMETRY = OutputGeometry(margin=4, stride=2, of="logits")


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory) -> Path:
    return foreign_model(tmp_path_factory.mktemp("foreign") / request.param, request.param, GEOMETRY)


def expected(tiles: np.ndarray, margin: int) -> torch.Tensor:
    card = foreign_card("onnx", output=GEOMETRY)
    with torch.inference_mode():
        output = Foreign(2, 4).eval()(normalized(torch.from_numpy(tiles), card.normalization))[1]
    return Head(card)(output, tiles.shape[1:3], margin)


def test_same_as_in_torch(folder: Path) -> None:
    tiles = some_tiles(3)
    predictor = load_predictor(str(folder), "cpu", "auto")
    assert predictor.precision == "float32"
    found = predictor(tiles, margin=6)
    assert found.shape == (3, 3, 52, 52) and float((found - expected(tiles, 6)).abs().max()) < 1e-5
    turned = load_predictor(str(folder), "cpu", "float32", tta=True)(tiles, margin=6)
    assert float((turned - found).abs().max()) > 1e-3  # test-time augmentation works with them, too


def test_several_passes_at_a_time_give_the_same(folder: Path) -> None:
    predictor = load_predictor(str(folder), "cpu", "float32")
    alone = predictor(some_tiles(2), margin=4)
    found: list[torch.Tensor] = []
    predictor.share(2)
    threads = [
        threading.Thread(target=lambda: found.append(predictor(some_tiles(2), margin=4))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    predictor.unshare()
    assert len(found) == 4 and all(torch.allclose(one, alone, atol=1e-6) for one in found)


def test_same_on_openvino(folder: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    tiles = some_tiles(2)
    found = load_predictor(str(folder), "openvino", "float32")(tiles, margin=4)
    assert float((found - expected(tiles, 4)).abs().max()) < 1e-4


def test_other_number_formats_and_layers_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=f"of format {folder.name} computes in float32 only"):
        load_predictor(str(folder), "cpu", "bf16")
    with pytest.raises(ModelError, match=f"format {folder.name} has no layers to look into"):
        grad_cam(load_network(folder), read_card(folder), some_tiles(1)[0], (1,))


def test_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    name = FORMATS[folder.name].weights
    read_card(folder).write(tmp_path)
    whole = (folder / name).read_bytes()
    for content in (b"", b"no network", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError) as raised:
            load_network(tmp_path)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_no_normalization_is_folded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors, "fold_batch_norm", None)  # calling it would fail
    load_predictor(str(folder), "cpu", "float32")


def test_threads_of_onnx_are_those_of_torch(tmp_path: Path) -> None:
    network = load_onnx(foreign_model(tmp_path / "onnx", "onnx") / "model.onnx")
    predictor = NetworkPredictor(network, foreign_card("onnx"), "cpu", "float32")
    seen = []
    for passes in (1, 2):
        predictor.share(passes)
        predictor(some_tiles(1))
        (session,) = network._sessions.values()
        seen.append((session.get_session_options().intra_op_num_threads, torch.get_num_threads()))
        predictor.unshare()
    assert all(threads == share for threads, share in seen)


def test_onnx_of_one_batch_and_size(tmp_path: Path) -> None:
    save_onnx(Foreign(), tmp_path / "model.onnx", (2, 3, 64, 64))
    network = load_onnx(tmp_path / "model.onnx")
    assert network.input_shape == (2, 3, 64, 64)
    with pytest.raises(
        ModelError, match=r"model.onnx: ONNX Runtime cannot compute an input \(1, 3, 64, 64\)"
    ):
        network(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("shape", "words"), [(("n", 4, 64, 64), r"\['n', 4, 64, 64\]"), ((3, 64), r"\[3, 64\]")]
)
def test_onnx_of_another_input(shape: tuple[object, ...], words: str, tmp_path: Path) -> None:
    if len(shape) == 4:
        wide = Foreign()
        wide.first = torch.nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False)
        save_onnx(wide.requires_grad_(False), tmp_path / "model.onnx", shape)
    else:
        save_relu(tmp_path / "model.onnx", shape)
    with pytest.raises(ModelError, match=rf"takes x: tensor\(float\) {words}, and one float32 input"):
        load_onnx(tmp_path / "model.onnx")


def save_relu(path: Path, shape: tuple[object, ...]) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_cuda_without_a_runtime_for_it(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    network = load_onnx(foreign_model(tmp_path / "onnx", "onnx") / "model.onnx")
    with pytest.raises(ModelError, match=r"model.onnx: ONNX Runtime was built without CUDA .* --device cpu"):
        network.on_device("cuda:0")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code was run",))


def test_archives_with_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch would unpickle example inputs and constants, and evaluate sizes."""
    good = tmp_path / "good.pt2"
    save_exported(Foreign(), good)
    load_exported(good)
    with zipfile.ZipFile(good) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (model,) = (name for name in content if name.endswith("models/model.json"))
    (inputs,) = (name for name in content if "/sample_inputs/" in name)
    (weights,) = (name for name in content if name.endswith("model_weights_config.json"))
    size = b"Symbol('s"
    assert size in content[model]
    changes = {
        inputs: pickle.dumps(Evil()),
        weights: content[weights].replace(b'"use_pickle": false', b'"use_pickle": true', 1),
        model: content[model].replace(size, b"print('code was run') or " + size),
        model.replace("models/model.json", "data/constants/opaque_obj_0"): pickle.dumps(Evil()),
    }
    for name, changed in changes.items():
        assert changed != content.get(name), name
        bad = tmp_path / "bad.pt2"
        with zipfile.ZipFile(bad, "w") as archive:
            for other, text in {**content, name: changed}.items():
                archive.writestr(other, text)
        with pytest.raises(ModelError, match=r"bad.pt2: refused, since it holds more than tensors"):
            load_exported(bad)
    assert capsys.readouterr().out == ""


def test_pickles_are_no_torchscript(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"evil": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"model.pt: no readable TorchScript file"):
        load_torchscript(tmp_path / "model.pt")
    assert capsys.readouterr().out == ""


def test_map_of_several_outputs() -> None:
    one, two = torch.zeros(1, 4), torch.zeros(1, 3, 8, 8)
    for output in (two, (one, two), [[one], (two,)], {"aux": one, "out": two}):
        assert map_of(output) is two
    for output in (one, (one, one), 3, None):
        with pytest.raises(ModelError, match="returned no map"):
            map_of(output)


def test_memory_is_measured_once_and_projected_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that holds 8 float32 channels of its input, twice, takes no less, and not many times more."""
    folder = foreign_model(tmp_path / "onnx", "onnx", tile=2048)
    found = measured_activations(folder)
    assert 2 * 8 * 4 <= found <= 400
    monkeypatch.setattr(predictors, "measured_activations", lambda _: 123.0)
    facts = load_model(str(folder), "cpu").facts
    assert facts.measured and facts.activation_bytes == 123 and MEASURED_SLACK > 1


def test_a_network_that_fails_is_named_when_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_model(tmp_path / "onnx", "onnx")
    failed = subprocess.CompletedProcess([], 1, "", "more\nmodel.onnx: no readable ONNX file\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"onnx: a forward pass of one tile fails: model.onnx: no readable"):
        measured_activations(folder)
