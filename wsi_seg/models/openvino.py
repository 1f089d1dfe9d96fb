"""Networks run by OpenVINO on the CPU, which fuses layers that PyTorch runs one by one. Extra `openvino`."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.errors import MissingExtraError

DEVICE = "openvino"
HINTS = {"float32": "f32", "bf16": "bf16"}


def check_openvino() -> None:
    """Tell whether OpenVINO is there.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError(
            "device 'openvino' needs OpenVINO; install it with: pip install 'wsi-seg[openvino]'"
        )


class OpenVinoNetwork:
    """A network of torch as a callable that OpenVINO computes; compiled once for each shape of input.

    Compiling takes 5 to 20 s.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self._network = network.eval()
        self._precision = precision
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the network returns for float32 (N, 3, H, W)."""
        shape = tuple(inputs.shape)
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(inputs)
        outputs = self._compiled[shape].infer([inputs.contiguous().numpy()], share_outputs=False)
        tensors = tuple(torch.from_numpy(array) for array in outputs.values())
        return tensors if len(tensors) > 1 else tensors[0]

    def _compile(self, inputs: Tensor) -> Any:
        import openvino

        # Outside of inference mode, in which export cannot trace.
        with torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(self._network, (torch.zeros(tuple(inputs.shape)),))
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[self._precision]}
        compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU", hints)
        return compiled.create_infer_request()
