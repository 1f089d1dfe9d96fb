"""wsi_seg: whole-slide histopathology tiling and segmentation."""

__version__ = "0.1.0"
