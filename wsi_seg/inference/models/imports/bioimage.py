"""Models of BioImage.IO: archives or folders with `rdf.yaml`, read by bioimageio's own packages."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_seg.core.errors import MissingExtraError, ModelError
from wsi_seg.inference.models.imports import files
from wsi_seg.inference.models.imports.classes import classes_of
from wsi_seg.inference.models.imports.preprocessing import Step, normalization_of
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.loaded import UNREADABLE, short

if TYPE_CHECKING:
    from bioimageio.spec.model.v0_5 import FileDescr, InputTensorDescr, ModelDescr, OutputTensorDescr

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
TILE = 512  # at least, where sizes may vary
MICRONS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}


def read_bioimage(path: Path, trust: bool) -> Source:
    """Read a model of BioImage.IO of format 0.4 or 0.5.

    Of its weights those of ONNX are taken, else TorchScript, else, with `trust`, the tensors with the code
    of their network.

    Args:
        path: archive, or the description in an unpacked one.
        trust: also run the code of a network that comes with tensors only.

    Raises:
        MissingExtraError: bioimageio.core is not installed.
        ModelError: the description is wrong, or the network takes no RGB image, or cannot be read.
    """
    model = _described(path)
    if len(model.inputs) != 1 or _axes(model.inputs[0]) != "bcyx":
        shapes = ", ".join(_axes(one) for one in model.inputs)
        raise ModelError(f"{path}: the network takes {shapes}, and one input of axes bcyx is expected")
    card = _card(model, model.inputs[0], model.outputs[0])
    source = _source(model, path, trust)
    size = _axis(model.inputs[0], "x").size
    shape = (None, 3, size, size) if isinstance(size, int) else source.input_shape
    return replace(source, kind="BioImage.IO model", card={**source.card, **card}, input_shape=shape)


def _described(path: Path) -> ModelDescr:
    try:
        from bioimageio.spec import load_model_description
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: a model of BioImage.IO needs bioimageio.core; install it with: "
            "pip install 'wsi-seg[bioimage]'"
        ) from error
    try:
        # Without checks that ask the servers of links in it.
        return load_model_description(path.absolute(), format_version="latest", perform_io_checks=False)
    except UNREADABLE as error:
        raise ModelError(f"{path}: no valid model of BioImage.IO ({short(error)})") from error


def _axes(tensor: InputTensorDescr) -> str:
    return "".join(axis.id if axis.type == "space" else axis.type[0] for axis in tensor.axes)


def _axis(tensor: InputTensorDescr | OutputTensorDescr, name: str) -> Any:
    return next((axis for axis in tensor.axes if name in (axis.id, axis.type)), None)


def _card(model: ModelDescr, image: InputTensorDescr, output: OutputTensorDescr) -> dict[str, Any]:
    """Return the fields of the card that a description tells."""
    card: dict[str, Any] = {
        "name": re.sub(r"[^\w.-]+", "-", str(model.name)).strip("-"),
        "description": str(model.description or ""),
        "license": str(model.license or ""),
    }
    if model.version is not None:
        card["version"] = str(model.version)
    across, down = _axis(image, "x"), _axis(image, "y")
    if across.unit in MICRONS and across.unit == down.unit and across.scale == down.scale:
        card["mpp"] = across.scale * MICRONS[across.unit]
    if not isinstance(across.size, int) and hasattr(across.size, "step"):
        missing = max(0, TILE - across.size.min)
        card["tile"] = across.size.min + -(-missing // across.size.step) * across.size.step
    halo = getattr(_axis(output, "x"), "halo", 0)
    if halo:
        card["overlap"] = 2 * halo
    normalization = normalization_of(_steps(image))
    if normalization is not None:
        card["normalization"] = normalization
    for step in output.postprocessing:
        if step.id in ("softmax", "sigmoid"):
            card["head"] = step.id
    names = [str(name) for name in getattr(_axis(output, "channel"), "channel_names", ())]
    if names and not all(re.fullmatch(r"\D*\d+", name) for name in names):  # channel0, … say nothing
        card["classes"] = classes_of(names)
    return card


def _steps(image: InputTensorDescr) -> Iterable[Step | None]:
    """Yield the steps from RGB of 0 … 255 to the network's input."""
    # The format casts to the type of the data first, and last too where the list ends in no other cast.
    casts = [one.kwargs.dtype for one in image.preprocessing if one.id == "ensure_dtype"]
    if getattr(image.data, "type", None) != "uint8" or casts[1:] != ["float32"]:
        yield None  # of another range than a slide's tiles, or rounded
    for one in image.preprocessing:
        values: Any = one.kwargs
        if one.id == "scale_linear":
            yield values.gain, values.offset
        elif one.id == "fixed_zero_mean_unit_variance":
            std = values.std if isinstance(values.std, list) else [values.std] * 3
            mean = values.mean if isinstance(values.mean, list) else [values.mean] * 3
            yield [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
        elif one.id != "ensure_dtype":
            yield None


def _source(model: ModelDescr, path: Path, trust: bool) -> Source:
    """Return the source of the weights that can be used."""
    weights = model.weights
    if weights.onnx is None and weights.torchscript is None:
        if weights.pytorch_state_dict is None:
            there = ", ".join(name for name, one in weights if one is not None)
            raise ModelError(f"{path}: holds weights of {there} only; ONNX, TorchScript or PyTorch is needed")
        if not trust:
            raise ModelError(
                f"{path}: holds tensors with the code of their network; --trust runs it, where you know who "
                "made it"
            )
        try:
            from bioimageio.core.backends.pytorch_backend import load_torch_model

            network = load_torch_model(weights.pytorch_state_dict, load_state=True, devices=["cpu"])
        except (*UNREADABLE, ImportError) as error:
            raise ModelError(f"{path}: its network cannot be built ({short(error)})") from error
        return files.module_source(network.eval(), str(path))
    unpacked = tempfile.TemporaryDirectory()
    folder = Path(unpacked.name)
    if weights.onnx is not None:
        if weights.onnx.external_data is not None:
            _copy(weights.onnx.external_data, folder, path)
        source = files.read_onnx(_copy(weights.onnx, folder, path))
    else:
        assert weights.torchscript is not None
        source = files.read_torchscript(_copy(weights.torchscript, folder, path))
    return replace(source, held=unpacked)


def _copy(entry: FileDescr, folder: Path, path: Path) -> Path:
    """Write a file of a model into a folder, after a check of its SHA-256 where the description has one."""
    try:
        reader = entry.get_reader()
        target = folder / Path(reader.original_file_name).name
        target.write_bytes(reader.read())
    except UNREADABLE as error:
        raise ModelError(f"{path}: {entry.source} cannot be read ({short(error)})") from error
    return target
