"""Networks in one file: TorchScript, torch.export, ONNX, and state dicts of a network that the card names."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from wsi_seg.core.card import WEIGHTS_NAME, ModelCard
from wsi_seg.core.errors import MissingExtraError, ModelError
from wsi_seg.inference.models.convert import read_checkpoint, tensors_of, without_prefix
from wsi_seg.inference.models.formats import FORMATS, format_of
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.loaded import (
    UNREADABLE,
    LoadedNetwork,
    load_exported,
    load_torchscript,
    read_exported,
    short,
)
from wsi_seg.inference.models.network import build_network, load_weights, read_weights
from wsi_seg.inference.models.onnx import load_onnx
from wsi_seg.inference.models.own import Network


def read_torchscript(path: Path) -> Source:
    """Read a TorchScript file; see `load_torchscript` for what it raises."""
    network = load_torchscript(path)
    return _loaded(path, "TorchScript file", "torchscript", network, (None, 3, None, None))


def read_export(path: Path) -> Source:
    """Read a file of torch.export; see `read_exported` for what it raises."""
    program = read_exported(path)
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name in _inputs(program)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ModelError(f"{path}: the network takes {shapes}, and one input (N, 3, H, W) is expected")
    sides = tuple(side if isinstance(side, int) else None for side in shapes[0])
    return _loaded(path, "file of torch.export", "torch-export", load_exported(path), sides)


def _inputs(program: torch.export.ExportedProgram) -> tuple[Any, ...]:
    return tuple(program.graph_signature.user_inputs)


def read_onnx(path: Path) -> Source:
    """Read an ONNX file, with weights in files of their own next to it or without.

    Raises:
        MissingExtraError: the extra onnx is not installed.
        ModelError: the file cannot be read, or its input is another than float32 (N, 3, H, W).
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: importing an ONNX file needs onnx; install it with: pip install 'wsi-seg[onnx]'"
        ) from error
    network = load_onnx(path)

    def write(card: ModelCard, folder: Path) -> None:
        try:
            onnx.save(onnx.load(path), folder / FORMATS["onnx"].weights)
        except ValueError as error:  # protobuf's limit of 2 GB
            raise ModelError(f"{path}: cannot be stored in one file ({short(error)})") from error

    return Source(
        "ONNX file",
        lambda _: network,
        write,
        {"format": "onnx"},
        probe=network,
        input_shape=network.input_shape,
    )


def _loaded(
    path: Path, kind: str, name: str, network: LoadedNetwork, shape: tuple[int | None, ...]
) -> Source:
    return Source(
        kind,
        lambda _: network,
        lambda _, folder: copy_file(path, folder / FORMATS[name].weights),
        {"format": name},
        probe=network,
        input_shape=shape,
    )


def copy_file(path: Path, target: Path) -> None:
    shutil.copyfile(path, target)  # without its permissions


def read_state_dict(path: Path, trust: bool) -> Source:
    """Read the tensors of a network that the card names.

    Args:
        path: safetensors file, or one made by `torch.save`.
        trust: unpickle what is no plain file of tensors, which can run any code in it.

    Raises:
        ModelError: it cannot be read or holds no state dict.
    """
    weights = read_tensors(path, trust)

    def network(card: ModelCard) -> nn.Module:
        built = build_network(card)
        rename = format_of(card).rename
        named = resolve_name(rename)(built, card, weights, path) if rename else weights
        load_weights(built, card, named, path)
        return built.eval()

    def write(card: ModelCard, folder: Path) -> None:
        write_weights(network(card), folder)

    return Source("state dict", network, write, state_dict_only=True)


def write_weights(network: nn.Module, folder: Path) -> None:
    """Write the tensors of a network as they are."""
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    (folder / WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))


def read_tensors(path: Path, trust: bool) -> Mapping[str, Tensor]:
    """Return the state dict of a safetensors file or a checkpoint; see `read_state_dict`."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    if not trust:
        return read_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except (*UNREADABLE, pickle.UnpicklingError, ImportError) as error:
        raise ModelError(f"{path}: no readable PyTorch checkpoint ({short(error)})") from error
    tensors = content.state_dict() if isinstance(content, nn.Module) else tensors_of(content)
    if not tensors:
        raise ModelError(f"{path}: holds no state dict, but {type(content).__name__}")
    return without_prefix(dict(tensors))


def is_torchscript(path: Path) -> bool:
    """Return True for an archive of TorchScript, which holds code where a checkpoint holds tensors only."""
    return any("/code/" in name for name in _names(path))


def is_exported(path: Path) -> bool:
    """Return True for an archive of torch.export."""
    return any(name.endswith("models/model.json") for name in _names(path))


def _names(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def read_python(network: Network, reference: str) -> Source:
    """Read a network of Python code, which is stored as a program of torch.export.

    Args:
        network: with a card that is whole.
        reference: names it in errors.
    """
    card = network.card
    source = module_source(network.module.eval(), reference, f"; run it as it is, by --model {reference}")
    return replace(
        source, card={**card.model_dump(mode="json"), **source.card}, channels=card.channels, probe=None
    )


def module_source(module: nn.Module, reference: str, way_out: str = "") -> Source:
    """Return the source of a network in memory, which is stored as a program of torch.export.

    Its batch and sides may vary if torch.export finds that they can.

    Args:
        module: on the CPU, for inference.
        reference: names it in errors.
        way_out: ends the error where torch.export cannot store it.
    """

    def write(card: ModelCard, folder: Path) -> None:
        sizes = torch.export.Dim.AUTO
        inputs = (torch.zeros(card.batch or 2, 3, card.tile, card.tile),)
        dynamic = ({0: None if card.batch else sizes, 2: sizes, 3: sizes},)
        try:
            with torch.no_grad():
                program = torch.export.export(module, inputs, dynamic_shapes=dynamic)
            torch.export.save(program, folder / FORMATS["torch-export"].weights)
        except UNREADABLE as error:
            raise ModelError(
                f"{reference}: torch.export cannot store the network ({short(error)}){way_out}"
            ) from error

    return Source("network of Python code", lambda _: module, write, {"format": "torch-export"}, probe=module)
