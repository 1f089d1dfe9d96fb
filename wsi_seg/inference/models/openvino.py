"""Networks run by OpenVINO on the CPU, which fuses layers that PyTorch runs one by one. Extra `openvino`."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.core.errors import MissingExtraError, ModelError
from wsi_seg.inference.models.loaded import LoadedNetwork, map_of, short

DEVICE = "openvino"
HINTS = {"float32": "f32", "bf16": "bf16"}
MODEL_NAME = "network.xml"  # next to it, OpenVINO puts the weights

logger = logging.getLogger(__name__)


def check_openvino() -> None:
    """Return True if OpenVINO is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError(
            "device 'openvino' needs OpenVINO; install it with: pip install 'wsi-seg[openvino]'"
        )


class OpenVinoNetwork:
    """A network of torch as a callable that OpenVINO computes; made once for each shape of input.

    Converting it from torch takes 4 to 20 s, so the result is kept in a folder. As many threads as `passes`
    says may call it at a time, and share the cores between them; any more wait.
    """

    def __init__(self, network: nn.Module, precision: str, threads: int, kept: Path | None = None) -> None:
        """Take a network of torch.

        Args:
            network: in evaluation mode, float32, on the CPU.
            precision: "float32" or "bf16".
            threads: of all calls together.
            kept: folder of this very network, where conversions are kept; None: they are not.
        """
        self.passes = 1
        self._network = network.eval()
        self._kept = kept
        self._precision = precision
        self._threads = threads
        self._compiling = threading.Lock()
        self._idle: dict[tuple[int, ...], SimpleQueue[Any]] = {}

    def __call__(self, inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the network returns for float32 (N, 3, H, W)."""
        shape = tuple(inputs.shape)
        with self._compiling:
            key = (*shape, self.passes)
            if key not in self._idle:
                self._idle[key] = self._compile(shape)
            idle = self._idle[key]
        request = idle.get()
        try:
            outputs = request.infer([inputs.contiguous().numpy()], share_inputs=True, share_outputs=False)
        finally:
            idle.put(request)
        tensors = tuple(torch.from_numpy(array) for array in outputs.values())
        if isinstance(self._network, LoadedNetwork):
            return map_of(tensors)
        return tensors if len(tensors) > 1 else tensors[0]

    def _compile(self, shape: tuple[int, ...]) -> SimpleQueue[Any]:
        """Return what each may compute one call at a time."""
        import openvino

        core = openvino.Core()
        properties = {
            "INFERENCE_PRECISION_HINT": HINTS[self._precision],
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": self.passes,
            "ENABLE_CPU_PINNING": False,  # or several processes would sit on the same cores
        }
        compiled = core.compile_model(self._converted(core, shape), "CPU", properties)
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.passes):
            idle.put(compiled.create_infer_request())
        return idle

    def _converted(self, core: Any, shape: tuple[int, ...]) -> Any:
        """Return the network in OpenVINO's own form, read from the folder if it is there."""
        import openvino

        if self._kept is None:
            return self._convert(shape)
        place = self._kept / f"openvino-{openvino.__version__.split('-')[0]}" / "x".join(map(str, shape))
        if (place / MODEL_NAME).is_file():
            return core.read_model(place / MODEL_NAME)
        converted = self._convert(shape)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as aside:
                openvino.save_model(converted, Path(aside) / place.name / MODEL_NAME, compress_to_fp16=False)
                (Path(aside) / place.name).rename(place)  # both files at once, or none
        except (OSError, RuntimeError) as error:  # of which OpenVINO raises the second
            logger.info("%s: the converted network cannot be kept (%s)", place, error)
        return converted

    def _convert(self, shape: tuple[int, ...]) -> Any:
        import openvino

        # Outside of inference mode, in which export cannot trace.
        with torch.inference_mode(False), torch.no_grad():
            if not isinstance(self._network, LoadedNetwork):
                return openvino.convert_model(torch.export.export(self._network, (torch.zeros(shape),)))
            try:
                return self._network.for_openvino(shape)
            except (RuntimeError, ValueError, TypeError) as error:
                raise ModelError(
                    f"OpenVINO cannot convert the network for an input {shape} ({short(error)}); "
                    "use --device cpu"
                ) from error
