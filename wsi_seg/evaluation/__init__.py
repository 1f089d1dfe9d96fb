"""Evaluation: a model on annotated data, or finished maps against annotations; counts first, then scores.

`choice` says which regions, `model` predicts them and `stored` reads finished maps (`truth`: what they are
compared with); `metrics` has the scores, `calibration` the error of probabilities, `intervals` the
confidence of scores, `comparison` says which of two models is better, `sentences` the words around them,
`write` and `html` the report; `seams` and `explain` look at tiling and at the network.
"""

__all__ = [
    "calibration",
    "choice",
    "comparison",
    "config",
    "evaluation",
    "explain",
    "model",
    "seams",
    "sentences",
    "stored",
    "truth",
    "write",
]
