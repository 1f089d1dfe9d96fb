// OpenSeadragon's canvas drawer stretches each tile by a pixel to hide seams, which moves what is on it by up to
// that much. Here the edges of tiles are rounded to device pixels instead: neighbors share them, so that there is
// no seam, and nothing lies more than half a pixel from its place.

export class ExactDrawer extends OpenSeadragon.CanvasDrawer {
  minimumOverlapRequired() {
    return false;
  }

  /** @param {import("openseadragon").TiledImage[]} images */
  draw(images) {
    for (const image of images) for (const { tile } of image.getTilesToDraw()) round(tile);
    // @ts-expect-error its types leave `draw` out
    super.draw(images);
  }
}

/** @param {import("openseadragon").Tile} tile */
function round(tile) {
  const ratio = OpenSeadragon.pixelDensityRatio;
  const edge = (/** @type {number} */ css) => Math.round(css * ratio) / ratio;
  const { position, size } = tile;
  if (!position || !size) return;
  const right = edge(position.x + size.x), bottom = edge(position.y + size.y);
  tile.position = new OpenSeadragon.Point(edge(position.x), edge(position.y));
  tile.size = new OpenSeadragon.Point(right - tile.position.x, bottom - tile.position.y);
}
