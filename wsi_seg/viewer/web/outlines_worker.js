// Fetches and draws outlines next to the page's own thread: moving the slide never waits for them.

import { covers, fetchArea, viewBox } from "./geometry.js";
import { pack, regionAt, touching } from "./regions.js";

/** @typedef {import("./geometry.js").View} View */
/** @typedef {import("./regions.js").Regions} Regions */
/**
 * What to draw.
 * @typedef {object} Order
 * @property {View} view
 * @property {number} ratio device pixels per CSS pixel
 * @property {[number, number]} size of the slide
 * @property {{url: string, colors: Record<string, string>}[]} sources where regions come from, and the line of each group that is shown
 * @property {{source: number, index: number} | null} selected the region that is drawn heavily
 * @property {number | null} marked the region of the first source that is marked, shown or not
 */
/** @typedef {{type: "draw", order: Order} | {type: "find", x: number, y: number, number: number}} ToWorker */
/** @typedef {{source: number, index: number, group: string, area: number, bbox: import("./geometry.js").Box}} Found */
/**
 * @typedef {{type: "picture", bitmap: ImageBitmap, view: View, complete: boolean, count: number}
 *   | {type: "loaded"} | {type: "found", number: number, found: Found | null} | {type: "problem", text: string}} FromWorker
 */

const KEPT = 8; // fetched areas
const BATCH = 400; // regions a path: longer ones take the rasterizer more than linear time
const SETTLE_MS = 40; // scales that are only passed on the way are not fetched
const LINE = 1.5, HEAVY = 3.5; // CSS pixels
const MOST_CASED = 2000; // regions in one view: casings of more would hide the slide, and take longer than their lines
const MARK = "#1d1b20";
const CASING = 1; // white next to a line on each side: lines are dark enough for white, and so are seen on dark tissue too

/** @type {Order | null} */
let last = null;
/** @type {Map<string, Regions>} */
const fetched = new Map();
/** @type {Map<string, {query: string, abort: AbortController}>} by source */
const running = new Map();
/** @type {OffscreenCanvas | null} */
let canvas = null;
/** @type {{canvas: OffscreenCanvas, key: string, regions: Regions[]} | null} all lines of the last picture, without those that are heavy */
let plain = null;

/** @param {FromWorker} message @param {Transferable[]} [transfer] */
const reply = (message, transfer = []) => postMessage(message, { transfer });

addEventListener("message", (/** @type {MessageEvent<ToWorker>} */ { data }) => {
  if (data.type === "draw") {
    last = data.order;
    draw(data.order);
  } else reply({ type: "found", number: data.number, found: find(data.x, data.y) });
});

/** @param {Order} order */
function draw(order) {
  const { view } = order;
  let complete = true;
  /** @type {Seen[]} */
  const seen = order.sources.flatMap(({ url, colors }, number) => {
    const { regions, exact } = request(url, order);
    complete &&= exact;
    if (!regions) return [];
    const selected = order.selected?.source === number ? order.selected.index : null;
    return [{ regions, selected, marked: number === 0 ? order.marked : null, byColor: inColors(regions, colors, view) }];
  });
  const count = seen.flatMap(({ byColor }) => [...byColor.values()]).reduce((sum, numbers) => sum + numbers.length, 0);
  const lines = drawPlain(order, seen, count), { width, height } = lines;
  canvas ??= new OffscreenCanvas(width, height);
  const context = fresh(canvas, width, height);
  context.drawImage(lines, 0, 0);
  for (const one of seen) drawHeavy(context, one, order);
  const bitmap = canvas.transferToImageBitmap();
  reply({ type: "picture", bitmap, view, complete, count }, [bitmap]);
}

/**
 * Draw all lines; those of the last picture are kept, as long as only what is heavy among them changes.
 * @param {Order} order
 * @param {Seen[]} seen
 * @param {number} count of regions
 * @returns {OffscreenCanvas}
 */
function drawPlain(order, seen, count) {
  const { view, ratio, sources } = order, regions = seen.map((one) => one.regions), key = JSON.stringify([view, ratio, sources]), last = plain;
  if (last?.key === key && regions.length === last.regions.length && regions.every((each, i) => each === last.regions[i])) return last.canvas;
  const width = Math.max(1, Math.round(view.width * ratio)), height = Math.max(1, Math.round(view.height * ratio));
  plain = { canvas: last?.canvas ?? new OffscreenCanvas(width, height), key, regions };
  const context = fresh(plain.canvas, width, height);
  // All casings below all lines: where regions meet, none hides the line of its neighbor.
  for (const casing of count > MOST_CASED ? [false] : [true, false]) for (const one of seen) drawRegions(context, one, casing, order);
  return plain.canvas;
}

/** @param {OffscreenCanvas} surface @param {number} width @param {number} height @returns {OffscreenCanvasRenderingContext2D} of the empty canvas */
function fresh(surface, width, height) {
  Object.assign(surface, { width, height });
  const context = surface.getContext("2d");
  if (!context) throw new Error("no 2d canvas");
  context.lineJoin = "round";
  return context;
}

/**
 * Return the best regions at hand for an order, and fetch better ones where there are such.
 * @param {string} url
 * @param {Order} order
 * @returns {{regions: Regions | null, exact: boolean}}
 */
