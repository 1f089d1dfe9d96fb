// Plain arithmetic on positions in l0 pixels (level-0 pixels of the slide as its reader numbers them).

/** @typedef {[number, number, number, number]} Box x0, y0, x1, y1 in l0 pixels */
/**
 * What a pane shows.
 * @typedef {{x: number, y: number, scale: number, width: number, height: number, turn?: number}} View
 * x, y: l0 position of its least corner; scale: l0 pixels per CSS pixel; width, height: CSS pixels along the axes of
 * the slide; turn: degrees clockwise by which the slide is turned on the screen, see turn.js.
 */

/** @param {View} view @returns {Box} */
export function viewBox({ x, y, scale, width, height }) {
  return [x, y, x + width * scale, y + height * scale];
}

/**
 * Return the view enlarged on each side by `share` of its size.
 * @param {View} view
 * @param {number} share
 * @returns {View}
 */
export function enlarged(view, share) {
  const left = Math.round(view.width * share), top = Math.round(view.height * share);
  return {
    x: view.x - left * view.scale, y: view.y - top * view.scale, scale: view.scale,
    width: view.width + 2 * left, height: view.height + 2 * top,
  };
}

/**
 * Return the largest power of two that is at most `scale`, from a sixteenth on.
 * @param {number} scale l0 pixels per CSS pixel
 */
export function powerOfTwo(scale) {
  return 2 ** Math.max(-4, Math.floor(Math.log2(scale)));
}

/**
 * Return what to fetch for a view: a fifth of it more on each side, on a grid, so that small moves ask for the same.
 * @param {View} view
 * @param {readonly [number, number]} size of the slide
 * @returns {{box: Box, scale: number}}
 */
export function fetchArea(view, size) {
  const scale = powerOfTwo(view.scale), step = 256 * scale;
  const [x0, y0, x1, y1] = viewBox(enlarged(view, 0.2));
  const down = (/** @type {number} */ v) => Math.max(0, Math.floor(v / step) * step);
  const up = (/** @type {number} */ v, /** @type {number} */ most) => Math.min(most, Math.ceil(v / step) * step);
  return { box: [down(x0), down(y0), up(x1, size[0]), up(y1, size[1])], scale };
}

/**
 * Tell whether `inner`, as far as it lies on the slide, is in `outer`.
 * @param {Box} outer
 * @param {Box} inner
 * @param {readonly [number, number]} size
 */
export function covers(outer, inner, size) {
  return outer[0] <= Math.max(0, inner[0]) && outer[1] <= Math.max(0, inner[1])
    && outer[2] >= Math.min(size[0], inner[2]) && outer[3] >= Math.min(size[1], inner[3]);
}

/**
 * Tell whether a point lies inside rings by the even-odd rule, so that holes are outside.
 * @param {readonly ArrayLike<number>[]} rings x, y, x, y, … of each
 * @param {number} x
 * @param {number} y
 */
export function inside(rings, x, y) {
  let within = false;
  for (const ring of rings) {
    for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
      const [xi, yi, xj, yj] = [ring[i], ring[i + 1], ring[j], ring[j + 1]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
    }
  }
  return within;
}

/**
 * Return the area within rings, holes taken off: the first ring is the outer one.
 * @param {readonly ArrayLike<number>[]} rings
 */
export function area(rings) {
  return rings.reduce((sum, ring, number) => sum + (number ? -1 : 1) * ringArea(ring), 0);
}

/** @param {ArrayLike<number>} ring */
function ringArea(ring) {
  let twice = 0;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) twice += ring[j] * ring[i + 1] - ring[i] * ring[j + 1];
  return Math.abs(twice) / 2;
}

/**
 * Return the longest of 1, 2, 5, 10, 20, … that is at most `most`.
 * @param {number} most
 */
export function roundLength(most) {
  const ten = 10 ** Math.floor(Math.log10(most));
  const step = [5, 2, 1].find((factor) => factor * ten <= most * (1 + 1e-9)) ?? 1;
  return step * ten;
}

/** @param {number} um */
export function formatLength(um) {
  return um >= 1000 ? `${plain(um / 1000)} mm` : um >= 1 ? `${plain(um)} µm` : `${plain(um * 1000)} nm`;
}

/** @param {number} um2 */
export function formatArea(um2) {
  return um2 >= 1e5 ? formatMm2(um2 / 1e6) : `${plain(Number(um2.toPrecision(3)))} µm²`;
}

/** @param {number} mm2 */
export function formatMm2(mm2) {
  return `${mm2 >= 100 ? mm2.toFixed(0) : mm2 >= 10 ? mm2.toFixed(1) : mm2 >= 0.01 || mm2 === 0 ? mm2.toFixed(2) : mm2.toPrecision(1)} mm²`;
}

/** @param {number} value */
function plain(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 2, useGrouping: false });
}
