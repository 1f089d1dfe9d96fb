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

/**
 * Give a canvas the size of a view in device pixels, and its place on the turned screen.
 * @param {HTMLCanvasElement} canvas @param {View} view @param {number} ratio device pixels per CSS pixel
 */
export function fitCanvas(canvas, view, ratio) {
  const { width, height, turn = 0 } = view;
  const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  const [right, down] = [turn === 90 ? height : turn === 180 ? width : 0, turn === 180 ? height : turn === 270 ? width : 0];
  const placed = turn ? { width: `${width}px`, height: `${height}px`, transform: `translate(${right}px, ${down}px) rotate(${turn}deg)` } : { width: "", height: "", transform: "" };
  for (const [name, value] of Object.entries(placed)) if (canvas.style.getPropertyValue(name) !== value) canvas.style.setProperty(name, value);
}
