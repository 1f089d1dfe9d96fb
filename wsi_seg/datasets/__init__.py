"""Data sets: annotated images of several kinds as regions with targets at the resolution of a model.

`kinds` lists the kinds that a configuration may name; `base.Dataset` is what each subclasses; `region` is
what training and evaluation read. A new kind of data set is a new module here. Free of torch.
"""

__all__ = [
    "areas",
    "base",
    "bcss",
    "domain",
    "folders",
    "hashes",
    "kinds",
    "labels",
    "made_artifacts",
    "mask_files",
    "masks",
    "names",
    "outlined_images",
    "patients",
    "region",
    "reviews",
    "slides",
    "split",
]