function request(url, { view, size }) {
  const { box, scale } = fetchArea(view, size);
  const prefix = url + "\n";
  /** @type {Regions | null} */
  let newest = null;
  for (const [key, regions] of fetched) {
    if (!key.startsWith(prefix)) continue;
    if (regions.scale === scale && covers(regions.box, viewBox(view), size)) return { regions, exact: true };
    newest = regions;
  }
  const query = `${url}box=${box.join(",")}&scale=${scale}`;
  if (box[2] <= box[0] || box[3] <= box[1]) return { regions: null, exact: true }; // off the slide
  if (running.get(url)?.query !== query) void load(url, query, box, scale);
  return { regions: newest ?? lastOfKind(url), exact: false };
}

/**
 * Until a new threshold's outlines are there, those of the one before stay.
 * @param {string} url
 */
function lastOfKind(url) {
  const path = url.split("?")[0];
  let found = null;
  for (const [key, regions] of fetched) if (key.startsWith(path + "?")) found = regions;
  return found;
}

/**
 * @param {string} url
 * @param {string} query
 * @param {import("./geometry.js").Box} box
 * @param {number} scale
 */
async function load(url, query, box, scale) {
  for (const [other, request] of running) {
    if (other.split("?")[0] === url.split("?")[0]) {
      request.abort.abort();
      running.delete(other);
    }
  }
  const abort = new AbortController();
  running.set(url, { query, abort });
  try {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    if (abort.signal.aborted) return;
    const response = await fetch(query, { signal: abort.signal });
    if (!response.ok) throw new Error((await response.json()).error);
    fetched.set(`${url}\n${query}`, pack(await response.json(), box, scale));
    for (const key of [...fetched.keys()].slice(0, -KEPT)) fetched.delete(key);
    reply({ type: "loaded" });
  } catch (error) {
    if (!abort.signal.aborted) reply({ type: "problem", text: `Outlines: ${error instanceof Error ? error.message : error}` });
  } finally {
    if (running.get(url)?.abort === abort) running.delete(url);
  }
}

/**
 * Regions of a source in a view, by the color of their lines.
 * @typedef {{regions: Regions, selected: number | null, marked: number | null, byColor: Map<string, number[]>}} Seen
 */

/**
 * @param {Regions} regions
 * @param {Record<string, string>} colors of groups that are shown
 * @param {View} view
 */
function inColors(regions, colors, view) {
  /** @type {Map<string, number[]>} */
  const byColor = new Map();
  for (const number of touching(regions, viewBox(view))) {
    const color = colors[regions.groups[regions.group[number]]];
    if (!color) continue;
    const numbers = byColor.get(color);
    if (numbers) numbers.push(number);
    else byColor.set(color, [number]);
  }
  return byColor;
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {Seen} seen
 * @param {boolean} casing of the lines, in place of the lines
 * @param {Order} order
 */
function drawRegions(context, { regions, byColor }, casing, { view, ratio }) {
  context.lineWidth = (LINE + (casing ? 2 * CASING : 0)) * ratio;
  for (const [color, numbers] of byColor) {
    context.strokeStyle = casing ? "#ffffff" : color;
    for (let from = 0; from < numbers.length; from += BATCH) {
      context.beginPath();
      for (const number of numbers.slice(from, from + BATCH)) trace(context, regions, number, view, ratio);
      context.stroke();
    }
  }
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {Seen} seen
 * @param {Order} order
 */
function drawHeavy(context, { regions, selected, marked, byColor }, { view, ratio }) {
  const pointed = selected === null ? -1 : regions.index.indexOf(selected);
  const color = [...byColor.keys()].find((each) => byColor.get(each)?.includes(pointed));
  const heavy = /** @type {[number, string | undefined][]} */ ([[pointed, color], [marked === null ? -1 : regions.index.indexOf(marked), MARK]]);
  for (const [number, line] of heavy) {
    if (number < 0 || !line) continue;
    context.beginPath();
    trace(context, regions, number, view, ratio);
    for (const [style, width] of /** @type {[string, number][]} */ ([["#ffffff", HEAVY + 2 * CASING], [line, HEAVY]])) {
      context.strokeStyle = style;
      context.lineWidth = width * ratio;
      context.stroke();
    }
  }
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {Regions} regions
 * @param {number} number
 * @param {View} view
 * @param {number} ratio device pixels per CSS pixel
 */
function trace(context, { box, rings, starts, xy }, number, view, ratio) {
  const k = ratio / view.scale; // device pixels per l0 pixel
  const dx = (box[0] - view.x) * k, dy = (box[1] - view.y) * k;
  for (let r = rings[number]; r < rings[number + 1]; r++) {
    const end = starts[r + 1];
    let i = starts[r];
    context.moveTo(xy[i] * k + dx, xy[i + 1] * k + dy);
    for (i += 2; i < end; i += 2) context.lineTo(xy[i] * k + dx, xy[i + 1] * k + dy);
    context.closePath();
  }
}

/** @param {number} x @param {number} y @returns {Found | null} */
function find(x, y) {
  if (!last) return null;
  for (let source = last.sources.length - 1; source >= 0; source--) {
    const { url, colors } = last.sources[source];
    const { regions } = request(url, last);
    const found = regions && regionAt(regions, x, y, (group) => group in colors);
    if (found) return { source, ...found };
  }
  return null;
}
