// OpenSeadragon's canvas drawer stretches each tile by a pixel to hide seams, which moves what is on it by up to
// that much. Here the edges of tiles are rounded to device pixels instead: neighbors share them, so that there is
// no seam, and nothing lies more than half a pixel from its place.

export class ExactDrawer extends OpenSeadragon.CanvasDrawer {
  minimumOverlapRequired() {
    return false;
  }

  /** @param {import("openseadragon").TiledImage[]} images */
  draw(images) {
    // Turned by a quarter around the middle of the canvas, whole pixels fall between pixels where its sides are not both even or odd.
    const half = this.viewport.getRotation(true) % 180 !== 0 && (this.canvas.width + this.canvas.height) % 2 ? 0.5 : 0;
    for (const image of images) for (const { tile } of image.getTilesToDraw()) round(tile, half);
    // @ts-expect-error its types leave `draw` out
    super.draw(images);
  }
}

/** @param {import("openseadragon").Tile} tile @param {number} half device pixels from whole ones */
function round(tile, half) {
  const ratio = OpenSeadragon.pixelDensityRatio;
  const edge = (/** @type {number} */ css) => (Math.round(css * ratio - half) + half) / ratio;
  const { position, size } = tile;
  if (!position || !size) return;
  const right = edge(position.x + size.x), bottom = edge(position.y + size.y);
  tile.position = new OpenSeadragon.Point(edge(position.x), edge(position.y));
  tile.size = new OpenSeadragon.Point(right - tile.position.x, bottom - tile.position.y);
}
