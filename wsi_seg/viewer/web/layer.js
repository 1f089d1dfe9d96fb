// One colored layer over a slide, as a tiled image of OpenSeadragon.

/** @typedef {import("openseadragon").TiledImage} TiledImage */

/** Where the tile of a level, column and row is. @typedef {(z: number, x: number, y: number) => string} TileUrl */

const PATIENCE_MS = 3000; // then a new picture replaces the old one, loaded or not

/**
 * Tiles on the slide's Deep Zoom grid.
 * @param {import("./api.js").Slide} slide
 * @param {TileUrl} url
 * @returns {any} what OpenSeadragon takes for a tile source; its types know classes only
 */
export function tileSource(slide, url) {
  return {
    width: slide.size[0], height: slide.size[1], tileSize: slide.tile_size, tileOverlap: 0,
    minLevel: 0, maxLevel: slide.max_zoom, getTileUrl: url,
  };
}

export class Layer {
  /**
   * @param {import("openseadragon").Viewer} viewer
   * @param {import("./api.js").Slide} slide
   */
  constructor(viewer, slide) {
    this.viewer = viewer;
    this.slide = slide;
    this.key = "";
    this.opacity = 0;
    /** @type {TiledImage | null} */
    this.image = null;
    /** @type {TiledImage | null} */
    this.first = null; // the first picture while it is being loaded: it may be seen half done
    this.pending = 0; // number of the picture that is being loaded, 0: none
    this.number = 0;
  }

  get settled() {
    return this.pending === 0;
  }

  /**
   * Show these tiles; what was shown stays until they are there, so that nothing flickers.
   * @param {TileUrl} url
   * @param {string} key same key: same tiles
   * @param {number} opacity 0: not shown, and nothing is loaded
   */
  show(url, key, opacity) {
    this.opacity = opacity;
    if (opacity === 0) this.remove();
    else if (key !== this.key) this.replace(url, key);
    else (this.image ?? this.first)?.setOpacity(opacity);
  }

  remove() {
    this.key = "";
    this.pending = 0;
    if (this.image) this.viewer.world.removeItem(this.image);
    this.image = this.first = null;
  }

  /** @param {TileUrl} url @param {string} key */
  replace(url, key) {
    this.key = key;
    const number = (this.pending = ++this.number);
    const tiles = { ...tileSource(this.slide, url), hasTransparency: () => true };
    this.viewer.addTiledImage({
      tileSource: tiles,
      opacity: this.image ? 0 : this.opacity,
      preload: true,
      success: (/** @type {any} */ { item }) => this.opened(item, number),
    });
  }

  /** @param {TiledImage} item @param {number} number */
  opened(item, number) {
    if (number !== this.pending) {
      this.viewer.world.removeItem(item);
      return;
    }
    this.first = this.image ? null : item;
    this.first?.setOpacity(this.opacity);
    const finish = () => {
      clearTimeout(timer);
      item.removeHandler("fully-loaded-change", onLoaded);
      if (number !== this.pending) {
        if (item !== this.image) this.viewer.world.removeItem(item);
        return;
      }
      item.setOpacity(this.opacity);
      if (this.image) this.viewer.world.removeItem(this.image);
      this.image = item;
      this.first = null;
      this.pending = 0;
    };
    const onLoaded = (/** @type {any} */ event) => event.fullyLoaded && finish();
    const timer = setTimeout(finish, PATIENCE_MS);
    item.addHandler("fully-loaded-change", onLoaded);
    if (item.getFullyLoaded()) finish();
  }
}
