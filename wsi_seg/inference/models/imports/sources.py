"""Recognition of a reference: the kind of model that it is, and the module that reads it."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wsi_seg.core.card import CARD_NAME
from wsi_seg.core.errors import ModelError
from wsi_seg.core.folders import home_expanded, kind_of
from wsi_seg.inference.models.imports import bioimage, files, monai, smp, transformers
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.imports.source_files import read_json_object
from wsi_seg.inference.models.own import is_factory, make_network
from wsi_seg.inference.models.registry import HUB_PREFIX, download

CONFIG_NAME = "config.json"
SUFFIXES: dict[str, Callable[[Path], Source]] = {
    ".onnx": files.read_onnx,
    ".pt2": files.read_export,
    ".ts": files.read_torchscript,
}
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
EXPECTED = (
    "expected a folder of save_pretrained (segmentation-models-pytorch, transformers), hf://owner/name, "
    "module:factory, a MONAI bundle, a BioImage.IO archive, or a file of ONNX (.onnx), TorchScript (.pt, "
    ".ts), torch.export (.pt2) or tensors (.pth, .pt, .ckpt, .safetensors)"
)


def read_source(reference: str, trust: bool = False) -> Source:
    """Read a model that another library stored.

    Args:
        reference: path of a file or folder, `hf://owner/name[@revision]`, or `module:factory`.
        trust: unpickle what is no plain file of tensors, which can run any code in it.

    Raises:
        ModelError: there is no such model, or it cannot be used.
        MissingExtraError: a library is needed that is not installed.
    """
    if reference.startswith(HUB_PREFIX):
        wanted = [CONFIG_NAME, transformers.PREPROCESSOR, "*.safetensors"]
        return _read_folder(download(reference, wanted), reference, trust)
    path = home_expanded(reference)
    kind = kind_of(path)
    if kind == "unreadable" and is_factory(reference):
        return files.read_python(make_network(reference), reference)
    if kind == "folder":
        return _read_folder(path, reference, trust)
    if kind != "file":
        raise ModelError(f"{reference}: no such file or folder; {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix](path)
    if path.name in bioimage.DESCRIPTIONS:
        return bioimage.read_bioimage(path, trust)
    if suffix == ".zip":
        return _read_archive(path, trust)
    if suffix in CHECKPOINTS:
        if files.is_torchscript(path):
            return files.read_torchscript(path)
        if files.is_exported(path):
            return files.read_export(path)
        return files.read_state_dict(path, trust)
    raise ModelError(f"{reference}: unknown kind of model; {EXPECTED}")


def _read_archive(path: Path, trust: bool) -> Source:
    """Read a model in a ZIP archive; a MONAI bundle is unpacked for as long as the source is used."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            found = [name for name in names if name.endswith(monai.METADATA)]
            unpacked = tempfile.TemporaryDirectory()
            if len(found) == 1:
                archive.extractall(unpacked.name)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{path}: no readable ZIP archive ({error})") from error
    if {*bioimage.DESCRIPTIONS} & {*names}:
        return bioimage.read_bioimage(path, trust)
    if len(found) != 1:
        raise ModelError(f"{path}: holds neither a MONAI bundle nor a BioImage.IO model; {EXPECTED}")
    source = monai.read_monai(Path(unpacked.name, found[0].removesuffix(monai.METADATA)), trust)
    return replace(source, held=unpacked)


def _read_folder(folder: Path, reference: str, trust: bool) -> Source:
    if (folder / CARD_NAME).is_file():
        raise ModelError(f"{reference}: this is a model folder already; give it to --model")
    if (folder / monai.METADATA).is_file():
        return monai.read_monai(folder, trust)
    for name in bioimage.DESCRIPTIONS:
        if (folder / name).is_file():
            return bioimage.read_bioimage(folder / name, trust)
    path = folder / CONFIG_NAME
    config = read_json_object(path) if path.is_file() else {}
    if smp.CLASS_KEY in config:
        return smp.read_smp(folder, config)
    if transformers.KIND_KEY in config:
        return transformers.read_transformers(folder, config)
    what = f"{CONFIG_NAME} names no model of a known library" if config else f"it lacks {CONFIG_NAME}"
    raise ModelError(f"{reference}: {what}; {EXPECTED}")


def name_of(reference: str) -> str:
    """Return a name for the model of a reference."""
    name = Path(reference.removeprefix(HUB_PREFIX).partition("@")[0]).stem
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "model"
