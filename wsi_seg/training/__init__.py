"""Training: a YAML file in, a model folder with held-out metrics out.

`train` is the whole, and `retrain` improves a model by reviews; `fit` runs Lightning, `data` and `crops`
feed it, `augment` varies, `losses` judge.
"""

__all__ = ["config", "progress", "retrain", "settings", "train"]
