// Lengths, areas and places on a slide, in µm and mm where the slide states its scale, else in level-0 pixels.

import { area, formatArea, formatLength } from "./geometry.js";

/** @typedef {[number, number]} Point l0 */
/** @typedef {readonly [number, number] | null} Mpp µm per l0 pixel along x and y */

/** @param {readonly Point[]} line @param {Mpp} mpp @returns {number} µm, without a scale l0 pixels */
export function lengthOf(line, mpp) {
  const [kx, ky] = mpp ?? [1, 1];
  return line.slice(1).reduce((sum, [x, y], i) => sum + Math.hypot((x - line[i][0]) * kx, (y - line[i][1]) * ky), 0);
}

/** @param {readonly Point[]} ring open or closed @param {Mpp} mpp @returns {number} µm², without a scale square l0 pixels */
export function areaOf(ring, mpp) {
  if (ring.length < 3) return 0;
  const [x0, y0] = ring[0]; // far from the origin squares lose digits
  return area([ring.flatMap(([x, y]) => [x - x0, y - y0])]) * (mpp ? mpp[0] * mpp[1] : 1);
}

/** @param {readonly Point[]} line @param {Mpp} mpp */
export function lengthText(line, mpp) {
  const length = lengthOf(line, mpp);
  return mpp ? formatLength(Number(length.toPrecision(4))) : `${Math.round(length)} px`;
}

/** Area and outline. @param {readonly Point[]} ring @param {Mpp} mpp */
export function areaText(ring, mpp) {
  const size = areaOf(ring, mpp), around = ring.length ? lengthText([...ring, ring[0]], mpp) : "";
  return `${mpp ? formatArea(size) : `${Math.round(size)} px²`}, outline ${around}`;
}

/** @param {Point} l0 @param {Mpp} mpp @returns {string} level-0 pixels, and mm from the corner of level 0 */
export function formatPlace([x, y], mpp) {
  const mm = mpp ? ` · ${[x * mpp[0], y * mpp[1]].map((um) => (um / 1000).toFixed(3)).join(", ")} mm` : "";
  return `x ${Math.floor(x)}, y ${Math.floor(y)} px${mm}`;
}
