"""Networks of other libraries, small and the same each time, and what they return."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_seg.core.card import CardClass, ModelCard, OutputGeometry

CLASSES = tuple(CardClass(code=code, name=f"class {code}", color=(code, 0, 0)) for code in (1, 2, 3))


class Foreign(nn.Module):
    """Two convolutions; `stride` and `margin` as of `OutputGeometry`; the map comes second of two outputs."""

    def __init__(self, stride: int = 1, margin: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 2 * margin + stride if margin else stride, stride=stride)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.last(functional.relu(self.first(inputs)))
        return out.mean(dim=(2, 3)), out


def foreign_card(kind: str, **fields: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": f"made-{kind}",
        "classes": CLASSES,
        "groups": (),
        "mpp": 0.5,
        "tile": 64,
        **fields,
    }
    return ModelCard(format=kind, **values)


def save_torchscript(network: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(network).save(str(path))


def save_exported(network: nn.Module, path: Path, dynamic: bool = True, side: int = 64) -> None:
    sides = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    inputs = (torch.zeros(2 if dynamic else 1, 3, side, side),)
    program = torch.export.export(network.eval(), inputs, dynamic_shapes=(sides,) if dynamic else None)
    torch.export.save(program, path)


def save_onnx(network: Foreign, path: Path, shape: tuple[Any, ...] = ("n", 3, "h", "w"), **more: Any) -> None:
    """Write the ONNX file of a network; `more` is for `onnx.save`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    last = network.last
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "last.weight", "last.bias"], ["map"], strides=list(last.stride)),
        helper.make_node("ReduceMean", ["map", "axes"], ["mean"], keepdims=0),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in state.items()]
    tensors.append(helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]))
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, None),
        ],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, **more)


SAVERS = {"torchscript": save_torchscript, "torch-export": save_exported, "onnx": save_onnx}


def foreign_model(folder: Path, kind: str, geometry: OutputGeometry | None = None, **fields: Any) -> Path:
    """Write a model folder by hand."""
    from wsi_seg.inference.models.formats import FORMATS

    geometry = geometry or OutputGeometry()
    folder.mkdir(parents=True)
    SAVERS[kind](Foreign(geometry.stride, geometry.margin), folder / FORMATS[kind].weights)
    foreign_card(kind, output=geometry, **fields).write(folder)
    return folder
