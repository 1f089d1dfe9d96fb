"""Networks that are loaded whole, code and weights, from one file, and compute in float32.

Here are those of torch: TorchScript and torch.export; `onnx` has those of ONNX Runtime. Both kinds hold
programs for torch's own operators, no Python. TorchScript is read without pickle. An archive of torch.export
may hold pickles and expressions that torch evaluates; those with anything but tensors and sizes are refused.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError

# Sizes in an archive of torch.export, such as Add(Symbol('s0', positive=True), Integer(-1)), which torch
# evaluates.
_SIZE = re.compile(r"(?:'\w+'|[A-Z]\w*|[a-z]+=(?:True|False)|-?\d+|[(), ])*")
# What torch and its libraries raise for a file that they cannot read.
UNREADABLE = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError,
    zipfile.BadZipFile,
)  # fmt: skip


class LoadedNetwork(nn.Module):
    """A network of one file: float32 (N, 3, H, W) -> its map (N, C, h, w).

    Of a network with several outputs, in a tuple or by name, the map is the first with four dimensions.
    """

    @abstractmethod
    def on_device(self, device: str) -> Callable[[Tensor], Tensor]:
        """Return what computes on "cpu" or "cuda:N".

        Raises:
            ModelError: the device cannot compute it.
        """

    @abstractmethod
    def for_openvino(self, shape: tuple[int, ...]) -> Any:
        """Return OpenVINO's own form of the network for inputs of a shape."""


class TorchNetwork(LoadedNetwork):
    """A program of torch."""

    def __init__(
        self, program: Callable[[Tensor], Any], move: Callable[[str], Callable[[Tensor], Any]]
    ) -> None:
        """Take a program.

        Args:
            program: on the CPU.
            move: returns it for another device.
        """
        super().__init__()
        # In a tuple, as modules of torch.export refuse `eval`, which modules pass on to those that they hold.
        self._program = (program,)
        self._move = move

    def forward(self, inputs: Tensor) -> Tensor:
        return map_of(self._program[0](inputs.contiguous()))

    def on_device(self, device: str) -> Callable[[Tensor], Tensor]:
        return self if device == "cpu" else TorchNetwork(self._move(device), self._move)

    def for_openvino(self, shape: tuple[int, ...]) -> Any:
        import openvino

        zeros = torch.zeros(shape)
        with torch.inference_mode(False), torch.no_grad():
            program: Any = self._program[0]
            if isinstance(program, torch.jit.ScriptModule):
                return openvino.convert_model(program, example_input=zeros, input=list(shape))
            return openvino.convert_model(torch.export.export(program, (zeros,)))


def map_of(output: Any) -> Tensor:
    """Return the map of what a network returned.

    Raises:
        ModelError: it has none.
    """
    found = next((tensor for tensor in _tensors(output) if tensor.ndim == 4), None)
    if found is None:
        shapes = [tuple(tensor.shape) for tensor in _tensors(output)]
        raise ModelError(
            f"the network returned no map (N, classes, H, W), but {shapes or type(output).__name__}"
        )
    return found


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(tuple(output.values()))
    elif isinstance(output, tuple | list):
        for one in output:
            yield from _tensors(one)


def load_torchscript(path: Path, card: ModelCard | None = None) -> TorchNetwork:
    """Load a file that `torch.jit.save` made.

    Raises:
        ModelError: it is none, or damaged.
    """
    try:
        program = _script_on(path, "cpu")
    except UNREADABLE as error:
        raise ModelError(f"{path}: no readable TorchScript file ({short(error)})") from error
    return TorchNetwork(program, lambda device: _script_on(path, device))


def _script_on(path: Path, device: str) -> Callable[[Tensor], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and still common
        program: Any = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    module: Callable[[Tensor], Any] = program.eval()
    return module


def load_exported(path: Path, card: ModelCard | None = None) -> TorchNetwork:
    """Load a file that `torch.export.save` made; see `read_exported` for what it raises."""
    program = read_exported(path)

    def move(device: str) -> Callable[[Tensor], Any]:
        from torch.export.passes import move_to_device_pass

        module: Callable[[Tensor], Any] = move_to_device_pass(read_exported(path), device).module()
        return module

    return TorchNetwork(program.module(), move)


def read_exported(path: Path) -> torch.export.ExportedProgram:
    """Read a program of torch.export, from an archive that holds tensors and sizes only.

    Raises:
        ModelError: it is none, it is damaged, or it holds what could run code.
    """
    try:
        _refuse_code(path)
        return torch.export.load(path)
    except UNREADABLE as error:
        raise ModelError(f"{path}: no readable file of torch.export ({short(error)})") from error


def _refuse_code(path: Path) -> None:
    """Refuse what torch would unpickle or evaluate without looking.

    Raises:
        ModelError: there is such content.
    """
    reason = ""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/sample_inputs/" in name:
                try:  # torch falls back to a full unpickler where this fails
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is no plain tensor
                    reason = f"{name}: {short(error)}"
            elif "/constants/" in name and not name.endswith((".json",)) and "/tensor_" not in name:
                reason = f"{name} is pickled"
            elif name.endswith(".json"):
                reason = reason or _unsafe(json.loads(archive.read(name)), name)
    if reason:
        raise ModelError(
            f"{path}: refused, since it holds more than tensors and may run code ({reason}); "
            "save it again with torch.export.save"
        )


def _unsafe(plain: Any, name: str) -> str:
    """Return what in a JSON of the archive is pickled, or evaluated and no size."""
    if isinstance(plain, dict):
        if plain.get("use_pickle"):
            return f"{name} names pickled tensors"
        expression = plain.get("expr_str")
        if isinstance(expression, str) and not _SIZE.fullmatch(expression):
            return f"{name}: {expression[:60]!r}"
        plain = list(plain.values())
    if isinstance(plain, list):
        return next(filter(None, (_unsafe(one, name) for one in plain)), "")
    return ""


def short(error: Exception) -> str:
    """Return the reason of an error of torch in one line; TorchScript puts it last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join((lines[-1] if len(lines) > 6 else " ".join(lines)).split())[:200]
