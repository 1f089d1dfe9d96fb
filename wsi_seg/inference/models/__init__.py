"""Models: where they are found (`registry`, free of torch), their networks, and predictors.

A model is a folder with a card and weights. `predictor.load_predictor` returns a callable, uint8 (N, H, W,
3) in, probabilities (N, C, h, w) out; `openvino` and `devices` decide where it runs.
"""

__all__ = [
    "activations",
    "calibrate",
    "catalog",
    "checks",
    "convert",
    "devices",
    "explain",
    "fold",
    "formats",
    "heads",
    "imports",
    "install",
    "loaded",
    "measure",
    "network",
    "onnx",
    "openvino",
    "own",
    "predictor",
    "registry",
    "tiatoolbox",
    "transfer",
    "transformers",
]
