"""Random changes of colour, stain, sharpness and blank ground, on batches and on their device."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from wsi_seg.training.config import AugmentationConfig

# Optical density of haematoxylin, eosin and a residual stain in R, G, B, one stain per row.
# Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution",
# Anal Quant Cytol Histol 23:291-299, 2001 (H and E; the residual is their DAB vector).
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

# Weights of R, G and B in luma (ITU-R BT.601, as in JPEG), and sides of the cells that average colour.
LUMA = (0.299, 0.587, 0.114)
CHROMA_CELLS = (2, 4, 8)
# Range of the quality factor, libjpeg's scale; slide scanners use 30 to 95.
JPEG_QUALITY = (30, 95)


class Augmentation:
    """Callable on (images, targets): float (N, 3, H, W) in 0 … 1 and int64 (N, H, W)."""

    def __init__(self, config: AugmentationConfig, blank_target: int, seed: int) -> None:
        self._config = config
        self._blank_target = blank_target
        self._random = torch.Generator().manual_seed(seed)
        self._stains = torch.tensor(STAINS)

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images, targets = self.blank(images, targets)
        return self.recolour(images), targets

    def recolour(self, images: Tensor) -> Tensor:
        """Change what an image looks like and not what it shows: stain, colour, sharpness, encoding."""
        if self._config.stain:
            images = self._change_stain(images)
        if self._config.color:
            images = self._change_color(images)
        if self._config.blur:
            images = self._blur(images)
        if self._config.chroma:
            images = self._smooth_chroma(images)
        images = images.clamp(0, 1)
        return self._encode(images) if self._config.jpeg else images

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._random)

    def _change_stain(self, images: Tensor) -> Tensor:
        n = images.shape[0]
        gain = 1 + self._config.stain * (2 * self._uniform(n, 3) - 1)
        offset = self._config.stain / 10 * (2 * self._uniform(n, 3) - 1)
        # Density -> stains -> gain -> density is one 3 × 3 matrix for each image.
        matrix = torch.linalg.inv(self._stains) @ torch.diag_embed(gain) @ self._stains
        shift = offset @ self._stains
        density = -torch.log(images.clamp(min=1 / 256))
        changed = torch.einsum("nchw,ncd->ndhw", density, matrix.to(images))
        return torch.exp(-(changed + shift.to(images)[:, :, None, None]).clamp(min=0))

    def _change_color(self, images: Tensor) -> Tensor:
        factor = 1 + self._config.color * (2 * self._uniform(2, images.shape[0], 1, 1, 1).to(images) - 1)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return ((images - mean) * factor[0] + mean) * factor[1]

    def _blur(self, images: Tensor) -> Tensor:
        chosen = self._uniform(images.shape[0]) < self._config.blur
        if not bool(chosen.any()):
            return images
        line = torch.tensor([0.25, 0.5, 0.25]).to(images)
        kernel = (line[:, None] * line).expand(3, 1, 3, 3)
        out = images.clone()
        padded = functional.pad(images[chosen], (1, 1, 1, 1), mode="replicate")
        out[chosen] = functional.conv2d(padded, kernel, groups=3)
        return out

    def _smooth_chroma(self, images: Tensor) -> Tensor:
        """Coarsen the colour of some crops, but not their luma: fine colour is mostly encoder noise."""
        images = images.clone()
        luma_of = torch.tensor(LUMA).to(images)[:, None, None]
        for i in range(images.shape[0]):
            chance, which = self._uniform(2).tolist()
            if chance >= self._config.chroma:
                continue
            side = CHROMA_CELLS[int(which * len(CHROMA_CELLS))]
            luma = (images[i] * luma_of).sum(0, keepdim=True)
            coarse = functional.avg_pool2d(
                (images[i] - luma)[None], side, ceil_mode=True, count_include_pad=False
            )
            fine = functional.interpolate(coarse, scale_factor=side, mode="bilinear", align_corners=False)
            images[i] = luma + fine[0, :, : images.shape[2], : images.shape[3]]
        return images

    def _encode(self, images: Tensor) -> Tensor:
        """Pass some crops through JPEG: scanners and archives differ in quality and colour resolution."""
        images = images.clone()
        for i in range(images.shape[0]):
            chance, quality, subsampled = self._uniform(3).tolist()
            if chance >= self._config.jpeg:
                continue
            low, high = JPEG_QUALITY
            pixels = (images[i].permute(1, 2, 0) * 255 + 0.5).to(torch.uint8).cpu().numpy()
            stream = BytesIO()
            Image.fromarray(pixels).save(
                stream,
                "JPEG",
                quality=round(low + quality * (high - low)),
                subsampling="4:2:0" if subsampled < 0.5 else "4:4:4",
            )
            decoded = np.asarray(Image.open(stream)).copy()
            images[i] = torch.from_numpy(decoded).permute(2, 0, 1).to(images) / 255
        return images

    def blank(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Replace one side of some crops by near-white, whose target is `blank_target`."""
        if not self._config.blank:
            return images, targets
        images, targets = images.clone(), targets.clone()
        side = images.shape[-1]
        for i in range(images.shape[0]):
            chance, share, shade, noise = self._uniform(4).tolist()
            if chance >= self._config.blank:
                continue
            width = 1 + int(share * side / 2)
            grain = torch.randn(3, images.shape[-2], width, generator=self._random)
            white = 1 - 0.08 * shade + 0.02 * noise * grain
            images[i, :, :, :width] = white.clamp(0, 1).to(images)
            targets[i, :, :width] = self._blank_target
        return images, targets
