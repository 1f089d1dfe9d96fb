"""Random changes of one crop: geometry, color, stain, sharpness, encoding and blank ground.

Every change is drawn from the generator that is passed in, so a crop depends on its seed alone.
"""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsi_seg.datasets.region import IGNORED, Pixels, Targets
from wsi_seg.inference.models.network import LUMA
from wsi_seg.tissue.stain import STAINS
from wsi_seg.training.config import AugmentationConfig

# Sides of the cells that average color.
CHROMA_CELLS = (2, 4, 8)
# Range of the quality factor, libjpeg's scale; slide scanners use 30 to 95.
JPEG_QUALITY = (30, 95)


# Elastic deformation: random vectors on a grid of so many points a side, bicubic in between, as in the U-Net
# paper (Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28).
ELASTIC_POINTS = 4
# Pasted glass with a curved border: a field of so many random points a side, bicubic in between.
FIELD_POINTS = 6


class Geometry:
    """Magnify, turn, deform and mirror an image together with its targets."""

    def __init__(self, config: AugmentationConfig, side: int) -> None:
        """Crops of `side` pixels come out."""
        self._config, self._side = config, side
        turn = math.radians(min(45.0, config.angle))
        stretch = (math.cos(turn) + math.sin(turn)) / (1 - config.scale)
        self.source_side = 2 * math.ceil((side * stretch + 6 * config.elastic) / 2)
        """Side of the crop that must go in."""
        steps: list[v2.Transform] = []
        if config.angle:
            fill = {tv_tensors.Image: 255, tv_tensors.Mask: IGNORED}
            steps.append(v2.RandomRotation(config.angle, v2.InterpolationMode.BILINEAR, fill=fill))
        if config.flip:
            steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
        self._steps = v2.Compose(steps) if steps else None

    def __call__(self, image: Pixels, target: Targets, random: Generator) -> tuple[Tensor, Tensor]:
        """Change one crop.

        Args:
            image: uint8 (source_side, source_side, 3).
            target: int16 of the same size.
            random: decides.

        Returns:
            uint8 (3, side, side) and int64 (side, side).
        """
        pixels = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
        labels = tv_tensors.Mask(torch.from_numpy(target.astype(np.int64)))
        turns, magnification = 0, 1.0
        if self._config.flip:
            turns = int(torch.randint(4, (), generator=random))
        if self._config.scale:
            magnification = (1 - self._config.scale) ** float(2 * torch.rand((), generator=random) - 1)
        if self._steps is not None:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
                torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=random)))
                pixels, labels = self._steps(pixels, labels)
        if self._config.elastic:
            pixels, labels = self._deformed(pixels, labels, random)
        pixels, labels = self._magnified(pixels, labels, magnification)
        return torch.rot90(pixels, turns, (-2, -1)), torch.rot90(labels, turns, (-2, -1))

    def _magnified(self, pixels: Tensor, labels: Tensor, magnification: float) -> tuple[Tensor, Tensor]:
        """Cut out the middle and bring it to side × side pixels."""
        side = min(self.source_side, round(self._side / magnification))
        start = (self.source_side - side) // 2
        middle = (..., slice(start, start + side), slice(start, start + side))
        pixels, labels = pixels[middle], labels[middle]
        if side == self._side:
            return pixels.as_subclass(Tensor), labels.as_subclass(Tensor)
        size = [self._side, self._side]
        pixels = v2.functional.resize_image(pixels, size, v2.InterpolationMode.BILINEAR, antialias=True)
        nearest = ((torch.arange(self._side) + 0.5) * side / self._side).long()
        return pixels.as_subclass(Tensor), labels.as_subclass(Tensor)[nearest[:, None], nearest]

    def _deformed(self, pixels: Tensor, labels: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        points = torch.randn(1, 2, ELASTIC_POINTS, ELASTIC_POINTS, generator=random) * self._config.elastic
        moved = functional.interpolate(
            points, size=[self.source_side] * 2, mode="bicubic", align_corners=True
        )
        shift = moved.permute(0, 2, 3, 1) * (2 / self.source_side)  # in torch's frame of -1 … 1
        elastic = v2.functional.elastic_image
        pixels, labels = pixels.as_subclass(Tensor), labels.as_subclass(Tensor)
        return (
            elastic(pixels, shift, v2.InterpolationMode.BILINEAR, [255.0]),
            elastic(labels[None], shift, v2.InterpolationMode.NEAREST, [float(IGNORED)])[0],
        )


class Appearance:
    """Change what an image looks like and not what it shows: stain, color, sharpness, encoding.

    Methods take and return float images (N, 3, H, W) in 0 … 1, each changed in its own way.
    """

    def __init__(self, config: AugmentationConfig, random: Generator) -> None:
        self._config = config
        self._random = random
        self._stains = torch.tensor(STAINS)

    def __call__(self, images: Tensor) -> Tensor:
        """Return changed copies."""
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
        """Coarsen the color of some crops, but not their luma: fine color is mostly encoder noise."""
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
        """Pass some crops through JPEG: scanners and archives differ in quality and color resolution."""
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


def blank_ground(
    image: Tensor,
    target: Tensor,
    share: float,
    blank_target: int,
    random: Generator,
    curved: bool = False,
) -> tuple[Tensor, Tensor]:
    """Replace one side of some crops by near-white glass.

    Args:
        image: float (3, H, W) in 0 … 1.
        target: int64 (H, W).
        share: of the crops that are changed, 0 … 1.
        blank_target: target of glass.
        random: decides.
        curved: half of the changed crops get glass with a curved border, anywhere, instead.
    """
    chance, width_share, shade, noise = torch.rand(4, generator=random).tolist()
    if chance >= share:
        return image, target
    image, target = image.clone(), target.clone()
    width = 1 + int(width_share * image.shape[-1] / 2)
    if curved and float(torch.rand((), generator=random)) < 0.5:
        area = curved_area(image.shape[-1], width_share / 2, random)
        grain = torch.randn(3, int(area.sum()), generator=random)
        image[:, area] = (1 - 0.08 * shade + 0.02 * noise * grain).clamp(0, 1)
        target[area] = blank_target
        return image, target
    grain = torch.randn(3, image.shape[-2], width, generator=random)
    image[:, :, :width] = (1 - 0.08 * shade + 0.02 * noise * grain).clamp(0, 1)
    target[:, :width] = blank_target
    return image, target


def curved_area(side: int, share: float, random: Generator) -> Tensor:
    """Return a random area with a smooth border, bool (side, side), that covers about `share` of it."""
    points = torch.randn(1, 1, FIELD_POINTS, FIELD_POINTS, generator=random)
    field = functional.interpolate(points, size=[side, side], mode="bicubic", align_corners=True)[0, 0]
    return field > torch.quantile(field, 1 - share)
