// A slide that is turned by quarters on the screen: positions in its own frame and on the screen. A view stays a box
// along the axes of the slide; what is drawn in its frame is turned as a whole.

/** @typedef {import("./geometry.js").View} View */
/** @typedef {[number, number]} Point */

/** @param {number} degrees any @returns {number} 0, 90, 180 or 270, clockwise */
export function quarter(degrees) {
  return ((Math.round(degrees / 90) % 4) + 4) % 4 * 90;
}

/** @param {View} view @param {Point} l0 @returns {Point} CSS pixels from the corner of the pane */
export function toScreen(view, [x, y]) {
  const u = (x - view.x) / view.scale, v = (y - view.y) / view.scale;
  if (view.turn === 90) return [view.height - v, u];
  if (view.turn === 180) return [view.width - u, view.height - v];
  return view.turn === 270 ? [v, view.width - u] : [u, v];
}

/** @param {View} view @param {Point} css pixels from the corner of the pane @returns {Point} l0 */
export function toSlide(view, [left, top]) {
  let [u, v] = [left, top];
  if (view.turn === 90) [u, v] = [top, view.height - left];
  if (view.turn === 180) [u, v] = [view.width - left, view.height - top];
  if (view.turn === 270) [u, v] = [view.width - top, left];
  return [view.x + u * view.scale, view.y + v * view.scale];
}

/** @param {number | undefined} turn @param {Point} move on the screen @returns {Point} the same move on the slide */
export function moveOnSlide(turn, [x, y]) {
  const origin = { x: 0, y: 0, scale: 1, width: 0, height: 0, turn };
  const [u, v] = toSlide(origin, [x, y]);
  return [u + 0, v + 0]; // no -0
}

/** @param {View} view @returns {Point} width and height on the screen, CSS pixels */
export function screenSize({ width, height, turn = 0 }) {
  return turn % 180 ? [height, width] : [width, height];
}

/** @param {View} view @returns {string} the CSS transform that turns what is in the slide's frame, from its corner; "" where nothing does */
export function turnTransform({ width, height, turn = 0 }) {
  const [right, down] = [turn === 90 ? height : turn === 180 ? width : 0, turn === 180 ? height : turn === 270 ? width : 0];
  return turn ? `translate(${right}px, ${down}px) rotate(${turn}deg)` : "";
}

/**
 * Give a canvas the size of a view in device pixels, and its place on the turned screen.
 * @param {HTMLCanvasElement} canvas @param {View} view @param {number} ratio device pixels per CSS pixel
 */
export function fitCanvas(canvas, view, ratio) {
  const { width, height, turn } = view;
  const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  style(canvas, { width: turn ? `${width}px` : "", height: turn ? `${height}px` : "", transform: turnTransform(view) });
}

/** Set what is not so yet. @param {HTMLElement} element @param {Record<string, string>} values */
export function style(element, values) {
  for (const [name, value] of Object.entries(values)) if (element.style.getPropertyValue(name) !== value) element.style.setProperty(name, value);
}
