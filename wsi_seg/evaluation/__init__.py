"""Evaluation: a model on annotated data, or finished maps against annotations; counts first, then scores.

Metrics, confidence intervals, reports, seams of the tiling, and Grad-CAM.
"""

__all__ = ["config", "evaluation", "explain", "model", "seams", "sentences", "stored", "truth", "write"]
