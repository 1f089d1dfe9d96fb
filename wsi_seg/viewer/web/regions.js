// The regions of one fetched area, packed into arrays: a hundred thousand of them are drawn and searched at once.

import { inside, area } from "./geometry.js";

/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {{groups: {name: string, color: string}[], regions: {i?: number, g: number, rings: number[][]}[], hidden: number}} Answer */
/**
 * @typedef {object} Regions
 * @property {Box} box the area they were fetched for, l0
 * @property {number} scale l0 pixels per CSS pixel that they were simplified for
 * @property {string[]} groups names
 * @property {number} hidden too small to be seen at this scale, and left out
 * @property {Int32Array} index of each region in the slide's GeoJSON; -1 without one
 * @property {Uint16Array} group of each region
 * @property {Uint32Array} rings first ring of each region, and the end
 * @property {Uint32Array} starts first value of each ring, and the end
 * @property {Float32Array} xy l0, minus the corner of the box: 32 bits hold a hundredth of a pixel
 * @property {Float32Array} bounds x0, y0, x1, y1 of each region, in the same frame
 */

/**
 * Pack the server's answer.
 * @param {Answer} answer
 * @param {Box} box
 * @param {number} scale
 * @returns {Regions}
 */
export function pack(answer, box, scale) {
  const { regions } = answer, count = regions.length;
  const ringCount = regions.reduce((sum, region) => sum + region.rings.length, 0);
  const length = regions.reduce((sum, region) => region.rings.reduce((inner, ring) => inner + ring.length, sum), 0);
  /** @type {Regions} */
  const packed = {
    box, scale, groups: answer.groups.map((group) => group.name), hidden: answer.hidden,
    index: Int32Array.from(regions, (region) => region.i ?? -1), group: Uint16Array.from(regions, (region) => region.g),
    rings: new Uint32Array(count + 1), starts: new Uint32Array(ringCount + 1),
    xy: new Float32Array(length), bounds: new Float32Array(4 * count),
  };
  let ringAt = 0, at = 0;
  regions.forEach((region, number) => {
    packed.rings[number] = ringAt;
    const bounds = [Infinity, Infinity, -Infinity, -Infinity];
    for (const ring of region.rings) {
      packed.starts[ringAt++] = at;
      for (let k = 0; k < ring.length; k += 2) {
        const x = ring[k] - box[0], y = ring[k + 1] - box[1];
        packed.xy[at++] = x;
        packed.xy[at++] = y;
        if (x < bounds[0]) bounds[0] = x;
        if (y < bounds[1]) bounds[1] = y;
        if (x > bounds[2]) bounds[2] = x;
        if (y > bounds[3]) bounds[3] = y;
      }
    }
    packed.bounds.set(bounds, 4 * number);
  });
  packed.rings[count] = ringAt;
  packed.starts[ringAt] = at;
  return packed;
}

/**
 * Return the numbers of the regions whose bounds touch a box.
 * @param {Regions} regions
 * @param {Box} box l0
 * @returns {number[]}
 */
export function touching({ bounds, box: [left, top] }, [x0, y0, x1, y1]) {
  const found = [];
  const [west, north, east, south] = [x0 - left, y0 - top, x1 - left, y1 - top];
  for (let i = 0, k = 0; k < bounds.length; i++, k += 4) {
    if (bounds[k] <= east && bounds[k + 2] >= west && bounds[k + 1] <= south && bounds[k + 3] >= north) found.push(i);
  }
  return found;
}

/**
 * Return the rings of one region, in l0 minus the corner of the box.
 * @param {Regions} regions
 * @param {number} number
 * @returns {Float32Array[]}
 */
export function ringsOf({ rings, starts, xy }, number) {
  const found = [];
  for (let r = rings[number]; r < rings[number + 1]; r++) found.push(xy.subarray(starts[r], starts[r + 1]));
  return found;
}

/**
 * Return the smallest region at a point, or null.
 * @param {Regions} regions
 * @param {number} x l0
 * @param {number} y l0
 * @param {(group: string) => boolean} shown
 * @returns {{index: number, group: string, area: number, bbox: Box} | null} area in square l0 pixels
 */
export function regionAt(regions, x, y, shown) {
  const [left, top] = regions.box;
  let best = null;
  for (const number of touching(regions, [x, y, x, y])) {
    const group = regions.groups[regions.group[number]];
    const rings = ringsOf(regions, number);
    if (!shown(group) || !inside(rings, x - left, y - top)) continue;
    const size = area(rings);
    if (best && best.area <= size) continue;
    const [x0, y0, x1, y1] = regions.bounds.subarray(4 * number, 4 * number + 4);
    best = { index: regions.index[number], group, area: size, bbox: /** @type {Box} */ ([x0 + left, y0 + top, x1 + left, y1 + top]) };
  }
  return best;
}
